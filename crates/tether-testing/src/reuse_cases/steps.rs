//! Whole runs.

use std::borrow::{Borrow, BorrowMut};

use tether_core::{CoreError, DType, HostTensor};
use tether_reuse::profile::ErtaData;
use tether_reuse::{
    Grid, HostReuse, Lane, Place, Profile, ProfileData, ProfileHeader, ReuseEngine, ReuseRecipe, RunPlan,
    StepReuse,
};

use super::{ReuseSubject, done};
use crate::tensors::numbers;
use crate::{Op, assert_close, tolerance};

const STEPS: u32 = 16;
const ELEMENTS: usize = 2 * 6 * 11;
/// A policy of each kind of signal and correction, and whether it looks at the probe of a step that it decides.
const RECIPES: [(&str, bool); 7] = [
    ("easycache:threshold=0.3,guard.warmup=2", true),
    ("teacache:threshold=0.3", true),
    ("flowcache:threshold=0.3,chunk_warmup=2", true),
    ("dbcache:threshold=0.5,guard.warmup=2", true),
    ("adacache", false),
    ("taylorseer:interval=3,order=2", false),
    ("ertacache", false),
];

fn plan() -> RunPlan {
    let sigmas: Vec<f32> = (0..=STEPS).map(|i| 1.0 - i as f32 / STEPS as f32).collect();
    let mut plan = RunPlan::new("m", "euler", "small", &sigmas);
    plan.grid = Grid { frames: 2, tokens: 12 };
    plan
}

/// A correction by channel, of 11 channels.
fn erta() -> Profile {
    let steps = STEPS as usize;
    let affine = |seed| numbers(seed).take(11 * steps).map(|x| 0.05 * x).collect();
    let data = ProfileData::Erta(ErtaData {
        reuse: (0..steps).map(|i| i % 3 != 0 && i + 1 < steps).collect(),
        phi: vec![1.0; steps],
        sigmas: plan().sigmas,
        a: affine(831),
        b: affine(832),
        groups: 11,
    });
    Profile { header: ProfileHeader::new("ertacache", &plan(), "", ""), data }
}

fn lane(recipe: &ReuseRecipe) -> Lane {
    match recipe.site {
        tether_reuse::Site::BlockStack | tether_reuse::Site::BlockRuns => Lane::new(Place::Span(0)),
        tether_reuse::Site::SolverUpdate => Lane::new(Place::Solver),
        _ => Lane::new(Place::Model),
    }
}

/// What a step came to: whether it was computed, and the output.
type Step = (bool, Vec<f32>);

/// A run over inputs that are the same for every engine; the last probe but one is `spoilt`.
fn run<E: ReuseEngine>(
    what: &str,
    subject: &ReuseSubject<'_, E>,
    reuse: &mut StepReuse<E>,
    lane: Lane,
    spoilt: bool,
) -> Result<Vec<Step>, CoreError> {
    done(what, reuse.begin(&plan()));
    let tensor = |x: Vec<f32>| (subject.upload)(&HostTensor::from_f32(&[x.len()], x)?);
    let mut steps = Vec::new();
    for step in 0..STEPS {
        let mut x: Vec<f32> = numbers(841).map(|x| x + 0.03 * step as f32).take(ELEMENTS).collect();
        if spoilt && step + 2 == STEPS {
            x[ELEMENTS / 3] = f32::NAN;
        }
        let input = tensor(x.clone())?;
        let computed = done(what, reuse.decide(lane, step, input.borrow())).is_compute();
        let output = if computed {
            let output = tensor(x.iter().map(|x| (1.3 * x).sin() + 0.5).collect())?;
            done(what, reuse.computed(lane, input.borrow(), output.borrow()));
            output
        } else {
            let mut output = subject.spoilt(ELEMENTS, DType::F32)?;
            done(what, reuse.reused(lane, input.borrow(), output.borrow_mut()));
            output
        };
        steps.push((computed, subject.numbers(output.borrow())?));
    }
    Ok(steps)
}

/// Policies decide and correct on this engine as on the host, a probe with a NaN is computed where a policy looks at it, and a second run is
/// the first one again. `engine` is another handle to the subject's.
///
/// # Errors
/// What the engine does not take.
///
/// # Panics
/// When a verdict or an output differs.
pub fn reuses_steps_as_the_host_does<E: ReuseEngine>(
    subject: &ReuseSubject<'_, E>,
    engine: impl Fn() -> E,
) -> Result<(), CoreError> {
    let host = HostReuse::new();
    let on_host = ReuseSubject::host(&host);
    for (text, looks) in RECIPES {
        let recipe = done(text, ReuseRecipe::parse(text));
        let profile = (recipe.name() == "ertacache").then(erta);
        let (policy, lane) = (done(text, recipe.build(profile.as_ref())), lane(&recipe));
        let mut reference = StepReuse::new(HostReuse::new(), policy.clone());
        let mut reuse = StepReuse::new(engine(), policy);
        let expected = run(text, &on_host, &mut reference, lane, false)?;
        let got = run(text, subject, &mut reuse, lane, false)?;
        assert!(expected.iter().any(|(computed, _)| !computed), "{text} reuses nothing");
        for (step, ((computed, output), (as_host, expected))) in got.iter().zip(&expected).enumerate() {
            assert_eq!(computed, as_host, "{text}, step {step}: computed here and on the host");
            let what = format!("{text}, step {step}");
            assert_close(&what, output, expected, tolerance(Op::Correct, DType::F32));
        }
        assert_eq!(reuse.stats().computed, reference.stats().computed, "{text}");
        assert!(run(text, subject, &mut reuse, lane, false)? == got, "{text}: another run");
        let spoilt = run(text, subject, &mut reuse, lane, true)?;
        let (computed, _) = spoilt[STEPS as usize - 2];
        assert!(!looks || computed, "{text} reused a step with a NaN");
        assert!(!looks || reuse.stats().not_numbers > 0, "{text} did not see a NaN");
    }
    Ok(())
}
