//! What holds for every policy: nothing stale, nothing mixed, errors that say what is wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use proptest::prelude::*;
use tether_reuse::profile::ErtaData;
use tether_reuse::{
    CfgLead, DbCache, EasyCache, FlowCache, Fora, Guard, HostReuse, Lane, MagCache, Place, Profile,
    ProfileData, ProfileError, ProfileHeader, ReuseError, ReuseRecipe, RunPlan, Site, Step, StepReuse,
    StepReusePolicy, TeaCache, Verdict, catalogue,
};

const STEPS: usize = 12;

fn plan() -> RunPlan {
    let sigmas: Vec<f32> = (0..=STEPS).map(|i| 1.0 - i as f32 / STEPS as f32).collect();
    let mut plan = RunPlan::new("m", "euler", "small", &sigmas);
    plan.grid = tether_reuse::Grid { frames: 2, tokens: 4 };
    plan
}

/// A profile for any policy, that leaves it something to reuse.
fn profile(policy: &str) -> Option<Profile> {
    let data = match policy {
        "ertacache" => {
            let reuse: Vec<bool> = (0..STEPS).map(|i| i % 3 != 0 && i + 1 < STEPS).collect();
            let phi = vec![1.0; STEPS];
            let (a, b) = (vec![0.01; STEPS], vec![0.02; STEPS]);
            ProfileData::Erta(ErtaData { reuse, phi, sigmas: plan().sigmas, a, b, groups: 1 })
        }
        "magcache" => ProfileData::Mag { ratios: vec![0.99; STEPS] },
        "profiling-dit" => ProfileData::Blocks { foreground: vec![0.1, 0.9], background: vec![0] },
        _ => return None,
    };
    Some(Profile { header: ProfileHeader::new(policy, &plan(), "", ""), data })
}

/// A policy of the catalogue, early enough to reuse within a dozen steps, and a lane of its site.
fn early(name: &str) -> (Box<dyn StepReusePolicy>, Lane) {
    let settings = match name {
        "easycache" => ":threshold=0.3,guard.warmup=2",
        "profiling-dit" => ":start=2",
        "flowcache" => ":threshold=0.3,chunk_warmup=2",
        "teacache" => ":threshold=0.3",
        "pab" => ":temporal={range=3,above=0.1,below=0.95}",
        "dbcache" => ":threshold=0.5,guard.warmup=2",
        "fastercache" => ":start=3",
        _ => "",
    };
    let recipe = ReuseRecipe::parse(&format!("{name}{settings}")).unwrap();
    let place = match recipe.site {
        Site::Latent => Place::Model,
        Site::SolverUpdate => Place::Solver,
        Site::BlockStack | Site::BlockRuns => Place::Span(0),
        Site::Modules | Site::Attention => {
            Place::Module { layer: 0, kind: tether_reuse::ModuleKind::TemporalAttention }
        }
    };
    (recipe.build(profile(name).as_ref()).unwrap(), Lane::new(place))
}

fn input(seed: u64, step: u32) -> Vec<f32> {
    (0..8u64).map(|i| ((seed * 31 + i * 7) as f32).sin() + 0.02 * step as f32).collect()
}

fn model(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| (1.3 * x).sin() + 0.5).collect()
}

/// Runs all steps; outputs and which were computed.
fn generate(reuse: &mut StepReuse<HostReuse>, lane: Lane, seed: u64) -> (Vec<Vec<f32>>, Vec<bool>) {
    reuse.begin(&plan()).unwrap();
    (0..STEPS as u32)
        .map(|i| {
            let x = input(seed, i);
            let mut y = vec![f32::NAN; x.len()];
            let compute = reuse.decide(lane, i, &x).unwrap().is_compute();
            if compute {
                y = model(&x);
                reuse.computed(lane, &x, &y).unwrap();
            } else {
                reuse.reused(lane, &x, &mut y).unwrap();
            }
            (y, compute)
        })
        .unzip()
}

