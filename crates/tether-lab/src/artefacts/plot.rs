//! The plot: quality over time, as a vector picture.

use std::path::Path;

use anyhow::Result;

use super::experiment::Experiment;
use super::summary::Summary;
use crate::chart::{Axis, Figure, Lines, Panel, Point, Series, Swatch};
use crate::estimate::Estimate;

/// Frames that a smoothed value averages.
const SMOOTH: usize = 9;
const HEIGHT: u32 = 330;

/// Writes the plot.
///
/// # Errors
/// When the experiment is incomplete or the file cannot be written.
pub(crate) fn write_plot(path: &Path, experiment: &Experiment) -> Result<()> {
    figure(experiment)?.write(path)
}

fn figure(experiment: &Experiment) -> Result<Figure> {
    experiment.validate()?;
    let axes = |x: &str, y: &str| {
        let end = (experiment.frames - 1).max(1) as f64;
        let x = Axis { label: x.to_owned(), ends: Some((0.0, end)), ..Axis::default() };
        (x, Axis { label: y.to_owned(), ..Axis::default() })
    };
    let given = experiment.given_frames > 0;
    let shade = given.then_some((0.0, experiment.given_frames as f64 - 0.5));
    let evicts = experiment.budget < experiment.frames;
    let panel = |(x, y), series| {
        let dashes = evicts.then_some(experiment.budget as f64);
        Panel::Lines(Lines { x, y, height: HEIGHT, series, shade, dashes, ..Lines::default() })
    };
    let names = experiment.recipes.iter().enumerate();
    let mut legend: Vec<(Swatch, String)> =
        names.map(|(index, recipe)| (Swatch::Series(index), recipe.name.clone())).collect();
    if given {
        legend.push((Swatch::Shade, "given frames".to_owned()));
    }
    if evicts {
        let text = format!("window full at frame {}: eviction begins", experiment.budget);
        legend.push((Swatch::Dashes, text));
    }
    let panels = vec![
        panel(axes("", "background PSNR (dB)"), numbered(smoothed_psnr(experiment), false)),
        panel(axes("frame", "quality Q"), numbered(quality(experiment), true)),
    ];
    Ok(Figure { legend, columns: 1, panels })
}

fn numbered(lines: Vec<Vec<Point>>, marked: bool) -> Vec<Series> {
    lines.into_iter().enumerate().map(|(number, points)| Series { number, points, marked }).collect()
}

/// The quality of each part of the video.
fn quality(experiment: &Experiment) -> Vec<Vec<Point>> {
    let summary = Summary::of(experiment);
    let recipes = summary.recipes.iter().enumerate().map(|(index, recipe)| {
        // A little apart, so that the intervals of several recipes do not hide one another.
        let aside =
            (index as f64 - (summary.recipes.len() - 1) as f64 / 2.0) * experiment.frames as f64 * 0.006;
        let middle = |start: usize, end: usize| (start + end - 1) as f64 / 2.0 + aside;
        recipe.segments.iter().map(|s| Point { x: middle(s.start, s.end), y: s.quality }).collect()
    });
    recipes.collect()
}

/// Background PSNR of the generated frames of each recipe: the mean over scenes, then over time.
///
/// The given frames are left out because they are the real video itself, and they must not leak into the
/// first smoothed values either.
fn smoothed_psnr(experiment: &Experiment) -> Vec<Vec<Point>> {
    let first = experiment.given_frames;
    let of_recipe = |name: &str| -> Vec<Point> {
        let means: Vec<f64> = (first..experiment.frames)
            .map(|frame| Estimate::of(experiment.runs_of(name).map(|run| run.series.bg_psnr[frame])).mean)
            .collect();
        let point = |(offset, mean)| {
            let y = Estimate { mean, se: None, n: experiment.scenes };
            Point { x: (first + offset) as f64, y }
        };
        smooth(&means, SMOOTH).into_iter().enumerate().map(point).collect()
    };
    experiment.recipes.iter().map(|recipe| of_recipe(&recipe.name)).collect()
}

/// The mean of `width` values around each one, of fewer at the ends, leaving out what is not finite.
fn smooth(values: &[f64], width: usize) -> Vec<f64> {
    let reach = width / 2;
    (0..values.len())
        .map(|index| {
            let (from, to) = (index.saturating_sub(reach), (index + reach + 1).min(values.len()));
            Estimate::of(values[from..to].iter().copied()).mean
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefacts::synthetic::experiment;

    #[test]
    fn smoothing_by_hand() {
        assert_eq!(smooth(&[1.0, 2.0, 6.0, 7.0], 3), [1.5, 3.0, 5.0, 6.5]);
        assert_eq!(smooth(&[1.0, f64::NAN, 3.0], 3), [1.0, 2.0, 3.0]);
        assert!(smooth(&[f64::NAN], 9)[0].is_nan());
    }

    #[test]
    fn given_frames_do_not_reach_the_curve() {
        let mut e = experiment(1, 40);
        for run in &mut e.runs {
            run.series.bg_psnr = vec![20.0; 40];
            run.series.bg_psnr[..9].fill(99.0);
        }
        let lines = smoothed_psnr(&e);
        assert_eq!(lines[0].len(), 31);
        assert_eq!((lines[0][0].x, lines[0][0].y.mean), (9.0, 20.0));
    }

    #[test]
    fn the_picture_names_everything_and_is_the_same_each_time() {
        let e = experiment(2, 60);
        let svg = figure(&e).unwrap().svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in
            ["fifo", "tethercache", "background PSNR (dB)", "quality Q", "frame", "given frames", "frame 24"]
        {
            assert!(svg.contains(text), "no {text}");
        }
        assert!(!svg.contains("NaN"));
        assert_eq!(svg, figure(&experiment(2, 60)).unwrap().svg().unwrap());
    }

    #[test]
    fn a_cache_that_never_fills_has_no_line_for_it() {
        let mut e = experiment(1, 40);
        e.budget = 40;
        assert!(!figure(&e).unwrap().svg().unwrap().contains("eviction"));
    }

    #[test]
    fn data_without_numbers_still_draws() {
        let mut e = experiment(1, 40);
        for run in &mut e.runs {
            run.series.bg_psnr.fill(f64::NAN);
            run.segments.iter_mut().for_each(|segment| segment.quality = f64::NAN);
        }
        assert!(!figure(&e).unwrap().svg().unwrap().contains("NaN"));
    }
}
