//! The plot: quality over time, as a vector picture.

use super::run::Experiment;
use super::stats::Estimate;
use super::summary::Summary;
use super::svg::{BLUE, DARK, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, write_svg};
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::ops::Range;
use std::path::Path;

const WIDTH: u32 = 1000;
const PANEL: u32 = 330;
/// Height of a row of the legend.
const LEGEND_ROW: u32 = 24;
/// Width of a letter of the legend, on the generous side since the viewer's font is unknown.
const LEGEND_LETTER: u32 = 8;
const LEGEND_LEFT: u32 = 76;
/// Frames that a smoothed value averages.
const SMOOTH: usize = 9;
const SHADE: RGBColor = RGBColor(228, 228, 228);
const COLOURS: [RGBColor; 7] = [VERMILION, ORANGE, GREEN, BLUE, GREY, PURPLE, SKY];

type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes the plot.
///
/// # Errors
/// When the experiment is incomplete or the file cannot be written.
pub(crate) fn write_plot(path: &Path, experiment: &Experiment) -> Result<()> {
    write_svg(path, plot_svg(experiment))
}

fn plot_svg(experiment: &Experiment) -> Result<String> {
    experiment.validate()?;
    let legend = legend(experiment);
    let legend_height = legend.iter().map(|item| item.row + 1).max().unwrap_or(1) * LEGEND_ROW + 20;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, legend_height + 2 * PANEL)).into_drawing_area();
        // The drawing errors borrow from the picture, so they leave as text.
        draw(&root, experiment, &legend, legend_height).map_err(|error| anyhow!("{error}"))?;
    }
    Ok(svg)
}

type DrawResult = Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>>;

fn draw(root: &Area<'_>, experiment: &Experiment, legend: &[LegendItem], legend_height: u32) -> DrawResult {
    root.fill(&WHITE)?;
    let (top, panels) = root.split_vertically(legend_height);
    draw_legend(&top, legend)?;
    let (upper, lower) = panels.split_vertically(PANEL);

    let lines = smoothed_psnr(experiment);
    let finite = lines.iter().flat_map(|line| line.iter().map(|(_, value)| *value));
    let mut chart = panel(&upper, experiment, range(finite), "background PSNR (dB)", false)?;
    for (index, line) in lines.iter().enumerate() {
        for piece in unbroken(line) {
            chart.draw_series(LineSeries::new(piece, colour(index).stroke_width(2)))?;
        }
    }

    let summary = Summary::of(experiment);
    let points: Vec<Vec<(f64, Estimate)>> = summary
        .recipes
        .iter()
        .enumerate()
        .map(|(index, recipe)| {
            // A little apart, so that the error bars of several recipes do not hide one another.
            let aside =
                (index as f64 - (summary.recipes.len() - 1) as f64 / 2.0) * experiment.frames as f64 * 0.006;
            let middle = |start: usize, end: usize| (start + end - 1) as f64 / 2.0 + aside;
            recipe.segments.iter().map(|s| (middle(s.start, s.end), s.quality)).collect()
        })
        .collect();
    let ends = points.iter().flatten().flat_map(|(_, quality)| {
        let se = quality.se.unwrap_or(0.0);
        [quality.mean - se, quality.mean + se]
    });
    let mut chart = panel(&lower, experiment, range(ends), "quality Q", true)?;
    for (index, line) in points.iter().enumerate() {
        let means: Vec<(f64, f64)> = line.iter().map(|(x, quality)| (*x, quality.mean)).collect();
        for piece in unbroken(&means) {
            chart.draw_series(LineSeries::new(piece, colour(index).stroke_width(2)))?;
        }
        let shown = line.iter().filter(|(_, quality)| quality.mean.is_finite());
        chart.draw_series(shown.clone().filter_map(|(x, quality)| {
            let se = quality.se?;
            let ends = vec![(*x, quality.mean - se), (*x, quality.mean + se)];
            Some(PathElement::new(ends, colour(index).stroke_width(1)))
        }))?;
        chart.draw_series(
            shown.map(|(x, quality)| Circle::new((*x, quality.mean), 4, colour(index).filled())),
        )?;
    }
    root.present()
}

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// Axes, the shaded given part, and the line from which on the cache evicts.
fn panel<'a, 'b>(
    area: &'a Area<'b>,
    experiment: &Experiment,
    values: Range<f64>,
    title: &str,
    lowest: bool,
) -> Result<Panel<'a, 'b>, DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>> {
    let frames = 0.0..(experiment.frames - 1).max(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .margin_right(24)
        .margin_left(10)
        .margin_top(8)
        .margin_bottom(6)
        .x_label_area_size(44)
        .y_label_area_size(62)
        .build_cartesian_2d(frames, values.clone())?;
    if experiment.given_frames > 0 {
        let corners = [(0.0, values.start), (experiment.given_frames as f64 - 0.5, values.end)];
        chart.draw_series([Rectangle::new(corners, SHADE.filled())])?;
    }
    let text = ("sans-serif", 15).into_font().color(&DARK);
    let mut mesh = chart.configure_mesh();
    mesh.bold_line_style(RGBColor(222, 222, 222))
        .light_line_style(TRANSPARENT)
        .axis_style(DARK)
        .x_labels(13)
        .y_labels(7)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|value| format_tick(*value))
        .label_style(text.clone())
        .axis_desc_style(text)
        .y_desc(title);
    if lowest {
        mesh.x_desc("frame");
    }
    mesh.draw()?;
    if evicts(experiment) {
        let at = experiment.budget as f64;
        let ends = [(at, values.start), (at, values.end)];
        chart.draw_series(DashedLineSeries::new(ends, 6, 5, DARK.stroke_width(1)))?;
    }
    Ok(chart)
}

