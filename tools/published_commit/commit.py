#!/usr/bin/env python3
"""The commit of TetherCache (arXiv:2606.13035) as the published method does it, in PyTorch, for timing.

Per layer, from stored bytes and nothing else: all attention logits of the clean pass's queries against the candidate frames in f32, their mean per
frame, softmax over frames, temporal diversity, top-k, statistics alignment of the admitted frames (token statistics of the frame and of the trusted
pool), and a new memory of clones. Written from the method's description; names are this repository's.

Prints one JSON line: milliseconds for all layers, from device events (`ms`) and the wall (`ms_wall`), medians.
"""
import argparse
import json
import math
import statistics
import time

import torch

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--layers", type=int, default=30)
parser.add_argument("--heads", type=int, default=12)
parser.add_argument("--head-dim", type=int, default=128)
parser.add_argument("--tokens", type=int, default=1560, help="tokens of a frame")
parser.add_argument("--chunk", type=int, default=3, help="frames generated together")
parser.add_argument("--sink", type=int, default=3)
parser.add_argument("--memory", type=int, default=14)
parser.add_argument("--recent", type=int, default=4)
parser.add_argument("--alpha", type=float, default=0.35)
parser.add_argument("--tau", type=float, default=0.35)
parser.add_argument("--temperature", type=float, default=1.0)
parser.add_argument("--repetitions", type=int, default=7)
parser.add_argument("--scores", choices=["full", "by-head", "pooled"], default="full",
                    help="full: the published [heads, queries, keys] f32 logits at once; by-head: the same, a head at a time; "
                         "pooled: from the mean query and mean keys, which gives the same scores and is not published")
parser.add_argument("--tf32", action="store_true", help="let matrix products round to TF32; off as PyTorch has it")
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--tiny", action="store_true", help="small sizes, to check the logic on a CPU")
parser.add_argument("--check", action="store_true", help="compare the ways of scoring, and what an alignment leaves, and stop")
A = parser.parse_args()
if A.tiny:
    A.layers, A.heads, A.head_dim, A.tokens, A.repetitions = 2, 2, 16, 20, 2
CUDA = A.device.startswith("cuda")
DTYPE = torch.bfloat16
torch.backends.cuda.matmul.allow_tf32 = A.tf32


class Layer:
    """What one layer keeps: sink, memory, recent in one buffer; the frames that left recent; the frames that memory holds."""

    def __init__(self):
        frames = A.sink + A.memory + A.recent
        self.k, self.v = noise(frames), noise(frames)
        self.q = noise(A.chunk)
        self.pending = noise(A.chunk), noise(A.chunk)
        self.pending_first = A.sink + A.memory
        self.memory_index = list(range(A.sink, A.sink + A.memory))


def noise(frames):
    # Frames differ in their means, or every score would be the same.
    shape = (1, frames, A.tokens, A.heads, A.head_dim)
    mean = torch.randn(1, frames, 1, A.heads, A.head_dim, device=A.device)
    x = torch.randn(shape, device=A.device, dtype=torch.float32).mul_(0.9).add_(mean, alpha=0.4)
    return x.to(DTYPE).view(1, frames * A.tokens, A.heads, A.head_dim)


def mean_logits(q, k, frames):
    """Mean over heads, queries and a frame's tokens of `q.k / sqrt(d)`: `[1, frames]`."""
    scale = 1.0 / math.sqrt(q.shape[-1])
    if A.scores == "pooled":
        mean_q = q.float().mean(dim=1)
        mean_k = k.float().view(1, frames, A.tokens, A.heads, A.head_dim).mean(dim=2)
        return torch.einsum("bhd,bfhd->bf", mean_q, mean_k) * (scale / A.heads)
    q, k = q.float().transpose(1, 2), k.float().transpose(1, 2)
    if A.scores == "by-head":
        per_head = []
        for head in range(A.heads):
            logits = torch.matmul(q[:, head], k[:, head].transpose(-1, -2)) * scale
            per_head.append(logits.view(1, -1, frames, A.tokens).mean(dim=(1, 3)))
        return torch.stack(per_head).mean(dim=0)
    logits = torch.matmul(q, k.transpose(-1, -2)) * scale
    return logits.view(1, A.heads, -1, frames, A.tokens).mean(dim=(1, 2, 4))


def select(logits, index):
    """Positions of the candidates that memory keeps, ascending: attention mass and temporal diversity."""
    mass = torch.softmax(logits / max(A.temperature, 1e-6), dim=-1)
    index = torch.tensor(index, device=mass.device, dtype=torch.float32)
    sigma = max(1.0, 0.5 * float(index.max() - index.min() + 1))
    similar = torch.exp(-(index[:, None] - index[None, :]).abs() / sigma)
    similar.fill_diagonal_(0.0)
    redundant = (similar[None] * mass[:, None, :]).max(dim=-1).values
    score = (mass + A.alpha * (1.0 - redundant).clamp_min(0.0)).mean(dim=0)
    return sorted(score.topk(A.memory).indices.tolist())


