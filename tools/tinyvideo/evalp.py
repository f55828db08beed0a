# Paired evaluation: NV scenes x SEEDS noise seeds; per-video segment scores saved for paired differences.
import os, sys, time, torch
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tv
from tv import *
OUT = os.environ.get('OUT', 'out'); os.makedirs(OUT, exist_ok=True); dev = 'cuda' if torch.cuda.is_available() else 'cpu'
E = lambda k, d: type(d)(os.environ.get(k, d))
NV, NF, STEPS, GT, SEEDS = E('NV', 64), E('NF', 240), E('STEPS', 5), E('GT', 9), E('SEEDS', 2)
def load(path):
    sd = torch.load(path, map_location=dev); CFG['layers'] = 1+max(int(k.split('.')[1]) for k in sd if k.startswith('blocks'))
    m = TinyVideo().to(dev); m.load_state_dict({k: v.float() for k, v in sd.items()}); return m.eval()
def strip(vids, path, idxs, scale=3):
    from PIL import Image
    rows = [torch.cat([F.pad(v[i], (1, 1, 1, 1), value=1) for i in idxs if i < v.shape[0]], -1) for v in vids]
    im = ((torch.cat(rows, 1).clamp(-1, 1)+1)*127.5).byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(im).resize((im.shape[1]*scale, im.shape[0]*scale), 0).save(path)