#[test]
fn a_run_leaves_nothing_to_the_next() {
    for row in catalogue() {
        let (policy, lane) = early(row.name);
        let mut fresh = StepReuse::new(HostReuse::new(), policy.clone());
        let mut used = StepReuse::new(HostReuse::new(), policy);
        let (_, first) = generate(&mut used, lane, 5);
        assert!(row.name == "none" || first.contains(&false), "{} reuses nothing", row.name);
        let again = generate(&mut used, lane, 9);
        assert_eq!(again, generate(&mut fresh, lane, 9), "{}", row.name);
        used.reset();
        assert_eq!(used.bytes(), 0);
        assert!(matches!(used.decide(lane, 0, &[0.0; 8][..]), Err(ReuseError::NotBegun)));
    }
}

#[test]
fn another_shape_or_a_broken_signal_is_computed() {
    for row in catalogue().iter().filter(|row| row.name != "none") {
        let (policy, lane) = early(row.name);
        // The first step that would be reused.
        let mut reuse = StepReuse::new(HostReuse::new(), policy.clone());
        let (_, computed) = generate(&mut reuse, lane, 5);
        let first = computed.iter().position(|c| !c).unwrap() as u32;
        let looks = {
            reuse.begin(&plan()).unwrap();
            let measured = reuse.stats().signals;
            up_to(&mut reuse, lane, first);
            let before = reuse.stats().signals;
            assert!(before >= measured);
            let _ = reuse.decide(lane, first, &input(5, first)).unwrap();
            reuse.stats().signals > before
        };
        reuse.begin(&plan()).unwrap();
        up_to(&mut reuse, lane, first);
        let longer = vec![0.5f32; 16];
        let verdict = reuse.decide(lane, first, &longer).unwrap();
        if verdict.is_compute() {
            reuse.computed(lane, &longer, &model(&longer)).unwrap();
        } else {
            // A policy without signals keeps no probe; what is cached still cannot be used.
            assert!(!looks, "{}", row.name);
            let mut out = vec![f32::NAN; 16];
            let got = reuse.reused(lane, &longer, &mut out);
            assert!(matches!(got, Err(ReuseError::Shape { .. })), "{}: {got:?}", row.name);
            assert!(out.iter().all(|x| x.is_nan()));
        }
        if looks {
            reuse.begin(&plan()).unwrap();
            up_to(&mut reuse, lane, first);
            let mut broken = input(5, first);
            broken[3] = f32::NAN;
            assert!(reuse.decide(lane, first, &broken).unwrap().is_compute(), "{}", row.name);
            assert!(reuse.stats().not_numbers > 0);
        }
    }
}

fn up_to(reuse: &mut StepReuse<HostReuse>, lane: Lane, end: u32) {
    for i in 0..end {
        let x = input(5, i);
        if reuse.decide(lane, i, &x).unwrap().is_compute() {
            reuse.computed(lane, &x, &model(&x)).unwrap();
        } else {
            reuse.reused(lane, &x, &mut [0f32; 8][..]).unwrap();
        }
    }
}

