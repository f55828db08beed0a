//! Step reuse at every site of TinyVideo.

use tether_host::Host;
use tether_models::{
    ForwardError, Frame, PlaceRecorder, Scene, Schedule, TinyVideo, VideoReuse, VideoSession, chunk_noise,
    psnr,
};
use tether_reuse::profile::{ErtaData, received_attention};
use tether_reuse::{
    Place, Profile, ProfileData, ProfileError, ProfileHeader, ReuseError, ReuseRecipe, ReuseStats,
};
use tethercache::Recipe;

const STEPS: usize = 8;

fn schedule() -> Schedule {
    Schedule::shifted(STEPS, Schedule::SHIFT).expect("in range")
}

fn recipe() -> Recipe {
    let mut recipe = Recipe::tethercache();
    (recipe.layout.sink, recipe.layout.memory) = (3, 3);
    recipe.layout.recent = tethercache::layout::Extent::Units(6);
    recipe
}

struct Made {
    frames: Vec<Frame>,
    work: u64,
    stats: ReuseStats,
}

/// Two chunks after three given ones.
fn video(model: &TinyVideo, seed: u64, reuse: Option<VideoReuse>) -> Made {
    let scene = Scene::sample(seed, 0);
    let mut session = VideoSession::new(model, recipe(), schedule(), Host::new()).expect("a session");
    let frames: Vec<Frame> = (0..9).map(|t| scene.render(t as f32)).collect();
    for chunk in frames.chunks(3) {
        session.give(chunk).expect("a chunk");
    }
    if let Some(reuse) = reuse {
        session = session.with_reuse(reuse);
    }
    let before = session.timing().multiply_adds;
    let mut noise = vec![0.0; model.config().chunk_values()];
    let mut frames = Vec::new();
    for chunk in 3..5 {
        chunk_noise(seed, 0, chunk, &mut noise);
        frames.extend(session.generate(&noise).expect("a chunk"));
    }
    let stats = session.reuse().map(|r| r.stats().clone()).unwrap_or_default();
    Made { frames, work: session.timing().multiply_adds - before, stats }
}

fn profile(model: &TinyVideo, data: ProfileData) -> Profile {
    let plan = VideoReuse::plan(model, &schedule());
    Profile { header: ProfileHeader::new(data.kind(), &plan, "", ""), data }
}

fn reuse(model: &TinyVideo, text: &str, profile: Option<&Profile>) -> VideoReuse {
    VideoReuse::new(model, ReuseRecipe::parse(text).expect(text), profile).expect(text)
}

#[test]
fn a_policy_that_reuses_nothing_changes_no_bit_at_any_site() {
    let model = TinyVideo::bundled().expect("the bundled weights load");
    let full = video(&model, 1, None);
    let runs = profile(&model, ProfileData::Blocks { foreground: vec![0.0; 8], background: vec![1, 2, 5] });
    let none: Vec<(&str, Option<&Profile>)> = vec![
        ("none", None),
        ("easycache:threshold=0", None),
        ("flowcache:threshold=0", None),
        ("teacache:threshold=0", None),
        ("dbcache:threshold=0,last_blocks=2", None),
        ("fora:interval=1", None),
        ("fora:interval=1,site=attention", None),
        ("profiling-dit:refresh={every=1}", Some(&runs)),
    ];
    for (text, profile) in none {
        let got = video(&model, 1, Some(reuse(&model, text, profile)));
        assert!(got.frames == full.frames, "{text}");
        assert_eq!((got.stats.reused, got.work), (0, full.work), "{text}");
    }
}

#[test]
fn every_site_saves_work_and_stays_near() {
    let model = TinyVideo::bundled().expect("the bundled weights load");
    let full = video(&model, 1, None);
    let runs = profile(&model, ProfileData::Blocks { foreground: vec![0.0; 8], background: vec![1, 2, 5] });
    let steps: Vec<bool> = (0..STEPS).map(|i| i == 3 || i == 5).collect();
    let sigmas = schedule().times().to_vec();
    let ones = vec![1.0; STEPS];
    let zeros = vec![0.0; STEPS];
    let erta = ErtaData { reuse: steps, phi: ones, sigmas, a: zeros.clone(), b: zeros, groups: 1 };
    let erta = profile(&model, ProfileData::Erta(erta));
    let mag = profile(&model, ProfileData::Mag { ratios: vec![0.99; STEPS] });
    let saving: Vec<(&str, Option<&Profile>)> = vec![
        ("easycache:threshold=0.1,guard.warmup=2,guard.max_consecutive=1", None),
        ("easycache:threshold=0.1,guard.warmup=2,site=block-stack,guard.max_consecutive=1", None),
        ("ertacache", Some(&erta)),
        ("flowcache:threshold=0.5,chunk_warmup=2", None),
        ("teacache:threshold=0.5", None),
        ("dbcache:threshold=0.5,guard.warmup=2,last_blocks=1", None),
        ("magcache", Some(&mag)),
        ("fora", None),
        ("pab:temporal={range=2,above=0.1,below=0.95}", None),
        ("adacache", None),
        ("taylorseer:interval=2,first=2", None),
        ("fastercache:start=2", None),
        ("profiling-dit:start=2,refresh={every=2}", Some(&runs)),
    ];
    for (text, profile) in saving {
        let got = video(&model, 1, Some(reuse(&model, text, profile)));
        let near = got.frames.iter().zip(&full.frames).map(|(a, b)| psnr(a, b)).sum::<f64>() / 6.0;
        let share = got.work as f64 / full.work as f64;
        println!("{text}: {near:.1} dB at {share:.3} of the work, {} reused", got.stats.reused);
        assert!(got.stats.reused > 0 && share < 0.97, "{text}: {share}");
        assert!(near > 20.0, "{text}: {near}");
    }
}

