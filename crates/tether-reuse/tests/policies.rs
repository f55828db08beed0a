//! The policies against examples worked by hand and against published numbers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_reuse::profile::{ErtaChoice, ErtaData, LineFit, adjusted_sigmas, choose, fraction_kept};
use tether_reuse::{
    AdaCache, Correct, Correction, DbCache, EasyCache, ErtaCache, FasterCache, FlowCache, FlowMode, Fora,
    Forecast, Guard, HostReuse, Lane, MagCache, Measure, ModuleKind, MotionRegulation, Pab, Place, Profile,
    ProfileData, ProfileHeader, ProfilingDit, Refresh, RunPlan, Slot, Step, StepReuse, StepReusePolicy,
    TaylorSeer, TeaCache, Verdict, block_runs,
};

fn plan(steps: usize) -> RunPlan {
    let sigmas: Vec<f32> = (0..=steps).map(|i| 1.0 - i as f32 / steps as f32).collect();
    RunPlan::new("m", "euler", "small", &sigmas)
}

fn close(got: f64, want: f64) {
    assert!((got - want).abs() < 1e-5 * want.abs().max(1.0), "{got}, expected {want}");
}

/// Which of `steps` are computed when every step has the signals `signals(step)`.
fn computed(policy: &mut dyn StepReusePolicy, steps: u32, signals: impl Fn(u32) -> Vec<f64>) -> Vec<u32> {
    policy.begin(&plan(steps as usize)).unwrap();
    (0..steps)
        .filter(|&i| {
            let step = Step::new(i, steps);
            let compute = if i == 0 {
                policy.forced(&step);
                true
            } else {
                policy.decide(&step, &signals(i)).is_compute()
            };
            if compute {
                policy.observe(&step, &[]);
            }
            compute
        })
        .collect()
}

/// A model of one number under `policy`: which steps were computed, and every output.
fn run(
    policy: impl StepReusePolicy + 'static,
    xs: &[f32],
    model: impl Fn(f32) -> f32,
) -> (Vec<bool>, Vec<f32>) {
    let mut reuse = StepReuse::new(HostReuse::new(), policy);
    reuse.begin(&plan(xs.len())).unwrap();
    let lane = Lane::new(Place::Model);
    xs.iter()
        .enumerate()
        .map(|(i, x)| {
            let mut y = [f32::NAN];
            match reuse.decide(lane, i as u32, &[*x]).unwrap() {
                Verdict::Compute => {
                    y = [model(*x)];
                    reuse.computed(lane, &[*x], &y).unwrap();
                    (true, y[0])
                }
                Verdict::Reuse(_) => {
                    reuse.reused(lane, &[*x], &mut y).unwrap();
                    (false, y[0])
                }
            }
        })
        .unzip()
}

fn easy(threshold: f64) -> impl StepReusePolicy + 'static {
    Guard { warmup: 2, cooldown: 1, ..Guard::default() }.around(EasyCache::new(threshold))
}

#[test]
fn easycache_e1_by_hand() {
    let xs = [10.0, 9.0, 8.5, 8.3, 8.1, 7.9, 7.6, 7.0];
    let (computed, ys) = run(easy(0.07), &xs, |x| 2.0 * x);
    assert_eq!(computed, [true, true, false, true, false, false, true, true]);
    let want = [20.0, 18.0, 17.5, 16.6, 16.4, 16.2, 15.2, 14.0];
    ys.iter().zip(want).for_each(|(y, w)| close(f64::from(*y), w));
}

