//! Recipes of step reuse: a policy, its site and its bounds, by name or as TOML.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::combine::{CfgLead, Forecast, Guard};
use crate::policies::{
    AdaCache, Always, Correct, DbCache, EasyCache, ErtaCache, FasterCache, FlowCache, Fora, MagCache, Pab,
    ProfilingDit, TaylorSeer, TeaCache,
};
use crate::profile::Profile;
use crate::{ProfileError, ReuseError, StepReusePolicy};

/// Where a model saves work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Site {
    /// The whole model: output less input latent.
    Latent,
    /// The block stack, less some blocks at either end that always run.
    BlockStack,
    /// The solver's update.
    SolverUpdate,
    /// Runs of blocks that a profile names.
    BlockRuns,
    /// Attention and feed-forward networks, each by itself.
    Modules,
    /// Attention, each block's by itself.
    Attention,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Latent => "latent",
            Self::BlockStack => "block-stack",
            Self::SolverUpdate => "solver-update",
            Self::BlockRuns => "block-runs",
            Self::Modules => "modules",
            Self::Attention => "attention",
        })
    }
}

/// A policy with its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PolicySpec {
    /// No reuse.
    None,
    /// EasyCache.
    #[serde(rename = "easycache")]
    EasyCache(EasyCache),
    /// ERTACache; needs a profile.
    #[serde(rename = "ertacache")]
    ErtaCache(Correct),
    /// ProfilingDiT; needs a profile.
    ProfilingDit(ProfilingDit),
    /// FlowCache.
    #[serde(rename = "flowcache")]
    FlowCache(FlowCache),
    /// TeaCache; takes its polynomial from a profile where there is one.
    #[serde(rename = "teacache")]
    TeaCache(TeaCache),
    /// MagCache; needs a profile.
    #[serde(rename = "magcache")]
    MagCache(MagCache),
    /// FORA.
    Fora(Fora),
    /// PAB.
    Pab(Pab),
    /// AdaCache.
    #[serde(rename = "adacache")]
    AdaCache(AdaCache),
    /// TaylorSeer.
    #[serde(rename = "taylorseer")]
    TaylorSeer(TaylorSeer),
    /// DBCache.
    #[serde(rename = "dbcache")]
    DbCache(DbCache),
    /// FasterCache's feature reuse.
    #[serde(rename = "fastercache")]
    FasterCache(FasterCache),
}

/// A policy as the catalogue lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Catalogued {
    /// Its name.
    pub name: &'static str,
    /// Its paper or source.
    pub paper: &'static str,
    /// Where it saves work unless told otherwise.
    pub site: Site,
    /// Whether it needs a profile.
    pub needs_profile: bool,
    /// What it does.
    pub summary: &'static str,
}

/// A row of the catalogue.
macro_rules! row {
    ($name:literal, $paper:literal, $site:ident, $profile:literal, $summary:literal) => {
        Catalogued {
            name: $name,
            paper: $paper,
            site: Site::$site,
            needs_profile: $profile,
            summary: $summary,
        }
    };
}

const CATALOGUE: &[Catalogued] = &[
    row!("none", "-", Latent, false, "computes every step"),
    row!(
        "easycache",
        "arXiv:2507.02860",
        Latent,
        false,
        "reuses while the predicted change of the output adds up to little"
    ),
    row!(
        "ertacache",
        "arXiv:2508.21091",
        Latent,
        true,
        "reuses profiled steps, with shorter time steps and the fitted error taken off"
    ),
    row!(
        "profiling-dit",
        "arXiv:2504.03140",
        BlockRuns,
        true,
        "reuses the blocks that attend to the background"
    ),
    row!(
        "flowcache",
        "arXiv:2602.10825",
        SolverUpdate,
        false,
        "each chunk reuses its solver update while it changes little"
    ),
    row!(
        "teacache",
        "arXiv:2411.19108",
        BlockStack,
        false,
        "reuses while a polynomial of the modulated input's change adds up to little"
    ),
    row!(
        "magcache",
        "arXiv:2506.09045",
        BlockStack,
        true,
        "reuses while profiled magnitude ratios stay near 1"
    ),
    row!(
        "fora",
        "arXiv:2407.01425",
        Modules,
        false,
        "computes attention and feed-forward outputs every few steps"
    ),
    row!("pab", "arXiv:2408.12588", Attention, false, "broadcasts attention outputs at middle noise levels"),
    row!(
        "adacache",
        "arXiv:2411.02397",
        Modules,
        false,
        "chooses the next computed step from the change at the last one"
    ),
    row!("taylorseer", "arXiv:2503.06923", Modules, false, "extrapolates outputs from their differences"),
    row!(
        "dbcache",
        "cache-dit",
        BlockStack,
        false,
        "runs the first blocks and reuses the rest when they changed little"
    ),
    row!(
        "fastercache",
        "arXiv:2410.19355",
        Attention,
        false,
        "extrapolates attention outputs from the last two"
    ),
];