def token_statistics(x):
    x = x.float()
    return x.mean(dim=(0, 1), keepdim=True), x.std(dim=(0, 1), keepdim=True, unbiased=False).clamp_min(1e-6)


def align(x, target):
    (mean, sd), (target_mean, target_sd) = token_statistics(x), target
    wide = x.float()
    pulled = (wide - mean) / sd * target_sd + target_mean
    return ((1.0 - A.tau) * wide + A.tau * pulled).to(x.dtype)


def commit(layer):
    first, last = A.sink * A.tokens, (A.sink + A.memory) * A.tokens
    frames = A.memory + A.chunk
    candidates = torch.cat([layer.k[:, first:last], layer.pending[0]], dim=1)
    index = layer.memory_index + [layer.pending_first + i for i in range(A.chunk)]
    keep = select(mean_logits(layer.q, candidates, frames), index)
    del candidates
    admitted = 0
    for store, pending in zip((layer.k, layer.v), layer.pending):
        # Sink and memory as they are before anything is written.
        target = token_statistics(store[:, :last].clone())
        frame = lambda tokens, i: tokens[:, i * A.tokens:(i + 1) * A.tokens]
        kept = []
        admitted = 0
        for place in keep:
            if place < A.memory:
                kept.append(frame(store, A.sink + place).clone())
            else:
                kept.append(align(frame(pending, place - A.memory), target))
                admitted += 1
        store[:, first:last] = torch.cat(kept, dim=1)
    layer.memory_index = [index[place] for place in keep]
    layer.pending_first += A.chunk
    return admitted


def check():
    layer = Layer()
    candidates = torch.cat([layer.k[:, A.sink * A.tokens:(A.sink + A.memory) * A.tokens], layer.pending[0]], dim=1)
    rows = {}
    for way in ("full", "by-head", "pooled"):
        A.scores = way
        rows[way] = mean_logits(layer.q, candidates, A.memory + A.chunk)
    for way in ("by-head", "pooled"):
        difference = (rows["full"] - rows[way]).abs().max().item()
        assert difference < 1e-4, (way, difference)
    before = layer.pending[0][:, :A.tokens]
    target = token_statistics(layer.k[:, :A.sink * A.tokens])
    (mean, sd), (after_mean, after_sd) = token_statistics(before), token_statistics(align(before, target))
    for was, want, got in ((mean, target[0], after_mean), (sd, target[1], after_sd)):
        assert ((1 - A.tau) * was + A.tau * want - got).abs().max().item() < 1e-2
    assert select(torch.tensor([[0.0] * A.memory + [9.0] * A.chunk]), list(range(A.memory + A.chunk)))[-A.chunk:] == \
        list(range(A.memory, A.memory + A.chunk))
    print("ok")


def main():
    torch.manual_seed(0)
    if A.check:
        return check()
    layers = [Layer() for _ in range(A.layers)]
    events, walls, admitted = [], [], []
    for repetition in range(A.repetitions + 1):
        for layer in layers:
            layer.pending = noise(A.chunk), noise(A.chunk)
        if CUDA:
            torch.cuda.synchronize()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
        started = time.perf_counter()
        count = sum(commit(layer) for layer in layers)
        if CUDA:
            end.record()
            torch.cuda.synchronize()
        wall = (time.perf_counter() - started) * 1e3
        # The first one compiles, and fills the allocator.
        if repetition > 0:
            events.append(begin.elapsed_time(end) if CUDA else wall)
            walls.append(wall)
            admitted.append(count / A.layers)
    how = {"full": "published method, PyTorch", "by-head": "published method by head, PyTorch", "pooled": "pooled scores, PyTorch"}
    print(json.dumps({
        "op": "commit",
        "shape": f"l{A.layers}_f{A.memory + A.chunk}x{A.tokens}_h{A.heads}d{A.head_dim}",
        "impl": how[A.scores] + (", TF32" if A.tf32 else ""),
        "ms": round(statistics.median(events), 4),
        "ms_wall": round(statistics.median(walls), 4),
        "admitted_per_layer": round(statistics.mean(admitted), 2),
        "peak_bytes": torch.cuda.max_memory_allocated() if CUDA else None,
        "device": torch.cuda.get_device_name() if CUDA else "cpu",
        "torch": torch.__version__,
    }))


with torch.no_grad():
    main()
