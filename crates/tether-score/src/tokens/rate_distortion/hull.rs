//! What each further unit of cost buys a token.

/// Most tiers of a group.
pub(super) const MOST_TIERS: usize = 16;

/// Costs of tiers, and one over the difference of each two.
pub(super) struct TierCosts {
    costs: [u32; MOST_TIERS],
    /// `[from, to]`; infinite where they cost the same.
    inverse: [[f32; MOST_TIERS]; MOST_TIERS],
    len: usize,
}

impl TierCosts {
    /// Of at most [`MOST_TIERS`], which do not fall.
    pub(super) fn new(of: &[u32]) -> Self {
        let mut costs = [0; MOST_TIERS];
        costs.iter_mut().zip(of).for_each(|(to, cost)| *to = *cost);
        let mut inverse = [[0f32; MOST_TIERS]; MOST_TIERS];
        for (from, row) in inverse.iter_mut().enumerate().take(of.len()) {
            for (to, inverse) in row.iter_mut().enumerate().take(of.len()).skip(from) {
                *inverse = 1.0 / (of[to] - of[from]) as f32;
            }
        }
        Self { costs, inverse, len: of.len() }
    }

    /// Tiers.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// What a step costs.
    #[inline]
    pub(super) fn between(&self, from: usize, to: usize) -> u32 {
        self.costs[to] - self.costs[from]
    }

    /// How much a step gains for a unit of cost.
    #[inline]
    pub(super) fn slope(&self, from: usize, to: usize, distortion: &[f32]) -> f32 {
        (distortion[from] - distortion[to]) * self.inverse[from][to]
    }

    /// Writes, for each tier on the lower convex hull of a token's (cost, distortion) points but the first, how much distortion falls for a unit of cost on the way to it; 0
    /// for the others. Along the hull these fall. Returns the first tier. Only as many tiers are looked at as there are distortions.
    #[inline]
    pub(super) fn hull(&self, distortion: &[f32], into: &mut [f32]) -> usize {
        into.fill(0.0);
        let mut hull = [0u8; MOST_TIERS];
        let mut len = 1;
        for tier in 1..distortion.len() {
            let mut last = usize::from(hull[len - 1]);
            // What is not better than something cheaper is not wanted.
            if distortion[tier] >= distortion[last] {
                continue;
            }
            loop {
                let slope = self.slope(last, tier, distortion);
                let same = self.between(last, tier) == 0;
                if len > 1 && (same || slope >= into[last]) {
                    into[last] = 0.0;
                    len -= 1;
                    last = usize::from(hull[len - 1]);
                    continue;
                }
                if same {
                    // Another first tier.
                    len = 0;
                } else {
                    into[tier] = slope;
                }
                break;
            }
            hull[len] = tier as u8;
            len += 1;
        }
        hull[0].into()
    }
}

#[cfg(test)]
mod tests {
    use super::TierCosts;

    #[test]
    fn only_the_hull_has_slopes() {
        for (costs, distortion, slopes, first) in [
            ([0, 10, 20], [8.0, 2.0, 1.0], [0.0, 0.6, 0.1], 0),
            ([0, 10, 20], [4.0, 3.0, 0.0], [0.0, 0.0, 0.2], 0),
            ([0, 10, 20], [4.0, 5.0, 4.0], [0.0; 3], 0),
            // Two ways to keep for nothing, and two that cost something.
            ([0, 0, 10], [4.0, 3.0, 1.0], [0.0, 0.0, 0.2], 1),
            ([0, 10, 10], [4.0, 3.0, 1.0], [0.0, 0.0, 0.3], 0),
        ] {
            let mut got = [f32::NAN; 3];
            assert_eq!(TierCosts::new(&costs).hull(&distortion, &mut got), first);
            assert!(got.iter().zip(slopes).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{got:?}");
        }
    }
}
