//! Probe tokens: run on a fork, asked once, and gone.

use super::*;

fn dapq() -> Pair {
    let overrides = ["budget.ratio=0.4", "score.first=1", "score.last=2", "score.recent=2"];
    Pair::new(TokenRecipe::named("dapq").unwrap().with_overrides(&overrides).unwrap(), 0xDA)
}

/// Keys and values of a layer as they lie in memory, head after head.
fn rows(cache: &TokenCache<Host>, sequence: SequenceId, layer: usize) -> Vec<f32> {
    let (k, v) = cache.pools(layer).unwrap();
    let (k, v) = (k.to_f32_vec(), v.to_f32_vec());
    let of_head = |head: usize| cache.slot_mapping(sequence, layer, head).unwrap();
    let rows = (0..KV_HEADS).flat_map(of_head);
    rows.flat_map(|row| [&k, &v].map(|pool| pool[row as usize * DIM..][..DIM].to_vec()).concat()).collect()
}

#[test]
fn choose_what_stays_and_leave_no_trace() {
    let mut pair = dapq();
    let (sequence, mut plain) = (pair.start(), Plain::new());
    pair.extend(sequence, &mut plain, 37);
    let before: Vec<Vec<f32>> = (0..LAYERS).map(|l| rows(&pair.cache, sequence, l)).collect();
    let held = pair.cache.bytes();
    assert!(pair.cache.evict_is_due(sequence).unwrap());
    let missing = pair.cache.evict(sequence).unwrap_err();
    assert!(matches!(missing, Error::Score(tether_score::ScoreError::Missing { .. })), "{missing}");

    let probe = pair.cache.fork(sequence).unwrap();
    pair.sequences.push(probe);
    let mut run = plain.clone();
    pair.extend(probe, &mut run, 3);
    pair.cache.probed(sequence, probe).unwrap();
    assert!(matches!(pair.cache.seen(probe, 0), Err(Error::UnknownSequence { .. })));
    assert_eq!(pair.cache.bytes().in_use, held.in_use);
    assert_eq!(pair.cache.positions(sequence, 0, 0).unwrap().len(), 37);
    let after: Vec<Vec<f32>> = (0..LAYERS).map(|l| rows(&pair.cache, sequence, l)).collect();
    assert_eq!(before, after, "the text is bit by bit what it was");

    let mut state = SequenceState::default();
    let planner = TokenPlanner::new(pair.cache.planner().recipe().clone()).unwrap();
    let expected: Vec<_> = (0..LAYERS)
        .map(|layer| {
            let keys = run.heads[layer].iter().flat_map(|h| &h[37..]).flat_map(|t| t.1.clone()).collect();
            let probes = by_head(&run.queries[layer], 3);
            let observed = plain.recorded(layer, 37).with_probes(probes, keys).unwrap();
            let turn = LayerContext { layer, layers: LAYERS, seen: 37, decoding: false };
            planner.plan(turn, &observed, &mut state).unwrap().keep
        })
        .collect();
    assert!(pair.evict(sequence, &mut plain) > 0);
    for (layer, keep) in expected.iter().enumerate() {
        for head in 0..KV_HEADS {
            let kept: Vec<i32> = keep.head(head).iter().map(|&t| t as i32).collect();
            assert_eq!(pair.cache.positions(sequence, layer, head).unwrap(), kept);
        }
    }
    // Tokens go on where the probes stood, and attend to what is left of the text alone.
    pair.extend(sequence, &mut plain, 5);
    assert!(!pair.cache.evict_is_due(sequence).unwrap());
}

#[test]
fn of_an_older_text_say_nothing() {
    let mut pair = dapq();
    let (sequence, mut plain) = (pair.start(), Plain::new());
    pair.extend(sequence, &mut plain, 20);
    let probe = pair.cache.fork(sequence).unwrap();
    pair.sequences.push(probe);
    let mut run = plain.clone();
    pair.extend(probe, &mut run, 2);
    pair.cache.probed(sequence, probe).unwrap();
    pair.extend(sequence, &mut plain, 1);
    let stale = pair.cache.evict(sequence).unwrap_err();
    assert!(matches!(stale, Error::Score(tether_score::ScoreError::Missing { .. })), "{stale}");
}

#[test]
fn that_are_none_are_refused() {
    let mut pair = dapq();
    let (sequence, mut plain) = (pair.start(), Plain::new());
    pair.extend(sequence, &mut plain, 20);
    let (same, long, other) =
        (pair.cache.fork(sequence).unwrap(), pair.cache.fork(sequence).unwrap(), pair.start());
    pair.sequences.extend([same, long]);
    let mut run = plain.clone();
    pair.extend(long, &mut run, 4);
    let mut fresh = Plain::new();
    pair.extend(other, &mut fresh, 5);
    let before = pair.cache.bytes();
    for wrong in [same, long, other, sequence] {
        let error = pair.cache.probed(sequence, wrong).unwrap_err();
        assert!(matches!(error, Error::NotAProbe { .. }), "{error}");
        assert!(pair.cache.seen(wrong, 0).is_ok(), "and is still there");
    }
    assert_eq!(pair.cache.bytes(), before);
}
