//! A backend fails at its n-th call, for every n: each layer is as it was or as it is to be, nothing that stays is lost, and the same call again ends where an undisturbed one does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/tokens.rs"]
mod support;

use support::{KV_HEADS, LAYERS, Noise, QUERY_HEADS, facts, geometry, grid, small};
use tether_core::DType;
use tether_host::Host;
use tether_testing::backends::{Faulty, Watch};
use tethercache::tokens::{HeadContents, NewTokens, SequenceId, TokenCache, TokenRecipe};
use tethercache::{Error, ErrorKind, catalogue};

/// Recipes that evict again while a text grows where they can.
fn recipes() -> Vec<TokenRecipe> {
    let growing = |name: &str| match name {
        "snapkv" | "adakv" | "pyramidkv" | "hack" | "merging" => {
            small(name).with_overrides(&["decode.every=3"]).unwrap()
        }
        _ => small(name),
    };
    catalogue().iter().filter(|c| c.unit == "token").map(|c| growing(c.name)).collect()
}

/// What a test does to a session.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Some tokens, in all layers.
    Extend(usize),
    /// An eviction, with the probes that the recipe asks for.
    Evict,
}

/// All that a sequence holds, `[layer][head]`.
type Held = Vec<Vec<HeadContents>>;

struct Session {
    cache: TokenCache<Faulty<Host>>,
    watch: Watch,
    sequence: SequenceId,
    fork: SequenceId,
    seen: usize,
    /// Layers that have the tokens of a step that failed.
    done: usize,
}

impl Session {
    /// A text, a fork of it that goes on by itself, and what the script does then.
    fn new(recipe: &TokenRecipe, script: &[Step]) -> Self {
        let watch = Watch::new();
        let engine = Faulty::watched(Host::new(), watch.clone());
        let mut cache = TokenCache::new(engine, geometry(DType::F32), recipe.clone(), facts()).unwrap();
        let sequence = cache.start();
        let mut session = Self { cache, watch, sequence, fork: sequence, seen: 0, done: 0 };
        session.step(Step::Extend(41)).unwrap();
        session.fork = session.cache.fork(sequence).unwrap();
        for &step in script {
            if matches!(step, Step::Evict) {
                session.probe();
            }
            session.step(step).unwrap();
        }
        session
    }

    /// Tensors that depend on where in the text they are and on nothing else, so that a step may be taken again.
    fn extend(&mut self, sequence: SequenceId, tokens: usize) -> Result<(), Error> {
        let positions: Vec<i32> = (self.seen..self.seen + tokens).map(|p| p as i32).collect();
        let grid = grid(&positions);
        let grid = self.cache.planner().needs().grid.then_some(grid);
        while self.done < LAYERS {
            let mut noise = Noise((self.seen * LAYERS + self.done + 1) as u64 * 0x9E37_79B9);
            let mut tensor = |heads| noise.tensor(&[tokens, heads, support::DIM]);
            let (q, k, v) = (tensor(QUERY_HEADS), tensor(KV_HEADS), tensor(KV_HEADS));
            let new = NewTokens {
                raw_q: Some(&q),
                grid: grid.as_deref(),
                ..NewTokens::new(&q, &k, &v, &positions)
            };
            self.cache.extend(sequence, self.done, &new)?;
            self.done += 1;
        }
        self.done = 0;
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Extend(tokens) => {
                self.extend(self.sequence, tokens)?;
                self.seen += tokens;
                Ok(())
            }
            Step::Evict => self.cache.evict(self.sequence).map(drop),
        }
    }

    /// Probes, which are no part of the step that is disturbed.
    fn probe(&mut self) {
        let needs = self.cache.planner().needs();
        let probes = needs.probe_first + needs.probe_last;
        if probes > 0 && self.cache.evict_is_due(self.sequence).unwrap() {
            let probe = self.cache.fork(self.sequence).unwrap();
            self.extend(probe, probes).unwrap();
            self.cache.probed(self.sequence, probe).unwrap();
        }
    }

    fn held(&self, sequence: SequenceId) -> Held {
        let heads =
            |layer| (0..KV_HEADS).map(move |head| self.cache.contents(sequence, layer, head).unwrap());
        (0..LAYERS).map(|layer| heads(layer).collect()).collect()
    }

    /// Every page is in use as often as lists name it.
    fn check_pages(&self, what: &str) {
        for layer in 0..LAYERS {
            let pool = self.cache.block_pool(layer).unwrap();
            let mut named = vec![0; pool.capacity()];
            for sequence in [self.sequence, self.fork] {
                let lists = self.cache.block_lists(sequence, layer).unwrap();
                lists.into_iter().flatten().for_each(|&page| named[page as usize] += 1);
            }
            let counted: Vec<u32> = (0..pool.capacity() as u32).map(|page| pool.references(page)).collect();
            assert_eq!(counted, named, "{what}, layer {layer}: references");
        }
    }
}

