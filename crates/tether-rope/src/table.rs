//! Phase tables from a [`RopeKind`], and their use on plain slices.

use std::ops::Range;

use tether_core::{Pairing, PhaseRows, PhaseTable, RopeKind};

use crate::{AxisSplit, RopeError, axis_frequencies};

/// Cosines and sines for heads of `head_dim` channels, units of `tokens` tokens and the unit positions `positions`, computed in
/// `f64`. Row `p` of the table is position `positions.start + p`; negative positions are fine. `None` for a model without rotation.
///
/// # Errors
/// [`RopeError`] when `head_dim`, `theta` or `tokens` do not suit `kind`.
pub fn phase_table(
    kind: RopeKind,
    head_dim: usize,
    tokens: usize,
    positions: Range<i64>,
) -> Result<Option<PhaseTable>, RopeError> {
    let even = |least| {
        if head_dim.is_multiple_of(2) && head_dim >= least {
            Ok(())
        } else {
            Err(RopeError::HeadDim { head_dim, least })
        }
    };
    let base = |theta: f64| {
        if theta.is_finite() && theta > 1.0 { Ok(theta) } else { Err(RopeError::Theta { theta }) }
    };
    let count = usize::try_from(positions.end.saturating_sub(positions.start)).unwrap_or(0);
    let along = |theta: f64, pairs: usize| {
        let entries =
            positions.clone().flat_map(|p| axis_frequencies(theta, pairs).map(move |w| phase(p as f64 * w)));
        PhaseRows { rows: count, pairs, entries: entries.collect() }
    };
    let table = match kind {
        RopeKind::None => return Ok(None),
        RopeKind::OneD { theta, pairing } => {
            even(2)?;
            let theta = base(theta)?;
            if tokens != 1 {
                return Err(RopeError::UnitOfTokens { tokens });
            }
            let pairs = head_dim / 2;
            PhaseTable::new(pairing, along(theta, pairs), PhaseRows::still(tokens))?
        }
        RopeKind::ThreeD { theta, height, width } => {
            even(6)?;
            let theta = base(theta)?;
            if height.checked_mul(width) != Some(tokens) {
                return Err(RopeError::Grid { height, width, tokens });
            }
            let split = AxisSplit::wan(head_dim);
            let grid = (0..tokens)
                .flat_map(|token| {
                    let (row, column) = ((token / width) as f64, (token % width) as f64);
                    let rows = axis_frequencies(theta, split.row).map(move |w| phase(row * w));
                    rows.chain(axis_frequencies(theta, split.column).map(move |w| phase(column * w)))
                })
                .collect();
            let grid = PhaseRows { rows: tokens, pairs: split.row + split.column, entries: grid };
            PhaseTable::new(Pairing::Interleaved, along(theta, split.time), grid)?
        }
        _ => {
            let feature = "this kind of rotary embedding";
            return Err(tether_core::CoreError::Unsupported { engine: "tether-rope", feature }.into());
        }
    };
    Ok(Some(table))
}

fn phase(angle: f64) -> [f32; 2] {
    [angle.cos() as f32, angle.sin() as f32]
}

/// Rotates `units` (`[positions.len(), tokens, heads, head_dim]`, any number of heads) in place: unit `i` to position `positions[i]`
/// as a row of `table`.
///
/// The data must be un-rotated; to move a key that was rotated, keep it un-rotated and rotate it once.
///
/// # Errors
/// [`RopeError::Length`] when the data is not `positions.len()` whole units, [`RopeError::HeadDim`] when the table has more pairs
/// than a head, and a position outside the table.
pub fn rotate_units(
    table: &PhaseTable,
    units: &mut [f32],
    head_dim: usize,
    positions: &[usize],
) -> Result<(), RopeError> {
    if head_dim < 2 * table.pairs() || head_dim == 0 {
        return Err(RopeError::HeadDim { head_dim, least: 2 * table.pairs() });
    }
    if let Some(&position) = positions.iter().find(|&&p| p >= table.positions()) {
        return Err(
            tether_core::CoreError::PositionOutOfTable { position, positions: table.positions() }.into()
        );
    }
    let token_multiple = table.tokens() * head_dim;
    let unit_len = units.len() / positions.len().max(1);
    if unit_len * positions.len() != units.len() || !unit_len.is_multiple_of(token_multiple) {
        return Err(RopeError::Length { got: units.len(), units: positions.len(), unit_len: token_multiple });
    }
    if unit_len == 0 {
        return Ok(());
    }
    let token_len = unit_len / table.tokens();
    for (unit, &position) in units.chunks_exact_mut(unit_len).zip(positions) {
        for (token, heads) in unit.chunks_exact_mut(token_len).enumerate() {
            heads.chunks_exact_mut(head_dim).for_each(|head| table.rotate(head, position, token));
        }
    }
    Ok(())
}