#[test]
fn easycache_e2_e3_e4() {
    // A constant input: everything after the warm-up is reused and exact.
    let (computed, ys) = run(easy(1e-9), &[3.0; 8], |x| 2.0 * x);
    assert_eq!(computed, [true, true, false, false, false, false, false, true]);
    assert!(ys.iter().all(|y| *y == 6.0));
    // A constant difference: exact whatever the threshold.
    let xs = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0];
    let (computed, ys) = run(easy(1e9), &xs, |x| x + 2.0);
    assert_eq!(computed, [true, true, false, false, false, true]);
    assert_eq!(ys, [10.0, 9.0, 8.0, 7.0, 6.0, 5.0]);
    // A threshold of 0 never reuses, not even what does not change.
    let model = |x: f32| (x * 1.37).sin();
    let (computed, ys) = run(easy(0.0), &[1.0; 9], model);
    assert!(computed.iter().all(|c| *c));
    assert!(ys.iter().all(|y| y.to_bits() == model(1.0).to_bits()));
}

#[test]
fn erta_et1_choice_of_steps() {
    let r = [10.0, 9.8, 9.5, 9.0, 8.9, 8.85f64];
    let chosen = |lambda| {
        let choice = ErtaChoice { lambda, ..ErtaChoice::default() };
        // The published loop also lets the last step be reused; a seventh one keeps it from being the last.
        let change = |c: usize, i: usize| (r[c] - r[i]).abs() / r[i].abs();
        let reuse = choose(7, &choice, change_within(&change, r.len()));
        (0..6).filter(|i| reuse[*i]).collect::<Vec<_>>()
    };
    assert_eq!(chosen(0.08), [1, 2, 4, 5]);
    assert_eq!(chosen(0.03), [1, 4, 5]);
    assert_eq!(chosen(0.2), [1, 2, 3, 4, 5]);
}

fn change_within<'a>(f: &'a dyn Fn(usize, usize) -> f64, n: usize) -> impl Fn(usize, usize) -> f64 + 'a {
    move |a, b| if b < n { f(a, b) } else { f64::INFINITY }
}

#[test]
fn erta_et2_time_steps() {
    let sigmas = adjusted_sigmas(&[1.0, 0.75, 0.5, 0.25, 0.0], &[1.0, 0.5, 0.5, 1.0]);
    let steps: Vec<f64> = sigmas.windows(2).map(|w| f64::from(w[0] - w[1])).collect();
    for (got, want) in steps.iter().zip([0.25, 0.125, 0.15625, 0.46875]) {
        close(*got, want);
    }
    assert_eq!(sigmas.last(), Some(&0.0));
    assert_eq!(adjusted_sigmas(&[1.0, 0.6, 0.0], &[1.0, 1.0]), [1.0, 0.6, 0.0]);
    close(fraction_kept(0.5, 2.0, 1.0), 0.75);
    close(fraction_kept(5.0, 2.0, 1.0), 0.0);
    close(fraction_kept(0.0, 0.0, 1.0), 1.0);
    close(fraction_kept(1.0, 0.0, 1.0), 0.0);
}

#[test]
fn erta_et3_line() {
    let (velocities, errors) = ([1.0, 2.0, 3.0], [0.5, 0.52, 0.54]);
    let mut fit = LineFit::default();
    velocities.iter().zip(errors).for_each(|(v, e)| fit.add(*v, e));
    let (a, b) = fit.line();
    close(a, 0.02);
    close(b, 0.48);
    // The linear form of the published logistic: K = 4 a, B = 4 (mean error - 1/2) - K mean velocity.
    let (k, offset) = (4.0 * a, 4.0 * (0.52 - 0.5) - 4.0 * a * 2.0);
    close(k, 0.08);
    close(offset, -0.08);
    for (v, e) in velocities.iter().zip(errors) {
        close(a * v + b, e);
        close(0.5 + (k * v + offset) / 4.0, e);
    }
    // The offset as printed is another one, and misses.
    let printed = 4.0 * (0.52 - 0.5) - 4.0 * k * 2.0;
    close(printed, -0.56);
    close(0.5 + (k + printed) / 4.0, 0.38);
}

