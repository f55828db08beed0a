//! What codecs cost the model: perplexity of a text whose older tokens are codes.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use tethercache::tokens::TokenRecipe;

use super::super::args::{CodecArgs, Stored};
use super::super::perplexity::{Reading, Scored, ids, name};
use super::super::runs::Contender;
use crate::device::Device;
use crate::language::Language;
use crate::table::{Table, numbers, words};

/// What is compared: a name for the table, a recipe, and its settings. The first is what the others are measured against.
const RUNS: [(&str, &str, &[&str]); 14] = [
    ("f16, nothing coded", "full", &[]),
    ("int8, per token", "int8", &[]),
    ("int4, per token", "int4", &[]),
    ("int4, per token, groups of 32", "int4", &["codec.keys.group=32", "codec.values.group=32"]),
    ("KIVI, 4 bits", "kivi", &[]),
    ("KIVI, 2 bits", "kivi", &["codec.keys.bits=2", "codec.values.bits=2"]),
    ("**SKV4**", "spherical", &[]),
    ("**SKV3**", "spherical", &["codec.keys.bits=3", "codec.values.bits=3"]),
    ("**SKV2**", "spherical", &["codec.keys.bits=2", "codec.values.bits=2"]),
    (
        "**SKV2**, a mean for each page of 128",
        "spherical",
        &[
            "codec.keys.bits=2",
            "codec.values.bits=2",
            "codec.keys.mean=page",
            "codec.values.mean=page",
            "codec.page=128",
        ],
    ),
    ("**SKV4** keys, **SKV2** values", "spherical", &["codec.values.bits=2"]),
    ("retention, a budget per head", "spherical-rdr", &[]),
    ("retention, one budget for all", "spherical-rdr", &["codec.retention.scope=all"]),
    ("spherical as published, high tier", "spherical-published", &[]),
];

/// Prints the table of one text.
pub(super) fn table(
    out: &mut impl Write,
    (path, text): (&Path, &str),
    language: &Language,
    args: &CodecArgs,
) -> Result<()> {
    let prompt = args.tokens;
    let ids = ids(language, path, text, prompt + args.scored)?;
    let reading = Reading {
        language,
        profile: None,
        ids,
        block: args.block,
        device: Device::Host,
        stored: Stored::F16,
    };
    let reading = reading.with_prompt(Some(prompt))?;
    let name = name(path);
    writeln!(out, "### {name}: the model, {prompt} tokens read and {} predicted\n", args.scored)?;
    let measured =
        ["bits per channel, coded tokens", "bits per channel, all", "left", "perplexity", "loss above f16"];
    let table = Table::new(std::iter::once(words("cache")).chain(measured.map(numbers)));
    out.write_all(table.head().as_bytes())?;
    let mut full: Option<Scored> = None;
    for (cache, recipe, set) in RUNS {
        let recipe = TokenRecipe::named(recipe)?.with_overrides(set)?;
        let scored = reading.score(&Contender { recipe, budget: 1.0 }).with_context(|| cache)?;
        let channels = scored.full as f64 / 2.0;
        let share = if scored.out == 0 {
            "—".to_owned()
        } else {
            format!(
                "{:.3}",
                8.0 * scored.coded as f64 / (scored.out * language.model.config().head_dim as u64 * 2) as f64
            )
        };
        let all = 8.0 * scored.resident as f64 / channels;
        let left = 100.0 * scored.left as f64 / scored.out.max(1) as f64;
        let (perplexity, above) = scored.beside(full.as_ref().unwrap_or(&scored));
        let row = [
            cache.to_owned(),
            share,
            format!("{all:.3}"),
            format!("{left:.0}%"),
            format!("{perplexity:.3}"),
            above.signed_with_error(4),
        ];
        out.write_all(table.line(row).as_bytes())?;
        out.flush()?;
        full.get_or_insert(scored);
    }
    writeln!(out)?;
    Ok(())
}
