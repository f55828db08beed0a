//! `tether eval reuse`.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use tether_models::{
    Frame, Scene, Schedule, TinyVideo, VideoReuse, VideoSession, drift, frame_metrics, psnr, segment_scores,
    ssim,
};
use tether_reuse::{Profile, ReuseRecipe, ReuseStats};
use tethercache::Recipe;
use tethercache::host::Host;

use super::args::EvalReuseArgs;
use super::draw::{self, Line};
use super::pareto::ParetoPoint;
use crate::budget::{CHUNK, fitted};
use crate::calibration::Calibration;
use crate::estimate::Estimate;
use crate::rollout::{GIVEN, SEGMENTS, for_each_chunk, give};
use crate::table::{Table, numbers, words};
use crate::usage::Usage;
use crate::workers::make_all;

/// Scenes and frames that profiles are measured on.
const CALIBRATION: (usize, usize) = (4, 15);
/// Added to the seed for them.
const OTHER_SEED: u64 = 1000;

/// What is compared unless something else is asked for: few steps, and many.
fn defaults(steps: usize) -> Vec<&'static str> {
    if steps <= 12 {
        return vec![
            "easycache:threshold=0.1,guard.warmup=2,guard.max_consecutive=1",
            "ertacache:lambda=0.2",
            "profiling-dit:start=1,refresh={every=2}",
            "flowcache:threshold=0.3,chunk_warmup=2,guard.max_consecutive=1",
            "teacache:threshold=0.3,guard.max_consecutive=1",
            "magcache:guard.max_consecutive=1",
            "fora:interval=2",
            "pab:temporal={range=2,above=0.1,below=0.95}",
            "adacache:guard.max_consecutive=1",
            "taylorseer:interval=2,first=2",
            "dbcache:threshold=0.1,guard.warmup=2,guard.max_consecutive=1",
            "fastercache:start=2,interval=2",
        ];
    }
    vec![
        "easycache:threshold=0.0025",
        "easycache:threshold=0.005",
        "easycache:threshold=0.01",
        "easycache:threshold=0.025",
        "easycache",
        "easycache:threshold=0.025,forecast={order=1}",
        "ertacache:lambda=0.04",
        "ertacache:lambda=0.08",
        "profiling-dit",
        "flowcache:threshold=0.05",
        "flowcache:threshold=0.2",
        "teacache:threshold=0.1",
        "teacache:threshold=0.2",
        "magcache",
        "magcache:threshold=0.24,most=6",
        "fora",
        "pab",
        "adacache",
        "taylorseer",
        "dbcache:threshold=0.08",
        "fastercache",
    ]
}

/// One video.
#[derive(Clone, Debug, Serialize)]
struct Video {
    multiply_adds: u64,
    /// Of all generated chunks, on one thread; none when times are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    quality: f64,
    drift: f64,
    psnr: f64,
    ssim: f64,
    /// PSNR of the first chunk alone, before differences have fed on themselves.
    first_psnr: f64,
    stats: ReuseStats,
}

/// A video's frames, and what was measured of it.
type Made = (Vec<Frame>, Video);

/// A policy's videos, one a scene.
#[derive(Debug, Serialize)]
struct Row {
    policy: String,
    steps: usize,
    videos: Vec<Video>,
}

impl Row {
    fn mean(&self, value: impl Fn(&Video) -> f64) -> Estimate {
        Estimate::of(self.videos.iter().map(value))
    }

    fn reused(&self) -> f64 {
        let mut stats = ReuseStats::default();
        self.videos.iter().for_each(|v| stats.add(&v.stats));
        stats.share()
    }

    /// Seconds of a video, where every one was timed.
    fn seconds(&self) -> Option<Estimate> {
        let all: Option<Vec<f64>> = self.videos.iter().map(|v| v.seconds).collect();
        all.map(Estimate::of)
    }

    fn total(&self, value: impl Fn(&Video) -> f64) -> f64 {
        self.videos.iter().map(value).sum()
    }
}

/// What a video is made with.
struct Setting<'a> {
    args: &'a EvalReuseArgs,
    model: &'a TinyVideo,
    schedule: &'a Schedule,
    cache: &'a Recipe,
    reuse: Option<(&'a ReuseRecipe, Option<&'a Profile>)>,
}

