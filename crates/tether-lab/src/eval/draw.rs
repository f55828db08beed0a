//! `tether eval draw`: charts again, from the numbers that an evaluation left behind.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::args::DrawArgs;
use super::pareto::{ParetoPoint, pareto};
use super::ranks::{Measure, RankPoint, ranking};
use crate::input::read_text;
use crate::usage::Usage;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "chart", rename_all = "kebab-case")]
pub(super) enum Line {
    Rank(RankPoint),
    Pareto(ParetoPoint),
}

/// Runs the subcommand.
pub(super) fn run(args: &DrawArgs) -> Result<()> {
    let text = read_text(&args.numbers)?;
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Line>, _>>();
    draw(&lines.map_err(|e| Usage(format!("{}: {e}", args.numbers.display())))?, &args.out)
}

/// Every chart of `lines`, in `folder`.
fn draw(lines: &[Line], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (mut ranks, mut points) = (Vec::new(), Vec::new());
    for line in lines {
        match line {
            Line::Rank(point) => ranks.push(point.clone()),
            Line::Pareto(point) => points.push(point.clone()),
        }
    }
    let kinds = [
        ("evaluation-perplexity.svg", Measure::LossAboveFull),
        ("evaluation-recall.svg", Measure::Probability),
    ];
    for (file, measure) in kinds {
        if let Some(figure) = ranking(&ranks, measure) {
            figure.write(&folder.join(file))?;
        }
    }
    let mut steps: Vec<usize> = points.iter().map(|p| p.steps).collect();
    steps.dedup();
    for steps in steps {
        let own: Vec<ParetoPoint> = points.iter().filter(|p| p.steps == steps).cloned().collect();
        pareto(&own).write(&folder.join(format!("pareto-{steps}.svg")))?;
    }
    Ok(())
}

/// Writes `lines` to the file `name` in `folder`, and their charts beside it.
pub(super) fn leave(lines: &[Line], folder: &Path, name: &str) -> Result<()> {
    draw(lines, folder)?;
    let mut text = String::new();
    for line in lines {
        writeln!(text, "{}", serde_json::to_string(line)?)?;
    }
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::Standing;
    use crate::estimate::Estimate;

    #[test]
    fn what_was_left_is_drawn_again_byte_by_byte() {
        let value = Estimate { mean: 0.1, se: Some(0.01), n: 12 };
        let rank = RankPoint {
            title: "a text".into(),
            measure: Measure::Probability,
            recipe: "snapkv".into(),
            budget: 0.1,
            value,
            standing: Standing::NotResolved,
        };
        let point = ParetoPoint { steps: 8, scenes: 2, policy: "fora".into(), x: 1.5, y: value };
        let lines = [Line::Rank(rank), Line::Pareto(point)];
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        leave(&lines, &a, "numbers.jsonl").unwrap();
        run(&DrawArgs { numbers: a.join("numbers.jsonl"), out: b.clone() }).unwrap();
        for name in ["evaluation-recall.svg", "pareto-8.svg"] {
            assert_eq!(fs::read(a.join(name)).unwrap(), fs::read(b.join(name)).unwrap());
        }
        assert_eq!(fs::read_dir(&b).unwrap().count(), 2, "nothing was measured for the others");
        fs::write(a.join("numbers.jsonl"), "{}").unwrap();
        assert!(run(&DrawArgs { numbers: a.join("numbers.jsonl"), out: b }).is_err());
    }
}
