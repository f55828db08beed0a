//! The repository's recipe tables say what the recipes say of themselves.
//!
//! `TETHER_WRITE_README=1 cargo test -p tethercache --test readme` writes them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fmt::Write;
use std::path::Path;

use tethercache::catalogue;

fn table(unit: &str) -> String {
    let mut out =
        String::from("| recipe | what stays | paper | frees memory | proof |\n|---|---|---|---|---|\n");
    for row in catalogue().iter().filter(|row| row.unit == unit) {
        let about = row.about;
        let frees = if about.frees_memory { "yes" } else { "no" };
        let paper = about.paper.as_deref().unwrap_or("");
        let (name, proof) = (row.name, about.proof_in_words());
        writeln!(out, "| `{name}` | {} | {paper} | {frees} | {proof} |", about.summary).unwrap();
    }
    out
}

#[test]
fn the_front_page_lists_the_recipes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let mut text = std::fs::read_to_string(&path).unwrap();
    let before = text.clone();
    for unit in ["frame", "token"] {
        let (start, end) = (format!("<!-- recipes: {unit} -->\n"), format!("<!-- /recipes: {unit} -->"));
        let from = text.find(&start).expect("the README should have the table's marks") + start.len();
        let to = from + text[from..].find(&end).expect("the README should have the table's marks");
        text.replace_range(from..to, &table(unit));
    }
    if std::env::var_os("TETHER_WRITE_README").is_some() {
        std::fs::write(path, text).unwrap();
    } else {
        assert!(text == before, "README.md: its recipe tables are not what the recipes say (see this file)");
    }
}
