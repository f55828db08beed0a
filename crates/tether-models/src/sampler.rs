//! Drawing a chunk from noise.

use serde::{Deserialize, Serialize};

use tether_reuse::Place;

use crate::attention::ChunkAttention;
use crate::step_reuse::PlaceHook;
use crate::{ForwardError, ModelError, TinyVideo, Workspace};

/// The noise levels that a chunk passes through, from 1 down to 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    times: Vec<f32>,
}

impl Schedule {
    /// The shift that TinyVideo is sampled with.
    pub const SHIFT: f64 = 2.0;
    /// The number of steps that TinyVideo is sampled with.
    pub const STEPS: usize = 5;

    /// `steps` steps over `t = s u / (1 + (s - 1) u)`, `u` evenly spaced: a shift `s` above 1 spends more steps on
    /// high noise.
    ///
    /// # Errors
    /// [`ModelError::OutOfRange`] when `steps` is 0 or above 1000, or `shift` is not positive and finite.
    pub fn shifted(steps: usize, shift: f64) -> Result<Self, ModelError> {
        if !(1..=1000).contains(&steps) {
            return Err(ModelError::OutOfRange {
                what: "steps",
                value: steps as f64,
                requirement: "must lie in 1..=1000",
            });
        }
        if !(shift > 0.0 && shift.is_finite()) {
            return Err(ModelError::OutOfRange {
                what: "shift",
                value: shift,
                requirement: "must be positive and finite",
            });
        }
        let time = |i: usize| {
            let u = (steps - i) as f64 / steps as f64;
            (shift * u / (1.0 + (shift - 1.0) * u)) as f32
        };
        Ok(Self { times: (0..=steps).map(time).collect() })
    }

    /// The noise levels: one more than there are steps, the last is 0.
    pub fn times(&self) -> &[f32] {
        &self.times
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self::shifted(Self::STEPS, Self::SHIFT).expect("the default schedule is in range")
    }
}

/// Draws the clean chunk that `noise` leads to: one Euler step per interval of `schedule`, then clamped to [-1, 1].
///
/// `noise` holds `[192, 48]` standard normals; the result has the same shape. The pass at `t` = 0 that
/// writes the chunk's keys and values into a cache is not included: run [`TinyVideo::forward`] on the result.
///
/// # Errors
/// As [`TinyVideo::forward`].
pub fn sample_chunk<A: ChunkAttention>(
    model: &TinyVideo,
    ws: &mut Workspace,
    noise: &[f32],
    schedule: &Schedule,
    attention: &mut A,
) -> Result<Vec<f32>, ForwardError<A::Error>> {
    sample_chunk_hooked(model, ws, noise, schedule.times(), attention, &mut (), |_, _| {})
}

/// [`sample_chunk`] over the noise levels `times`, with places that `hook` may leave out. `begins` is told the number of every step.
///
/// # Errors
/// As [`TinyVideo::forward_hooked`].
pub fn sample_chunk_hooked<A: ChunkAttention, H: PlaceHook>(
    model: &TinyVideo,
    ws: &mut Workspace,
    noise: &[f32],
    times: &[f32],
    attention: &mut A,
    hook: &mut H,
    mut begins: impl FnMut(&mut H, u32),
) -> Result<Vec<f32>, ForwardError<A::Error>> {
    let mut x = noise.to_vec();
    let mut velocity = vec![0.0; x.len()];
    let mut before = Vec::new();
    for (step, pair) in times.windows(2).enumerate() {
        begins(hook, step as u32);
        let solver = hook.watches(Place::Solver);
        if solver {
            before.clone_from(&x);
            if !hook.computes(Place::Solver, &before, &mut x)? {
                continue;
            }
        }
        let whole = hook.watches(Place::Model);
        if !whole || hook.computes(Place::Model, &x, &mut velocity)? {
            model.forward_hooked(ws, &x, pair[0], attention, &mut (), hook, &mut velocity)?;
            if whole {
                hook.computed(Place::Model, &x, &velocity)?;
            }
        }
        let step = pair[1] - pair[0];
        for (x, v) in x.iter_mut().zip(&velocity) {
            *x += step * v;
        }
        if solver {
            hook.computed(Place::Solver, &before, &x)?;
        }
    }
    for x in &mut x {
        *x = x.clamp(-1.0, 1.0);
    }
    Ok(x)
}
