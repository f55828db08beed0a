# Tiny causal video diffusion transformer: data, model, inference engine, cache policies, metrics.
import math
import torch, torch.nn as nn, torch.nn.functional as F

CFG = dict(img=32, patch=4, dim=192, layers=8, heads=3, head_dim=64, ffn=768, freq_dim=256,
           chunk=3, train_frames=21, shift=2.0, rope_theta=10000.0, world=56, span=42)
PALETTE = [[0.9,-0.8,-0.8],[-0.8,0.9,-0.8],[-0.8,-0.6,0.95],[0.9,0.85,-0.8],[0.9,-0.8,0.9],[-0.8,0.85,0.9]]

_PAL = {}
def pal_on(dev):
    d = str(dev)
    if d not in _PAL: _PAL[d] = torch.tensor(PALETTE, device=dev)
    return _PAL[d]

# ---------------------------------------------------------------- data (closed form in time)
def tri(x, rng):                         # triangle wave in [0,rng]: elastic bounce
    m = torch.remainder(x, 2*rng)
    return torch.where(m > rng, 2*rng - m, m)

def sample_scene(B, dev, g=None):
    """world is 56 px wide for the file format; texture and camera live in [0, span=42] (camera range 10 px), dark wall beyond"""
    r = lambda *s: torch.rand(*s, device=dev, generator=g)
    s = {}
    s['c0'] = (r(B,3)-.5)*.7
    K = 8
    s['bx'] = r(B,K)*CFG['span']; s['by'] = r(B,K)*32
    s['bs'] = 4.5+4*r(B,K); s['bc'] = (r(B,K,3)-.5)*1.4
    ang = r(B)*math.pi; wl = 12+12*r(B)
    s['fx'] = torch.cos(ang)*2*math.pi/wl; s['fy'] = torch.sin(ang)*2*math.pi/wl
    s['fp'] = r(B)*2*math.pi; s['fc'] = (r(B,3)-.5)*.4
    s['cam0'] = r(B)*2*(CFG['span']-32); s['camv'] = .15+r(B)*.3
    n3 = torch.zeros(B, dtype=torch.bool, device=dev)
    s['on'] = torch.stack([~n3, ~n3, n3], 1)                                           # [B,3]: always two sprites
    s['col'] = torch.argsort(r(B,6), 1)[:, :3]
    s['shape'] = (r(B,3)*3).long().clamp_(0,2)                                         # disc, square, diamond
    s['rad'] = 3.8+1.4*r(B,3)
    s['p0'] = r(B,3,2)*64
    s['v'] = .3+.6*r(B,3,2)
    return s

def bg_at(s, camx):
    """background viewed at camera offsets camx [B,T] -> [B,T,3,32,32]"""
    dev = camx.device
    px = torch.arange(32, device=dev)+.5
    wx = camx[..., None] + px                                                          # [B,T,32] world x
    gx = torch.exp(-((wx[:, :, None] - s['bx'][:, None, :, None])**2)/(2*s['bs'][:, None, :, None]**2))  # B,T,K,W
    gy = torch.exp(-((px[None, None] - s['by'][..., None])**2)/(2*s['bs'][..., None]**2))                # B,K,H
    a = torch.einsum('btkw,bkh,bkc->btchw', gx, gy, s['bc'])
    ph = (s['fx'][:, None, None]*wx)[:, :, None, :] + (s['fy'][:, None]*px)[:, None, :, None] + s['fp'][:, None, None, None]
    st = torch.sin(ph)[:, :, None]*s['fc'][:, None, :, None, None]
    b = .45*torch.tanh((a + st + s['c0'][:, None, :, None, None])/.45)
    wall = torch.sigmoid((2-wx)*2) + torch.sigmoid((wx-(CFG['span']-2))*2)            # B,T,W
    wall = wall[:, :, None, None, :]
    return b*(1-wall) + (-.9)*wall