fn format_tick(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn evicts(experiment: &Experiment) -> bool {
    experiment.budget < experiment.frames
}

/// What an entry of the legend shows beside its text.
enum Swatch {
    Line(RGBColor),
    Shade,
    Dashes,
}

/// One entry of the legend, with its place.
struct LegendItem {
    text: String,
    swatch: Swatch,
    row: u32,
    x: u32,
}

/// The legend stands above the panels, where no curve can run through it.
fn legend(experiment: &Experiment) -> Vec<LegendItem> {
    let mut entries: Vec<(String, Swatch)> = experiment
        .recipes
        .iter()
        .enumerate()
        .map(|(index, recipe)| (recipe.name.clone(), Swatch::Line(colour(index))))
        .collect();
    let recipes = entries.len();
    if experiment.given_frames > 0 {
        entries.push(("given frames".to_owned(), Swatch::Shade));
    }
    if evicts(experiment) {
        let text = format!("window full at frame {}: eviction begins", experiment.budget);
        entries.push((text, Swatch::Dashes));
    }
    let mut items = Vec::with_capacity(entries.len());
    let (mut row, mut x) = (0, LEGEND_LEFT);
    for (index, (text, swatch)) in entries.into_iter().enumerate() {
        let width = 40 + text.chars().count() as u32 * LEGEND_LETTER + 18;
        if x > LEGEND_LEFT && (index == recipes || x + width > WIDTH) {
            (row, x) = (row + 1, LEGEND_LEFT);
        }
        items.push(LegendItem { text, swatch, row, x });
        x += width;
    }
    items
}

fn draw_legend(area: &Area<'_>, items: &[LegendItem]) -> DrawResult {
    let text = ("sans-serif", 15).into_font().color(&DARK);
    for item in items {
        let (x, y) = (item.x as i32, (item.row * LEGEND_ROW) as i32 + 20);
        let ends = vec![(x, y), (x + 30, y)];
        match item.swatch {
            Swatch::Line(colour) => {
                area.draw(&PathElement::new(ends, colour.stroke_width(3)))?;
                area.draw(&Circle::new((x + 15, y), 4, colour.filled()))?;
            }
            Swatch::Shade => {
                area.draw(&Rectangle::new([(x, y - 7), (x + 30, y + 7)], SHADE.filled()))?;
            }
            Swatch::Dashes => {
                for start in [x, x + 11, x + 22] {
                    area.draw(&PathElement::new(vec![(start, y), (start + 6, y)], DARK.stroke_width(1)))?;
                }
            }
        }
        area.draw(&Text::new(item.text.clone(), (x + 38, y - 9), text.clone()))?;
    }
    Ok(())
}

/// Background PSNR of the generated frames of each recipe: the mean over scenes, then over time.
///
/// The given frames are left out because they are the real video itself, and they must not leak into the
/// first smoothed values either.
fn smoothed_psnr(experiment: &Experiment) -> Vec<Vec<(f64, f64)>> {
    let first = experiment.given_frames;
    let of_recipe = |name: &str| -> Vec<(f64, f64)> {
        let means: Vec<f64> = (first..experiment.frames)
            .map(|frame| Estimate::of(experiment.runs_of(name).map(|run| run.series.bg_psnr[frame])).mean)
            .collect();
        let place = |offset: usize| (first + offset) as f64;
        smooth(&means, SMOOTH).into_iter().enumerate().map(|(offset, value)| (place(offset), value)).collect()
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

/// The stretches of a line without holes.
fn unbroken(line: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    line.split(|(_, value)| !value.is_finite()).filter(|piece| !piece.is_empty()).map(<[_]>::to_vec).collect()
}

/// A range that holds the finite values with some air.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return 0.0..1.0;
    }
    let air = if high > low { (high - low) * 0.06 } else { 1.0 };
    low - air..high + air
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
    fn ranges_hold_their_values() {
        assert_eq!(range([f64::NAN].into_iter()), 0.0..1.0);
        assert_eq!(range([5.0, 5.0].into_iter()), 4.0..6.0);
        let wide = range([0.0, 100.0, f64::INFINITY].into_iter());
        assert_eq!((wide.start, wide.end), (-6.0, 106.0));
    }

    #[test]
    fn lines_break_where_there_is_no_number() {
        let line = [(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0), (3.0, 4.0)];
        assert_eq!(unbroken(&line), [vec![(0.0, 1.0)], vec![(2.0, 3.0), (3.0, 4.0)]]);
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
        assert_eq!(lines[0][0], (9.0, 20.0));
    }

    #[test]
    fn the_legend_stays_on_the_picture() {
        let mut e = experiment(1, 40);
        for index in 0..12 {
            let mut recipe = e.recipes[0].clone();
            recipe.name = format!("another-recipe-{index}");
            e.recipes.push(recipe);
        }
        for pair in legend(&e).windows(2) {
            let end = pair[0].x + 40 + pair[0].text.len() as u32 * LEGEND_LETTER;
            assert!(end <= WIDTH);
            assert!(pair[1].row == pair[0].row + 1 || (pair[1].row == pair[0].row && pair[1].x > end));
        }
    }

    #[test]
    fn the_picture_names_everything_and_is_the_same_each_time() {
        let e = experiment(2, 60);
        let svg = plot_svg(&e).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in
            ["fifo", "tethercache", "background PSNR (dB)", "quality Q", "frame", "given frames", "frame 24"]
        {
            assert!(svg.contains(text), "no {text}");
        }
        assert!(!svg.contains("NaN"));
        assert_eq!(svg, plot_svg(&experiment(2, 60)).unwrap());
    }

    #[test]
    fn a_cache_that_never_fills_has_no_line_for_it() {
        let mut e = experiment(1, 40);
        e.budget = 40;
        assert!(!plot_svg(&e).unwrap().contains("eviction"));
    }

    #[test]
    fn data_without_numbers_still_draws() {
        let mut e = experiment(1, 40);
        for run in &mut e.runs {
            run.series.bg_psnr.fill(f64::NAN);
            run.segments.iter_mut().for_each(|segment| segment.quality = f64::NAN);
        }
        assert!(!plot_svg(&e).unwrap().contains("NaN"));
    }
}
