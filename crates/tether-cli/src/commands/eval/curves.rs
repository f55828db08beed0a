//! Curves of a measure against the budget, as a vector picture.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::artefacts::svg::{BLUE, DARK, GREEN, ORANGE, PURPLE, SKY, VERMILION, write_svg};

const WIDTH: u32 = 1000;
const PANEL: u32 = 430;
const LEGEND: u32 = 190;
const LEGEND_ROW: i32 = 17;
/// Of controls.
const QUIET: RGBColor = RGBColor(110, 110, 110);
const LIGHT: RGBColor = RGBColor(225, 225, 225);

/// Lines of one colour differ in their marks.
const COLOURS: [RGBColor; 6] = [VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY];

/// Curves over the same budgets.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Panel {
    title: String,
    measure: String,
    curves: Vec<Curve>,
}

/// A recipe's values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Curve {
    recipe: String,
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// What the full cache has at any budget.
    fn full(&self) -> Option<f64> {
        self.points.iter().find(|(budget, _)| *budget >= 1.0).map(|(_, value)| *value)
    }
}

impl Panel {
    pub(super) fn new(title: &str, measure: &str) -> Self {
        Self { title: title.to_owned(), measure: measure.to_owned(), curves: Vec::new() }
    }

    /// Adds a recipe's value at a budget.
    pub(super) fn add(&mut self, recipe: &str, budget: f64, value: f64) {
        let point = (budget, value);
        match self.curves.iter_mut().find(|c| c.recipe == recipe) {
            Some(curve) => curve.points.push(point),
            None => self.curves.push(Curve { recipe: recipe.to_owned(), points: vec![point] }),
        }
    }

    /// The lowest and the highest value of the picture: of those that can be drawn, the full cache's in it.
    fn range(&self) -> std::ops::Range<f64> {
        let values = self.curves.iter().flat_map(|c| &c.points).map(|(_, value)| *value);
        let (low, high) = values
            .filter(|v| v.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return 0.0..1.0;
        }
        let margin = (0.05 * (high - low)).max(1e-6 * high.abs()).max(1e-9);
        low - margin..high + margin
    }
}

/// Writes the panels one below the other. The budget's axis is logarithmic.
pub(super) fn write_curves(path: &Path, panels: &[Panel]) -> Result<()> {
    write_svg(path, svg(panels))
}