#[test]
fn erta_et4_residual_cache_on_a_linear_equation() {
    let reused = [1u32, 2, 4];
    let mut reuse = StepReuse::new(HostReuse::new(), Listed(reused.to_vec()));
    reuse.begin(&plan(5)).unwrap();
    let (lane, mut x) = (Lane::new(Place::Model), 1f32);
    let mut path = Vec::new();
    for i in 0..5 {
        let mut v = [0f32];
        match reuse.decide(lane, i, &[x]).unwrap() {
            Verdict::Compute => {
                v = [-x];
                reuse.computed(lane, &[x], &v).unwrap();
            }
            Verdict::Reuse(_) => reuse.reused(lane, &[x], &mut v).unwrap(),
        }
        x += 0.1 * v[0];
        path.push(f64::from(x));
    }
    path.iter().zip([0.9, 0.79, 0.669, 0.6021, 0.52851]).for_each(|(x, w)| close(*x, w));
}

/// The corrections as the model's author sees them: noise levels to call the model at, and an output from which the fitted error of this
/// step and this channel was taken.
#[test]
fn erta_corrects_steps_and_velocities() {
    let run = plan(4);
    let phi = vec![1.0, 0.5, 0.5, 1.0];
    let sigmas = adjusted_sigmas(&run.sigmas, &phi);
    // Slopes and offsets differ between steps and channels, and from each other.
    let a: Vec<f32> = (0..8).map(|i| 0.01 * i as f32).collect();
    let b: Vec<f32> = (0..8).map(|i| 0.5 - 0.03 * i as f32).collect();
    let reuse = vec![false, true, true, false];
    let data = ErtaData { reuse, phi, sigmas: sigmas.clone(), a: a.clone(), b: b.clone(), groups: 2 };
    let header = ProfileHeader::new("ertacache", &run, "", "");
    let profile = Profile { header, data: ProfileData::Erta(data) };
    let model = |x: &[f32]| x.iter().map(|x| x * x - 2.0).collect::<Vec<f32>>();
    let input = |step: u32| [0.1f32, 0.2, 0.3, 0.4].map(|x| x + 0.05 * step as f32);
    for (time, error) in [(true, true), (false, true), (true, false), (false, false)] {
        let policy = ErtaCache::new(profile.clone(), Correct { time, error }).unwrap();
        let mut reuse = StepReuse::new(HostReuse::new(), policy);
        assert_eq!(reuse.begin(&run).unwrap(), if time { sigmas.clone() } else { run.sigmas.clone() });
        let lane = Lane::new(Place::Model);
        let cached = {
            let (x, y) = (input(0), model(&input(0)));
            assert!(reuse.decide(lane, 0, &x).unwrap().is_compute());
            reuse.computed(lane, &x, &y).unwrap();
            [0, 1, 2, 3].map(|i| f64::from(y[i]) - f64::from(x[i]))
        };
        for step in [1u32, 2] {
            let (x, mut y) = (input(step), [f32::NAN; 4]);
            assert!(!reuse.decide(lane, step, &x).unwrap().is_compute());
            reuse.reused(lane, &x, &mut y).unwrap();
            for i in 0..4 {
                let velocity = f64::from(x[i]) + cached[i];
                let line = 2 * step as usize + i % 2;
                let corrected = velocity - (f64::from(a[line]) * velocity + f64::from(b[line]));
                close(f64::from(y[i]), if error { corrected } else { velocity });
            }
        }
        assert!(reuse.decide(lane, 3, &input(3)).unwrap().is_compute());
    }
}

/// Reuses the listed steps.
#[derive(Clone, Debug)]
struct Listed(Vec<u32>);

impl StepReusePolicy for Listed {
    fn name(&self) -> &'static str {
        "listed"
    }
    fn begin(&mut self, _: &RunPlan) -> Result<Option<Vec<f32>>, tether_reuse::ReuseError> {
        Ok(None)
    }
    fn decide(&mut self, step: &Step, _: &[f64]) -> Verdict {
        if self.0.contains(&step.index) { Verdict::HOLD } else { Verdict::Compute }
    }
    fn reset(&mut self) {}
    fn boxed(&self) -> Box<dyn StepReusePolicy> {
        Box::new(self.clone())
    }
}

