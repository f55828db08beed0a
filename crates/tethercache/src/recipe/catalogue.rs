//! The recipes that come with the library.

use super::{Recipe, parse};

/// How far a recipe is known to do what its source does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Compared number by number with outputs of the published code.
    GoldenData,
    /// Checked against its definition on numbers worked by hand: there is no published code, or it does something else.
    HandWorked,
    /// A control whose definition is its own test.
    Control,
}

/// One row of the recipe table.
#[derive(Clone, Copy, Debug)]
pub struct Catalogued {
    /// Name.
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Source, or empty for a control.
    pub paper: &'static str,
    /// What it evicts as one.
    pub unit: &'static str,
    /// What a model must hand over beside K and V.
    pub needs: &'static str,
    /// Whether the cache is bounded: whatever is evicted gives its memory back.
    pub frees_memory: bool,
    /// State of proof.
    pub proof: Proof,
    /// The recipe.
    pub toml: &'static str,
}

macro_rules! toml_of {
    ($name:literal) => {
        include_str!(concat!("../../recipes/", $name, ".toml"))
    };
}

const CATALOGUE: &[Catalogued] = &[
    Catalogued {
        name: "tethercache",
        summary: "sink, gated recall (GRAB) into memory with trusted alignment (TAME), recent",
        paper: "arXiv:2606.13035",
        unit: "frame",
        needs: "queries on the clean pass",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tethercache"),
    },
    Catalogued {
        name: "fifo",
        summary: "the last frames only",
        paper: "",
        unit: "frame",
        needs: "nothing",
        frees_memory: true,
        proof: Proof::Control,
        toml: toml_of!("fifo"),
    },
    Catalogued {
        name: "sink-recent",
        summary: "the first and the last frames",
        paper: "arXiv:2309.17453",
        unit: "frame",
        needs: "nothing",
        frees_memory: true,
        proof: Proof::Control,
        toml: toml_of!("sink-recent"),
    },
    Catalogued {
        name: "uniform-archive",
        summary: "the first, evenly spaced old and the last frames; every frame stays resident",
        paper: "",
        unit: "frame",
        needs: "nothing",
        frees_memory: false,
        proof: Proof::Control,
        toml: toml_of!("uniform-archive"),
    },
    Catalogued {
        name: "full",
        summary: "every frame at its own position, without bound",
        paper: "",
        unit: "frame",
        needs: "nothing",
        frees_memory: false,
        proof: Proof::Control,
        toml: toml_of!("full"),
    },
    Catalogued {
        name: "full",
        summary: "every token",
        paper: "",
        unit: "token",
        needs: "nothing",
        frees_memory: false,
        proof: Proof::Control,
        toml: toml_of!("tokens/full"),
    },
    Catalogued {
        name: "window",
        summary: "the last tokens",
        paper: "",
        unit: "token",
        needs: "nothing",
        frees_memory: true,
        proof: Proof::Control,
        toml: toml_of!("tokens/window"),
    },
    Catalogued {
        name: "sink-recent",
        summary: "the first and the last tokens at their own positions",
        paper: "arXiv:2309.17453",
        unit: "token",
        needs: "nothing",
        frees_memory: true,
        proof: Proof::Control,
        toml: toml_of!("tokens/sink-recent"),
    },
    Catalogued {
        name: "random",
        summary: "tokens by chance",
        paper: "",
        unit: "token",
        needs: "nothing",
        frees_memory: true,
        proof: Proof::Control,
        toml: toml_of!("tokens/random"),
    },
    Catalogued {
        name: "snapkv",
        summary: "what the last queries attend to, smoothed, per key head",
        paper: "arXiv:2404.14469",
        unit: "token",
        needs: "the last queries",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/snapkv"),
    },
    Catalogued {
        name: "streaming-llm",
        summary: "the first and the last tokens, re-positioned without gaps",
        paper: "arXiv:2309.17453",
        unit: "token",
        needs: "nothing",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/streaming-llm"),
    },
    Catalogued {
        name: "tova",
        summary: "what the last query attends to, the same for all heads",
        paper: "arXiv:2401.06104",
        unit: "token",
        needs: "the last query",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/tova"),
    },
    Catalogued {
        name: "knorm",
        summary: "short keys",
        paper: "arXiv:2406.11430",
        unit: "token",
        needs: "nothing",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/knorm"),
    },
    Catalogued {
        name: "h2o",
        summary: "half of the budget what all queries attended to, half the last tokens",
        paper: "arXiv:2306.14048",
        unit: "token",
        needs: "attention of all queries",
        frees_memory: true,
        proof: Proof::HandWorked,
        toml: toml_of!("tokens/h2o"),
    },
    Catalogued {
        name: "observed-attention",
        summary: "what queries attended to on average",
        paper: "",
        unit: "token",
        needs: "attention of all queries",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/observed-attention"),
    },
    Catalogued {
        name: "keydiff",
        summary: "keys unlike the others",
        paper: "arXiv:2504.15364",
        unit: "token",
        needs: "nothing",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/keydiff"),
    },
    Catalogued {
        name: "expected-attention",
        summary: "what queries to come are expected to attend to",
        paper: "arXiv:2510.00636",
        unit: "token",
        needs: "queries before the rotation",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/expected-attention"),
    },
    Catalogued {
        name: "lagkv",
        summary: "tokens that spread in units of the next block",
        paper: "arXiv:2504.04704",
        unit: "token",
        needs: "nothing",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/lagkv"),
    },
    Catalogued {
        name: "pyramidkv",
        summary: "snapkv, with a budget that falls from layer to layer",
        paper: "arXiv:2406.02069",
        unit: "token",
        needs: "the last queries",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/pyramidkv"),
    },
    Catalogued {
        name: "adakv",
        summary: "snapkv, the heads of a layer sharing its budget by score",
        paper: "arXiv:2407.11550",
        unit: "token",
        needs: "the last queries",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/adakv"),
    },
    Catalogued {
        name: "criticalkv",
        summary: "snapkv, then also what values do to the output",
        paper: "arXiv:2502.03805",
        unit: "token",
        needs: "the last queries, the output projection",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/criticalkv"),
    },
    Catalogued {
        name: "chunkkv",
        summary: "snapkv, whole chunks of tokens",
        paper: "arXiv:2502.00299",
        unit: "token",
        needs: "the last queries",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/chunkkv"),
    },
    Catalogued {
        name: "merging",
        summary: "short keys; other values join the most similar kept token",
        paper: "",
        unit: "token",
        needs: "nothing",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/merging"),
    },
    Catalogued {
        name: "window-kv",
        summary: "whole windows, the same in a group of layers and less in later groups",
        paper: "arXiv:2503.17922",
        unit: "token",
        needs: "the last queries",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/window-kv"),
    },
    Catalogued {
        name: "elastic-cache",
        summary: "what all queries attended to; the rest merges into its neighbours",
        paper: "arXiv:2407.18121",
        unit: "token",
        needs: "attention of all queries",
        frees_memory: true,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/elastic-cache"),
    },
    Catalogued {
        name: "razor-attention",
        summary: "everything in retrieval heads, the first, the last and one mean token in the others",
        paper: "arXiv:2407.15891",
        unit: "token",
        needs: "a head profile",
        frees_memory: true,
        proof: Proof::HandWorked,
        toml: toml_of!("tokens/razor-attention"),
    },
    Catalogued {
        name: "dapq",
        summary: "what probe tokens after the text attend to",
        paper: "arXiv:2603.11564",
        unit: "token",
        needs: "queries and keys of probe tokens",
        frees_memory: true,
        proof: Proof::HandWorked,
        toml: toml_of!("tokens/dapq"),
    },
    Catalogued {
        name: "hack",
        summary: "much in structural heads, little and merged in contextual ones",
        paper: "arXiv:2504.09261",
        unit: "token",
        needs: "all queries, a head profile",
        frees_memory: true,
        proof: Proof::HandWorked,
        toml: toml_of!("tokens/hack"),
    },
    Catalogued {
        name: "st-lite",
        summary: "of screenshots what stands out and what later ones do not repeat",
        paper: "arXiv:2603.00188",
        unit: "token",
        needs: "the last queries, keys before the rotation, the grid",
        frees_memory: true,
        proof: Proof::HandWorked,
        toml: toml_of!("tokens/st-lite"),
    },
    Catalogued {
        name: "rekv",
        summary: "reads the blocks that are most like the question",
        paper: "arXiv:2503.00540",
        unit: "token",
        needs: "queries and keys before the rotation",
        frees_memory: false,
        proof: Proof::GoldenData,
        toml: toml_of!("tokens/rekv"),
    },
    Catalogued {
        name: "quest",
        summary: "reads the pages that can matter most to the last query",
        paper: "arXiv:2406.10774",
        unit: "token",
        needs: "the last query",
        frees_memory: false,
        proof: Proof::HandWorked,
        toml: toml_of!("tokens/quest"),
    },
    Catalogued {
        name: "question-guided",
        summary: "keys that fit the question's mean query",
        paper: "",
        unit: "token",
        needs: "the last queries",
        frees_memory: true,
        proof: Proof::HandWorked,
        toml: toml_of!("tokens/question-guided"),
    },
];

/// The text of a recipe of the catalogue; its name must be there.
pub(crate) fn toml_text(name: &str, unit: &str) -> &'static str {
    let row = CATALOGUE.iter().find(|c| c.name == name && c.unit == unit);
    row.expect("the name should be in the catalogue").toml
}

/// All built-in recipes.
pub fn catalogue() -> &'static [Catalogued] {
    CATALOGUE
}

/// A recipe for frames of the catalogue; its name must be there.
pub(super) fn built_in(name: &str) -> Recipe {
    parse::read(toml_text(name, "frame")).expect("built-in recipes should be well-formed")
}
