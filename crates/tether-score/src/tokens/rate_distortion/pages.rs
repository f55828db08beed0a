//! Pages of one tier each.

/// A page's header: 8 bytes beside its codes. Positions of its tokens are kept by the session, which knows them anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TierPage {
    /// Tier of all its tokens.
    pub tier: u8,
    /// Tokens, less one: a page holds 1 to 256.
    pub last: u8,
    /// Counts refreshes, so that a copy elsewhere shows its age.
    pub generation: u16,
    /// Place of its first token in [`TierPages::tokens`].
    pub first: u32,
}

/// One head's tokens in pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierPages {
    /// Headers, tiers ascending.
    pub pages: Vec<TierPage>,
    /// Tokens, page by page, ascending within a tier.
    pub tokens: Vec<u32>,
}

impl TierPages {
    /// From the tier of each token; those of tier `dropped` are in no page. `page_size` is 1 to 256.
    pub fn new(tiers: &[u8], dropped: Option<u8>, page_size: usize, generation: u16) -> Self {
        let page_size = page_size.clamp(1, 256);
        let mut made = Self::default();
        let most = tiers.iter().copied().max().map_or(0, |m| u16::from(m) + 1);
        for tier in (0..most).map(|t| t as u8).filter(|t| Some(*t) != dropped) {
            let own: Vec<u32> = (0..tiers.len() as u32).filter(|&i| tiers[i as usize] == tier).collect();
            for page in own.chunks(page_size) {
                let (last, first) = ((page.len() - 1) as u8, made.tokens.len() as u32);
                made.pages.push(TierPage { tier, last, generation, first });
                made.tokens.extend_from_slice(page);
            }
        }
        made
    }
}

/// Fills one head's pages: of each tier but the lowest kept one, the tokens that go over whole pages move a tier down, those first whom it costs least. The cost so never
/// rises. Tokens outside `free` stay; tier 0 is nobody's page and takes none.
pub fn whole_pages(
    tiers: &mut [u8],
    costs: &[u32],
    distortion: &[f32],
    free: std::ops::Range<usize>,
    page_size: usize,
) {
    let count = costs.len();
    for tier in (2..count).rev() {
        let own: Vec<usize> = (0..tiers.len()).filter(|&i| usize::from(tiers[i]) == tier).collect();
        let over = own.len() % page_size.max(1);
        let mut movable: Vec<usize> = own.into_iter().filter(|i| free.contains(i)).collect();
        let loss = |i: &usize| distortion[i * count + tier - 1] - distortion[i * count + tier];
        movable.sort_by(|a, b| loss(a).total_cmp(&loss(b)).then(a.cmp(b)));
        // A page that would stay incomplete anyway is not worth anybody's digits.
        if movable.len() >= over {
            movable.truncate(over);
            movable.into_iter().for_each(|i| tiers[i] = (tier - 1) as u8);
        }
    }
}