def render(s, t):
    """t [B,T] frame times -> [B,T,3,32,32] in [-1,1]"""
    dev = t.device; t = t.float()
    cam = tri(s['cam0'][:, None] + s['camv'][:, None]*t, CFG['span']-32.)
    x = bg_at(s, cam)
    pal = pal_on(dev)
    px = torch.arange(32, device=dev)+.5
    for k in range(2):
        r = s['rad'][:, k]
        rng = (32-2*r)[:, None]
        cx = r[:, None] + tri(s['p0'][:, k, 0, None] + s['v'][:, k, 0, None]*t, rng)
        cy = r[:, None] + tri(s['p0'][:, k, 1, None] + s['v'][:, k, 1, None]*t, rng)
        dx = (px - cx[..., None]).abs()[:, :, None, :]; dy = (px - cy[..., None]).abs()[:, :, :, None]
        rr = r[:, None, None, None]
        d2 = torch.sqrt(dx**2+dy**2+1e-6)
        sd = torch.stack([d2-rr, torch.maximum(dx, dy)-rr*.88, ((dx+dy)-rr*1.25)*.7], 0)
        idx = s['shape'][:, k]
        sdf = sd.gather(0, idx[None, :, None, None, None].expand(1, *sd.shape[1:]))[0]
        m = torch.sigmoid(-sdf*2.5)*s['on'][:, k].float()[:, None, None, None]
        x = x*(1-m[:, :, None]) + pal[s['col'][:, k]][:, None, :, None, None]*m[:, :, None]
    return x

def patchify(x):     # [B,T,3,32,32] -> [B,T*64,48], patch element order (c,py,px), patches row-major
    B,T = x.shape[:2]; P = CFG['patch']; n = 32//P
    return x.reshape(B,T,3,n,P,n,P).permute(0,1,3,5,2,4,6).reshape(B,T*n*n,3*P*P)
def unpatchify(y):
    B = y.shape[0]; P = CFG['patch']; n = 32//P; T = y.shape[1]//(n*n)
    return y.reshape(B,T,n,n,3,P,P).permute(0,1,4,2,5,3,6).reshape(B,T,3,32,32)

