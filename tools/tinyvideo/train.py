# TinyVideo training: teacher forcing on contiguous 21-frame windows (stage A), then self-predicted context (stage B). No time jumps.
import os, sys, time, json, math, torch, torch.nn.functional as F
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tv
from tv import *
OUT = os.environ.get('OUT', 'out'); os.makedirs(OUT, exist_ok=True)
dev = 'cuda' if torch.cuda.is_available() else 'cpu'; cuda = dev == 'cuda'
E = lambda k, d: type(d)(os.environ.get(k, d))
TA, TB, BS, LR, LRA, EMA = E('TA', 60.), E('TB', 60.), E('BS', 32), E('LR', 1.5e-3), E('LRA', 1e-3), E('EMA', .998)
CFG['layers'] = E('LAYERS', 8)
torch.manual_seed(E('SEED', 0)); torch.set_float32_matmul_precision('high')
dt = torch.bfloat16 if cuda else torch.float32
D, H = CFG['dim'], CFG['heads']; T = CFG['train_frames']
model = TinyVideo().to(dev)
if os.environ.get('INIT'): model.load_state_dict({k: v.float() for k, v in torch.load(os.environ['INIT'], map_location=dev).items()})
print('params', sum(p.numel() for p in model.parameters()), flush=True)
# ---- layouts: a list of clean chunks, then a list of noisy chunks; every token of chunk c sees [clean chunks < c] and its own chunk
CL, NL = [0, 1, 2, 3, 4, 5], [1, 2, 3, 3, 4, 4, 5, 5, 6, 6]       # the first chunk is never generated, the last clean one never read
CLd, NLd = [0, 1, 2, 3, 4], [1, 2, 3, 4, 5]                         # for making degraded context
class Layout:
    def __init__(s, cl, nl, bsz=128, ko=None, att='flex' if cuda else 'sdpa', comp=cuda):
        s.cl, s.nl = cl, nl; g = cl+nl; s.G = len(g); N = s.G*192
        cs = rope_table(torch.arange(T, device=dev), dev)
        ix = torch.cat([torch.arange(c*192, c*192+192) for c in g]).to(dev)
        s.cos, s.sin = cs[0][ix].contiguous(), cs[1][ix].contiguous()
        nc = len(cl)
        cof = (lambda z: torch.where(z < 6, z, torch.where(z < 8, z-5, 3+(z-8)//2))) if nc == 6 else (lambda z: torch.where(z < 5, z, z-4))
        assert cof(torch.arange(s.G)).tolist() == g
        def mm(b, h, q, k):
            gq, gk = q//192, k//192
            return (gq == gk) | ((gk < nc) & (cof(gk) < cof(gq)))
        if att == 'flex':
            from torch.nn.attention.flex_attention import flex_attention, create_block_mask
            bm = create_block_mask(mm, None, None, N, N, device=dev, BLOCK_SIZE=bsz)
            s.attn = lambda q, k, v: flex_attention(q, k, v, block_mask=bm, kernel_options=ko)
        else:
            i = torch.arange(N, device=dev); dm = mm(0, 0, i[:, None], i[None])
            s.attn = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=dm)
        attn = s.attn
        def blk(x, e0, cos, sin, wq, bq, wk, bk, wv, bv, wo, bo, nq, nk, w1, b1, w2, b2, mod):
            B, N, _ = x.shape; G = N//192; m = (mod+e0)[:, :, :, None]
            g = lambda z: z.view(B, G, 192, D)
            lin = lambda z, w, b: F.linear(z.to(dt), w.to(dt), b.to(dt))
            h = (g(ln(x))*(1+m[:, :, 1])+m[:, :, 0]).view(B, N, D)
            q, k, v = lin(h, wq, bq), lin(h, wk, bk), lin(h, wv, bv)
            def nr(z, w):
                z = z.float(); z = z*torch.rsqrt(z.pow(2).mean(-1, keepdim=True)+1e-6)*w
                z = z.view(B, N, H, 32, 2); a, b = z[..., 0], z[..., 1]; c_, s_ = cos[:, None], sin[:, None]
                return torch.stack([a*c_-b*s_, a*s_+b*c_], -1).view(B, N, H, 64).to(dt).transpose(1, 2)
            o = attn(nr(q, nq), nr(k, nk), v.view(B, N, H, 64).transpose(1, 2)).transpose(1, 2).reshape(B, N, D)
            x = x + (g(lin(o, wo, bo).float())*m[:, :, 2]).view(B, N, D)
            h = (g(ln(x))*(1+m[:, :, 4])+m[:, :, 3]).view(B, N, D)
            return x + (g(lin(F.gelu(lin(h, w1, b1), approximate='tanh'), w2, b2).float())*m[:, :, 5]).view(B, N, D)
        s.blk = torch.compile(blk, dynamic=False) if comp else blk
    def __call__(s, clean, noisy, t):
        B = clean.shape[0]
        e, e0 = model.temb(torch.cat([torch.zeros(B, len(s.cl), device=dev), t], 1))
        x = F.linear(torch.cat([clean, noisy], 1).to(dt), model.embed.weight.to(dt), model.embed.bias.to(dt)).float()
        for b in model.blocks:
            x = s.blk(x, e0, s.cos, s.sin, b.q.weight, b.q.bias, b.k.weight, b.k.bias, b.v.weight, b.v.bias, b.o.weight, b.o.bias, b.nq.weight, b.nk.weight,
                      b.f1.weight, b.f1.bias, b.f2.weight, b.f2.bias, b.mod)
        n = len(s.nl); x = x.view(B, s.G, 192, D)[:, -n:]; hm = model.hmod+e[:, -n:, None]
        x = ln(x)*(1+hm[:, :, 1:2])+hm[:, :, 0:1]
        return F.linear(x.to(dt), model.head.weight.to(dt), model.head.bias.to(dt)).float()      # B,n,192,48
pal_on(torch.zeros(1, device=dev).device)
rend = torch.compile(render, dynamic=False) if cuda else render
nli = torch.tensor(NL, device=dev); nld = torch.tensor(NLd, device=dev)

mu = [p for n, p in model.named_parameters() if n.startswith('blocks') and p.dim() == 2 and 'mod' not in n]
ids = {id(p) for p in mu}; ad = [p for p in model.parameters() if id(p) not in ids]; allp = list(model.parameters())
groups = {}
for p in mu: groups.setdefault(tuple(p.shape), []).append(p)
mom = {k: torch.zeros(len(v), *k, device=dev) for k, v in groups.items()}
am = [torch.zeros_like(p) for p in ad]; av = [torch.zeros_like(p) for p in ad]
sch_t = torch.zeros((), device=dev); ema_t = torch.zeros((), device=dev); n_t = torch.zeros((), device=dev)
def adam(lr):
    g = [p.grad for p in ad]; n_t.add_(1)
    torch._foreach_lerp_(am, g, .1); torch._foreach_mul_(av, .98); torch._foreach_addcmul_(av, g, g, .02)
    den = torch._foreach_sqrt(av); torch._foreach_div_(den, torch.sqrt(1-.98**n_t)); torch._foreach_add_(den, 1e-8)
    up = torch._foreach_div(am, den); torch._foreach_mul_(up, lr/(1-.9**n_t)); torch._foreach_sub_([p.data for p in ad], up)
def muon(lr, wd=.02):
    for k, ps in groups.items():
        g = torch.stack([p.grad for p in ps]); m = mom[k]; m.mul_(.95).add_(g); u = g.add(m, alpha=.95)
        X = u.to(dt); tr = X.size(1) > X.size(2)
        if tr: X = X.mT
        X = X/(X.float().norm(dim=(1, 2), keepdim=True).to(dt)+1e-7)
        for _ in range(5):
            A = X @ X.mT; X = 3.4445*X + (-4.7750*A+2.0315*A @ A) @ X
        if tr: X = X.mT
        d = [p.data for p in ps]; torch._foreach_mul_(d, 1-lr*wd); torch._foreach_sub_(d, list((X.float()*(lr*.2*max(k)**.5)).unbind(0)))
ema = [p.detach().clone() for p in allp]
def save(name):
    sd = {n: e.half().contiguous().cpu() for (n, _), e in zip(model.named_parameters(), ema)}
    torch.save(sd, f'{OUT}/{name}.pt')
gn_ema = torch.zeros((), device=dev)

def batch(B):
    s = sample_scene(B, dev); tt = torch.rand(B, 1, device=dev)*400+torch.arange(T, device=dev)
    return patchify(rend(s, tt)).view(B, T//3, 192, 48)
def degrade(x):
    """two-step self-prediction of chunks 1..5 from noise level u; the second step already sees the first step's predictions as context"""
    B = x.shape[0]; n = len(NLd)
    with torch.no_grad():
        u = .3+.7*torch.rand(B, n, device=dev); u4 = u[..., None, None]; xc = x[:, nld]
        z = (1-u4)*xc+u4*torch.randn_like(xc)
        v = LD(x[:, :5].reshape(B, -1, 48), z.reshape(B, -1, 48), u)
        x1 = (z-u4*v).clamp(-1, 1); z = z-.5*u4*v
        c = torch.cat([x[:, :1], x1[:, :4]], 1)
        v = LD(c.reshape(B, -1, 48), z.reshape(B, -1, 48), .5*u)
        x2 = (z-.5*u4*v).clamp(-1, 1)
    pre = torch.randint(1, 4, (B, 1), device=dev)                       # 1..3 clean chunks first, as at inference
    use = (nld[None] >= pre) & (torch.rand(B, 1, device=dev) < .75)
    ctx = torch.cat([x[:, :1], torch.where(use[..., None, None], x2, xc)], 1)
    sg = .08*torch.rand(B, 1, 1, 1, device=dev)*(torch.rand(B, 1, 1, 1, device=dev) < .5)
    return ctx+sg*torch.randn_like(ctx)
def loss_of(B, stageB):
    x = batch(B); n = len(NL)
    u = .08+.92*torch.rand(B, n, device=dev); t = 2.5*u/(1+1.5*u)       # timestep density: shift 2.5, t >= .18
    x0 = x[:, nli]; nz = torch.randn_like(x0); t4 = t[..., None, None]
    ctx = degrade(x) if stageB else x[:, :6]
    v = LT(ctx.reshape(B, -1, 48), ((1-t4)*x0+t4*nz).reshape(B, -1, 48), t)
    return (v-(nz-x0)).pow(2).mean((0, 2, 3))                           # per noisy chunk

def zero():
    for p in allp: p.grad = None
acc = torch.zeros(len(NL), device=dev)
def train_step(stageB):
    per = loss_of(BS, stageB); per.mean().backward(); acc.add_(per.detach())
    gr = [p.grad for p in allp]; nm = torch.stack(torch._foreach_norm(gr)).norm()
    torch._foreach_mul_(gr, (2*gn_ema/(nm+1e-9)).clamp(max=1.)); gn_ema.lerp_(torch.minimum(nm, 2*gn_ema), .02)
    adam(LRA*sch_t); muon(LR*sch_t)
    torch._foreach_mul_(ema, ema_t); torch._foreach_add_(ema, torch._foreach_mul([p.detach() for p in allp], 1-ema_t))
def grads(L, seed):
    global LT
    old = LT; LT = L; torch.manual_seed(seed); zero(); l = loss_of(BS, False).mean(); l.backward(); LT = old
    return l.item(), [p.grad.clone() for p in allp]

if __name__ == '__main__':
    t0 = time.time(); names = [n for n, _ in model.named_parameters()]
    LT = Layout(CL, NL); LD = Layout(CLd, NLd)
    # self-check of the compiled flex path against eager attention with a dense mask, with a random head so that every parameter gets a gradient
    torch.nn.init.normal_(model.head.weight, std=.05)
    la, ga = grads(LT, 5); print('compiled', round(time.time()-t0, 1), 's', flush=True); lb, gb = grads(Layout(CL, NL, att='sdpa', comp=False), 5)
    rel = sorted([(float((x-y).norm()/(y.norm()+1e-12)), n) for x, y, n in zip(ga, gb, names)])[::-1]
    tot_rel = float(torch.stack([(x-y).norm() for x, y in zip(ga, gb)]).norm()/torch.stack([y.norm() for y in gb]).norm())
    print('self-check loss', la, lb, 'grad rel err', round(tot_rel, 4), 'worst', [(round(r, 3), n) for r, n in rel[:4]], flush=True); del ga, gb
    if not tot_rel < .08: print('flex path WRONG', flush=True); sys.exit(4)
    torch.nn.init.zeros_(model.head.weight); torch.manual_seed(E('SEED', 0)+1); zero()
    loss_of(BS, False).mean().backward(); gn_ema.copy_(torch.stack(torch._foreach_norm([p.grad for p in allp])).norm()); print('init gn', float(gn_ema), flush=True)
    run = {False: lambda: (zero(), train_step(False)), True: lambda: (zero(), train_step(True))}
    if cuda and E('GRAPH', 1):
        st = torch.cuda.Stream(); st.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(st):
            for sb in ([False, True] if TB > 0 else [False]):
                for _ in range(3): run[sb]()
        torch.cuda.current_stream().wait_stream(st); torch.cuda.synchronize()
        for sb in ([False, True] if TB > 0 else [False]):
            zero(); gph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(gph): train_step(sb)
            run[sb] = gph.replay
            for rep in range(2):
                torch.cuda.synchronize(); t1 = time.time()
                for _ in range(5): gph.replay()
                torch.cuda.synchronize()
            print('graph', sb, 'ms/step', round((time.time()-t1)*200, 2), flush=True)
    for z in am+av+list(mom.values())+[n_t, acc]: z.zero_()
    for z, p in zip(ema, allp): z.copy_(p.detach())
    print('ready', round(time.time()-t0, 1), 's, mem', round(torch.cuda.max_memory_allocated()/2**30, 1) if cuda else 0, 'GiB', flush=True)
    step = 0; tot = TA+TB; log = []; t_tr = time.time(); inB = False; nacc = 0; prev = None; snap = None; lrs = 1.; LOGN = E('LOGN', 250)
    while True:
        el = time.time()-t_tr
        if el >= tot: break
        if el >= TA and not inB:
            save('ckptA'); inB = True; print('== stage B at step', step, flush=True); prev = None; snap = None; nacc = 0; acc.zero_()
        fr = el/tot; sch = min(1, (step+1)/E('WARM', 200))*.5*(1+math.cos(math.pi*min(1, fr)))*lrs
        sch_t.fill_(sch); ema_t.fill_(min(EMA, (step+1)/(step+10))); run[inB](); step += 1; nacc += 1
        if step % 10 == 0 and cuda: ev = torch.cuda.Event(); ev.record(); ev.synchronize()
        if step % LOGN == 0:
            a = (acc/max(nacc, 1)).tolist(); l = sum(a)/len(a); c6 = a[NL.index(6)]; acc.zero_(); nacc = 0
            log.append((step, round(time.time()-t_tr, 1), l, a[0], a[2], c6, float(gn_ema)))
            print(f'step {step} t {time.time()-t_tr:.0f}s loss {l:.4f} c1 {a[0]:.4f} c3 {a[2]:.4f} c6 {c6:.4f} gn {float(gn_ema):.3f} lr {LR*sch:.2e}', flush=True)
            if prev is not None and step > 4*LOGN and not l < 1.4*prev and snap is not None:
                print('!! spike: restore', flush=True); lrs *= .7
                for p, z in zip(allp, snap): p.data.copy_(z)
                for z, w in zip(ema, snap): z.copy_(w)
                for z in am+av+list(mom.values())+[n_t]: z.zero_()
            else:
                prev = l if prev is None else min(prev, l)
                if step % (4*LOGN) == 0: snap = [p.detach().clone() for p in allp]
    if cuda: torch.cuda.synchronize()
    save('ckptB' if inB else 'ckptA'); print('trained', step, 'steps', round(time.time()-t_tr, 1), 's', flush=True)
    json.dump(dict(cfg=CFG, steps=step, bs=BS, lr=LR, lra=LRA, TA=TA, TB=TB, noisy_chunks=NL, log_cols='step,s,loss,chunk1,chunk3,chunk6,gradnorm', log=log), open(f'{OUT}/train.json', 'w'))