/// Four blocks, 1 and 2 cached, computed at step 0 from `first` and reused at step 1 from `second`.
fn two_steps_of_blocks(first: f32, second: f32, block: impl Fn(usize, f32) -> f32) -> f32 {
    let mut reuse = StepReuse::new(HostReuse::new(), Listed(vec![1]));
    reuse.begin(&plan(2)).unwrap();
    let lane = Lane::new(Place::Span(0));
    let mut out = f32::NAN;
    for (step, start) in [first, second].into_iter().enumerate() {
        let mut h = [block(0, start)];
        match reuse.decide(lane, step as u32, &h).unwrap() {
            Verdict::Compute => {
                let before = h;
                h = [block(2, block(1, h[0]))];
                reuse.computed(lane, &before, &h).unwrap();
            }
            Verdict::Reuse(_) => reuse.reused_in_place(lane, &mut h).unwrap(),
        }
        out = block(3, h[0]);
    }
    out
}

#[test]
fn profiling_dit_p1_p2() {
    let additive = |b: usize, h: f32| h + b as f32 + 1.0;
    assert_eq!(two_steps_of_blocks(0.0, 10.0, additive), 20.0, "exact for additive blocks");
    assert_eq!(two_steps_of_blocks(1.0, 3.0, |_, h| 2.0 * h), 24.0, "48 in truth");
}

#[test]
fn profiling_dit_p3_p4() {
    let cached = [0, 2, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 23, 25, 26, 27, 31, 33];
    let runs = block_runs(&cached);
    let want = [0..1, 2..3, 4..8, 10..22, 23..24, 25..28, 31..32, 33..34];
    assert_eq!(runs, want);
    assert_eq!(block_runs(&[3, 1, 2, 2]), std::iter::once(1..4).collect::<Vec<_>>());
    let falling = ProfilingDit::new(6, Refresh::Falling { longest: 12.0, shortest: 2.0 });
    assert_eq!(falling.refreshes(50), [6, 18, 27, 34, 40, 44, 47]);
    let mut every = ProfilingDit::new(2, Refresh::Every(3));
    assert_eq!(computed(&mut every, 10, |_| vec![]), [0, 1, 2, 5, 8]);
    let mut listed = ProfilingDit::new(1, Refresh::At(vec![1, 4]));
    assert_eq!(computed(&mut listed, 6, |_| vec![]), [0, 1, 4]);
}

#[test]
fn teacache_polynomial_and_accumulator() {
    let hunyuan = vec![733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896];
    let tea = TeaCache::new(0.15, hunyuan);
    close(tea.predicted(0.02), 0.0570693);
    close(tea.predicted(0.05), 0.0620384);
    close(tea.predicted(0.1), 0.1291958);
    let mut tea = TeaCache::new(0.25, vec![1.0, 0.0]);
    assert_eq!(computed(&mut tea, 8, |_| vec![0.1]), [0, 3, 6]);
    assert_eq!(computed(&mut tea, 4, |i| vec![if i == 2 { f64::NAN } else { 0.0 }]), [0, 2]);
    // Negative as published, and still nothing is reused at 0.
    let mut negative = TeaCache::new(0.0, vec![0.0, -1.0]);
    assert_eq!(computed(&mut negative, 4, |_| vec![0.1]), [0, 1, 2, 3]);
}

fn mag_profile(ratios: &[f64]) -> Profile {
    let header = ProfileHeader::new("magcache", &plan(ratios.len()), "", "");
    Profile { header, data: ProfileData::Mag { ratios: ratios.to_vec() } }
}