# ---- compiled denoising pass for the two full windows (same arithmetic as TinyVideo.step)
def blk_inf(x, e0, c, sn, kc, vc, wq, bq, wk, bk, wv, bv, wo, bo, nq, nk, w1, b1, w2, b2, mod):
    B, N, D = x.shape; H = CFG['heads']; m = (mod+e0)[:, :, None]; h = ln(x)*(1+m[:, 1])+m[:, 0]
    q, k, v = F.linear(h, torch.cat([wq, wk, wv]), torch.cat([bq, bk, bv])).split(D, -1)
    rn = lambda z, w: (z*torch.rsqrt(z.pow(2).mean(-1, keepdim=True)+1e-6)*w)
    f = lambda z: z.view(B, N, H, D//H).transpose(1, 2)
    o = F.scaled_dot_product_attention(rope(f(rn(q, nq)), (c, sn)), torch.cat([kc, rope(f(rn(k, nk)), (c, sn))], 2), torch.cat([vc, f(v)], 2)).transpose(1, 2).reshape(B, N, D)
    x = x + F.linear(o, wo, bo)*m[:, 2]; h = ln(x)*(1+m[:, 4])+m[:, 3]
    return x + F.linear(F.gelu(F.linear(h, w1, b1), approximate='tanh'), w2, b2)*m[:, 5]
blk_c = torch.compile(blk_inf, dynamic=False) if dev == 'cuda' else blk_inf
_step = TinyVideo.step
def step_c(self, x, t, cs, ctx, want_kv=False, trace=None):
    if want_kv or ctx is None or callable(ctx) or ctx[0][0].shape[2] not in (9*64, 18*64): return _step(self, x, t, cs, ctx, want_kv, trace)
    e, e0 = self.temb(torch.full((x.shape[0],), float(t), device=x.device)); x = self.embed(x)
    for i, b in enumerate(self.blocks):
        x = blk_c(x, e0, cs[0], cs[1], ctx[i][0].contiguous(), ctx[i][1].contiguous(), b.q.weight, b.q.bias, b.k.weight, b.k.bias, b.v.weight, b.v.bias, b.o.weight, b.o.bias, b.nq.weight, b.nk.weight, b.f1.weight, b.f1.bias, b.f2.weight, b.f2.bias, b.mod)
    hm = self.hmod+e[:, None]
    return self.head(ln(x)*(1+hm[:, 1:2])+hm[:, 0:1])
if E('COMP', 1): TinyVideo.step = step_c
T_ = lambda nm, S, M, R, **kw: Policy(nm, 'tether', sink=S, mem=M, recent=R+3, **{**dict(lam=.35), **kw})      # R = clean recent frames (paper's R = R+3 counts the current chunk)
MM = lambda nm, S, M, R, **kw: Policy(nm, 'mem', sink=S, mem=M, recent=R, **kw)
SK = lambda nm, S, n: Policy(nm, 'sink', sink=S, recent=n-S)
P = {p.name: p for p in [Policy('full', 'full'), Policy('fifo21', 'fifo', recent=18), SK('sink21', 3, 18), SK('sink9_21', 9, 18),
    MM('uniform21', 3, 9, 6, pick='uniform'), MM('archive21', 3, 9, 6), MM('archive+tame21', 3, 9, 6, alpha=.35), MM('uniform+tame21', 3, 9, 6, pick='uniform', alpha=.35),
    T_('grabR9_21', 3, 9, 6), T_('tetherR9_21', 3, 9, 6, alpha=.35), T_('grabR4_21', 3, 14, 1), T_('tetherR4_21', 3, 14, 1, alpha=.35),
    Policy('fifo12', 'fifo', recent=9), SK('sink12', 3, 9), SK('sink6_12', 6, 9), MM('uniform12', 3, 3, 3, pick='uniform'), MM('archive12', 3, 3, 3), MM('archive+tame12', 3, 3, 3, alpha=.35),
    T_('grabR6_12', 3, 3, 3), T_('tetherR6_12', 3, 3, 3, alpha=.35), T_('grabR4_12', 3, 5, 1), T_('tetherR4_12', 3, 5, 1, alpha=.35)]}
DEF = 'fifo21,sink21,tetherR4_21,uniform21,tetherR9_21,sink9_21,archive21,grabR4_21,grabR9_21,archive+tame21,full,fifo12,sink12,uniform12,tetherR6_12,tetherR4_12,archive12,grabR6_12,grabR4_12,archive+tame12,sink6_12,uniform+tame21'
if __name__ == '__main__':
    torch.set_float32_matmul_precision('high'); t0 = time.time(); limit = E('ELIM', 1e9)
    g = torch.Generator(device=dev).manual_seed(1234); s = sample_scene(NV, dev, g)
    real = render(s, torch.arange(NF, device=dev)[None].expand(NV, NF)); feat = Feat(dev); wv = world_views(s)
    seg = [(round(a), round(b)) for a, b in zip(*(lambda z: (z[:-1], z[1:]))(torch.linspace(GT, NF, 5).round().tolist()))]
    if NF > 42: seg += [(GT, 21), (21, 42)]
    fr = float(feat(real).var(0).sum()); freal = [feat(real[:, a:b]) for a, b in seg]
    def score(x):                       # x [NV*k,...] -> dict of per-video per-segment arrays and per-frame means
        k = x.shape[0]//NV; acc = []
        for j in range(k): acc.append(frame_metrics(s, real, x[j*NV:(j+1)*NV], wv))
        m = {n: torch.cat([a[n] for a in acc]) for n in acc[0]}; r = dict(seg=seg)
        for n in ('bg_psnr', 'ident', 'present', 'alien', 'sat', 'contrast', 'colour'): r[n] = torch.stack([m[n][:, a:b].mean(1) for a, b in seg], 1)
        r['motion'] = torch.stack([m['motion'][:, a:b].mean(1)/m['motion_real'][:, a:b].mean(1) for a, b in seg], 1)
        r['Q'] = 100*((r['bg_psnr']/40).clamp(0, 1)+r['ident']+(1-(r['motion']-1).abs()).clamp(0, 1))/3
        r['fd'] = torch.tensor([sum(100*frechet(feat(x[j*NV:(j+1)*NV, a:b]), f)/fr for j in range(k))/k for (a, b), f in zip(seg, freal)])
        r['frame'] = {n: m[n].mean(0).cpu() for n in ('bg_psnr', 'ident', 'sat', 'colour', 'motion', 'motion_real')}
        return {n: (v.cpu() if torch.is_tensor(v) else v) for n, v in r.items()}
    res = {'real': score(real)}; print('real Q', [round(z, 1) for z in res['real']['Q'].mean(0).tolist()], round(time.time()-t0, 1), flush=True)
    for ck in os.environ.get('CK', 'ckptB').split(','):
        model = load(f'{OUT}/{ck}.pt'); vids = {}
        for name in os.environ.get('POL_'+ck, os.environ.get('POL', DEF)).split(','):
            if time.time()-t0 > limit: print('eval time limit before', ck, name); break
            p = P[name]; tt = time.time(); ns = 1 if p.mode == 'full' else SEEDS; xs = []
            gt = real[:, :GT].repeat(ns, 1, 1, 1, 1)
            z = torch.stack([torch.randn(NF//3, NV, 192, 48, device=dev, generator=torch.Generator(device=dev).manual_seed(99+j)) for j in range(ns)], 0)   # ns,C,NV,...
            z = z.permute(0, 2, 1, 3, 4).reshape(ns*NV, NF//3, 192, 48)
            x = run_policy(model, gt, NF//3, p, STEPS, noise=z); tr = time.time()-tt
            r = score(x); res[f'{ck}/{name}'] = r; vids[name] = x[:3].cpu()
            q = r['Q'].mean(0).tolist(); f = lambda n: f"{r[n][:, 0].mean():.2f}->{r[n][:, 3].mean():.2f}"
            print(f"{ck} {name:14s} Q {' '.join('%.1f' % v for v in q)} se {float(r['Q'][:, 3].std()/len(r['Q'])**.5):.1f} bg {f('bg_psnr')} id {f('ident')} mot {f('motion')} sat {f('sat')} col {f('colour')} fd {r['fd'][0]:.1f}->{r['fd'][3]:.1f} [{tr:.1f}+{time.time()-tt-tr:.1f}s]", flush=True)
            torch.save(res, f'{OUT}/eval_{os.environ.get("TAG", "x")}.pt')
        keys = [k for k in os.environ.get('STRIP', 'full,fifo21,sink21,sink9_21,uniform21,archive+tame21,tetherR9_21,tetherR4_21,fifo12').split(',') if k in vids]
        ix = [i for i in [2, 8, 11, 14, 17, 20, 26, 38, 50, 62, 74, 98, 122, 146, 170, 194, 218, NF-1] if i < NF]
        rows = [z for v in range(2) for z in [real[v].cpu()]+[vids[k][v] for k in keys]]; strip(rows, f'{OUT}/strip_{ck}.png', ix)
        u8 = lambda z: ((z+1)*127.5).round().byte()
        torch.save({k: u8(v) for k, v in vids.items()} | {'real': u8(real[:3].cpu())}, f'{OUT}/vids_{ck}.pt')
    print('eval total', round(time.time()-t0, 1))