#[test]
fn one_video_leaves_nothing_to_the_next() {
    let model = TinyVideo::bundled().expect("the bundled weights load");
    let text = "easycache:threshold=0.1,guard.warmup=2";
    let plan = VideoReuse::plan(&model, &schedule());
    let mut used = reuse(&model, text, None);
    // A chunk that was broken off in the middle.
    used.begin_chunk(&plan).expect("a plan");
    let fresh = video(&model, 2, Some(reuse(&model, text, None)));
    let after = video(&model, 2, Some(used));
    assert!(fresh.frames == after.frames);
    assert_eq!(fresh.stats, after.stats);
}

#[test]
fn profiles_of_other_runs_are_refused_before_a_pass() {
    let model = TinyVideo::bundled().expect("the bundled weights load");
    let mag = profile(&model, ProfileData::Mag { ratios: vec![0.99; STEPS] });
    let reuse = reuse(&model, "magcache", Some(&mag));
    let scene = Scene::sample(1, 0);
    let other = Schedule::shifted(5, Schedule::SHIFT).expect("in range");
    let mut session =
        VideoSession::new(&model, recipe(), other, Host::new()).expect("a session").with_reuse(reuse);
    let frames: Vec<Frame> = (0..3).map(|t| scene.render(t as f32)).collect();
    session.give(&frames).expect("a chunk");
    let got = session.generate(&vec![0.0; model.config().chunk_values()]);
    let mismatch =
        |e: &ReuseError| matches!(e, ReuseError::Profile(ProfileError::Mismatch { what: "steps", .. }));
    assert!(matches!(&got, Err(ForwardError::Reuse(e)) if mismatch(e)), "{got:?}");

    let few = profile(&model, ProfileData::Blocks { foreground: vec![0.0; 3], background: vec![1] });
    let recipe = ReuseRecipe::named("profiling-dit").expect("a policy");
    assert!(VideoReuse::new(&model, recipe.clone(), Some(&few)).is_err(), "three blocks are not eight");
    assert!(VideoReuse::new(&model, recipe, None).is_err());
    let none = ReuseRecipe::parse("dbcache:first_blocks=8").expect("a recipe");
    assert!(VideoReuse::new(&model, none, None).is_err(), "no block is left");
}

#[test]
fn a_recorder_sees_what_a_policy_would() {
    let model = TinyVideo::bundled().expect("the bundled weights load");
    let scene = Scene::sample(1, 0);
    let mut session = VideoSession::new(&model, recipe(), schedule(), Host::new()).expect("a session");
    let frames: Vec<Frame> = (0..3).map(|t| scene.render(t as f32)).collect();
    session.give(&frames).expect("a chunk");
    let mut noise = vec![0.0; model.config().chunk_values()];
    chunk_noise(1, 0, 1, &mut noise);
    let mut recorder = PlaceRecorder::new(8);
    session.generate_watched(&noise, &mut recorder).expect("a chunk");
    let of = |place| recorder.calls.iter().filter(|c| c.place == place).collect::<Vec<_>>();
    let (whole, stack) = (of(Place::Model), of(Place::Span(0)));
    assert_eq!((whole.len(), stack.len()), (STEPS, STEPS));
    assert_eq!(whole[0].input, noise);
    assert_eq!(stack[0].input.len(), 192 * 192);
    assert_ne!(stack[0].probe, stack[0].input, "the probe is modulated");
    assert_ne!(stack[0].input, stack[0].output);
}

#[test]
fn sprites_are_foreground() {
    let scene = Scene::sample(1, 0);
    let tokens = scene.sprite_tokens(4.0);
    let members = tokens.iter().filter(|t| **t).count();
    assert!((4..40).contains(&members), "{members} of {}", tokens.len());
    assert!(received_attention(&[], &[], 1, 1).is_err());
}
