//! A made-up experiment for tests: a moving picture, and recipes that lose it at different rates.

use super::experiment::{CacheBytes, Experiment, RecipeSummary, Rgb8Frame, Run, Segment, Series, Timing};

const SIDE: usize = 32;
const GIVEN: usize = 9;

/// A hash of a few numbers onto 0..1, in place of a random generator.
fn noise(numbers: [usize; 3]) -> f64 {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for number in numbers {
        state = (state ^ number as u64).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state ^= state >> 29;
    }
    (state >> 40) as f64 / (1_u64 << 24) as f64
}

fn frame(scene: usize, index: usize, blur: f64) -> Rgb8Frame {
    let mut rgb = Vec::with_capacity(SIDE * SIDE * 3);
    for position in 0..SIDE * SIDE {
        let (x, y) = ((position % SIDE) as f64 + index as f64 * 0.3, (position / SIDE) as f64);
        for channel in 0..3 {
            let phase = (scene * 3 + channel) as f64;
            let clean = 128.0 + 70.0 * (x * 0.35 + phase).sin() * (y * 0.22 + phase * 0.7).cos();
            let grain = 60.0 * blur * (noise([position, index, channel + 3 * scene]) - 0.5);
            rgb.push((clean * (1.0 - blur) + 128.0 * blur + grain).clamp(0.0, 255.0) as u8);
        }
    }
    let (left, top) = ((index / 2 + scene * 7) % (SIDE - 6), (index / 3 + 4) % (SIDE - 6));
    for y in top..top + 6 {
        for x in left..left + 6 {
            let colour = [230.0 - 120.0 * blur, 60.0 + 90.0 * blur, 50.0 + 60.0 * blur];
            for (channel, value) in colour.into_iter().enumerate() {
                rgb[(y * SIDE + x) * 3 + channel] = value as u8;
            }
        }
    }
    Rgb8Frame { width: SIDE, height: SIDE, rgb }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn run(name: &str, loss: f64, scene: usize, frames: usize) -> Run {
    let scatter = noise([scene, name.len(), 77]) - 0.5;
    let age = |index: usize| index.saturating_sub(GIVEN - 1) as f64 / (frames - GIVEN) as f64;
    let blur = |index: usize| (age(index) * loss * (1.0 + 0.3 * scatter)).clamp(0.0, 1.0);
    let series_of = |value: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
        (0..frames).map(|index| value(blur(index), noise([index, scene, name.len()]) - 0.5)).collect()
    };
    let mut series = Series {
        bg_psnr: series_of(&|b, n| 27.0 + scene as f64 - 13.0 * b + n * 2.0),
        ident: series_of(&|b, n| (0.95 - 0.6 * b + n * 0.05).clamp(0.0, 1.0)),
        colour: series_of(&|b, n| 0.05 + 0.3 * b + n * 0.02),
        sat: series_of(&|b, n| 0.4 - 0.2 * b + n * 0.02),
        motion: series_of(&|b, n| 1.0 - 0.5 * b + n * 0.1),
        motion_real: vec![1.0; frames],
    };
    // A given frame is the real one, so its error is zero and its PSNR is not a number one can average.
    series.bg_psnr[..GIVEN].fill(f64::INFINITY);
    let bounds: Vec<usize> = (0..=4).map(|part| GIVEN + (frames - GIVEN) * part / 4).collect();
    let segments = bounds
        .windows(2)
        .map(|pair| {
            let (start, end) = (pair[0], pair[1]);
            let of = |values: &[f64]| mean(&values[start..end]);
            let (bg_psnr, ident) = (of(&series.bg_psnr), of(&series.ident));
            Segment {
                start,
                end,
                bg_psnr,
                ident,
                colour: of(&series.colour),
                sat: of(&series.sat),
                motion_ratio: of(&series.motion) / of(&series.motion_real),
                quality: (bg_psnr * 2.0 + ident * 40.0).clamp(0.0, 100.0),
            }
        })
        .collect();
    Run {
        work: Default::default(),
        recipe: name.to_owned(),
        scene,
        frames: (0..frames).map(|index| frame(scene, index, blur(index))).collect(),
        series,
        segments,
        cache: CacheBytes {
            peak: if name == "full" { 3_932_160 } else { 524_288 },
            window: if name == "full" { 3_932_160 } else { 393_216 },
            full_history: 3_932_160,
        },
        timing: Timing {
            chunks: (frames - GIVEN) / 3,
            model_ms_per_chunk: 41.5 + loss,
            cache_ms_per_chunk: 0.75,
            attention_ms_per_chunk: 12.25,
        },
    }
}

/// `scenes` scenes of `frames` frames (more than 9) under the recipes that the command line ships.
pub(crate) fn experiment(scenes: usize, frames: usize) -> Experiment {
    let recipes = [
        ("fifo", 0.95, "keeps the newest frames"),
        ("sink-recent", 0.9, "keeps the first frames and the newest"),
        ("uniform-archive", 0.6, "keeps an evenly spread archive"),
        ("tethercache", 0.35, "keeps anchors and what attention needs"),
        ("full", 0.2, "keeps everything"),
    ];
    Experiment {
        reuse: None,
        frames,
        given_frames: GIVEN,
        budget: 24,
        steps: 4,
        seed: 7,
        scenes,
        baseline: "fifo".to_owned(),
        reference: (0..scenes)
            .map(|scene| (0..frames).map(|index| frame(scene, index, 0.0)).collect())
            .collect(),
        runs: recipes
            .iter()
            .flat_map(|(name, loss, _)| (0..scenes).map(move |scene| run(name, *loss, scene, frames)))
            .collect(),
        recipes: recipes
            .iter()
            .map(|(name, _, description)| RecipeSummary {
                name: (*name).to_owned(),
                toml: format!("name = \"{name}\"\n"),
                description: (*description).to_owned(),
            })
            .collect(),
    }
}
