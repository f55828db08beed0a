//! Values over a quantity, with their intervals.

use plotters::prelude::*;

use super::colour::{DARK, LIGHT, SHADE};
use super::legend::{mark, series};
use super::{Area, Drawn, label, range, tick, title};
use crate::estimate::Estimate;

/// An axis.
#[derive(Clone, Debug, Default)]
pub(crate) struct Axis {
    pub(crate) label: String,
    /// Values that are to be on the panel whatever the data are.
    pub(crate) least: Vec<f64>,
    /// Where it begins and ends, unless the data say so.
    pub(crate) ends: Option<(f64, f64)>,
}

/// A value at a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: Estimate,
}

/// Points that belong together.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// Its number, which gives its colour.
    pub(crate) number: usize,
    pub(crate) points: Vec<Point>,
    /// Whether each point has a mark.
    pub(crate) marked: bool,
}

/// A panel of lines. What is not a finite number is left out, and a line has a hole there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) height: u32,
    pub(crate) series: Vec<Series>,
    /// A stretch of the quantity that is set apart.
    pub(crate) shade: Option<(f64, f64)>,
    /// Where a dashed line stands.
    pub(crate) dashes: Option<f64>,
}

impl Axis {
    fn range(&self, values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
        match self.ends {
            Some((from, to)) => from..to,
            None => range(values.chain(self.least.iter().copied())),
        }
    }
}

impl Lines {
    pub(super) fn draw(&self, area: &Area<'_>) -> Drawn {
        let points = || self.series.iter().flat_map(|s| &s.points).filter(|p| p.y.mean.is_finite());
        let xs = self.x.range(points().map(|p| p.x));
        let interval = |p: &Point| [*p.y.interval().start(), *p.y.interval().end()];
        let ys = self.y.range(points().flat_map(interval));
        let mut builder = ChartBuilder::on(area);
        builder
            .margin_right(24)
            .margin_left(10)
            .margin_top(8)
            .margin_bottom(6)
            .x_label_area_size(44)
            .y_label_area_size(62);
        if !self.title.is_empty() {
            builder.caption(&self.title, title());
        }
        let mut chart = builder.build_cartesian_2d(xs, ys.clone())?;
        if let Some((from, to)) = self.shade {
            chart.draw_series([Rectangle::new([(from, ys.start), (to, ys.end)], SHADE.filled())])?;
        }
        let mut mesh = chart.configure_mesh();
        mesh.bold_line_style(LIGHT)
            .light_line_style(TRANSPARENT)
            .axis_style(DARK)
            .x_labels(13)
            .y_labels(7)
            .x_label_formatter(&|value| tick(*value))
            .y_label_formatter(&|value| tick(*value))
            .label_style(label())
            .axis_desc_style(label())
            .y_desc(self.y.label.as_str());
        if !self.x.label.is_empty() {
            mesh.x_desc(self.x.label.as_str());
        }
        mesh.draw()?;
        if let Some(at) = self.dashes {
            let ends = [(at, ys.start), (at, ys.end)];
            chart.draw_series(DashedLineSeries::new(ends, 6, 5, DARK.stroke_width(1)))?;
        }
        for of in &self.series {
            let colour = series(of.number);
            for piece in unbroken(&of.points) {
                let line = piece.iter().map(|p| (p.x, p.y.mean));
                chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
            }
            if !of.marked {
                continue;
            }
            let shown = || of.points.iter().filter(|p| p.y.mean.is_finite());
            chart.draw_series(shown().filter(|p| p.y.se.is_some()).map(|p| {
                let [low, high] = interval(p);
                PathElement::new(vec![(p.x, low), (p.x, high)], colour.stroke_width(1))
            }))?;
            chart.draw_series(shown().map(|p| mark(of.number, (p.x, p.y.mean))))?;
        }
        Ok(())
    }
}

/// The stretches of a line without holes.
fn unbroken(line: &[Point]) -> Vec<&[Point]> {
    line.split(|p| !p.y.mean.is_finite()).filter(|piece| !piece.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Figure, Panel};
    use super::*;

    fn point(x: f64, y: f64) -> Point {
        Point { x, y: Estimate { mean: y, se: Some(0.5), n: 2 } }
    }

    #[test]
    fn lines_break_where_there_is_no_number() {
        let line = [(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0), (3.0, 4.0)].map(|(x, y)| point(x, y));
        let pieces = unbroken(&line);
        assert_eq!(pieces.iter().map(|p| p.len()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(pieces[1][0], line[2]);
    }

    #[test]
    fn labels_are_text_and_what_is_no_number_is_left_out() {
        let points = vec![point(1.0, 2.0), point(2.0, f64::NAN), point(3.0, f64::INFINITY), point(4.0, 5.0)];
        let lines = Lines {
            title: "fifty steps".into(),
            x: Axis { label: "speed".into(), ..Axis::default() },
            y: Axis { label: "quality".into(), ..Axis::default() },
            height: 300,
            series: vec![Series { number: 9, points, marked: true }],
            shade: Some((1.0, 1.5)),
            dashes: Some(2.0),
        };
        let svg = Figure { legend: Vec::new(), columns: 1, panels: vec![Panel::Lines(lines)] }.svg().unwrap();
        for text in ["fifty steps", "speed", "quality"] {
            assert!(svg.contains(text) && svg.contains("<text"), "{text}");
        }
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn no_data_is_an_empty_panel() {
        let lines = Lines { height: 200, ..Lines::default() };
        let figure = Figure { legend: Vec::new(), columns: 1, panels: vec![Panel::Lines(lines)] };
        assert!(!figure.svg().unwrap().contains("NaN"));
    }
}
