//! The dependency table of ARCHITECTURE.md: which crate may use which.

use anyhow::{Context, Result, bail, ensure};

/// The lines that surround the table; Markdown does not show them.
const BEGIN: &str = "<!-- dependency table -->";
const END: &str = "<!-- /dependency table -->";
const COLUMNS: [&str; 3] = ["crate", "what lives there", "may use"];

/// The arrows that the crates may have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// In the table's order.
    pub(crate) rows: Vec<Row>,
}

/// One crate's row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Line of the file, from 1.
    pub(crate) line: usize,
    pub(crate) name: String,
    pub(crate) may_use: Vec<String>,
}

impl Table {
    /// Reads the table out of the whole file.
    pub(crate) fn parse(markdown: &str) -> Result<Self> {
        let mut lines = markdown.lines().map(str::trim).zip(1..);
        ensure!(lines.any(|(line, _)| line == BEGIN), "there is no line `{BEGIN}`");
        let mut table = Vec::new();
        loop {
            match lines.next() {
                Some((END, _)) => break,
                Some(("", _)) => {}
                Some((text, line)) => {
                    table.push((line, cells(text).with_context(|| format!("line {line}"))?));
                }
                None => bail!("there is no line `{END}` after `{BEGIN}`"),
            }
        }
        let [(_, header), (_, rule), rows @ ..] = &table[..] else {
            bail!("the dependency table is empty");
        };
        ensure!(*header == COLUMNS, "the dependency table's columns are {header:?}, not {COLUMNS:?}");
        ensure!(
            rule.iter().all(|cell| cell.contains('-') && cell.trim_matches(['-', ':']).is_empty()),
            "the dependency table lacks the rule `| --- | --- | --- |` under its header"
        );

        let mut parsed: Vec<Row> = Vec::new();
        for &(line, [name, _, may_use]) in rows {
            let row = Row::parse(line, name, may_use).with_context(|| format!("line {line}"))?;
            if let Some(other) = parsed.iter().find(|other| other.name == row.name) {
                bail!("line {line}: `{}` already has line {}", row.name, other.line);
            }
            parsed.push(row);
        }
        Ok(Self { rows: parsed })
    }

    /// The row of this crate.
    pub(crate) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }
}

impl Row {
    fn parse(line: usize, name: &str, may_use: &str) -> Result<Self> {
        let may_use = match may_use {
            "none" => Vec::new(),
            names => names.split(',').map(|name| backticked(name.trim())).collect::<Result<_>>()?,
        };
        Ok(Self { line, name: backticked(name)?, may_use })
    }
}

fn cells(line: &str) -> Result<[&str; 3]> {
    let row = line.strip_prefix('|').and_then(|rest| rest.strip_suffix('|'));
    let cells: Vec<_> =
        row.context("not a row: it starts and ends with `|`")?.split('|').map(str::trim).collect();
    let count = cells.len();
    cells.try_into().ok().with_context(|| format!("{count} cells instead of 3"))
}

fn backticked(cell: &str) -> Result<String> {
    cell.strip_prefix('`')
        .and_then(|rest| rest.strip_suffix('`'))
        .filter(|name| !name.is_empty() && !name.contains('`'))
        .map(str::to_owned)
        .with_context(|| format!("{cell:?} is not one crate's name in backticks (or `none` without them)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rows: &str) -> Result<Table> {
        Table::parse(&format!(
            "# Title\n\n| not | this |\n{BEGIN}\n\n| crate | what lives there | may use |\n|---|:--|---|\n{rows}\n\n{END}\nRest\n"
        ))
    }

    fn message(result: Result<Table>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn reads_names_arrows_and_lines() {
        let table =
            parse("| `a` | ground | none |\n| `b` | uses `a`, and more | `a` |\n| `c` | top | `a`, `b` |")
                .unwrap();
        let row = |line, name: &str, may_use: &[&str]| Row {
            line,
            name: name.to_owned(),
            may_use: may_use.iter().map(|&name| name.to_owned()).collect(),
        };
        assert_eq!(table.rows, [row(8, "a", &[]), row(9, "b", &["a"]), row(10, "c", &["a", "b"])]);
        assert_eq!(table.row("b"), Some(&table.rows[1]));
        assert_eq!(table.row("d"), None);
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        assert_eq!(message(parse("| `a` | none |")), "line 8: 2 cells instead of 3");
        assert!(message(parse("| `a` | x | |")).starts_with("line 8: \"\" is not one crate's name"));
        assert!(message(parse("| a | x | none |")).starts_with("line 8: \"a\" is not one crate's name"));
        assert!(message(parse("| `a` | x | `b` `c` |")).contains("\"`b` `c`\""));
        assert!(message(parse("prose")).starts_with("line 8: not a row"));
        assert_eq!(
            message(parse("| `a` | x | none |\n| `a` | y | none |")),
            "line 9: `a` already has line 8"
        );
    }

    #[test]
    fn refuses_a_file_without_the_table() {
        assert!(message(Table::parse("")).contains(BEGIN));
        assert!(message(Table::parse(BEGIN)).contains(END));
        assert!(message(Table::parse(&format!("{BEGIN}\n{END}"))).contains("empty"));
        let other = format!("{BEGIN}\n| crate | may use | why |\n|-|-|-|\n{END}");
        assert!(message(Table::parse(&other)).contains("columns"));
        let ruleless = format!("{BEGIN}\n| crate | what lives there | may use |\n| `a` | x | none |\n{END}");
        assert!(message(Table::parse(&ruleless)).contains("rule"));
    }
}
