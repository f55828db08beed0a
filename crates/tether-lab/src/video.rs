//! `tether video`: one model, several recipes, the same scenes and noise.

mod args;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use tether_models::{Scene, Schedule, TinyVideo, VideoReuse};
use tether_reuse::{Profile, ReuseRecipe};
use tethercache::Recipe;
use tethercache::layout::Extent;

pub use self::args::VideoArgs;
use crate::artefacts::{
    ArtefactFiles, Experiment, GifOptions, RecipeSummary, Run, default_sheet_frames, summary_table,
    write_gif, write_plot, write_report_json, write_report_md, write_sheet,
};
use crate::budget::{CHUNK, fitted};
use crate::device;
use crate::progress;
use crate::rollout::{GIVEN, Reuse, Rollout, SEGMENTS, picture};
use crate::usage::Usage;
use crate::workers::make_all;

/// Scenes that get an animation and rows of the contact sheet; the statistics use all of them.
const SHOWN: usize = 2;

/// Runs the subcommand.
///
/// # Errors
/// What cannot be read, made or written.
pub fn run(args: &VideoArgs) -> Result<()> {
    device::check(args.device)?;
    check_sizes(args)?;
    let recipes = recipes(args)?;
    let schedule = Schedule::shifted(args.steps, Schedule::SHIFT).map_err(|e| Usage(e.to_string()))?;
    let model = TinyVideo::bundled().context("cannot load the bundled model")?;
    let scenes: Vec<Scene> = (0..args.scenes as u64).map(|i| Scene::sample(args.seed, i)).collect();
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;

    let reuse = args.reuse.as_deref().map(|policy| reuse(policy, args, &model, &schedule)).transpose()?;
    let runs = roll_out_all(args, &model, &schedule, &scenes, &recipes, reuse.as_ref())?;
    let experiment = Experiment {
        frames: args.frames,
        given_frames: GIVEN,
        budget: args.budget,
        steps: args.steps,
        reuse: args.reuse.clone(),
        seed: args.seed,
        scenes: args.scenes,
        baseline: if recipes.iter().any(|r| r.name == "fifo") {
            "fifo".into()
        } else {
            recipes[0].name.clone()
        },
        reference: scenes
            .iter()
            .map(|s| (0..args.frames).map(|t| picture(&s.render(t as f32))).collect())
            .collect(),
        runs,
        recipes: recipes.iter().map(summarise).collect::<Result<_>>()?,
    };
    write_artefacts(args, &experiment)
}

/// Step reuse as asked for; what is wrong with it is found before any video is made.
fn reuse(policy: &str, args: &VideoArgs, model: &TinyVideo, schedule: &Schedule) -> Result<Reuse> {
    let recipe = ReuseRecipe::parse(policy)?;
    let profile = args.reuse_profile.as_deref().map(Profile::load).transpose()?;
    let mut video = VideoReuse::new(model, recipe.clone(), profile.as_ref())?;
    if let Some(profile) = &profile {
        profile.header.check(&VideoReuse::plan(model, schedule))?;
    }
    video.begin_chunk(&VideoReuse::plan(model, schedule))?;
    Ok(Reuse { recipe, profile })
}

/// The recipes to compare, fitted into the budget.
fn recipes(args: &VideoArgs) -> Result<Vec<Recipe>> {
    let mut names: Vec<&str> = args.recipe.iter().map(|n| n.trim()).collect();
    if names.is_empty() {
        names = vec!["fifo", "sink-recent", "uniform-archive", "tethercache"];
        // Positions that the model was not trained on: slow, and worth seeing once there are statistics.
        if args.scenes > 1 {
            names.push("full");
        }
    }
    let recipes = names.into_iter().map(|name| fitted(name, args.budget, &args.overrides));
    let recipes = recipes.collect::<Result<Vec<Recipe>>>()?;
    // After the overrides: they may have renamed one.
    for (i, recipe) in recipes.iter().enumerate() {
        if recipes[..i].iter().any(|r| r.name == recipe.name) {
            return Err(Usage(format!("recipe {} is named twice", recipe.name)).into());
        }
    }
    Ok(recipes)
}

