"""Writes scenes.safetensors: scene parameters, renderings and metrics as the reference code computes them.

Run from anywhere:  python export_scenes.py --out ../../golden/tinyvideo/scenes.safetensors

Everything the Rust tests compare is computed from exactly the stored values: scene parameters are stored as they are
used, the scored videos as the u8 frames that are turned back into floats before they are scored.
"""
import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from tv import frame_metrics, render, sample_scene, world_views

SCENES, FRAMES, GIVEN, SEGMENTS = 3, 44, 9, 4
RENDER_TIMES = [0.0, 7.0, 33.5, 239.0]
VIEWS = [0, 13, 48]
METRICS = ['bg_psnr', 'ident', 'present', 'sat', 'colour', 'motion', 'motion_real']


def to_u8(x):
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_u8(x):
    return x.float() / 127.5 - 1


def damage(real, views, g):
    """Real video + noise that grows with time + a colour shift that grows with time + a stutter in the last third;
    the last scene loses its sprites, and its camera, in the last 8 frames."""
    t = torch.linspace(0, 1, real.shape[1])[None, :, None, None, None]
    x = real.clone()
    hold = 2 * FRAMES // 3
    for f in range(hold, FRAMES):
        x[:, f] = x[:, f - f % 2]
    x[-1, -8:] = views[-1, 10]
    shift = torch.tensor([.25, -.1, .15])[None, None, :, None, None]
    return x + shift * t + (.004 + .025 * t) * torch.randn(x.shape, generator=g)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=Path(__file__).resolve().parents[2] / 'golden/tinyvideo/scenes.safetensors')
    args = p.parse_args()

    s = sample_scene(SCENES, 'cpu', torch.Generator().manual_seed(2024))
    out = {}
    for name in ['c0', 'bx', 'by', 'bs', 'bc', 'fx', 'fy', 'fp', 'fc', 'cam0', 'camv', 'rad', 'p0', 'v']:
        out['scene.' + name] = s[name].float()
    for name in ['col', 'shape']:
        out['scene.' + name] = s[name].to(torch.int32)

    times = torch.tensor(RENDER_TIMES)
    out['render.t'] = times
    out['render.frames'] = render(s, times[None].expand(SCENES, -1))
    views = world_views(s)
    out['views.index'] = torch.tensor(VIEWS, dtype=torch.int32)
    out['views.frames'] = views[:, VIEWS]

    real = render(s, torch.arange(FRAMES)[None].expand(SCENES, FRAMES))
    stored = to_u8(damage(real, views, torch.Generator().manual_seed(7)))
    x = from_u8(stored)
    out['damaged.frames'] = stored
    m = frame_metrics(s, real, x, views)
    for name in METRICS:
        out['damaged.' + name] = m[name].float()
    bounds = torch.linspace(GIVEN, FRAMES, SEGMENTS + 1).round().long().tolist()
    out['damaged.bounds'] = torch.tensor(bounds, dtype=torch.int32)
    rows = {k: [] for k in ['bg_psnr', 'ident', 'colour', 'sat', 'motion_ratio', 'quality']}
    for a, b in zip(bounds[:-1], bounds[1:]):
        mean = lambda k: m[k][:, a:b].mean(1)
        ratio = mean('motion') / mean('motion_real')
        for k in ['bg_psnr', 'ident', 'colour', 'sat']:
            rows[k].append(mean(k))
        rows['motion_ratio'].append(ratio)
        rows['quality'].append(100 * ((mean('bg_psnr') / 40).clamp(0, 1) + mean('ident') + (1 - (ratio - 1).abs()).clamp(0, 1)) / 3)
    for k, v in rows.items():
        out['damaged.segment.' + k] = torch.stack(v, 1)

    save_file({k: v.contiguous().clone() for k, v in out.items()}, args.out)
    print(args.out.name, args.out.stat().st_size, 'bytes')
    print('quality', out['damaged.segment.quality'].tolist())
    print('motion ratio', out['damaged.segment.motion_ratio'].tolist())


if __name__ == '__main__':
    main()