#[test]
fn answers_that_do_not_fit_are_errors() {
    let mut reuse = StepReuse::new(HostReuse::new(), Guard::default().around(DbCache { threshold: 9.0 }));
    let lane = Lane::new(Place::Model);
    assert!(matches!(reuse.computed(lane, &[0.0], &[0.0]), Err(ReuseError::NotBegun)));
    reuse.begin(&plan()).unwrap();
    assert!(matches!(reuse.reused(lane, &[0.0], &mut [0.0]), Err(ReuseError::Undecided { .. })));
    assert!(matches!(
        reuse.decide(lane, STEPS as u32, &[0.0]),
        Err(ReuseError::StepOutOfRange { step: 12, steps: 12 })
    ));
    let _ = reuse.decide(lane, 0, &[1.0]).unwrap();
    assert!(matches!(reuse.reused(lane, &[1.0], &mut [0.0]), Err(ReuseError::Undecided { .. })));
    assert!(matches!(reuse.computed(lane, &[1.0, 2.0], &[0.0]), Err(ReuseError::Shape { .. })));
    assert!(matches!(reuse.decide(lane, 0, &[1.0]), Err(ReuseError::StepOrder { step: 0, last: 0, .. })));
    // The result of step 0 never came: the next step cannot build on it.
    assert!(reuse.decide(lane, 1, &[1.0]).unwrap().is_compute());
    reuse.computed(lane, &[1.0], &[2.0]).unwrap();
    assert!(matches!(reuse.computed(lane, &[1.0], &[2.0]), Err(ReuseError::Undecided { .. })));
    // A result that could not be stored leaves nothing older to reuse; one that then fits is taken.
    let mut reuse = StepReuse::new(HostReuse::new(), Fora { interval: 3 });
    reuse.begin(&plan()).unwrap();
    let computes = |reuse: &mut StepReuse<HostReuse>, step| {
        let verdict = reuse.decide(lane, step, &[1.0]).unwrap();
        verdict.is_compute()
    };
    assert!(computes(&mut reuse, 2));
    reuse.computed(lane, &[1.0], &[2.0]).unwrap();
    assert!(!computes(&mut reuse, 3), "there is something to reuse");
    assert!(computes(&mut reuse, 5));
    assert!(matches!(reuse.computed(lane, &[1.0, 2.0], &[0.0]), Err(ReuseError::Shape { .. })));
    assert!(computes(&mut reuse, 6), "what is kept is older than the policy believes");
    reuse.computed(lane, &[1.0], &[2.0]).unwrap();
    assert!(computes(&mut reuse, 8));
    assert!(matches!(reuse.computed(lane, &[1.0, 2.0], &[0.0]), Err(ReuseError::Shape { .. })));
    reuse.computed(lane, &[1.0], &[3.0]).unwrap();
    assert!(!computes(&mut reuse, 9));
    let bad = RunPlan::new("m", "s", "r", &[1.0, 1.0]);
    assert!(matches!(reuse.begin(&bad), Err(ReuseError::Plan(_))));
    let mut wrong = StepReuse::new(HostReuse::new(), EasyCache::new(-1.0));
    assert!(matches!(wrong.begin(&plan()), Err(ReuseError::Setting { .. })));
}

#[test]
fn the_conditional_branch_leads_and_differences_never_mix() {
    let policy = CfgLead::new(Guard { warmup: 2, ..Guard::default() }.around(EasyCache::new(1e9)));
    let mut reuse = StepReuse::new(HostReuse::new(), policy);
    reuse.begin(&plan()).unwrap();
    let (cond, uncond) = (Lane::new(Place::Model), Lane::new(Place::Model).unconditional());
    let mut reused = 0;
    for i in 0..STEPS as u32 {
        let x = [1.0 + i as f32];
        let verdicts = [(cond, 10.0f32), (uncond, 20.0)].map(|(lane, add)| {
            let verdict = reuse.decide(lane, i, &x).unwrap();
            if verdict.is_compute() {
                reuse.computed(lane, &x, &[x[0] + add]).unwrap();
            } else {
                let mut y = [0f32];
                reuse.reused(lane, &x, &mut y).unwrap();
                assert_eq!(y[0], x[0] + add);
                reused += 1;
            }
            verdict
        });
        assert_eq!(verdicts[0], verdicts[1]);
    }
    assert_eq!(reused, 2 * (STEPS - 3));
    // Without the leader's word the other branch computes.
    let mut alone = StepReuse::new(HostReuse::new(), CfgLead::new(DbCache { threshold: 9.0 }));
    alone.begin(&plan()).unwrap();
    for i in 0..4 {
        assert!(alone.decide(uncond, i, &[1.0]).unwrap().is_compute());
        alone.computed(uncond, &[1.0], &[1.0]).unwrap();
    }
}