/// Every policy.
pub fn catalogue() -> &'static [Catalogued] {
    CATALOGUE
}

/// A policy, where it works, and within which bounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReuseRecipe {
    /// The site.
    pub site: Site,
    /// Blocks at the start of the stack that always run, at the block-stack site.
    #[serde(default)]
    pub first_blocks: u16,
    /// Blocks at the end of the stack that always run, at the block-stack site.
    #[serde(default)]
    pub last_blocks: u16,
    /// Whether the conditional branch decides for the other.
    #[serde(default)]
    pub cfg_lead: bool,
    /// Extrapolation of what would be reused as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<ForecastSpec>,
    /// Bounds.
    #[serde(default)]
    pub guard: Guard,
    /// The policy.
    pub policy: PolicySpec,
}

/// Settings of [`Forecast`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForecastSpec {
    /// Highest order of differences.
    pub order: u8,
    /// Newton's form.
    #[serde(default)]
    pub newton: bool,
}

impl ReuseRecipe {
    /// The published settings of a policy.
    ///
    /// # Errors
    /// [`ReuseError::UnknownPolicy`].
    pub fn named(name: &str) -> Result<Self, ReuseError> {
        let Some(row) = CATALOGUE.iter().find(|row| row.name == name) else {
            let near = CATALOGUE.iter().map(|row| (strsim::damerau_levenshtein(name, row.name), row.name));
            let suggestion = near.min().filter(|(d, _)| *d <= 3).map(|(_, n)| n.to_owned());
            return Err(ReuseError::UnknownPolicy { name: name.to_owned(), suggestion });
        };
        let bounds = |warmup| Guard { warmup, ..Guard::default() };
        let (policy, guard) = match name {
            "easycache" => (PolicySpec::EasyCache(EasyCache::default()), bounds(5)),
            "ertacache" => (PolicySpec::ErtaCache(Correct::default()), bounds(1)),
            "profiling-dit" => (PolicySpec::ProfilingDit(ProfilingDit::default()), bounds(1)),
            "flowcache" => (PolicySpec::FlowCache(FlowCache::default()), bounds(1)),
            "teacache" => (PolicySpec::TeaCache(TeaCache::default()), bounds(1)),
            "magcache" => (PolicySpec::MagCache(MagCache::default()), bounds(1)),
            "fora" => (PolicySpec::Fora(Fora::default()), bounds(1)),
            "pab" => (PolicySpec::Pab(Pab::default()), bounds(1)),
            "adacache" => (
                PolicySpec::AdaCache(AdaCache::default()),
                Guard { warmup: 2, cooldown: 2, ..Guard::default() },
            ),
            "taylorseer" => (PolicySpec::TaylorSeer(TaylorSeer::default()), bounds(1)),
            "dbcache" => {
                let caps = Guard { max_consecutive: Some(4), ..bounds(8) };
                (PolicySpec::DbCache(DbCache::default()), caps)
            }
            "fastercache" => (PolicySpec::FasterCache(FasterCache::default()), bounds(1)),
            _ => (PolicySpec::None, bounds(0)),
        };
        Ok(Self {
            site: row.site,
            first_blocks: if name == "dbcache" { 1 } else { 0 },
            last_blocks: 0,
            cfg_lead: name == "easycache",
            forecast: None,
            guard,
            policy,
        })
    }

