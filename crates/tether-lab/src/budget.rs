//! Fitting a recipe's regions into a number of frames.

use anyhow::Result;
use tethercache::layout::{Extent, LayoutError, RegionSpec};
use tethercache::{Error, Recipe, RecipeError};

use crate::usage::Usage;

/// Frames of a chunk.
pub(crate) const CHUNK: usize = 3;

/// True when one of `overrides` (`key=value`) sets `key`.
pub fn is_set(overrides: &[String], key: &str) -> bool {
    overrides.iter().any(|o| o.split_once('=').is_some_and(|(k, _)| k.trim() == key))
}

/// The recipe `name` with a window of `budget` frames: 3 sink frames where it has a sink, what is left shared between memory and
/// recent frames where it has a memory (9 and 9 of 21), then `overrides`. A region that is overridden leaves the rest to memory, or to
/// the recent region where there is none.
pub(crate) fn fitted(name: &str, budget: usize, overrides: &[String]) -> Result<Recipe> {
    let base = Recipe::named(name)?;
    let chosen = base.with_overrides(overrides).map_err(|e| match e {
        RecipeError::OutOfRange { ref problem, .. }
            if matches!(**problem, Error::Layout(LayoutError::Overflow { .. })) =>
        {
            too_small(name, budget).into()
        }
        other => anyhow::Error::from(other),
    })?;
    let has_memory = base.layout.memory > 0;
    let RegionSpec { sink, memory, recent, .. } = chosen.layout;
    let Extent::Units(recent) = recent else {
        return checked(chosen, "without bound");
    };
    let room = budget.checked_sub(sink).ok_or_else(|| too_small(name, budget))?;
    let shared = room / 2 / CHUNK * CHUNK;
    let (memory, recent) = match (is_set(overrides, "layout.memory"), is_set(overrides, "layout.recent")) {
        (true, true) => (memory, recent),
        (true, false) => (memory, room.checked_sub(memory).ok_or_else(|| too_small(name, budget))?),
        (false, true) if has_memory => {
            (room.checked_sub(recent).ok_or_else(|| too_small(name, budget))?, recent)
        }
        (false, true) => (0, recent),
        (false, false) if has_memory => (shared, room - shared),
        (false, false) => (0, room),
    };
    let sum = sink.checked_add(memory).and_then(|n| n.checked_add(recent));
    let total = sum.ok_or_else(|| too_small(name, budget))?;
    if total != budget {
        let message = format!(
            "recipe {name}: sink {sink} + memory {memory} + recent {recent} = {total} frames, but the budget is {budget} \
             (--budget {total} would fit)"
        );
        return Err(Usage(message).into());
    }
    let mut recipe = chosen;
    recipe.layout.memory = memory;
    recipe.layout.recent = Extent::Units(recent);
    checked(recipe, &format!("in {budget} frames"))
}

fn checked(recipe: Recipe, size: &str) -> Result<Recipe> {
    match recipe.regions(CHUNK) {
        Ok(_) => Ok(recipe),
        Err(error) => Err(Usage(format!("recipe {} {size}: {error}", recipe.name)).into()),
    }
}

fn too_small(name: &str, budget: usize) -> Usage {
    Usage(format!("recipe {name} does not fit into {budget} frames"))
}

#[cfg(test)]
mod tests {
    use super::fitted;
    use tethercache::layout::Extent;

    fn sizes(name: &str, budget: usize, overrides: &[&str]) -> Result<(usize, usize, usize), String> {
        let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
        let layout = fitted(name, budget, &overrides).map_err(|e| e.to_string())?.layout;
        let Extent::Units(recent) = layout.recent else {
            return Ok((0, 0, usize::MAX));
        };
        Ok((layout.sink, layout.memory, recent))
    }

    #[test]
    fn recipes_share_a_budget_as_the_results_do() {
        assert_eq!(sizes("tethercache", 21, &[]), Ok((3, 9, 9)));
        assert_eq!(sizes("tethercache", 12, &[]), Ok((3, 3, 6)));
        assert_eq!(sizes("uniform-archive", 21, &[]), Ok((3, 9, 9)));
        assert_eq!(sizes("fifo", 21, &[]), Ok((0, 0, 21)));
        assert_eq!(sizes("sink-recent", 12, &[]), Ok((3, 0, 9)));
        assert_eq!(sizes("full", 12, &[]), Ok((0, 0, usize::MAX)));
    }

    #[test]
    fn an_override_leaves_the_rest_to_the_other_region() {
        assert_eq!(sizes("tethercache", 21, &["layout.recent=4"]), Ok((3, 14, 4)));
        assert_eq!(sizes("tethercache", 21, &["layout.memory=3"]), Ok((3, 3, 15)));
        assert_eq!(sizes("sink-recent", 21, &["layout.sink=9"]), Ok((9, 0, 12)));
        let sum = sizes("tethercache", 21, &["layout.recent=4", "layout.memory=5"]).unwrap_err();
        assert!(sum.contains("--budget 12"), "{sum}");
    }

    #[test]
    fn budgets_that_cannot_work_are_refused() {
        assert!(sizes("tethercache", 20, &[]).unwrap_err().contains("multiple"));
        assert!(sizes("tethercache", 2, &[]).unwrap_err().contains("does not fit"));
        assert!(sizes("sink-recent", 3, &[]).unwrap_err().contains("smaller than the chunk"));
        let huge = ["layout.memory=9223372036854775807", "layout.recent=9223372036854775807"];
        assert!(sizes("tethercache", 21, &huge).unwrap_err().contains("does not fit"));
        assert!(sizes("full", 21, &["layout.sink=3"]).unwrap_err().contains("keeps everything"));
        assert!(sizes("tethercache", 21, &["edit.tau=1.5"]).unwrap_err().contains("tau"));
        assert!(sizes("nothing", 21, &[]).unwrap_err().contains("no recipe"));
    }
}
