//! A plot of what is saved against what it costs, as a vector picture.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::svg::{BLUE, DARK, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, write_svg};

/// One setting of one policy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ParetoPoint {
    /// The policy; points of one are joined.
    pub(crate) policy: String,
    /// Speed-up.
    pub(crate) x: f64,
    /// Quality.
    pub(crate) y: f64,
}

const COLOURS: [RGBColor; 8] = [VERMILION, ORANGE, GREEN, BLUE, GREY, PURPLE, SKY, RGBColor(120, 80, 40)];

/// Writes the plot. Points that are not finite are left out.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_pareto(path: &Path, title: &str, points: &[ParetoPoint]) -> Result<()> {
    write_svg(path, pareto_svg(title, points))
}

fn pareto_svg(title: &str, points: &[ParetoPoint]) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg, title, points).map_err(|error| anyhow!("{error}"))?;
    Ok(svg)
}

fn draw(svg: &mut String, title: &str, points: &[ParetoPoint]) -> Result<(), Box<dyn std::error::Error>> {
    let points: Vec<&ParetoPoint> = points.iter().filter(|p| p.x.is_finite() && p.y.is_finite()).collect();
    let mut names: Vec<&str> = Vec::new();
    for point in &points {
        if !names.contains(&&*point.policy) {
            names.push(&point.policy);
        }
    }
    let most = points.iter().map(|p| p.x).fold(1.0, f64::max);
    let low = points.iter().map(|p| p.y).fold(f64::INFINITY, f64::min).min(25.0);
    let high = points.iter().map(|p| p.y).fold(25.0, f64::max);
    let root = SVGBackend::with_string(svg, (1000, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let text = ("sans-serif", 15).into_font().color(&DARK);
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .caption(title, ("sans-serif", 17).into_font().color(&DARK))
        .x_label_area_size(44)
        .y_label_area_size(58)
        .build_cartesian_2d(0.95..most + 0.15 * most, low - 1.0..high + 1.0)?;
    chart
        .configure_mesh()
        .bold_line_style(RGBColor(222, 222, 222))
        .light_line_style(TRANSPARENT)
        .axis_style(DARK)
        .label_style(text.clone())
        .axis_desc_style(text.clone())
        .x_desc("multiply-adds of the full run over those that were done")
        .y_desc("PSNR to the full run (dB)")
        .draw()?;
    for (index, name) in names.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let mut own: Vec<(f64, f64)> =
            points.iter().filter(|p| p.policy == *name).map(|p| (p.x, p.y)).collect();
        own.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Colours repeat after a while; the second time round the points are hollow.
        let style = if index < COLOURS.len() { colour.filled() } else { colour.stroke_width(2) };
        chart.draw_series(own.iter().map(|p| Circle::new(*p, 5, style)))?;
        let drawn = chart.draw_series(LineSeries::new(own, colour.stroke_width(2)))?;
        drawn.label((*name).to_owned()).legend(move |(x, y)| Circle::new((x + 8, y), 5, style));
    }
    chart.configure_series_labels().border_style(DARK).background_style(WHITE).label_font(text).draw()?;
    root.present()?;
    drop(chart);
    drop(root);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_named_and_what_is_no_number_is_left_out() {
        let point = |policy: &str, x, y| ParetoPoint { policy: policy.to_owned(), x, y };
        let points =
            [point("easycache", 2.0, 30.0), point("easycache", 1.5, 36.0), point("fora", f64::NAN, 20.0)];
        let svg = pareto_svg("50 steps", &points).unwrap();
        assert!(svg.contains("easycache") && svg.contains("50 steps"));
        assert!(!svg.contains("fora") && !svg.contains("NaN"));
        assert!(pareto_svg("nothing", &[]).unwrap().starts_with("<svg"));
    }
}