    /// A recipe from `NAME` or `NAME:key=value,key=value`. A key is a setting of the policy, or a field of the recipe such as `site` or
    /// `guard.warmup`; values are TOML, and words need no quotes.
    ///
    /// # Errors
    /// [`ReuseError::UnknownPolicy`], [`ReuseError::Recipe`].
    pub fn parse(text: &str) -> Result<Self, ReuseError> {
        let (name, settings) = text.split_once(':').unwrap_or((text, ""));
        let recipe = Self::named(name.trim())?;
        if settings.is_empty() {
            return Ok(recipe);
        }
        let mut table = toml::Table::try_from(&recipe).map_err(|e| ReuseError::Recipe(e.to_string()))?;
        for pair in split_settings(settings) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| ReuseError::Recipe(format!("{pair:?} is not key=value")))?;
            set(&mut table, key.trim(), value.trim())?;
        }
        table.try_into().map_err(|e: toml::de::Error| ReuseError::Recipe(e.to_string().trim().to_owned()))
    }

    /// A recipe from TOML.
    ///
    /// # Errors
    /// [`ReuseError::Recipe`].
    pub fn from_toml(text: &str) -> Result<Self, ReuseError> {
        toml::from_str(text).map_err(|e| ReuseError::Recipe(e.to_string().trim().to_owned()))
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    /// [`ReuseError::Recipe`] for numbers that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String, ReuseError> {
        toml::to_string(self).map_err(|e| ReuseError::Recipe(e.to_string()))
    }

    /// The policy's name.
    pub fn name(&self) -> &'static str {
        match &self.policy {
            PolicySpec::None => "none",
            PolicySpec::EasyCache(_) => "easycache",
            PolicySpec::ErtaCache(_) => "ertacache",
            PolicySpec::ProfilingDit(_) => "profiling-dit",
            PolicySpec::FlowCache(_) => "flowcache",
            PolicySpec::TeaCache(_) => "teacache",
            PolicySpec::MagCache(_) => "magcache",
            PolicySpec::Fora(_) => "fora",
            PolicySpec::Pab(_) => "pab",
            PolicySpec::AdaCache(_) => "adacache",
            PolicySpec::TaylorSeer(_) => "taylorseer",
            PolicySpec::DbCache(_) => "dbcache",
            PolicySpec::FasterCache(_) => "fastercache",
        }
    }

    /// Its row of the catalogue.
    pub fn catalogued(&self) -> Option<&'static Catalogued> {
        CATALOGUE.iter().find(|row| row.name == self.name())
    }

    /// The policy, in its bounds.
    ///
    /// # Errors
    /// [`ProfileError::Needed`] and [`ProfileError::Kind`]; [`ReuseError::Site`] when ERTACache is asked for anywhere but at the latent,
    /// whose velocities it corrects.
    pub fn build(&self, profile: Option<&Profile>) -> Result<Box<dyn StepReusePolicy>, ReuseError> {
        let name = self.name();
        let needed = || ProfileError::Needed { policy: name };
        if matches!(self.policy, PolicySpec::ErtaCache(_)) && self.site != Site::Latent {
            return Err(ReuseError::Site { policy: name, site: self.site.to_string() });
        }
        let bare: Box<dyn StepReusePolicy> = match &self.policy {
            PolicySpec::None => return Ok(Box::new(Always)),
            PolicySpec::EasyCache(p) => p.boxed(),
            PolicySpec::ErtaCache(correct) => {
                ErtaCache::new(profile.ok_or_else(needed)?.clone(), *correct)?.boxed()
            }
            PolicySpec::ProfilingDit(p) => p.clone().with_profile(profile.ok_or_else(needed)?)?.boxed(),
            PolicySpec::FlowCache(p) => p.boxed(),
            PolicySpec::TeaCache(p) => match profile {
                Some(profile) => p.clone().with_profile(profile.clone())?.boxed(),
                None => p.boxed(),
            },
            PolicySpec::MagCache(p) => p.clone().with_profile(profile.ok_or_else(needed)?.clone())?.boxed(),
            PolicySpec::Fora(p) => p.boxed(),
            PolicySpec::Pab(p) => p.boxed(),
            PolicySpec::AdaCache(p) => p.boxed(),
            PolicySpec::TaylorSeer(p) => p.boxed(),
            PolicySpec::DbCache(p) => p.boxed(),
            PolicySpec::FasterCache(p) => p.boxed(),
        };
        let forecast = match self.forecast {
            Some(f) => Forecast::new(bare, f.order, f.newton).boxed(),
            None => bare,
        };
        let guarded = self.guard.clone().around(forecast);
        Ok(if self.cfg_lead { CfgLead::new(guarded).boxed() } else { guarded.boxed() })
    }
}

/// Splits at commas that are not inside brackets.
fn split_settings(text: &str) -> Vec<&str> {
    let mut depth = 0usize;
    text.split(|c: char| {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .filter(|part| !part.trim().is_empty())
    .collect()
}

/// Sets a key: the recipe's where it has it, else the policy's.
fn set(table: &mut toml::Table, key: &str, value: &str) -> Result<(), ReuseError> {
    let quoted = || toml::Value::String(value.to_owned());
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
    let value = parsed.and_then(|mut t| t.remove("value")).unwrap_or_else(quoted);
    const OWN: [&str; 6] = ["site", "first_blocks", "last_blocks", "cfg_lead", "forecast", "guard"];
    let mut path: Vec<&str> = key.split('.').collect();
    if !OWN.contains(&path[0]) && path[0] != "policy" {
        path.insert(0, "policy");
    }
    let Some((last, folders)) = path.split_last() else { return Ok(()) };
    let mut at = table;
    for folder in folders {
        let next = at.entry((*folder).to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = next
            .as_table_mut()
            .ok_or_else(|| ReuseError::Recipe(format!("{folder} in {key} is no table")))?;
    }
    // A whole number where a fraction stood is that fraction.
    let value = match (at.get(*last), value) {
        (Some(toml::Value::Float(_)), toml::Value::Integer(n)) => toml::Value::Float(n as f64),
        (_, value) => value,
    };
    at.insert((*last).to_owned(), value);
    Ok(())
}