/// Takes a step with every call of it failing once. Returns how many faults there were.
fn disturb(recipe: &TokenRecipe, script: &[Step], step: Step, every: usize) -> usize {
    let start = || {
        let mut session = Session::new(recipe, script);
        if matches!(step, Step::Evict) {
            session.probe();
        }
        session
    };
    let mut undisturbed = start();
    let (before, fork) = (undisturbed.held(undisturbed.sequence), undisturbed.held(undisturbed.fork));
    let calls = undisturbed.watch.fallible_calls();
    undisturbed.step(step).unwrap();
    let calls = (undisturbed.watch.fallible_calls() - calls) as usize;
    let after = undisturbed.held(undisturbed.sequence);
    let mut faults = 0;
    // Not the same calls of every recipe where some are left out.
    for n in (recipe.name.len() % every..calls).step_by(every) {
        let what = format!("{}, {script:?}, {step:?}, call {n} of {calls}", recipe.name);
        let mut session = start();
        session.watch.let_waits_fail(true);
        session.watch.fail_after(n as u64);
        match session.step(step) {
            Err(e) => assert_eq!(e.kind(), ErrorKind::Device, "{what}: {e}"),
            // Memory that is not given back now is given back later.
            Ok(()) => assert!(matches!(step, Step::Evict), "{what} went through"),
        }
        assert!(session.watch.failed().is_some(), "{what}: nothing failed");
        session.watch.disarm();
        session.check_pages(&what);
        for (layer, got) in session.held(session.sequence).iter().enumerate() {
            let whole = *got == before[layer] || *got == after[layer];
            assert!(whole, "{what}: layer {layer} is neither as before nor as after");
        }
        assert!(session.held(session.fork) == fork, "{what}: the fork is as it was");
        session.step(step).unwrap_or_else(|e| panic!("{what}, again: {e}"));
        session.check_pages(&what);
        assert!(session.held(session.sequence) == after, "{what}: ends where an undisturbed one does");
        assert!(session.held(session.fork) == fork, "{what}: the fork is as it was");
        // And goes on.
        session.step(Step::Extend(2)).unwrap();
        session.cache.remove(session.sequence).unwrap();
        session.cache.remove(session.fork).unwrap();
        assert_eq!(session.cache.bytes().in_use, 0, "{what}: nothing is left behind");
        faults += 1;
    }
    faults
}

/// Sessions of any steps, and the step that is disturbed.
fn random_script(seed: u64) -> (Vec<Step>, Step) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut step = || match below(3) {
        0 => Step::Evict,
        _ => Step::Extend(1 + below(6) as usize),
    };
    let script: Vec<Step> = (0..2 + seed % 5).map(|_| step()).collect();
    (script, step())
}

/// A sample of all faults; all of them, and of many more sessions, with `TETHER_FAULTS=all`.
#[test]
fn a_layer_is_as_before_or_as_after_and_nothing_is_lost() {
    use rayon::prelude::*;
    let all = std::env::var("TETHER_FAULTS").is_ok_and(|v| v == "all");
    let (every, sessions) = if all { (1, 40) } else { (3, 3) };
    let fixed: [(&[Step], Step); 5] = [
        (&[], Step::Extend(7)),
        (&[], Step::Evict),
        (&[Step::Evict], Step::Extend(1)),
        (&[Step::Evict, Step::Extend(3)], Step::Evict),
        (&[Step::Evict, Step::Extend(3), Step::Evict, Step::Extend(9)], Step::Evict),
    ];
    let fixed = fixed.into_iter().map(|(script, step)| (script.to_vec(), step));
    let scripts: Vec<(Vec<Step>, Step)> = fixed.chain((1..=sessions).map(random_script)).collect();
    let faults = |recipe: &TokenRecipe| -> usize {
        scripts.iter().map(|(script, step)| disturb(recipe, script, *step, every)).sum()
    };
    let faults: usize = recipes().par_iter().map(faults).sum();
    eprintln!("{faults} faults");
    assert!(faults >= if all { 20_000 } else { 1_000 }, "{faults}");
}