#[test]
fn magcache_by_hand() {
    let ratios = [1.0, 1.0, 0.99, 0.98, 0.97, 0.97, 0.96, 0.96, 0.95, 0.95];
    let mag = MagCache::new(0.12, 2, 0.2);
    let mut mag = mag.with_profile(mag_profile(&ratios)).unwrap();
    assert_eq!(computed(&mut mag, 10, |_| vec![]), [0, 1, 4, 7, 9]);
}

#[test]
fn fora_counts_from_the_last_step() {
    assert_eq!(computed(&mut Fora { interval: 3 }, 10, |_| vec![]), [0, 3, 6, 9]);
    assert_eq!(computed(&mut Fora { interval: 3 }, 9, |_| vec![]), [0, 2, 5, 8]);
    assert_eq!(computed(&mut Fora { interval: 1 }, 4, |_| vec![]), [0, 1, 2, 3]);
}

#[test]
fn pab_broadcasts_in_its_range_only() {
    use tether_reuse::{Broadcast, Unit};
    let mut pab = Pab::new(None, Some(Broadcast { range: 2, above: 0.25, below: 0.85 }), None, None);
    pab.begin(&plan(10)).unwrap();
    let of = |pab: &mut Pab, kind| {
        (0..10)
            .filter(|i| {
                let unit = Unit::new(Place::Module { layer: 0, kind });
                pab.decide(&Step { unit, ..Step::new(*i, 10) }, &[]).is_compute()
            })
            .collect::<Vec<_>>()
    };
    // Noise levels 1.0, 0.9, .. : 0.8 to 0.3 are inside, and odd counts are broadcast.
    assert_eq!(of(&mut pab.clone(), ModuleKind::TemporalAttention), [0, 1, 2, 4, 6, 8, 9]);
    assert_eq!(of(&mut pab, ModuleKind::Mlp).len(), 10);
}

/// The first outputs of a run of 6 steps at a module that makes a step's number squared.
fn squares(policy: Box<dyn StepReusePolicy>, steps: u32) -> Vec<f32> {
    let mut reuse = StepReuse::new(HostReuse::new(), policy);
    reuse.begin(&plan(6)).unwrap();
    let lane = Lane::new(Place::Module { layer: 0, kind: ModuleKind::Mlp });
    (0..steps)
        .map(|i| {
            let mut y = [(i * i) as f32];
            match reuse.decide(lane, i, &[0.0]).unwrap() {
                Verdict::Compute => reuse.computed(lane, &[0.0], &y).unwrap(),
                Verdict::Reuse(_) => reuse.reused(lane, &[0.0], &mut y).unwrap(),
            }
            y[0]
        })
        .collect()
}

#[test]
fn taylorseer_by_hand() {
    for (order, newton, at3, at4) in
        [(0, false, 4.0, 4.0), (1, false, 7.0, 10.0), (2, false, 8.0, 14.0), (2, true, 9.0, 16.0)]
    {
        let policy = TaylorSeer { interval: 3, first: 3, order, newton };
        let out = squares(policy.boxed(), 5);
        assert_eq!(out, [0.0, 1.0, 4.0, at3, at4], "order {order}, newton {newton}");
    }
}

/// A policy that would hold what is cached, under `Forecast`, makes what TaylorSeer makes of the same computed steps; one that corrects
/// its values itself is left alone.
#[test]
fn forecasts_extrapolate_what_would_be_held() {
    let outputs = |policy| squares(policy, 6);
    let listed = || Listed(vec![3, 4]);
    assert_eq!(outputs(listed().boxed()), [0.0, 1.0, 4.0, 4.0, 4.0, 25.0]);
    for (order, newton, at3, at4) in
        [(0, false, 4.0, 4.0), (1, false, 7.0, 10.0), (2, false, 8.0, 14.0), (2, true, 9.0, 16.0)]
    {
        let got = outputs(Forecast::new(listed(), order, newton).boxed());
        assert_eq!(got, [0.0, 1.0, 4.0, at3, at4, 25.0], "order {order}, newton {newton}");
    }
    let own = || FasterCache { start: 3, interval: 6, weight: 0.3 };
    assert_eq!(outputs(Forecast::new(own(), 2, true).boxed()), outputs(own().boxed()));
    assert!(Forecast::new(listed(), 5, false).begin(&plan(6)).is_err());
}

