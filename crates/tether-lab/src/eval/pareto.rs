//! A plot of what is saved against what it costs, as a vector picture.

use serde::{Deserialize, Serialize};

use crate::chart::{Axis, Figure, Lines, Panel, Point, Series, Swatch};
use crate::estimate::Estimate;

/// One setting of one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ParetoPoint {
    /// Of the sampler.
    pub(super) steps: usize,
    /// Videos that the quality is a mean over.
    pub(super) scenes: usize,
    /// The policy; points of one are joined.
    pub(super) policy: String,
    /// Speed-up.
    pub(super) x: f64,
    /// Quality.
    pub(super) y: Estimate,
}

/// Quality below which pictures differ to the eye; always on the plot.
const WORST: f64 = 25.0;

/// The plot of one number of steps. Points that are not finite are left out.
pub(super) fn pareto(points: &[ParetoPoint]) -> Figure {
    let of = |p: &ParetoPoint| format!("{} steps, {} scenes", p.steps, p.scenes);
    let title = points.first().map(of).unwrap_or_default();
    let points: Vec<&ParetoPoint> =
        points.iter().filter(|p| p.x.is_finite() && p.y.mean.is_finite()).collect();
    let mut names: Vec<&str> = Vec::new();
    for point in &points {
        if !names.contains(&&*point.policy) {
            names.push(&point.policy);
        }
    }
    let series = names.iter().enumerate().map(|(number, name)| {
        let own = points.iter().filter(|p| p.policy == *name);
        let mut points: Vec<Point> = own.map(|p| Point { x: p.x, y: p.y }).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Series { number, points, marked: true }
    });
    let axis = |label: &str, least| Axis { label: label.to_owned(), least: vec![least], ends: None };
    let lines = Lines {
        title,
        x: axis("multiply-adds of the full run over those that were done", 1.0),
        y: axis("PSNR to the full run (dB)", WORST),
        height: 520,
        series: series.collect(),
        ..Lines::default()
    };
    let legend = names.iter().enumerate().map(|(i, name)| (Swatch::Series(i), (*name).to_owned()));
    Figure { legend: legend.collect(), columns: 1, panels: vec![Panel::Lines(lines)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_named_and_what_is_no_number_is_left_out() {
        let point = |policy: &str, x, y| {
            let (policy, y) = (policy.to_owned(), Estimate::of([y]));
            ParetoPoint { steps: 50, scenes: 4, policy, x, y }
        };
        let points =
            [point("easycache", 2.0, 30.0), point("easycache", 1.5, 36.0), point("fora", f64::NAN, 20.0)];
        let svg = pareto(&points).svg().unwrap();
        assert!(svg.contains("easycache") && svg.contains("50 steps"));
        assert!(!svg.contains("fora") && !svg.contains("NaN"));
        assert!(pareto(&[]).svg().unwrap().starts_with("<svg"));
    }
}
