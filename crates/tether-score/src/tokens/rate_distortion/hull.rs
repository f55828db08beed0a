//! What each further unit of cost buys a token.

/// Most tiers of a group.
pub(super) const MOST_TIERS: usize = 16;

/// Writes, for each tier on the lower convex hull of a token's (cost, distortion) points but the first, how much distortion falls for a unit of cost on the way to it; 0 for the
/// others. Along the hull these fall. Costs do not fall.
pub(super) fn slopes(costs: &[f32], distortion: &[f32], into: &mut [f32]) {
    into.fill(0.0);
    let mut hull = [0usize; MOST_TIERS];
    let mut len = 0;
    for tier in 0..costs.len() {
        let steep = |from: usize| {
            let cost = costs[tier] - costs[from];
            if cost > 0.0 { (distortion[from] - distortion[tier]) / cost } else { f32::INFINITY }
        };
        // What is not better than something cheaper is not wanted.
        if len > 0 && distortion[tier] >= distortion[hull[len - 1]] {
            continue;
        }
        while len > 0
            && (costs[hull[len - 1]] >= costs[tier]
                || (len > 1 && steep(hull[len - 1]) >= into[hull[len - 1]]))
        {
            into[hull[len - 1]] = 0.0;
            len -= 1;
        }
        if len > 0 {
            into[tier] = steep(hull[len - 1]);
        }
        hull[len] = tier;
        len += 1;
    }
}

/// The tier before the first step of a hull: of the cheapest the one of least distortion, the first of equals.
pub(super) fn start(costs: &[f32], distortion: &[f32]) -> usize {
    let mut best = 0;
    for tier in 1..costs.len() {
        if costs[tier] > costs[0] {
            break;
        }
        if distortion[tier] < distortion[best] {
            best = tier;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::{slopes, start};

    #[test]
    fn only_the_hull_has_slopes() {
        let mut got = [0f32; 3];
        slopes(&[0.0, 10.0, 20.0], &[8.0, 2.0, 1.0], &mut got);
        assert_eq!(got, [0.0, 0.6, 0.1]);
        slopes(&[0.0, 10.0, 20.0], &[4.0, 3.0, 0.0], &mut got);
        assert_eq!(got, [0.0, 0.0, 0.2]);
        slopes(&[0.0, 10.0, 20.0], &[4.0, 5.0, 4.0], &mut got);
        assert_eq!(got, [0.0; 3]);
        // Two ways to keep for nothing.
        slopes(&[0.0, 0.0, 10.0], &[4.0, 3.0, 1.0], &mut got);
        assert_eq!((got, start(&[0.0, 0.0, 10.0], &[4.0, 3.0, 1.0])), ([0.0, 0.0, 0.2], 1));
    }
}
