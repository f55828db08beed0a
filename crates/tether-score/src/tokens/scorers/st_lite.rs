//! Screenshots: saliency in space, a gate in time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tether_core::{NEIGHBOURS, ScoreLeaf, TokenGrid};
use tether_part::{Kinds, PartError, Settings, SettingsTable};

use super::SnapKv;
use crate::ScoreError;
use crate::tokens::{GridPlace, Needs, Protected, ScoreExpr, ScoreRequest, ScoreTokens, TokenScorer};

/// A base score, scaled to at most 1; for visual tokens plus the saliency of their place, and 0 for tokens of older frames that the last frame
/// repeats (arXiv:2603.00188). Likeness is measured on keys before the rotation, over all heads together; over each head alone once they hold
/// different tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StLite {
    /// The base scorer.
    pub base: TokenScorer,
}

impl Settings for StLite {
    const KIND: &'static str = "st-lite";
}

impl Default for StLite {
    fn default() -> Self {
        Self { base: SnapKv { window: 32, ..SnapKv::default() }.into_part() }
    }
}

impl ScoreTokens for StLite {
    fn validate(&self) -> Result<(), ScoreError> {
        self.base.validate()
    }

    fn needs(&self) -> Needs {
        self.base.needs().and(Needs { raw_keys: true, grid: true, ..Needs::default() })
    }

    fn protects(&self, kept: usize) -> Protected {
        self.base.protects(kept)
    }

    fn separates_query_heads(&self) -> bool {
        self.base.separates_query_heads()
    }

    fn expression(&self, request: ScoreRequest, tokens: usize) -> Option<ScoreExpr> {
        let base = ScoreExpr::of(&self.base, request, tokens);
        // Protected tokens stand above the others by 1, which must not decide what 1 is.
        let protected = self.base.protects(request.kept);
        let scaled = ScoreExpr::PerHighest { of: Box::new(base), kept: request.kept, protected };
        let salient = ScoreExpr::Add(vec![scaled, ScoreExpr::leaf(ScoreLeaf::FrameSaliency)]);
        let gate = ScoreExpr::leaf(ScoreLeaf::FrameGate { kept: request.kept });
        Some(ScoreExpr::Mul(vec![salient, gate]))
    }

    fn read(mut settings: SettingsTable, kinds: &Kinds<dyn ScoreTokens>) -> Result<Self, PartError> {
        let base = settings.take_part("base", kinds)?;
        let own: Self = settings.read()?;
        Ok(Self { base: base.unwrap_or(own.base) })
    }
}

/// One less the mean likeness of a visual token to its neighbours in the frame, up to eight; 0 for text and for a token without neighbours.
pub fn spatial_saliency(grid: &[Option<GridPlace>], cosine: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let saliency = |(token, around): (usize, Vec<usize>)| match around.len() {
        0 => 0.0,
        count => 1.0 - around.into_iter().map(|other| cosine(token, other)).sum::<f32>() / count as f32,
    };
    neighbours(grid).enumerate().map(saliency).collect()
}

/// The neighbours of each token in its frame.
fn neighbours(grid: &[Option<GridPlace>]) -> impl Iterator<Item = Vec<usize>> {
    let at: BTreeMap<(u32, u32, u32), usize> = grid
        .iter()
        .enumerate()
        .filter_map(|(t, place)| place.map(|p| ((p.frame, p.row, p.column), t)))
        .collect();
    let around = |n: u32| n.saturating_sub(1)..=n.saturating_add(1);
    let of_token = move |(token, place): (usize, &Option<GridPlace>)| {
        let Some(place) = place else { return Vec::new() };
        let places = around(place.row).flat_map(|row| around(place.column).map(move |column| (row, column)));
        let there = places.filter_map(|(row, column)| at.get(&(place.frame, row, column)).copied());
        there.filter(|&other| other != token).collect()
    };
    grid.iter().enumerate().map(of_token)
}

/// What a device must know of where tokens stand.
pub fn token_grid(grid: &[Option<GridPlace>]) -> TokenGrid {
    let last = grid.iter().flatten().map(|p| p.frame).max();
    let of = |newest: bool| -> Vec<u32> {
        let matching = |t: &usize| grid[*t].is_some_and(|p| (Some(p.frame) == last) == newest);
        (0..grid.len()).filter(matching).map(|t| t as u32).collect()
    };
    let filled = |(token, around): (usize, Vec<usize>)| {
        let mut all = [token as u32; NEIGHBOURS];
        all.iter_mut().zip(around).for_each(|(slot, other)| *slot = other as u32);
        all
    };
    TokenGrid {
        neighbours: neighbours(grid).enumerate().map(filled).collect(),
        newest: of(true),
        older: of(false),
    }
}