#[test]
fn fastercache_by_hand() {
    let policy = FasterCache { start: 2, interval: 3, weight: 0.3 };
    let mut reuse = StepReuse::new(HostReuse::new(), policy);
    reuse.begin(&plan(4)).unwrap();
    let lane = Lane::new(Place::Module { layer: 0, kind: ModuleKind::CrossAttention });
    for (i, y) in [0.8f32, 1.0].into_iter().enumerate() {
        assert!(reuse.decide(lane, i as u32, &[0.0]).unwrap().is_compute());
        reuse.computed(lane, &[0.0], &[y]).unwrap();
    }
    let mut y = [0f32];
    assert_eq!(reuse.decide(lane, 2, &[0.0]).unwrap(), Verdict::Reuse(Correction::Linear { weight: 0.3 }));
    reuse.reused(lane, &[0.0], &mut y).unwrap();
    close(f64::from(y[0]), 1.06);
}

#[test]
fn adacache_by_hand() {
    let m = MotionRegulation::default();
    close(m.factor(0.385), 1.0);
    close(m.factor(0.77), 256.0);
    // Distances 0.1 (interval 5) and then 0.3 (interval 3, over 5 steps 1.5: interval 1).
    let mut ada = AdaCache::default();
    ada.begin(&plan(12)).unwrap();
    let mut computed = Vec::new();
    for i in 0..12 {
        let step = Step::new(i, 12);
        if ada.decide(&step, &[]).is_compute() {
            computed.push(i);
            let request = ada.observe_request(&step);
            assert_eq!(request.is_empty(), i == 0);
            let change = if i < 2 { 0.1 } else { 1.6 };
            ada.observe(&step, if request.is_empty() { &[] } else { std::slice::from_ref(&change) });
        }
    }
    // 1.6 over 5 steps is 0.32: interval 2, as 0.40 is the first above; over 2 steps 0.8: 1.
    assert_eq!(computed, [0, 1, 6, 8, 9, 10, 11]);
}

/// Motion multiplies the distance, and so does its change per step, which another scene's motion before it does not reach.
#[test]
fn adacache_reuses_less_where_scenes_move() {
    let motion = MotionRegulation { scale: 1.0, power: 1, gradient: 10.0, from: 0, to: 9 };
    let mut ada = AdaCache::default();
    ada.motion = Some(motion);
    // Distance 0.1 a step throughout. Motion 2: 0.2, interval 4. Then motion 1, which fell by 1 in 4 steps: 0.1 (1 + 10 / 4) = 0.35, interval
    // 2. Then 1 again: 0.1, interval 5. From step 9 on motion is not asked for.
    let motions = [2.0, 1.0, 1.0];
    for round in 0..2 {
        ada.begin(&plan(20)).unwrap();
        let mut computed: Vec<u32> = Vec::new();
        for i in 0..20 {
            let step = Step::new(i, 20);
            if !ada.decide(&step, &[]).is_compute() {
                continue;
            }
            let led = f64::from(i - computed.last().copied().unwrap_or(0));
            let signals: Vec<f64> = match ada.observe_request(&step).len() {
                0 => vec![],
                1 => vec![0.1 * led],
                _ => vec![0.1 * led, motions[computed.len() - 1]],
            };
            let asked = match i {
                0 => 0,
                1..9 => 2,
                _ => 1,
            };
            assert_eq!(signals.len(), asked);
            ada.observe(&step, &signals);
            computed.push(i);
        }
        assert_eq!(computed, [0, 1, 5, 7, 12, 17], "run {round}");
    }
    // Two places: their mean decides, and each has its own motion before.
    let mut ada = AdaCache::default();
    ada.motion = Some(MotionRegulation { to: 90, ..motion });
    ada.begin(&plan(20)).unwrap();
    let unit = |layer| tether_reuse::Unit::new(Place::Module { layer, kind: ModuleKind::Mlp });
    let at = |i, layer| Step { unit: unit(layer), ..Step::new(i, 20) };
    (0..2).for_each(|layer| ada.observe(&at(0, layer), &[]));
    (0..2).for_each(|layer| ada.observe(&at(1, layer), &[0.1, 1.0 + f64::from(layer)]));
    // 0.1 and 0.2: 0.15, interval 5.
    assert!(!ada.decide(&at(5, 0), &[]).is_compute() && ada.decide(&at(6, 0), &[]).is_compute());
    (0..2).for_each(|layer| ada.observe(&at(6, layer), &[0.5, 1.0 + f64::from(layer)]));
    assert!(!ada.decide(&at(10, 0), &[]).is_compute() && ada.decide(&at(11, 0), &[]).is_compute());
}