# ---------------------------------------------------------------- RoPE (Wan split: t=24,h=20,w=20 of 64; interleaved pairs)
def rope_table(pos_t, dev):
    """pos_t [..., F] temporal positions of frames -> cos,sin [..., F*64, 32]"""
    d = CFG['head_dim']; k = 2*(d//6); dt = d-2*k
    def fr(n): return 1./CFG['rope_theta']**(torch.arange(0, n, 2, device=dev).double()/n)
    ft, fh = fr(dt), fr(k)
    at = pos_t.double()[..., None]*ft                                  # ...,F,12
    p = torch.arange(8, device=dev).double()[:, None]*fh               # 8,10
    lead = at.shape[:-1]
    a = torch.cat([at[..., None, None, :].expand(*lead, 8, 8, dt//2),
                   p[:, None].expand(8, 8, k//2).expand(*lead, 8, 8, k//2),
                   p[None].expand(8, 8, k//2).expand(*lead, 8, 8, k//2)], -1)
    a = a.reshape(*lead[:-1], lead[-1]*64, d//2)
    return torch.cos(a).float(), torch.sin(a).float()

def rope(x, cs):     # x [B,H,N,64]; cos/sin broadcastable [*,N,32]
    c, s = cs
    if c.dim() == 3: c, s = c[:, None], s[:, None]
    xf = x.float().unflatten(-1, (-1, 2)); a, b = xf[..., 0], xf[..., 1]
    return torch.stack([a*c-b*s, a*s+b*c], -1).flatten(-2).to(x.dtype)

class RMS(nn.Module):
    def __init__(s, d): super().__init__(); s.weight = nn.Parameter(torch.ones(d))
    def forward(s, x):
        xf = x.float(); return (xf*torch.rsqrt(xf.pow(2).mean(-1, keepdim=True)+1e-6)).to(x.dtype)*s.weight
def ln(x): return F.layer_norm(x.float(), (x.shape[-1],), eps=1e-6)

class Block(nn.Module):
    def __init__(s, D, H, ffn):
        super().__init__(); s.H = H
        s.q = nn.Linear(D, D); s.k = nn.Linear(D, D); s.v = nn.Linear(D, D); s.o = nn.Linear(D, D)
        s.nq = RMS(D); s.nk = RMS(D)
        s.f1 = nn.Linear(D, ffn); s.f2 = nn.Linear(ffn, D)
        s.mod = nn.Parameter(torch.randn(6, D)/D**.5)
    def qkv(s, h):
        B, N, D = h.shape
        f = lambda z: z.view(B, N, s.H, D//s.H).transpose(1, 2)
        return f(s.nq(s.q(h))), f(s.nk(s.k(h))), f(s.v(h))

class TinyVideo(nn.Module):
    def __init__(s):
        super().__init__(); c = CFG; D = c['dim']; pd = 3*c['patch']**2
        s.embed = nn.Linear(pd, D)
        s.t1 = nn.Linear(c['freq_dim'], D); s.t2 = nn.Linear(D, D); s.tp = nn.Linear(D, 6*D)
        s.blocks = nn.ModuleList([Block(D, c['heads'], c['ffn']) for _ in range(c['layers'])])
        s.hmod = nn.Parameter(torch.randn(2, D)/D**.5); s.head = nn.Linear(D, pd)
        for m in s.modules():
            if isinstance(m, nn.Linear): nn.init.xavier_uniform_(m.weight); nn.init.zeros_(m.bias)
        nn.init.normal_(s.t1.weight, std=.02); nn.init.normal_(s.t2.weight, std=.02); nn.init.normal_(s.tp.weight, std=.02)
        nn.init.zeros_(s.head.weight)
    def temb(s, t):      # t [...] in [0,1] -> e [...,D], e0 [...,6,D]
        half = CFG['freq_dim']//2
        f = torch.exp(-math.log(10000.)*torch.arange(half, device=t.device).float()/half)
        a = (t.float()*1000.)[..., None]*f
        z = torch.cat([torch.cos(a), torch.sin(a)], -1)
        e = s.t2(F.silu(s.t1(z)))
        return e, s.tp(F.silu(e)).unflatten(-1, (6, -1))
    # ---- training forward: groups = 2*(T/3) chunks (clean then noisy)
    def forward(s, clean, noisy, t, cs, attn):
        """clean,noisy [B,N,48]; t [B,C] of noisy chunks; attn(q,k,v)"""
        B, N, _ = clean.shape; C = t.shape[1]; D = CFG['dim']
        x = s.embed(torch.cat([clean, noisy], 1)).float()
        e, e0 = s.temb(torch.cat([torch.zeros_like(t), t], 1))       # [B,2C,D],[B,2C,6,D]
        cs2 = (torch.cat([cs[0], cs[0]], -2), torch.cat([cs[1], cs[1]], -2))
        g = lambda z: z.view(B, 2*C, -1, D)
        f = lambda z: z.reshape(B, 2*N, D)
        for b in s.blocks:
            m = (b.mod + e0.float())[:, :, :, None]                  # B,2C,6,1,D
            h = f(g(ln(x))*(1+m[:, :, 1])+m[:, :, 0])
            q, k, v = b.qkv(h)
            o = attn(rope(q, cs2), rope(k, cs2), v.to(q.dtype)).transpose(1, 2).reshape(B, 2*N, D)
            x = x + f(g(b.o(o).float())*m[:, :, 2])
            h = f(g(ln(x))*(1+m[:, :, 4])+m[:, :, 3])
            x = x + f(g(b.f2(F.gelu(b.f1(h), approximate='tanh')).float())*m[:, :, 5])
        x = g(x)[:, C:]; hm = (s.hmod + e[:, C:, None].float())       # B,C,2,D
        x = ln(x)*(1+hm[:, :, 1:2])+hm[:, :, 0:1]
        return s.head(x.reshape(B, N, D))
    # ---- inference forward of one chunk: x [B,192,48], t scalar, cs for the chunk, ctx = per layer (K_roped, V) or None
    def step(s, x, t, cs, ctx, want_kv=False, trace=None):
        B = x.shape[0]; D = CFG['dim']
        e, e0 = s.temb(torch.full((B,), float(t), device=x.device))
        x = s.embed(x); kv = []
        if trace is not None: trace['embed'] = x; trace['e'] = e; trace['e0'] = e0
        for li, b in enumerate(s.blocks):
            m = (b.mod + e0)[:, :, None]
            h = ln(x)*(1+m[:, 1])+m[:, 0]
            q, k, v = b.qkv(h)
            if want_kv: kv.append((q, k, v))
            qr, kr, vv = rope(q, cs), rope(k, cs), v
            if ctx is not None:
                cl = ctx(li, q, k, v) if callable(ctx) else ctx[li]
                kr = torch.cat([cl[0], kr], 2); vv = torch.cat([cl[1], vv], 2)
            o = F.scaled_dot_product_attention(qr, kr, vv).transpose(1, 2).reshape(x.shape)
            x = x + b.o(o)*m[:, 2]
            h = ln(x)*(1+m[:, 4])+m[:, 3]
            x = x + b.f2(F.gelu(b.f1(h), approximate='tanh'))*m[:, 5]
            if trace is not None:
                trace[f'q{li}'] = q; trace[f'k{li}'] = k; trace[f'v{li}'] = v; trace[f'block{li}'] = x
        hm = s.hmod + e[:, None]
        y = s.head(ln(x)*(1+hm[:, 1:2])+hm[:, 0:1])
        if trace is not None: trace['out'] = y
        return (y, kv) if want_kv else y

def schedule(n, shift=None):
    s = shift or CFG['shift']; u = torch.linspace(1, 0, n+1).double(); return (s*u/(1+(s-1)*u)).tolist()

# ---------------------------------------------------------------- cache policies and rollout
class Policy:
    """mode: full | fifo | sink | mem.  sizes in frames. Budget B = sink+mem+recent."""
    def __init__(s, name, mode, sink=0, mem=0, recent=0, lam=0.5, tau=6., rel='attn', alpha=0., ref='sink', edit='kv',
                 pick='grab', absolute=False, trust=0, pool=0):
        s.__dict__.update(locals()); del s.__dict__['s']

def frames_of(x, F_): return x.unflatten(2, (F_, 64))       # [B,H,F*64,d] -> [B,H,F,64,d]

def tame(x, mu_t, sd_t, tau):
    """x [B,H,f,64,d]; per-frame moments -> trusted moments [B,H,1,1,d]; population std"""
    mu = x.mean(3, keepdim=True); sd = x.var(3, keepdim=True, unbiased=False).sqrt().clamp_min(1e-6)
    return (1-tau)*x + tau*(sd_t*(x-mu)/sd+mu_t)

@torch.no_grad()
def rollout_tether(model, gt_first, n_chunks, pol, steps=5, gen=None, noise=None, ret_sel=False):
    """TetherCache: per-layer admission of memory frames (GRAB) and trust-weighted editing of their statistics (TAME). pol: K window (incl. current chunk), sink S, recent R (incl. current), lam=alpha (diversity), alpha=tau."""
    dev = gt_first.device; B = gt_first.shape[0]; L = CFG['layers']; H = CFG['heads']; d = CFG['head_dim']; ts = schedule(steps); C = 3
    S, R = pol.sink, pol.recent; M = pol.mem; Kw = S+M+R; Nf = C*n_chunks
    K = torch.zeros(L, B, H, Nf, 64, d, device=dev); V = torch.zeros_like(K)
    mk = mv = mi = None; out = []; sels = []; ar = torch.arange(B, device=dev)
    for c in range(n_chunks):
        f = C*c; warm = f+C <= Kw
        n = f if warm else Kw-C
        cs = rope_table(torch.arange(max(n, 1), device=dev), dev); csq = rope_table(torch.arange(n, n+C, device=dev), dev)
        def window(l):
            if warm: return K[l][:, :, :f], V[l][:, :, :f]
            a, b = f-R+C, f
            return (torch.cat([K[l][:, :, :S], mk[l], K[l][:, :, a:b]], 2), torch.cat([V[l][:, :, :S], mv[l], V[l][:, :, a:b]], 2))
        def roped(l):
            k, v = window(l); return rope(k.flatten(2, 3), cs), v.flatten(2, 3)
        ctx = None if n == 0 else [roped(l) for l in range(L)]
        if f < gt_first.shape[1]: x = patchify(gt_first[:, f:f+3])
        else:
            x = noise[:, c] if noise is not None else torch.randn(B, 192, 48, device=dev, generator=gen)
            for i in range(steps): x = x + (ts[i+1]-ts[i])*model.step(x, ts[i], csq, ctx)
            x = x.clamp(-1, 1)
        if warm: hook = ctx
        else:
            lo = f-R
            def hook(l, q, k, v):          # admission with the context pass's q, before attention
                pk, pv = K[l][:, :, lo:lo+C], V[l][:, :, lo:lo+C]; tau = pol.alpha
                if tau > 0:
                    tk = torch.cat([K[l][:, :, :S], mk[l]], 2).flatten(2, 3); tv_ = torch.cat([V[l][:, :, :S], mv[l]], 2).flatten(2, 3)
                    st = lambda z: (z.mean(2)[:, :, None, None], z.var(2, unbiased=False).sqrt().clamp_min(1e-6)[:, :, None, None])
                    ek = tame(pk, *st(tk), tau) if 'k' in pol.edit else pk; ev = tame(pv, *st(tv_), tau) if 'v' in pol.edit else pv
                else: ek, ev = pk, pv
                ci = torch.cat([mi[l], torch.arange(lo, lo+C, device=dev)[None].expand(B, C)], 1)      # [B,M+C]
                ck = torch.cat([mk[l], pk], 2)                                                          # scoring uses unedited pending
                lg = torch.einsum('bhd,bhfd->bf', q.mean(2), ck.mean(3))/(H*d**.5)
                a = torch.softmax(lg, 1); cf = ci.float()
                sg = (.5*(cf.amax(1)-cf.amin(1)+1)).clamp_min(1.)[:, None, None]
                sim = torch.exp(-(cf[:, :, None]-cf[:, None]).abs()/sg); sim.diagonal(dim1=1, dim2=2).zero_()
                sc = a+pol.lam*(1-(sim*a[:, None]).amax(2)).clamp_min(0)
                keep = sc.topk(M, 1).indices.sort(1).values
                gk = keep[:, None, :, None, None].expand(B, H, M, 64, d)
                mk[l] = torch.cat([mk[l], ek], 2).gather(2, gk); mv[l] = torch.cat([mv[l], ev], 2).gather(2, gk); mi[l] = ci.gather(1, keep)
                return roped(l)
        _, kv = model.step(x, 0., csq, hook, want_kv=True)
        for l in range(L):
            K[l][:, :, f:f+3] = frames_of(kv[l][1], 3); V[l][:, :, f:f+3] = frames_of(kv[l][2], 3)
        if warm and f+C == Kw:
            mk = [K[l][:, :, S:S+M].clone() for l in range(L)]; mv = [V[l][:, :, S:S+M].clone() for l in range(L)]
            mi = [torch.arange(S, S+M, device=dev)[None].expand(B, M) for l in range(L)]
        if ret_sel: sels.append(None if mi is None else [z.cpu() for z in mi])
        out.append(unpatchify(x))
    r = torch.cat(out, 1)
    return (r, sels) if ret_sel else r

def run_policy(model, gt, n, p, *a, **k):
    return (rollout_tether if p.mode == 'tether' else rollout)(model, gt, n, p, *a, **k)

@torch.no_grad()
def rollout(model, gt_first, n_chunks, pol, steps=5, gen=None, noise=None, ret_sel=False):
    """gt_first [B,3k,3,32,32]: ground-truth start chunks. Returns frames [B,3*n_chunks,3,32,32] (clamped to [-1,1])."""
    dev = gt_first.device; B = gt_first.shape[0]; L = CFG['layers']; H = CFG['heads']; ts = schedule(steps)
    Nf = 3*n_chunks; d = CFG['head_dim']
    K = torch.zeros(L, B, H, Nf, 64, d, device=dev); V = torch.zeros_like(K)
    qlast = None; out = []; sels = []; prev = [set() for _ in range(B)]
    cs0 = rope_table(torch.zeros(1, device=dev), dev)       # one frame at t=0 (for relevance)
    for c in range(n_chunks):
        f = 3*c                                              # frames so far
        # ---- choose frames
        memidx = None
        if f == 0: idx = None
        elif pol.mode == 'full': idx = torch.arange(f, device=dev)[None].expand(B, f)
        elif pol.mode == 'fifo' or f <= pol.sink+pol.mem+pol.recent:
            n = min(f, pol.sink+pol.mem+pol.recent); idx = torch.arange(f-n, f, device=dev)[None].expand(B, n)
        elif pol.mode == 'sink':
            n = pol.recent+pol.mem
            idx = torch.cat([torch.arange(pol.sink, device=dev), torch.arange(f-n, f, device=dev)])[None].expand(B, -1)
        else:
            cand = torch.arange(pol.sink, f-pol.recent, device=dev); nc = cand.numel()
            if pol.pick == 'uniform':
                memidx = cand[torch.linspace(0, nc-1, pol.mem, device=dev).round().long()][None].expand(B, -1)
            else:
                rel = torch.zeros(B, nc, device=dev)
                for l in range(L):
                    q = qlast[l][:, :, -64:]                                    # last frame's queries, pre-RoPE
                    if pol.rel == 'mean':
                        lg = torch.einsum('bhd,bhfd->bhf', q.mean(2), K[l][:, :, cand].mean(3))/d**.5
                        rel += torch.softmax(lg, -1).mean(1)
                    else:
                        kk = K[l][:, :, pol.sink:f-pol.recent]
                        kk = rope(kk.flatten(2, 3), (cs0[0].repeat(nc, 1), cs0[1].repeat(nc, 1)))
                        a = torch.softmax(rope(q, cs0) @ kk.transpose(-1, -2)/d**.5, -1)
                        rel += a.mean(2).unflatten(-1, (nc, 64)).sum(-1).mean(1)
                rel = rel/rel.amax(1, keepdim=True).clamp_min(1e-9)
                cf = cand.float()
                dist = torch.minimum(cf-(pol.sink-1), (f-pol.recent)-cf)[None].expand(B, nc).clone()
                taken = torch.zeros(B, nc, dtype=torch.bool, device=dev); pick = []
                for _ in range(pol.mem):
                    sc = rel + pol.lam*(1-torch.exp(-dist/pol.tau)); sc = sc.masked_fill(taken, -1e9)
                    j = sc.argmax(1); pick.append(j); taken[torch.arange(B, device=dev), j] = True
                    dist = torch.minimum(dist, (cf[None]-cf[j][:, None]).abs())
                memidx = cand[torch.stack(pick, 1).sort(1).values]
            idx = torch.cat([torch.arange(pol.sink, device=dev)[None].expand(B, -1), memidx,
                             torch.arange(f-pol.recent, f, device=dev)[None].expand(B, -1)], 1)
        if ret_sel: sels.append(None if idx is None else idx.cpu())
        # ---- context tensors
        if idx is None: ctx = None; n = 0; pos0 = 0
        else:
            n = idx.shape[1]
            pos0 = n
            cs = rope_table(torch.arange(n, device=dev), dev)
            ctx = []
            for l in range(L):
                gi = idx[:, None, :, None, None].expand(B, H, n, 64, d)
                k = K[l].gather(2, gi); v = V[l].gather(2, gi)
                if memidx is not None and pol.alpha > 0:
                    ms = slice(pol.sink, pol.sink+pol.mem)
                    if pol.ref == 'sink': rs = slice(0, pol.sink)
                    elif pol.ref == 'sinkrec': rs = None
                    else: rs = slice(pol.sink+pol.mem, n)
                    for nm, z in (('k', k), ('v', v)):
                        if nm not in pol.edit: continue
                        zr = z[:, :, rs] if rs is not None else torch.cat([z[:, :, :pol.sink], z[:, :, pol.sink+pol.mem:]], 2)
                        zr = zr.flatten(2, 3); mu_r = zr.mean(2)[:, :, None, None]; sd_r = zr.std(2)[:, :, None, None]
                        zm = z[:, :, ms]; mu = zm.mean(3, keepdim=True); sd = zm.std(3, keepdim=True)
                        z[:, :, ms] = (1-pol.alpha)*zm + pol.alpha*((zm-mu)/(sd+1e-5)*sd_r+mu_r)
                ctx.append((rope(k.flatten(2, 3), cs), v.flatten(2, 3)))
        csq = rope_table(torch.arange(pos0, pos0+3, device=dev), dev)
        # ---- generate or take ground truth
        if f < gt_first.shape[1]: x = patchify(gt_first[:, f:f+3])
        else:
            x = noise[:, c] if noise is not None else torch.randn(B, 192, 48, device=dev, generator=gen)
            for i in range(steps):
                x = x + (ts[i+1]-ts[i])*model.step(x, ts[i], csq, ctx)
            x = x.clamp(-1, 1)
        _, kv = model.step(x, 0., csq, ctx, want_kv=True)
        qlast = [z[0] for z in kv]
        for l in range(L):
            K[l][:, :, f:f+3] = frames_of(kv[l][1], 3); V[l][:, :, f:f+3] = frames_of(kv[l][2], 3)
        out.append(unpatchify(x))
    r = torch.cat(out, 1)
    return (r, sels) if ret_sel else r

# ---------------------------------------------------------------- metrics
@torch.no_grad()
def world_views(s):          # background at camera offsets 0,0.5..24 -> [B,49,3,32,32]
    B = s['c0'].shape[0]; o = torch.arange(0, CFG['world']-32+.01, .5, device=s['c0'].device)
    return bg_at(s, o[None].expand(B, -1))

@torch.no_grad()
def frame_metrics(s, real, x, wv=None):
    """real,x [B,T,3,32,32]; returns dict of [B,T] tensors"""
    B, T = x.shape[:2]; dev = x.device; m = {}
    wv = world_views(s) if wv is None else wv
    keep = int(1024*.7); ps = []
    for b in range(B):
        e = torch.empty(T, wv.shape[1], device=dev)
        for o0 in range(0, T, 64):
            dd = (x[b, o0:o0+64, None]-wv[b][None]).pow(2).mean(2).flatten(2)
            e[o0:o0+64] = torch.sort(dd, -1).values[..., :keep].mean(-1)
        ps.append(e.amin(1))
    mse = torch.stack(ps)/4.                                     # for [0,1] range
    m['bg_psnr'] = (-10*torch.log10(mse.clamp_min(1e-4)))       # capped at 40 dB
    pal = torch.tensor(PALETTE, device=dev)[s['col']]            # B,3,3
    def cnt(z): return ((z[:, :, None]-pal[:, None, :, :, None, None]).pow(2).sum(3).sqrt() < .7).float().sum((-1, -2))  # B,T,3
    on = s['on'].float()
    cr = cnt(real).median(1).values[:, None].clamp_min(4.); cx = cnt(x)
    sim = torch.minimum(cx, cr)/torch.maximum(cx, cr).clamp_min(1)
    w = on[:, None]/on.sum(1)[:, None, None]
    m['ident'] = (sim*w).sum(-1); m['present'] = ((cx > .4*cr).float()*w).sum(-1)
    allp = torch.tensor(PALETTE, device=dev)
    dmin = torch.stack([(x-p[None, None, :, None, None]).pow(2).sum(2).sqrt() for p in allp], 2)   # B,T,6,H,W
    mine = torch.zeros(B, 6, device=dev).scatter_(1, s['col'], on)
    m['alien'] = ((dmin < .7).float().sum((-1, -2))*(1-mine)[:, None]).sum(-1)
    mot = lambda z: F.pad((z[:, 1:]-z[:, :-1]).abs().mean((2, 3, 4)), (1, 0))
    a, r = mot(x), mot(real); a[:, 0] = a[:, 1]; r[:, 0] = r[:, 1]
    m['motion'] = a; m['motion_real'] = r
    sat = lambda z: (z.amax(2)-z.amin(2)).mean((-1, -2))
    m['sat'] = sat(x)-sat(real)
    m['contrast'] = x.std((2, 3, 4))-real.std((2, 3, 4))
    m['colour'] = (x.mean((-1, -2))-real.mean((-1, -2))).abs().mean(-1)
    return m

class Feat:
    def __init__(s, dev):
        g = torch.Generator().manual_seed(7)
        mk = lambda o, i, k: (torch.randn(o, i, k, k, generator=g)/(i*k*k)**.5).to(dev)
        s.w1, s.w2, s.w3 = mk(32, 6, 5), mk(48, 32, 3), mk(48, 48, 3)
    def __call__(s, x):     # [B,T,3,32,32] -> [B*(T-1),96]; frame and frame difference
        z = torch.cat([x[:, 1:], (x[:, 1:]-x[:, :-1])*2], 2).flatten(0, 1)
        z = F.relu(F.conv2d(z, s.w1, padding=2)); z = F.avg_pool2d(z, 2)
        z = F.relu(F.conv2d(z, s.w2, padding=1)); z = F.avg_pool2d(z, 2)
        z = F.relu(F.conv2d(z, s.w3, padding=1))
        return torch.cat([z.mean((-1, -2)), z.std((-1, -2))], 1)
def frechet(a, b):
    a, b = a.double().cpu(), b.double().cpu()
    ma, mb = a.mean(0), b.mean(0); ca, cb = torch.cov(a.T), torch.cov(b.T)
    ev = torch.linalg.eigvals(ca @ cb).real.clamp_min(0).sqrt().sum()
    return float(((ma-mb)**2).sum()+torch.trace(ca)+torch.trace(cb)-2*ev)

def summarise(s, real, x, feat, nseg=4, skip=3, wv=None):
    m = frame_metrics(s, real, x, wv); T = x.shape[1]
    b = torch.linspace(skip, T, nseg+1).round().long().tolist(); rows = []
    fr = float(torch.cat([feat(real)]).var(0).sum())
    for i in range(nseg):
        sl = slice(b[i], b[i+1]); mean = lambda k: float(m[k][:, sl].mean())
        mr = m['motion'][:, sl].mean(1)/m['motion_real'][:, sl].mean(1)
        ms = (1-(mr-1).abs()).clamp(0, 1)
        q = 100*((m['bg_psnr'][:, sl].mean(1)/40).clamp(0, 1)+m['ident'][:, sl].mean(1)+ms)/3
        rows.append(dict(bg_psnr=mean('bg_psnr'), ident=mean('ident'), present=mean('present'), alien=mean('alien'),
                         motion_ratio=float(mr.mean()), sat=mean('sat'), contrast=mean('contrast'), colour=mean('colour'),
                         fd=100*frechet(feat(x[:, sl]), feat(real[:, sl]))/fr, Q=float(q.mean()), Qse=float(q.std()/len(q)**.5)))
    return rows
