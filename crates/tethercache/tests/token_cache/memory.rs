//! What heads of their own free, what a report says is freed, and what forks share.

use super::*;

#[test]
fn what_is_freed_is_what_memory_falls_by() {
    let head = 2 * DIM * size_of::<f32>();
    for (recipe, overrides, on_host) in [
        ("knorm", &["budget.ratio=0.3"][..], 0),
        ("adakv", &["budget.ratio=0.3", "score.window=4"], 0),
        ("merging", &["budget.ratio=0.3"], 0),
        // One token for the others in all heads but the one that is kept whole.
        (
            "razor-attention",
            &["budget.ratio=0.4", "budget.heads.induction=0.25"],
            (LAYERS * KV_HEADS - 1) * head,
        ),
        // The keys of the sinks, which move again.
        ("streaming-llm", &["budget.ratio=0.3"], LAYERS * KV_HEADS * 4 * head / 2),
    ] {
        let mut pair = profiled(recipe, overrides, 51);
        let (sequence, mut plain) = (pair.start(), Plain::new());
        pair.extend(sequence, &mut plain, 400);
        let pools = |pair: &Pair| -> u64 {
            let of =
                |layer| pair.cache.pools(layer).map(|(k, v)| ((k.len() + v.len()) * size_of::<f32>()) as u64);
            (0..LAYERS).map(|layer| of(layer).unwrap()).sum()
        };
        let before = pools(&pair);
        let report = pair.evicted(sequence).unwrap();
        let fell = before - pools(&pair);
        assert!(fell * 2 > before, "{recipe}: {report:?}");
        assert_eq!(report.freed_bytes, fell - on_host as u64, "{recipe}");
        assert_eq!(report.resident_bytes, pools(&pair) + on_host as u64, "{recipe}");
        // Nothing is due.
        assert_eq!(pair.evicted(sequence).unwrap().freed_bytes, 0, "{recipe}");
    }
    // What a fork still reads is not free.
    let mut pair = profiled("knorm", &["budget.ratio=0.3"], 52);
    let (sequence, mut plain) = (pair.start(), Plain::new());
    pair.extend(sequence, &mut plain, 400);
    let copy = pair.cache.fork(sequence).unwrap();
    pair.sequences.push(copy);
    let before = pair.cache.bytes();
    let report = pair.evicted(sequence).unwrap();
    assert_eq!((report.freed_bytes, report.evicted), (0, LAYERS * KV_HEADS * 280));
    assert!(report.resident_bytes > before.held(), "the blocks that stay are copies");
}