#[test]
fn dbcache_compares_with_the_last_computed_step() {
    let mut db = DbCache { threshold: 0.08 };
    assert_eq!(db.request(&Step::new(1, 4))[..], [Measure::RelL1(Slot::Probe, Slot::ReferenceProbe)]);
    assert_eq!(computed(&mut db, 5, |i| vec![[0.0, 0.05, 0.07, 0.08, f64::NAN][i as usize]]), [0, 3, 4]);
    assert_eq!(computed(&mut DbCache { threshold: 0.0 }, 3, |_| vec![0.0]), [0, 1, 2]);
}

#[test]
fn flowcache_f5_f6_f7() {
    let mut flow = FlowCache::new(0.015).warmup(0).mode(FlowMode::Displacement);
    assert_eq!(computed(&mut flow, 4, |_| vec![0.006]), [0, 3]);
    // Two chunks in the same call: one stands still and one moves.
    let mut reuse = StepReuse::new(HostReuse::new(), FlowCache::new(0.015).warmup(1));
    reuse.begin(&plan(6)).unwrap();
    let chunk = |c| Lane::new(Place::Solver).of_chunk(c);
    let mut seen = [Vec::new(), Vec::new()];
    for i in 0..6u32 {
        for (c, probe) in [1.0f32, 1.02f32.powi(i as i32)].into_iter().enumerate() {
            let lane = chunk(c as u64);
            let compute = reuse.decide(lane, i, &[probe]).unwrap().is_compute();
            if compute {
                reuse.computed(lane, &[1.0], &[0.9]).unwrap();
            } else {
                reuse.reused(lane, &[1.0], &mut [0.0]).unwrap();
            }
            seen[c].push(compute);
        }
    }
    assert_eq!(seen[0], [true, false, false, false, false, false]);
    assert_eq!(seen[1], [true; 6]);
    reuse.retire(chunk(0).unit);
    assert_eq!(reuse.bytes(), 4 * 3, "one chunk's probe, value and the place where it is made");
    // Steps of equal length: both modes do the same.
    let path = |mode| {
        let mut reuse = StepReuse::new(HostReuse::new(), FlowCache::new(0.5).warmup(1).mode(mode));
        reuse.begin(&plan(8)).unwrap();
        let (lane, mut x) = (Lane::new(Place::Solver), 1f32);
        for i in 0..8 {
            let before = [x];
            let mut after = [x - 0.125 * x];
            match reuse.decide(lane, i, &before).unwrap() {
                Verdict::Compute => reuse.computed(lane, &before, &after).unwrap(),
                Verdict::Reuse(_) => reuse.reused(lane, &before, &mut after).unwrap(),
            }
            x = after[0];
        }
        (x, reuse.stats().reused)
    };
    let (a, b) = (path(FlowMode::Displacement), path(FlowMode::Velocity));
    assert!(a.1 > 3, "{a:?}");
    assert_eq!(a, b);
}
