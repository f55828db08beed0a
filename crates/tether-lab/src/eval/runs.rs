//! Which recipes run at which budgets.

use anyhow::{Context, Result};
use tether_models::{CachedAttention, Llama};
use tethercache::core::DType;
use tethercache::host::Host;
use tethercache::score::tokens::HeadProfile;
use tethercache::tokens::{TokenPlanner, TokenRecipe};

use crate::usage::Usage;

/// Recipes that stand beside those that were asked for.
pub(super) const CONTROLS: [&str; 4] = ["full", "window", "sink-recent", "random"];
/// What is put behind the name of a control that evicts only once, as many methods do.
const ONCE: &str = ", once";

/// A recipe at a budget.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    pub(super) recipe: TokenRecipe,
    /// Share of the tokens that is kept; 1 for a cache that keeps all.
    pub(super) budget: f64,
}

/// What the command line asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) recipes: &'a [String],
    pub(super) budgets: &'a [f64],
    /// `key=value`, for recipes that were asked for by name.
    pub(super) overrides: &'a [String],
    /// Controls that evict only once beside the others, where a method does.
    pub(super) once: bool,
}

impl Asked<'_> {
    /// Recipes and budgets in the order in which they run: the full cache first, which the others are compared with, then the controls.
    pub(super) fn contenders(&self) -> Result<Vec<Contender>> {
        let full = TokenRecipe::named("full").context("the full cache")?;
        let mut contenders = vec![Contender { recipe: full, budget: 1.0 }];
        if self.recipes.is_empty() {
            return Ok(contenders);
        }
        if let Some(budget) = self.budgets.iter().find(|&&b| !(b > 0.0 && b <= 1.0)) {
            let problem = format!("--budget: {budget} is not a share of the tokens, above 0 and up to 1");
            return Err(Usage(problem).into());
        }
        let named = |name: &String| -> Result<TokenRecipe> {
            Ok(TokenRecipe::named(name)?.with_overrides(self.overrides)?)
        };
        let asked = self.recipes.iter().map(named).collect::<Result<Vec<_>>>()?;
        let control = |name: &&str| Ok(TokenRecipe::named(name)?);
        let mut recipes = CONTROLS.iter().map(control).collect::<Result<Vec<_>>>()?;
        if self.once && asked.iter().any(|r| r.score.is_some() && r.decode.is_none()) {
            recipes.extend(recipes.clone().into_iter().map(once));
        }
        for recipe in asked {
            // A control that was asked for may have other settings.
            match recipes.iter_mut().find(|r| r.name == recipe.name) {
                Some(control) => *control = recipe,
                None => recipes.push(recipe),
            }
        }
        for recipe in &recipes {
            if recipe.score.is_none() {
                // Nothing is evicted: no budget makes a difference. The full cache itself is there already.
                if recipe.codec.is_some() {
                    contenders.push(Contender { recipe: recipe.clone(), budget: 1.0 });
                }
                continue;
            }
            for &budget in self.budgets {
                let recipe = recipe.with_overrides(&[format!("budget.ratio={budget:?}")])?;
                contenders.push(Contender { recipe, budget });
            }
        }
        Ok(contenders)
    }
}

fn once(mut recipe: TokenRecipe) -> TokenRecipe {
    recipe.name.push_str(ONCE);
    recipe.decode = None;
    recipe
}

/// True for the recipes that others are measured against at the same budget.
pub(super) fn is_control(name: &str) -> bool {
    CONTROLS.contains(&name.strip_suffix(ONCE).unwrap_or(name))
}

/// True for a control that evicts only once.
pub(super) fn evicts_once(name: &str) -> bool {
    name.ends_with(ONCE)
}

/// Every recipe of the catalogue that keeps some of the tokens, and that a text of `model` under a growing cache has all for.
pub(super) fn every(model: &Llama, profile: Option<&HeadProfile>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for row in tethercache::catalogue().iter().filter(|row| row.unit == "token") {
        let recipe = TokenRecipe::named(row.name)?;
        let needs = TokenPlanner::new(recipe.clone())?.needs();
        let missing = needs.grid || needs.raw_keys || needs.head_profile && profile.is_none();
        let elsewhere = CONTROLS.contains(&row.name) || recipe.codec.is_some();
        if !missing
            && !elsewhere
            && CachedAttention::with_profile(Host::new(), model, recipe, DType::F32, profile.cloned()).is_ok()
        {
            names.push(row.name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_stand_beside_what_is_asked() {
        let recipes = ["snapkv".to_owned(), "random".to_owned()];
        let overrides = ["select.kind=top-k".to_owned()];
        let asked = Asked { recipes: &recipes, budgets: &[0.5, 0.1], overrides: &overrides, once: true };
        let contenders = asked.contenders().unwrap();
        let names: Vec<&str> = contenders.iter().step_by(2).skip(1).map(|c| c.recipe.name.as_str()).collect();
        assert_eq!(contenders[0].budget, 1.0);
        assert_eq!(
            names,
            [
                "window",
                "sink-recent",
                "random",
                "window, once",
                "sink-recent, once",
                "random, once",
                "snapkv"
            ]
        );
        assert!(is_control("window, once") && evicts_once("window, once") && !is_control("snapkv"));
        let once = &contenders[7].recipe;
        assert!((once.decode, once.name.as_str()) == (None, "window, once"));
        assert!(Asked { budgets: &[0.0], ..asked }.contenders().is_err());
        assert_eq!(Asked { recipes: &[], ..asked }.contenders().unwrap().len(), 1);
    }
}
