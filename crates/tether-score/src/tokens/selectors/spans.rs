//! Spans of consecutive tokens that stay or leave together.

use std::ops::Range;

use crate::tokens::HeadShare;

/// Spans of `length` that cover `0..tokens`, the last one shorter.
pub(super) fn spans(tokens: usize, length: usize) -> Vec<Range<usize>> {
    (0..tokens).step_by(length).map(|start| start..tokens.min(start + length)).collect()
}

/// Numbers of the spans by their mean score over all `rows`, the highest first; equal ones in order.
pub(super) fn by_mean(rows: &[&[f32]], spans: &[Range<usize>]) -> Vec<usize> {
    let sum = |span: &Range<usize>| -> f64 {
        rows.iter().map(|row| row[span.clone()].iter().map(|&x| f64::from(x)).sum::<f64>()).sum()
    };
    let means: Vec<f64> = spans.iter().map(|span| sum(span) / span.len().max(1) as f64).collect();
    let mut order: Vec<usize> = (0..means.len()).collect();
    order.sort_by(|&a, &b| means[b].total_cmp(&means[a]).then(a.cmp(&b)));
    order
}

/// The protected tokens and then the spans in `order`, at most `count` of them, as long as they fit.
pub(super) fn fill(
    share: HeadShare,
    tokens: usize,
    spans: &[Range<usize>],
    order: &[usize],
    count: usize,
) -> Vec<u32> {
    let protected = share.protected.within(share.kept, tokens);
    let mut kept = vec![false; tokens];
    (0..tokens).filter(|&t| protected.holds(t, tokens)).for_each(|t| kept[t] = true);
    let mut room = share.kept - kept.iter().filter(|k| **k).count();
    for span in order.iter().take(count).map(|&i| spans[i].clone()) {
        let cost = kept[span.clone()].iter().filter(|k| !**k).count();
        if cost > room {
            break;
        }
        room -= cost;
        kept[span].fill(true);
    }
    (0..tokens as u32).filter(|&t| kept[t as usize]).collect()
}
