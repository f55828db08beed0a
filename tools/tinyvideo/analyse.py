# Table and paired differences of an evaluation: python analyse.py out/eval_main.pt
import sys, torch
R = torch.load(sys.argv[1], weights_only=False)
q = {k.split('/')[-1] if 'ckptB' in k else k: v for k, v in R.items() if k != 'real'}
se = lambda d: float(d.std()/len(d)**.5)
print('real', [round(z, 1) for z in R['real']['Q'].mean(0).tolist()], R['real']['seg'])
def row(k):
    v = q[k]; Q = v['Q']; K = '12' if k.endswith('12') else '21'; d4 = Q[:, 3]
    f = lambda n, p=2: f"{float(v[n][:, 0].mean()):.{p}f}->{float(v[n][:, 3].mean()):.{p}f}"
    pre = 'ckptA/' if k.startswith('ckptA') else ''
    def pd(b):
        b = pre+b+K
        if b not in q or b == k: return '--'
        d = d4-q[b]['Q'][:, 3]; return f"{float(d.mean()):+.1f} ({se(d):.1f})"
    m = Q.mean(0).tolist()
    return f"| {k} | {m[4]:.1f} | {m[5]:.1f} | {m[0]:.1f} | {m[1]:.1f} | {m[2]:.1f} | {m[3]:.1f} ({se(d4):.1f}) | {abs(m[0]-m[3]):.1f} | {pd('fifo')} | {pd('sink')} | {pd('uniform')} | {f('bg_psnr',1)} | {f('ident')} | {f('motion')} | {float(v['colour'][:,3].mean()):.3f} | {float(v['sat'][:,3].mean()):+.2f} | {float(v['fd'][0]):.1f}->{float(v['fd'][3]):.1f} |"
for k in ['full','fifo21','sink21','sink9_21','uniform21','archive21','archive+tame21','grabR9_21','tetherR9_21','grabR4_21','tetherR4_21','fifo12','sink12','sink6_12','uniform12','archive12','archive+tame12','grabR6_12','tetherR6_12','tetherR4_12','ckptA/fifo21','ckptA/tetherR4_21']:
    if k in q: print(row(k))
def pq(a, b, met='Q', s=3):
    d = q[a][met][:, s]-q[b][met][:, s]; return f'{a}-{b} {met} seg{s+1}: {float(d.mean()):+.2f} ({se(d):.2f})'
for a, b in (('tetherR9_21','grabR9_21'),('archive+tame21','archive21'),('tetherR9_21','sink9_21'),('tetherR6_12','grabR6_12'),('archive+tame12','archive12'),('tetherR4_21','grabR4_21'),('archive21','uniform21'),('archive12','uniform12'),('sink9_21','sink21'),('sink6_12','sink12')):
    if a in q and b in q: print(pq(a,b), '|', pq(a,b,'bg_psnr'), '|', pq(a,b,'ident'), '|', pq(a,b,'motion'))
for k in ('fifo21','tetherR9_21','sink9_21','fifo12','sink12','tetherR6_12','ckptA/fifo21','full'):
    if k not in q: continue
    fr = q[k]['frame']; print(k, 'bg/ident at frames', [(t, round(float(fr['bg_psnr'][t-2:t+3].mean()),1), round(float(fr['ident'][t-2:t+3].mean()),2)) for t in (12,20,30,45,60,90,120,180,235)])
print('paired bg dB, ident, motion error in segment 4 against fifo')
for k in q:
    if k.startswith('ckptA') : continue
    b = 'fifo12' if k.endswith('12') else 'fifo21'
    if k == b or b not in q: continue
    f = lambda n: (lambda d: f'{float(d.mean()):+.2f} ({se(d):.2f})')(q[k][n][:, 3]-q[b][n][:, 3])
    print(k, 'bg', f('bg_psnr'), 'ident', f('ident'), 'colour err', (lambda d: f'{float(d.mean()):+.3f} ({se(d):.3f})')(q[k]['colour'][:, 3]-q[b]['colour'][:, 3]))