/// Runs the subcommand.
pub(crate) fn run(args: &EvalReuseArgs) -> Result<()> {
    let fits = args.frames >= GIVEN + SEGMENTS && args.frames.is_multiple_of(CHUNK) && args.frames <= 100_000;
    if !fits || args.scenes == 0 || args.jobs == Some(0) || args.steps.is_empty() {
        let least = (GIVEN + SEGMENTS).next_multiple_of(CHUNK);
        let problem = format!(
            "--frames must be a multiple of {CHUNK}, at least {least}; --scenes, --jobs and --steps at least 1"
        );
        return Err(Usage(problem).into());
    }
    let cache = fitted(&args.recipe, args.budget, &[])?;
    let model = TinyVideo::bundled().context("cannot load the bundled model")?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let mut numbers = std::fs::File::create(args.out.join("numbers.jsonl"))?;
    let (mut page, mut points) = (String::new(), Vec::new());
    let table = table(!args.no_timings);
    for &steps in &args.steps {
        let schedule = Schedule::shifted(steps, Schedule::SHIFT).map_err(|e| Usage(e.to_string()))?;
        let asked: Vec<String> = if args.policy.is_empty() {
            defaults(steps).into_iter().map(str::to_owned).collect()
        } else {
            args.policy.clone()
        };
        let bare = Setting { args, model: &model, schedule: &schedule, cache: &cache, reuse: None };
        let full = make_videos(&bare, None)?;
        let reference: Vec<Vec<Frame>> = full.iter().map(|(frames, _)| frames.clone()).collect();
        let mut rows = vec![row("none", steps, full)];
        writeln!(numbers, "{}", serde_json::to_string(&rows[0])?)?;
        let mut profiles: BTreeMap<(String, String), Profile> = BTreeMap::new();
        for text in &asked {
            let (recipe, lambda) = parse(text)?;
            let profile = profile(&mut profiles, &recipe, lambda, &model, &schedule, args.seed)?;
            let setting = Setting { reuse: Some((&recipe, profile)), ..bare };
            let videos = make_videos(&setting, Some(&reference)).with_context(|| format!("policy {text}"))?;
            let row = row(text, steps, videos);
            writeln!(numbers, "{}", serde_json::to_string(&row)?)?;
            eprint!("{}", table.line(cells(&row, &rows[0])));
            rows.push(row);
        }
        page.push_str(&format!("## {steps} steps\n\n{}", table.head()));
        rows.iter().for_each(|row| page.push_str(&table.line(cells(row, &rows[0]))));
        page.push('\n');
        points.extend(rows[1..].iter().map(|r| {
            Line::Pareto(ParetoPoint {
                steps,
                scenes: args.scenes,
                policy: family(&r.policy),
                x: rows[0].total(|v| v.multiply_adds as f64) / r.total(|v| v.multiply_adds as f64),
                y: r.mean(|v| v.psnr),
            })
        }));
    }
    draw::leave(&points, &args.out, "points.jsonl")?;
    std::fs::write(args.out.join("table.md"), &page)?;
    std::io::stdout().lock().write_all(page.as_bytes())?;
    Ok(())
}

fn table(with_timings: bool) -> Table {
    let times: &[&str] = if with_timings { &["seconds a video", "speed-up by time"] } else { &[] };
    let heads = [
        &["steps reused", "work done", "speed-up by work"][..],
        times,
        &["PSNR dB", "first chunk dB", "SSIM", "final quality", "drift"],
    ];
    let heads = heads.concat().into_iter().map(numbers);
    Table::new(std::iter::once(words("policy")).chain(heads))
}

fn cells(row: &Row, full: &Row) -> Vec<String> {
    let share = row.total(|v| v.multiply_adds as f64) / full.total(|v| v.multiply_adds as f64);
    let same = std::ptr::eq(row, full);
    let near = |e: Estimate, digits| if same { "-".to_owned() } else { e.with_error(digits) };
    let mut cells = vec![
        format!("`{}`", row.policy),
        format!("{:.0}%", 100.0 * row.reused()),
        format!("{:.1}%", 100.0 * share),
        format!("{:.2}", 1.0 / share),
    ];
    if let (Some(of_row), Some(of_full)) = (row.seconds(), full.seconds()) {
        cells.extend([of_row.with_error(2), format!("{:.2}", of_full.mean / of_row.mean)]);
    }
    cells.extend([
        near(row.mean(|v| v.psnr), 1),
        near(row.mean(|v| v.first_psnr), 1),
        near(row.mean(|v| v.ssim), 3),
        row.mean(|v| v.quality).with_error(1),
        row.mean(|v| v.drift).with_error(1),
    ]);
    cells
}

/// What settings that differ in a threshold only have in common.
fn family(policy: &str) -> String {
    let name = policy.split(':').next().unwrap_or_default();
    if policy.contains("forecast=") { format!("{name}, forecast") } else { name.to_owned() }
}