#[test]
fn guards_cap_what_a_policy_would_do() {
    let run = |guard: Guard| {
        let mut policy = guard.around(DbCache { threshold: 9.0 });
        policy.begin(&plan()).unwrap();
        (0..STEPS as u32)
            .filter(|i| {
                let step = Step::new(*i, STEPS as u32);
                let signals = vec![0.1; policy.request(&step).len()];
                policy.decide(&step, &signals).is_compute()
            })
            .collect::<Vec<_>>()
    };
    let free = Guard { warmup: 2, cooldown: 3, ..Guard::default() };
    assert_eq!(run(free.clone()), [0, 1, 9, 10, 11]);
    assert_eq!(run(Guard { max_consecutive: Some(2), ..free.clone() }), [0, 1, 4, 7, 9, 10, 11]);
    assert_eq!(run(Guard { max_total: Some(3), ..free.clone() }), [0, 1, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(run(Guard { budget: Some(0.25), ..free.clone() }), [0, 1, 4, 7, 9, 10, 11]);
    assert_eq!(run(Guard { warmup: 20, ..free }).len(), STEPS);
}

#[test]
fn profiles_survive_files_and_are_refused_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["ertacache", "magcache", "profiling-dit"] {
        let profile = profile(name).unwrap();
        let path = folder.path().join(name);
        profile.save(&path).unwrap();
        assert_eq!(Profile::load(&path).unwrap(), profile);
        assert_eq!(Profile::load(&path.with_extension("toml")).unwrap(), profile);
    }
    let mag = profile("magcache").unwrap();
    let (header, arrays) = mag.to_bytes().unwrap();
    let (_, others) = profile("ertacache").unwrap().to_bytes().unwrap();
    assert!(matches!(Profile::from_bytes(&header, &others), Err(ProfileError::Unpaired)));
    let newer = header.replace("version = 1", "version = 2");
    assert!(matches!(Profile::from_bytes(&newer, &arrays), Err(ProfileError::Version { got: 2, .. })));
    assert!(matches!(Profile::from_bytes("nonsense", &arrays), Err(ProfileError::Header(_))));
    assert!(Profile::from_bytes(&header, &arrays[..arrays.len() / 2]).is_err());
    let missing = folder.path().join("missing");
    assert!(matches!(Profile::load(&missing), Err(ProfileError::Io { .. })));
    let mut short = mag.clone();
    short.data = ProfileData::Mag { ratios: vec![1.0; 3] };
    assert!(matches!(short.to_bytes(), Err(ProfileError::Array { name: "ratios", .. })));
    short.data = ProfileData::Mag { ratios: vec![f64::NAN; STEPS] };
    assert!(matches!(short.to_bytes(), Err(ProfileError::Array { name: "ratios", .. })));

    let recipe = ReuseRecipe::named("magcache").unwrap();
    assert!(matches!(recipe.build(None), Err(ReuseError::Profile(ProfileError::Needed { .. }))));
    let erta = profile("ertacache");
    assert!(matches!(recipe.build(erta.as_ref()), Err(ReuseError::Profile(ProfileError::Kind { .. }))));
    let steps = RunPlan::new("m", "euler", "small", &[1.0, 0.5, 0.0]);
    let others = [
        ("model", RunPlan { model: "n".into(), ..plan() }),
        ("steps", steps),
        ("scheduler", RunPlan { scheduler: "heun".into(), ..plan() }),
        ("resolution", RunPlan { resolution: "large".into(), ..plan() }),
        ("guidance", RunPlan { guidance: 6.0, ..plan() }),
    ];
    for (field, other) in others {
        for name in ["ertacache", "magcache", "profiling-dit"] {
            let policy = ReuseRecipe::named(name).unwrap().build(profile(name).as_ref()).unwrap();
            let mut reuse = StepReuse::new(HostReuse::new(), policy);
            match reuse.begin(&other) {
                Err(ReuseError::Profile(ProfileError::Mismatch { what, .. })) => {
                    assert_eq!(what, field, "{name}");
                }
                got => panic!("{name}, {field}: {got:?}"),
            }
            assert!(reuse.decide(Place::Span(0), 0, &[0.0]).is_err(), "no run has begun");
        }
    }
    // Arrays that do not fit are refused also where a profile never was a file.
    let spoils: [fn(&mut ErtaData); 3] = [|d| d.groups = 0, |d| d.groups = usize::MAX, |d| d.a.truncate(3)];
    for spoil in spoils {
        let mut erta = profile("ertacache").unwrap();
        if let ProfileData::Erta(d) = &mut erta.data {
            spoil(d);
        }
        let built = ReuseRecipe::named("ertacache").unwrap().build(Some(&erta));
        assert!(matches!(built, Err(ReuseError::Profile(ProfileError::Array { .. }))));
    }
    let mut short = mag.clone();
    short.data = ProfileData::Mag { ratios: vec![1.0; 3] };
    assert!(matches!(recipe.build(Some(&short)), Err(ReuseError::Profile(ProfileError::Array { .. }))));
    // Noise levels that end early would leave noise in the picture.
    let mut early = profile("ertacache").unwrap();
    if let ProfileData::Erta(d) = &mut early.data {
        d.sigmas[STEPS] = 0.05;
    }
    let policy = ReuseRecipe::named("ertacache").unwrap().build(Some(&early)).unwrap();
    assert!(matches!(
        StepReuse::new(HostReuse::new(), policy).begin(&plan()),
        Err(ReuseError::Profile(ProfileError::Mismatch { what: "noise levels", .. }))
    ));
    // Adjusted noise levels are not for every solver.
    let mut erta = profile("ertacache").unwrap();
    if let ProfileData::Erta(d) = &mut erta.data {
        d.sigmas[3] -= 0.01;
    }
    let mut reuse = StepReuse::new(
        HostReuse::new(),
        ReuseRecipe::named("ertacache").unwrap().build(Some(&erta)).unwrap(),
    );
    assert_ne!(reuse.begin(&plan()).unwrap(), plan().sigmas);
    let fixed = RunPlan { free_sigmas: false, ..plan() };
    assert!(matches!(reuse.begin(&fixed), Err(ReuseError::Profile(ProfileError::FixedSigmas { .. }))));
}

#[test]
fn recipes_are_read_and_written() {
    for row in catalogue() {
        let recipe = ReuseRecipe::named(row.name).unwrap();
        let text = recipe.to_toml().unwrap();
        assert_eq!(ReuseRecipe::from_toml(&text).unwrap().to_toml().unwrap(), text, "{}", row.name);
        assert_eq!((recipe.name(), recipe.site), (row.name, row.site));
    }
    let recipe =
        ReuseRecipe::parse("taylorseer:order=2,newton=true,guard.max_consecutive=3,site=block-stack")
            .unwrap();
    assert_eq!(recipe.guard.max_consecutive, Some(3));
    assert_eq!(recipe.site, Site::BlockStack);
    match ReuseRecipe::named("easycach") {
        Err(ReuseError::UnknownPolicy { suggestion: Some(name), .. }) => assert_eq!(name, "easycache"),
        got => panic!("{got:?}"),
    }
    for bad in
        ["easycache:treshold=1", "easycache:threshold", "easycache:threshold=many", "fora:guard.warm=1"]
    {
        assert!(matches!(ReuseRecipe::parse(bad), Err(ReuseError::Recipe(_))), "{bad}");
    }
    let elsewhere = ReuseRecipe::parse("ertacache:site=block-stack").unwrap();
    assert!(matches!(elsewhere.build(profile("ertacache").as_ref()), Err(ReuseError::Site { .. })));
}

/// Steps that a policy reuses when every step has the next of `signals`.
fn reused(mut policy: impl StepReusePolicy, signals: &[f64]) -> usize {
    let steps = signals.len() as u32;
    let sigmas: Vec<f32> = (0..=steps).map(|i| 1.0 - i as f32 / steps as f32).collect();
    policy.begin(&RunPlan::new("m", "s", "r", &sigmas)).unwrap();
    // What EasyCache learns from two computed steps: a factor of 2 at a magnitude of 1, and never another.
    let mut verdicts = 0;
    for (i, signal) in signals.iter().enumerate() {
        let step = Step::new(i as u32, steps);
        let computes = i < 2 || policy.decide(&step, &[*signal]).is_compute();
        if computes {
            policy.observe(&step, if i == 0 { &[1.0] } else { &[1.0, 2.0, 1.0] });
        } else {
            verdicts += 1;
        }
    }
    verdicts
}

proptest! {
    #[test]
    fn a_higher_threshold_reuses_no_less(
        signals in prop::collection::vec(0.0f64..0.2, 3..60),
        low in 0.0f64..1.0,
        more in 0.0f64..1.0,
    ) {
        let high = low + more;
        prop_assert!(reused(EasyCache::new(low), &signals) <= reused(EasyCache::new(high), &signals));
        let tea = |t| TeaCache::new(t, vec![3.0, 1.0, 0.01]);
        prop_assert!(reused(tea(low), &signals) <= reused(tea(high), &signals));
        let flow = |t| FlowCache::new(t).warmup(1).mode(tether_reuse::FlowMode::Displacement);
        prop_assert!(reused(flow(low), &signals) <= reused(flow(high), &signals));
        let db = |threshold| DbCache { threshold };
        prop_assert!(reused(db(low), &signals) <= reused(db(high), &signals));
        let steps = signals.len();
        let sigmas: Vec<f32> = (0..=steps).map(|i| 1.0 - i as f32 / steps as f32).collect();
        let header = ProfileHeader::new("magcache", &RunPlan::new("m", "s", "r", &sigmas), "", "");
        let data = ProfileData::Mag { ratios: signals.iter().map(|s| 1.0 - s).collect() };
        let mag = |threshold| {
            MagCache::new(threshold, 4, 0.2)
                .with_profile(Profile { header: header.clone(), data: data.clone() })
                .unwrap()
        };
        prop_assert!(reused(mag(low), &signals) <= reused(mag(high), &signals));
    }

    #[test]
    fn nothing_is_reused_at_a_threshold_of_zero(seed in 0u64..1000) {
        for name in ["easycache", "flowcache", "teacache", "dbcache"] {
            let recipe = ReuseRecipe::parse(&format!("{name}:threshold=0")).unwrap();
            let mut reuse = StepReuse::new(HostReuse::new(), recipe.build(None).unwrap());
            let (ys, computed) = generate(&mut reuse, Lane::new(Place::Model), seed);
            prop_assert!(computed.iter().all(|c| *c));
            for (i, y) in ys.iter().enumerate() {
                prop_assert_eq!(y, &model(&input(seed, i as u32)));
            }
        }
    }

    #[test]
    fn newtons_form_is_exact_for_polynomials(c in prop::collection::vec(-2.0f32..2.0, 4), order in 0u8..4) {
        let value = |t: f32| (0..=usize::from(order)).rev().fold(0.0, |y, j| y * t * 0.25 + c[j]);
        let policy = tether_reuse::TaylorSeer { interval: 6, first: 5, order, newton: true };
        let mut reuse = StepReuse::new(HostReuse::new(), policy);
        reuse.begin(&plan()).unwrap();
        let lane = Lane::new(Place::Module { layer: 0, kind: tether_reuse::ModuleKind::Mlp });
        for i in 0..10u32 {
            let want = value(i as f32);
            let mut y = [want];
            if reuse.decide(lane, i, &[0.0]).unwrap().is_compute() {
                reuse.computed(lane, &[0.0], &y).unwrap();
            } else {
                reuse.reused(lane, &[0.0], &mut y).unwrap();
                prop_assert!((y[0] - want).abs() < 1e-2 * (1.0 + want.abs()), "{} for {}", y[0], want);
            }
        }
    }
}

#[test]
fn a_policy_costs_little() {
    let verdict = |policy: &mut dyn StepReusePolicy, step: &Step| {
        let signals = vec![1e-6; policy.request(step).len()];
        if policy.decide(step, &signals) == Verdict::Compute {
            let signals = vec![1.0; policy.observe_request(step).len()];
            policy.observe(step, &signals);
        }
    };
    let sigmas: Vec<f32> = (0..=1000).map(|i| 1.0 - i as f32 / 1000.0).collect();
    for row in catalogue() {
        let profile = profile(row.name);
        assert!(profile.is_some() || !row.needs_profile, "{} cannot be timed", row.name);
        let run = if profile.is_some() { plan() } else { RunPlan::new("m", "s", "r", &sigmas) };
        let mut policy = ReuseRecipe::named(row.name).unwrap().build(profile.as_ref()).unwrap();
        policy.begin(&run).unwrap();
        // The fastest of several: others work on the machine.
        let fastest = (0..20)
            .map(|_| {
                policy.reset();
                let started = std::time::Instant::now();
                let steps = (0..1000).map(|i| Step::new(i % run.steps(), run.steps()));
                steps.for_each(|step| verdict(&mut policy, &step));
                started.elapsed() / 1000
            })
            .min()
            .unwrap();
        assert!(fastest.as_micros() < 20, "{}: {fastest:?} a step", row.name);
    }
}
