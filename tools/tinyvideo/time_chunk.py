"""Times one chunk of TinyVideo in PyTorch on one thread: five denoising passes and the clean pass that yields K and V,
with a context of 18 frames.

Run from anywhere:  python time_chunk.py [--split]

Prints the median and the minimum over the runs in milliseconds. --split also times the passes without attention (its
output is replaced by the values), so that the difference is what attention costs.
"""
import argparse
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from tv import CFG, TinyVideo, rope_table, schedule

CONTEXT, STEPS = 18, 5


def chunk(model, x, times, cs, ctx):
    for i in range(STEPS):
        x = x + (times[i + 1] - times[i]) * model.step(x, times[i], cs, ctx)
    return model.step(x.clamp(-1, 1), 0., cs, ctx, want_kv=True)


def measure(run, runs):
    for _ in range(2):
        run()
    ms = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        ms.append((time.perf_counter() - start) * 1e3)
    return statistics.median(ms), min(ms)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--weights', type=Path, default=Path(__file__).resolve().parents[2] / 'assets/tinyvideo/tinyvideo.safetensors')
    p.add_argument('--runs', type=int, default=10)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--split', action='store_true')
    args = p.parse_args()
    torch.set_num_threads(args.threads)

    model = TinyVideo().eval()
    model.load_state_dict({k: v.float() for k, v in load_file(args.weights).items()})
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 192, 48, generator=g)
    cs = rope_table(torch.arange(CONTEXT, CONTEXT + 3), 'cpu')
    kv = lambda: torch.randn(1, CFG['heads'], CONTEXT * 64, CFG['head_dim'], generator=g)
    ctx = [(kv(), kv()) for _ in range(CFG['layers'])]
    times = schedule(STEPS)
    with torch.inference_mode():
        median, best = measure(lambda: chunk(model, x, times, cs, ctx), args.runs)
        print(f'chunk: median {median:.1f} ms, minimum {best:.1f} ms ({args.threads} thread(s), {args.runs} runs)')
        if args.split:
            attention, F.scaled_dot_product_attention = F.scaled_dot_product_attention, lambda q, k, v: v[:, :, -q.shape[2]:]
            rest, rest_best = measure(lambda: chunk(model, x, times, cs, ctx), args.runs)
            F.scaled_dot_product_attention = attention
            print(f'without attention: median {rest:.1f} ms, minimum {rest_best:.1f} ms')
            print(f'attention: {median - rest:.1f} ms by difference of the medians')


if __name__ == '__main__':
    main()
