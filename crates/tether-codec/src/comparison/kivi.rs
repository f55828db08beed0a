//! KIVI (arXiv:2402.02750): keys per channel, values per token, the newest tokens as they are.

use half::f16;
use tether_core::{CoreError, Side, checks};

use crate::{AffineCodes, AffineGroups};

/// Tokens of one head: whole pages of codes, and fewer than `residual + page` of the newest tokens in `f16`.
#[derive(Clone, Debug)]
pub struct Kivi {
    side: Side,
    dim: usize,
    bits: usize,
    page: usize,
    residual: usize,
    coded: Vec<AffineCodes>,
    newest: Vec<f16>,
}

/// Channels of a value that share a scale.
const VALUE_GROUP: usize = 32;

/// What shares a scale when a page of `page` tokens is coded.
pub(crate) fn kivi_groups(side: Side, page: usize) -> AffineGroups {
    match side {
        Side::Keys => AffineGroups::Tokens(page),
        Side::Values => AffineGroups::Channels(VALUE_GROUP),
    }
}

impl Kivi {
    /// Nothing yet. Keys are coded `page` tokens at a time, a scale for each channel; values too, with a scale for each token and 32 channels. `residual` tokens
    /// at least stay in `f16` where there are as many.
    ///
    /// # Errors
    /// [`CoreError::Geometry`] for a page of no tokens or no channels.
    pub fn new(side: Side, dim: usize, bits: usize, page: usize, residual: usize) -> Result<Self, CoreError> {
        for (field, value) in [("page_size", page), ("head_dim", dim)] {
            if value == 0 {
                return Err(CoreError::Geometry { field, value, requirement: "must be at least 1" });
            }
        }
        Ok(Self { side, dim, bits, page, residual, coded: Vec::new(), newest: Vec::new() })
    }

    /// Adds tokens, and codes the pages that are complete and no longer among the newest.
    ///
    /// # Errors
    /// Those of [`AffineCodes::new`].
    pub fn extend(&mut self, rows: &[f32]) -> Result<(), CoreError> {
        checks::count("elements of whole rows", rows.len() / self.dim * self.dim, rows.len())?;
        self.newest.extend(rows.iter().map(|&x| f16::from_f32(x)));
        let groups = kivi_groups(self.side, self.page);
        let page = self.page * self.dim;
        while self.newest.len() >= page + self.residual * self.dim {
            let numbers: Vec<f32> = self.newest[..page].iter().map(|x| x.to_f32()).collect();
            self.coded.push(AffineCodes::new(&numbers, self.dim, self.bits, groups)?);
            self.newest.drain(..page);
        }
        Ok(())
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.coded.iter().map(AffineCodes::rows).sum::<usize>() + self.newest.len() / self.dim
    }

    /// Bytes of codes, scales, zeros and the newest tokens.
    pub fn bytes(&self) -> usize {
        self.coded.iter().map(AffineCodes::bytes).sum::<usize>() + 2 * self.newest.len()
    }

    /// What is stored, `[tokens, dim]`.
    pub fn restored(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.tokens() * self.dim);
        self.coded.iter().for_each(|page| out.extend(page.restored()));
        out.extend(self.newest.iter().map(|x| x.to_f32()));
        out
    }
}
