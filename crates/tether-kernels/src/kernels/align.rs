//! Statistics alignment (TAME): targets from moments, the edit in place, and what it does to the moments.

use cubecl::prelude::*;

/// Own and target statistics of every job and channel: `[jobs, 4, channels]` with mean, deviation, target mean, target deviation.
/// The slots of job `j` are `own[own_at[j]..own_at[j + 1]]`, the trusted ones likewise.
#[cube(launch)]
pub(crate) fn job_statistics(
    moments: &Array<f32>,
    own: &Array<u32>,
    own_at: &Array<u32>,
    trusted: &Array<u32>,
    trusted_at: &Array<u32>,
    out: &mut Array<f32>,
    tokens: u32,
    channels: u32,
    floor: f32,
) {
    let width = channels as usize;
    if ABSOLUTE_POS < out.len() / 4 {
        let job = ABSOLUTE_POS / width;
        let channel = ABSOLUTE_POS % width;
        let place = job * 4 * width + channel;
        let (mean, sd) = pooled(moments, own, own_at[job], own_at[job + 1], tokens, channels, channel as u32);
        out[place] = mean;
        out[place + width] = sd.max(floor);
        let (mean, sd) =
            pooled(moments, trusted, trusted_at[job], trusted_at[job + 1], tokens, channels, channel as u32);
        out[place + 2 * width] = mean;
        out[place + 3 * width] = sd.max(floor);
    }
}

/// Mean and population deviation of a channel over slots `slots[from..to]`, all of `tokens` tokens.
#[cube]
fn pooled(
    moments: &Array<f32>,
    slots: &Array<u32>,
    from: u32,
    to: u32,
    tokens: u32,
    channels: u32,
    channel: u32,
) -> (f32, f32) {
    let count = f32::cast_from(to - from);
    let mut mean = 0.0f32;
    for i in from..to {
        mean += moments[(slots[i as usize] * 2 * channels + channel) as usize];
    }
    mean /= count;
    let mut variance = 0.0f32;
    for i in from..to {
        let place = slots[i as usize] * 2 * channels + channel;
        let d = moments[place as usize] - mean;
        variance += moments[(place + channels) as usize] / f32::cast_from(tokens) + d * d;
    }
    (mean, (variance / count).sqrt())
}

/// Edits unit `u` (slot `slots[u]`) by the statistics of job `job_of[u]`.
#[cube(launch)]
pub(crate) fn align_units<F: Float>(
    statistics: &Array<f32>,
    slots: &Array<u32>,
    job_of: &Array<u32>,
    store: &mut Array<F>,
    tokens: u32,
    channels: u32,
    tau: f32,
) {
    let width = channels as usize;
    let len = (tokens * channels) as usize;
    let unit = ABSOLUTE_POS / len;
    if unit < slots.len() {
        let within = ABSOLUTE_POS % len;
        let channel = within % width;
        let place = job_of[unit] as usize * 4 * width + channel;
        let at = slots[unit] as usize * len + within;
        let x = f32::cast_from(store[at]);
        // Centred before it is scaled: a x + b cancels badly where the deviation is at its floor.
        let z = (x - statistics[place]) / statistics[place + width];
        let pulled = z * statistics[place + 3 * width] + statistics[place + 2 * width];
        store[at] = F::cast_from((1.0 - tau) * x + tau * pulled);
    }
}

/// The moments of the edited units, in closed form.
#[cube(launch)]
pub(crate) fn align_moments(
    statistics: &Array<f32>,
    slots: &Array<u32>,
    job_of: &Array<u32>,
    moments: &mut Array<f32>,
    channels: u32,
    tau: f32,
) {
    let width = channels as usize;
    let unit = ABSOLUTE_POS / width;
    if unit < slots.len() {
        let channel = ABSOLUTE_POS % width;
        let place = job_of[unit] as usize * 4 * width + channel;
        let sd = statistics[place + width];
        let target_sd = statistics[place + 3 * width];
        let at = slots[unit] as usize * 2 * width + channel;
        let mean = moments[at];
        let pulled = (mean - statistics[place]) / sd * target_sd + statistics[place + 2 * width];
        moments[at] = (1.0 - tau) * mean + tau * pulled;
        let scale = (1.0 - tau) + tau * target_sd / sd;
        moments[at + width] = scale * scale * moments[at + width];
    }
}