fn check_sizes(args: &VideoArgs) -> Result<()> {
    let problem = if args.frames <= GIVEN || !args.frames.is_multiple_of(CHUNK) || args.frames > 100_000 {
        format!("--frames {}: must be a multiple of {CHUNK}, above {GIVEN} and at most 100000", args.frames)
    } else if args.frames < GIVEN + SEGMENTS {
        format!(
            "--frames {}: at least {} are needed to score {SEGMENTS} parts",
            args.frames,
            GIVEN + SEGMENTS
        )
    } else if args.budget > 100_000 {
        format!("--budget {}: must be at most 100000", args.budget)
    } else if !(1..=1000).contains(&args.scenes) {
        format!("--scenes {}: must lie between 1 and 1000", args.scenes)
    } else if args.jobs == Some(0) {
        "--jobs 0: must be at least 1".to_owned()
    } else {
        return Ok(());
    };
    Err(Usage(problem).into())
}

fn summarise(recipe: &Recipe) -> Result<RecipeSummary> {
    let summary = recipe.about.as_ref().map_or("", |about| &about.summary);
    Ok(RecipeSummary {
        name: recipe.name.clone(),
        toml: recipe.to_toml()?,
        description: format!("{summary} ({})", sizes(recipe)),
    })
}

/// Region sizes in words.
fn sizes(recipe: &Recipe) -> String {
    let layout = &recipe.layout;
    let Extent::Units(recent) = layout.recent else {
        return "no bound".to_owned();
    };
    let parts = [("sink", layout.sink), ("memory", layout.memory), ("recent", recent)];
    let parts: Vec<String> =
        parts.iter().filter(|p| p.1 > 0).map(|(name, n)| format!("{name} {n}")).collect();
    format!("{} frames", parts.join(", "))
}

/// Every recipe on every scene.
fn roll_out_all(
    args: &VideoArgs,
    model: &TinyVideo,
    schedule: &Schedule,
    scenes: &[Scene],
    recipes: &[Recipe],
    reuse: Option<&Reuse>,
) -> Result<Vec<Run>> {
    let work: Vec<(usize, &Recipe)> =
        (0..scenes.len()).flat_map(|scene| recipes.iter().map(move |r| (scene, r))).collect();
    let chunks = (work.len() * args.frames / CHUNK) as u64;
    let bar = progress::bar(chunks, "{msg:24} {bar:40} {pos}/{len} chunks, {eta} left", "")?;
    let runs = make_all(work.len(), args.jobs, |index| {
        let (scene, recipe) = work[index];
        bar.set_message(format!("{}, scene {scene}", recipe.name));
        let scene_of = (scene, &scenes[scene]);
        let (seed, frames) = (args.seed, args.frames);
        let rollout = Rollout { seed, frames, model, schedule, scene: scene_of, recipe, reuse, bar: &bar };
        device::roll_out(args.device, &rollout)
            .with_context(|| format!("recipe {}, scene {scene}", recipe.name))
    });
    bar.finish_and_clear();
    runs
}

fn write_artefacts(args: &VideoArgs, experiment: &Experiment) -> Result<()> {
    let at = |name: &str| args.out.join(name);
    let shown = experiment.scenes.min(SHOWN);
    let mut files =
        ArtefactFiles { sheet: "sheet.png".into(), plot: "quality.svg".into(), ..Default::default() };
    for scene in 0..shown {
        let name = if shown == 1 { "video.gif".to_owned() } else { format!("video-{scene}.gif") };
        write_gif(&at(&name), experiment, scene, GifOptions::default())?;
        files.gifs.push(name);
    }
    let pictured = first_scenes(experiment, shown);
    write_sheet(&at(&files.sheet), &pictured, &default_sheet_frames(experiment.frames, GIVEN))?;
    write_plot(&at(&files.plot), experiment)?;
    let with_timings = !args.no_timings;
    write_report_json(&at("report.json"), experiment, &files, with_timings)?;
    write_report_md(&at("report.md"), experiment, &files, with_timings)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        out.write_all(read(&at("report.json"))?.as_bytes())?;
    } else {
        out.write_all(summary_table(experiment).as_bytes())?;
        let names: Vec<&str> =
            files.gifs.iter().map(String::as_str).chain([&*files.sheet, &*files.plot]).collect();
        writeln!(out, "\n{}: {}, report.md, report.json", args.out.display(), names.join(", "))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn first_scenes(experiment: &Experiment, scenes: usize) -> Experiment {
    Experiment {
        scenes,
        reference: experiment.reference[..scenes].to_vec(),
        runs: experiment.runs.iter().filter(|r| r.scene < scenes).cloned().collect(),
        ..experiment.clone()
    }
}