/// A policy and, where it is one of calibration, its threshold.
fn parse(text: &str) -> Result<(ReuseRecipe, f64)> {
    let (name, settings) = text.split_once(':').unwrap_or((text, ""));
    let (lambda, rest): (Vec<&str>, Vec<&str>) = settings.split(',').partition(|s| s.starts_with("lambda="));
    let lambda = match lambda.first() {
        Some(l) => l["lambda=".len()..].parse().map_err(|_| Usage(format!("{text}: {l} is no number")))?,
        None => 0.08,
    };
    let rest = rest.join(",");
    let plain = if rest.is_empty() { name.to_owned() } else { format!("{name}:{rest}") };
    Ok((ReuseRecipe::parse(&plain)?, lambda))
}

/// The profile that a policy needs, measured once for each threshold.
fn profile<'p>(
    known: &'p mut BTreeMap<(String, String), Profile>,
    recipe: &ReuseRecipe,
    lambda: f64,
    model: &TinyVideo,
    schedule: &Schedule,
    seed: u64,
) -> Result<Option<&'p Profile>> {
    let name = recipe.name();
    if !recipe.catalogued().is_some_and(|row| row.needs_profile) && name != "teacache" {
        return Ok(None);
    }
    let key = (name.to_owned(), if name == "ertacache" { lambda.to_string() } else { String::new() });
    if !known.contains_key(&key) {
        let (scenes, frames) = CALIBRATION;
        let seed = seed.wrapping_add(OTHER_SEED);
        let calibration = Calibration { model, schedule, scenes, frames, seed, lambda, tau: f32::NAN };
        let profile = match name {
            "profiling-dit" => half_of_the_blocks(&calibration)?,
            _ => calibration.profile(name)?,
        };
        known.insert(key.clone(), profile);
    }
    Ok(known.get(&key))
}

/// The half of the blocks that attend least to the foreground: what a threshold means depends on the model.
fn half_of_the_blocks(calibration: &Calibration<'_>) -> Result<Profile> {
    let all = Calibration { tau: f32::INFINITY, ..*calibration }.profile("profiling-dit")?;
    let tether_reuse::ProfileData::Blocks { foreground, .. } = &all.data else { return Ok(all) };
    let mut sorted = foreground.clone();
    sorted.sort_by(f32::total_cmp);
    let tau = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    Calibration { tau, ..*calibration }.profile("profiling-dit")
}

fn row(policy: &str, steps: usize, videos: Vec<Made>) -> Row {
    Row { policy: policy.to_owned(), steps, videos: videos.into_iter().map(|(_, v)| v).collect() }
}

/// Every scene.
fn make_videos(setting: &Setting<'_>, full: Option<&[Vec<Frame>]>) -> Result<Vec<Made>> {
    make_all(setting.args.scenes, setting.args.jobs, |index| {
        make(setting, index, full.map(|f| &f[index][..]))
    })
}

fn make(setting: &Setting<'_>, index: usize, full: Option<&[Frame]>) -> Result<Made> {
    let &Setting { args, model, schedule, cache, reuse } = setting;
    let scene = Scene::sample(args.seed, index as u64);
    let mut session = VideoSession::new(model, cache.clone(), schedule.clone(), Host::new())?;
    if let Some((recipe, profile)) = reuse {
        session = session.with_reuse(VideoReuse::new(model, recipe.clone(), profile)?);
    }
    let mut frames = give(&mut session, &scene, || ())?;
    let given = session.timing();
    let started = Instant::now();
    for_each_chunk(model, (args.seed, index as u64), args.frames, |_, noise| {
        frames.extend(session.generate(noise)?);
        Ok(())
    })?;
    let seconds = (!args.no_timings).then(|| started.elapsed().as_secs_f64());
    let segments = segment_scores(&frame_metrics(&scene, &frames)?, GIVEN, SEGMENTS)?;
    let full = full.unwrap_or(&frames);
    let against = |value: fn(&Frame, &Frame) -> f64, end: usize| {
        Estimate::of((GIVEN..end).map(|i| value(&frames[i], &full[i]))).mean
    };
    let video = Video {
        multiply_adds: session.timing().multiply_adds - given.multiply_adds,
        seconds,
        quality: segments.last().map_or(f64::NAN, |s| s.quality),
        drift: drift(&segments).unwrap_or(f64::NAN),
        psnr: against(psnr, frames.len()),
        ssim: against(ssim, frames.len()),
        first_psnr: against(psnr, GIVEN + CHUNK),
        stats: session.reuse().map(|r| r.stats().clone()).unwrap_or_default(),
    };
    Ok((frames, video))
}
