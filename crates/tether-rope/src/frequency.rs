//! Frequencies, and how pairs are split between the axes of a video.

use tether_core::{Axis, AxisLayout, AxisOrder, Frequencies};

use crate::RopeError;

/// Angular frequencies of an axis with `pairs` pairs: `theta^(-i / pairs)`, highest first, in radians per position.
pub fn axis_frequencies(theta: f64, pairs: usize) -> impl Iterator<Item = f64> {
    (0..pairs).map(move |i| theta.powf(-(i as f64) / pairs as f64))
}

/// The base of frequencies, finite and above 1.
pub(crate) fn base(theta: f64) -> Result<f64, RopeError> {
    if theta.is_finite() && theta > 1.0 { Ok(theta) } else { Err(RopeError::Theta { theta }) }
}

/// Pairs that turn with time, row and column in Wan's split of `pairs`: rows and columns a third each, rounded down, and time the rest.
pub(crate) fn thirds(pairs: usize) -> [usize; 3] {
    [pairs - 2 * (pairs / 3), pairs / 3, pairs / 3]
}

/// The axis of each pair, of `pairs` for time, row and column.
pub(crate) fn axes(order: AxisOrder, pairs: [usize; 3]) -> Result<Vec<u8>, RopeError> {
    match order {
        AxisOrder::Blocks(order) => {
            let mut seen = [false; 3];
            order.iter().for_each(|&axis| seen[number(axis)] = true);
            if seen != [true; 3] {
                return Err(RopeError::Order { order });
            }
            let block = |&axis: &Axis| std::iter::repeat_n(number(axis) as u8, pairs[number(axis)]);
            Ok(order.iter().flat_map(block).collect())
        }
        AxisOrder::InTurns => {
            let mut axes = vec![0u8; pairs.iter().sum()];
            for axis in 1..3u8 {
                for turn in 0..pairs[usize::from(axis)] {
                    // Each in its turn, while time has pairs to stand between.
                    let pair = 3 * turn + usize::from(axis);
                    *axes.get_mut(pair).ok_or(RopeError::Turns { pairs })? = axis;
                }
            }
            Ok(axes)
        }
    }
}

fn number(axis: Axis) -> usize {
    match axis {
        Axis::Time => 0,
        Axis::Row => 1,
        Axis::Column => 2,
    }
}

/// Radians per position of each pair, whose axes are `axes`.
pub(crate) fn frequencies(layout: &AxisLayout, theta: f64, axes: &[u8]) -> Result<Vec<f64>, RopeError> {
    let [time, row, column] = layout.thetas.unwrap_or([theta; 3]);
    let thetas = [base(time)?, base(row)?, base(column)?];
    if let Some(&scale) = layout.scales.iter().find(|scale| !scale.is_finite()) {
        return Err(RopeError::Scaling { factor: scale });
    }
    let count = |axis: u8| axes.iter().filter(|&&a| a == axis).count();
    let counts = [count(0), count(1), count(2)];
    let mut so_far = [0usize; 3];
    let frequency = |(pair, &axis): (usize, &u8)| {
        let axis = usize::from(axis);
        let (theta, i, n) = (thetas[axis], so_far[axis] as f64, counts[axis]);
        so_far[axis] += 1;
        let turns = match layout.frequencies {
            Frequencies::PerAxis => theta.powf(-i / n as f64),
            Frequencies::Shared => theta.powf(-(pair as f64) / axes.len() as f64),
            Frequencies::Rising => {
                std::f64::consts::FRAC_PI_2 * theta.powf(i / n.saturating_sub(1).max(1) as f64)
            }
        };
        turns * layout.scales[axis]
    };
    Ok(axes.iter().enumerate().map(frequency).collect())
}
