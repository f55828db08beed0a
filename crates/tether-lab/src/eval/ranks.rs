//! Rankings: what each recipe costs at each budget, as charts and as the lines of a file from which they can be drawn again.

use serde::{Deserialize, Serialize};

use crate::chart::{Figure, Panel, Rank, Ranking, Standing, Swatch};
use crate::estimate::Estimate;

/// What a rank is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Measure {
    /// Mean loss above the full cache's, in nats: less is better.
    LossAboveFull,
    /// Mean probability of answers: more is better.
    Probability,
}

/// One recipe at one budget on one text or task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RankPoint {
    pub(super) title: String,
    pub(super) measure: Measure,
    pub(super) recipe: String,
    /// Share of the tokens that is kept; 1 for the full cache.
    pub(super) budget: f64,
    pub(super) value: Estimate,
    pub(super) standing: Standing,
}

impl Measure {
    fn label(self) -> &'static str {
        match self {
            Self::LossAboveFull => "mean loss above the full cache's (nats)",
            Self::Probability => "mean probability of the answer",
        }
    }
}

/// A panel for each budget of each title, the best recipe first; `None` where nothing has that measure.
pub(super) fn ranking(points: &[RankPoint], measure: Measure) -> Option<Figure> {
    let points: Vec<&RankPoint> = points.iter().filter(|p| p.measure == measure).collect();
    let (mut titles, mut budgets): (Vec<&str>, Vec<f64>) = (Vec::new(), Vec::new());
    for point in &points {
        if !titles.contains(&point.title.as_str()) {
            titles.push(&point.title);
        }
        if point.budget < 1.0 && !budgets.contains(&point.budget) {
            budgets.push(point.budget);
        }
    }
    let mut panels = Vec::new();
    for title in titles {
        let full = points.iter().find(|p| p.title == title && p.budget >= 1.0);
        for &budget in &budgets {
            let own = points.iter().filter(|p| p.title == title && p.budget == budget);
            let row = |p: &&RankPoint| Rank { name: p.recipe.clone(), value: p.value, standing: p.standing };
            let mut ranking = Ranking {
                title: format!("{title}: {budget} kept"),
                measure: measure.label().to_owned(),
                rows: own.map(row).collect(),
                line: full.map(|p| p.value.mean),
            };
            ranking.sort(measure == Measure::Probability);
            panels.push(Panel::Ranking(ranking));
        }
    }
    let name = |standing| match standing {
        Standing::Better => "better than the best control",
        Standing::NotResolved => "not resolved",
        Standing::Worse => "worse",
        Standing::Control => "a control",
    };
    let mut legend: Vec<(Swatch, String)> =
        Standing::ALL.map(|standing| (standing.swatch(), name(standing).to_owned())).into();
    legend.push((Swatch::Dashes, "the full cache".to_owned()));
    (!panels.is_empty()).then_some(Figure { legend, columns: 2, panels })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(recipe: &str, budget: f64, mean: f64) -> RankPoint {
        RankPoint {
            title: "a text".into(),
            measure: Measure::LossAboveFull,
            recipe: recipe.into(),
            budget,
            value: Estimate { mean, se: Some(0.01), n: 12 },
            standing: if recipe == "window" { Standing::Control } else { Standing::Better },
        }
    }

    #[test]
    fn each_budget_has_a_panel_and_the_full_cache_is_a_line() {
        let points = [
            point("full", 1.0, 0.0),
            point("window", 0.5, 0.2),
            point("snapkv", 0.5, 0.1),
            point("window", 0.1, 0.4),
            point("snapkv", 0.1, 0.3),
        ];
        let svg = ranking(&points, Measure::LossAboveFull).unwrap().svg().unwrap();
        for text in ["a text: 0.5 kept", "a text: 0.1 kept", "better than the best control"] {
            assert_eq!(svg.matches(text).count(), 1, "{text}");
        }
        assert_eq!(svg.matches("\nsnapkv\n").count(), 2);
        assert!(!svg.contains("\nfull\n"));
        assert!(ranking(&points, Measure::Probability).is_none());
    }

    #[test]
    fn points_come_back_from_a_file() {
        let text = serde_json::to_string(&point("snapkv", 0.1, 0.25)).unwrap();
        assert!(text.contains(r#""measure":"loss-above-full""#) && text.contains(r#""standing":"better""#));
        assert_eq!(serde_json::from_str::<RankPoint>(&text).unwrap(), point("snapkv", 0.1, 0.25));
    }
}
