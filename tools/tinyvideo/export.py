"""Turns a checkpoint into tinyvideo.safetensors, and writes the golden files of the forward pass and of rollouts.

    python export.py --checkpoint out/ckptB.pt --weights tinyvideo.safetensors     # weights only
    python export.py --golden ../../golden/tinyvideo                               # golden files of the bundled weights

Golden files are computed from the f16 weights, promoted to f32, on the CPU.
"""
import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tv import CFG, Policy, TinyVideo, patchify, render, rope, rope_table, run_policy, sample_scene

BUNDLED = Path(__file__).resolve().parents[2] / 'assets/tinyvideo/tinyvideo.safetensors'
CHUNKS = 10
POLICIES = [
    Policy('fifo12', 'fifo', recent=9),
    Policy('sink12', 'sink', sink=3, recent=6),
    Policy('tether12', 'tether', sink=3, mem=3, recent=6, lam=.35, alpha=.35),
    Policy('grab12', 'tether', sink=3, mem=3, recent=6, lam=.35, alpha=0.),
]


def export_weights(checkpoint, weights):
    sd = torch.load(checkpoint, map_location='cpu')
    assert all(torch.isfinite(v).all() for v in sd.values()), 'the checkpoint holds NaN or infinity'
    save_file({k: v.half().contiguous() for k, v in sd.items()}, weights)


def golden_forward(model, real):
    """Chunk 0 clean and without context; chunk 1 at t = 0.7 with chunk 0 as its context. A subset of the layers."""
    out = {'c0.x': patchify(real[:1, :3])}
    cs0, cs1 = rope_table(torch.arange(3), 'cpu'), rope_table(torch.arange(3, 6), 'cpu')
    trace = {}
    _, kv = model.step(out['c0.x'], 0., cs0, None, want_kv=True, trace=trace)
    out |= {'c0.' + k: trace[k] for k in 'embed e e0 q0 k0 v0 block0 block3 q7 k7 v7 block7 out'.split()}
    out['rope.cos_f0_5'], out['rope.sin_f0_5'] = rope_table(torch.arange(6), 'cpu')
    ctx = [(rope(k, cs0), v) for _, k, v in kv]
    noise = torch.randn(1, 192, 48, generator=torch.Generator().manual_seed(5))
    out['c1.x'] = .3 * patchify(real[:1, 3:6]) + .7 * noise
    out['c1.t'] = torch.tensor([.7])
    trace = {}
    model.step(out['c1.x'], .7, cs1, ctx, trace=trace)
    out |= {'c1.' + k: trace[k] for k in 'e e0 q0 k0 v0 block0 block3 block7 out'.split()}
    out['c1.ctx_k_roped0'] = ctx[0][0]
    return {k: v.float() for k, v in out.items()}


def golden_rollout(model, real):
    noise = torch.randn(1, CHUNKS, 192, 48, generator=torch.Generator().manual_seed(11))
    out = {'noise': noise[0], 'gt': real[0, :9]}
    for p in POLICIES:
        x, sel = run_policy(model, real[:1, :9], CHUNKS, p, 5, noise=noise, ret_sel=True)
        out[p.name + '.frames'] = x[0]
        if p.mode == 'tether':
            none = torch.full((CFG['layers'], p.mem), -1)
            out[p.name + '.mem_index'] = torch.stack([none if c is None else torch.stack([z[0] for z in c]) for c in sel]).int()
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--checkpoint', type=Path, help='checkpoint of train.py to turn into --weights')
    p.add_argument('--weights', type=Path, default=BUNDLED, help='the safetensors file to write, or to read without --checkpoint')
    p.add_argument('--golden', type=Path, help='folder for the golden files')
    args = p.parse_args()
    if args.checkpoint:
        export_weights(args.checkpoint, args.weights)
    if args.golden:
        model = TinyVideo().eval()
        model.load_state_dict({k: v.float() for k, v in load_file(args.weights).items()})
        # The golden files use the first of 32 scenes: the number of scenes is part of how random numbers are drawn.
        scenes = sample_scene(32, 'cpu', torch.Generator().manual_seed(1234))
        real = render(scenes, torch.arange(240)[None].expand(32, 240))
        with torch.no_grad():
            for name, tensors in (('forward', golden_forward(model, real)), ('rollout', golden_rollout(model, real))):
                save_file({k: v.contiguous().clone() for k, v in tensors.items()}, args.golden / f'golden_{name}.safetensors')


if __name__ == '__main__':
    main()