fn svg(panels: &[Panel]) -> Result<String> {
    let mut svg = String::new();
    {
        let size = (WIDTH, PANEL * panels.len().max(1) as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        // The drawing errors borrow from the picture, so they leave as text.
        draw(&root, panels).map_err(|error| anyhow!("{error}"))?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>>;

fn draw(root: &Area<'_>, panels: &[Panel]) -> Drawn {
    root.fill(&WHITE)?;
    for (area, panel) in root.split_evenly((panels.len().max(1), 1)).iter().zip(panels) {
        let (chart, legend) = area.split_horizontally(WIDTH - LEGEND);
        draw_panel(&chart, panel)?;
        draw_legend(&legend, panel)?;
    }
    root.present()
}

fn draw_panel(area: &Area<'_>, panel: &Panel) -> Drawn {
    // Equal ratios of budgets are equally far apart.
    let mut marks: Vec<f64> =
        panel.curves.iter().flat_map(|c| &c.points).map(|(b, _)| b.ln()).filter(|b| *b < 0.0).collect();
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    let (least, most) = (marks.first().unwrap_or(&-1.0) - 0.1, marks.last().unwrap_or(&0.0) + 0.1);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 17).into_font().color(&DARK))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(Budgets { range: (least, most), marks }, panel.range())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(LIGHT)
        .axis_style(DARK)
        .label_style(("sans-serif", 13).into_font().color(&DARK))
        .x_desc("share of the tokens that is kept")
        .y_desc(panel.measure.as_str())
        .draw()?;
    for (index, curve) in panel.curves.iter().enumerate() {
        let style = Style::of(panel, index);
        let line = |points: Vec<(f64, f64)>| LineSeries::new(points, style.colour.stroke_width(style.width));
        // The full cache has one value, whatever the budget of the others.
        if let Some(value) = curve.full() {
            chart.draw_series(line(vec![(least, value), (most, value)]))?;
            continue;
        }
        let points: Vec<(f64, f64)> =
            curve.points.iter().filter(|(_, v)| v.is_finite()).map(|(b, v)| (b.ln(), *v)).collect();
        chart.draw_series(line(points.clone()))?;
        chart.draw_series(points.into_iter().map(|point| style.mark(point)))?;
    }
    Ok(())
}

/// The budgets' axis: their logarithms, marked where there are values.
struct Budgets {
    range: (f64, f64),
    marks: Vec<f64>,
}

impl Ranged for Budgets {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let (low, high) = self.range;
        from + (f64::from(to - from) * (value - low) / (high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.range.0..self.range.1
    }
}

impl ValueFormatter<f64> for Budgets {
    fn format_ext(&self, value: &f64) -> String {
        format!("{}", (value.exp() * 1e4).round() / 1e4)
    }
}

/// How a curve looks.
struct Style {
    colour: RGBColor,
    width: u32,
    shape: usize,
}

impl Style {
    fn of(panel: &Panel, index: usize) -> Self {
        let control = |c: &&Curve| super::runs::is_control(&c.recipe);
        let (before, own) = (&panel.curves[..index], &panel.curves[index]);
        let controls = before.iter().filter(control).count();
        if control(&own) {
            return Self { colour: QUIET, width: 1, shape: controls % 4 };
        }
        let number = index - controls;
        Self { colour: COLOURS[number % COLOURS.len()], width: 2, shape: number / COLOURS.len() % 4 }
    }

    fn mark<'a, 'b, C: Clone + 'a>(&self, at: C) -> DynElement<'a, SVGBackend<'b>, C>
    where
        Circle<C, i32>: IntoDynElement<'a, SVGBackend<'b>, C>,
        TriangleMarker<C, i32>: IntoDynElement<'a, SVGBackend<'b>, C>,
        Cross<C, i32>: IntoDynElement<'a, SVGBackend<'b>, C>,
    {
        let filled = self.colour.filled();
        match self.shape {
            0 => Circle::new(at, 4, filled).into_dyn(),
            1 => TriangleMarker::new(at, 6, filled).into_dyn(),
            2 => Cross::new(at, 4, self.colour.stroke_width(2)).into_dyn(),
            _ => Circle::new(at, 4, self.colour.stroke_width(2)).into_dyn(),
        }
    }
}

fn draw_legend(area: &Area<'_>, panel: &Panel) -> Drawn {
    let text = ("sans-serif", 13).into_font().color(&DARK);
    for (index, curve) in panel.curves.iter().enumerate() {
        let (style, y) = (Style::of(panel, index), 24 + LEGEND_ROW * index as i32);
        let line = vec![(6, y), (34, y)];
        area.draw(&PathElement::new(line, style.colour.stroke_width(style.width)))?;
        if curve.full().is_none() {
            area.draw(&style.mark((20, y)))?;
        }
        area.draw(&Text::new(curve.recipe.clone(), (42, y - 7), text.clone()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel() -> Panel {
        let mut panel = Panel::new("a text", "perplexity");
        panel.add("full", 1.0, 10.0);
        for (recipe, values) in [("window", [12.0, 20.0]), ("snapkv", [11.0, f64::INFINITY])] {
            panel.add(recipe, 0.5, values[0]);
            panel.add(recipe, 0.1, values[1]);
        }
        panel
    }

    #[test]
    fn every_recipe_has_a_line_and_its_name() {
        let svg = svg(&[panel(), panel()]).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("a text") && svg.contains("perplexity"));
        for name in ["full", "window", "snapkv"] {
            assert_eq!(svg.matches(name).count(), 2, "{name}");
        }
        // Three lines of curves and three of the legend, in each panel.
        assert!(svg.matches("<polyline").count() >= 12, "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn values_that_cannot_be_drawn_do_not_stretch_the_picture() {
        let range = panel().range();
        assert!(range.start > 9.0 && range.end < 21.0, "{range:?}");
        assert_eq!(Panel::new("", "").range(), 0.0..1.0);
    }
}
