//! What is printed, and the whole report as a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::manifest::{Entry, sources};
use super::verdict::{Resources, Verdict};

/// A column: a target, and of the GPUs that it is checked for one.
const COLUMNS: [(&str, &str); 7] = [
    ("cuda", ""),
    ("hip-wave32", "gfx1100"),
    ("hip-wave64", "gfx90a"),
    ("hip-wave64", "gfx942"),
    ("spirv", "spirv-val"),
    ("wgsl", "naga"),
    ("msl", ""),
];

const LEGEND: &str = "\
emitted/checked sources; v, s: vector and scalar registers of the variant that takes the most; spill: vector registers that do not fit
";

/// The variants of a kernel in a column.
#[derive(Default)]
struct Cell {
    emitted: usize,
    /// `None` where nothing checks.
    checked: Option<usize>,
    vector: u32,
    scalar: u32,
    spills: u32,
    calls: bool,
}

impl Cell {
    fn add(&mut self, resources: &Resources) {
        self.vector = self.vector.max(resources.vector_registers);
        self.scalar = self.scalar.max(resources.scalar_registers);
        self.spills = self.spills.max(resources.vector_spills);
        self.calls |= resources.calls;
    }

    fn text(&self) -> String {
        if self.emitted == 0 {
            return "-".to_owned();
        }
        let checked = self.checked.map_or("-".to_owned(), |checked| checked.to_string());
        let mut text = format!("{}/{checked}", self.emitted);
        if self.vector + self.scalar > 0 {
            let _ = write!(text, " v{} s{}", self.vector, self.scalar);
        }
        if self.spills > 0 {
            let _ = write!(text, " spill {}", self.spills);
        }
        if self.calls {
            text.push_str(" calls");
        }
        text
    }
}

/// Kernel x target.
pub(crate) fn summary(entries: &[Entry], verdicts: &[Verdict]) -> String {
    let ran: BTreeSet<&str> = verdicts.iter().map(|verdict| verdict.by).collect();
    let mut cells: BTreeMap<&str, [Cell; COLUMNS.len()]> = BTreeMap::new();
    for (_, source) in sources(entries) {
        cells.entry(&source.kernel).or_default();
    }
    for (place, source) in sources(entries) {
        let Some(row) = cells.get_mut(source.kernel.as_str()) else { continue };
        for (cell, (target, by)) in row.iter_mut().zip(COLUMNS) {
            if entries[place].target != target {
                continue;
            }
            cell.emitted += 1;
            if ran.contains(by) {
                cell.checked.get_or_insert(0);
            }
            for verdict in verdicts.iter().filter(|verdict| verdict.entry == place && verdict.by == by) {
                if let Ok(resources) = &verdict.result {
                    *cell.checked.get_or_insert(0) += 1;
                    resources.iter().for_each(|resources| cell.add(resources));
                }
            }
        }
    }
    let mut rows: Vec<Vec<String>> = vec![Vec::new(), Vec::new()];
    rows[0].push("kernel".to_owned());
    rows[0].extend(COLUMNS.map(|(target, _)| target.to_owned()));
    rows[1].push(String::new());
    rows[1].extend(COLUMNS.map(|(_, by)| by.to_owned()));
    for (kernel, row) in &cells {
        rows.push(std::iter::once((*kernel).to_owned()).chain(row.iter().map(Cell::text)).collect());
    }
    aligned(&rows) + LEGEND
}

fn aligned(rows: &[Vec<String>]) -> String {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Every source with what its checkers say, tab-separated.
pub(crate) fn report(entries: &[Entry], verdicts: &[Verdict]) -> String {
    let mut text =
        "kernel\ttarget\tcase\tdtype\tfile\tshared bytes\tchecked by\tresult\tvector registers\taccumulator \
                    registers\tscalar registers\tvector spills\tscalar spills\twaves a SIMD\tcalls\n"
            .to_owned();
    for (place, source) in sources(entries) {
        let entry = &entries[place];
        let head = format!(
            "{}\t{}\t{}\t{}\t{}\t{}",
            source.kernel,
            entry.target,
            entry.case,
            entry.dtype.as_deref().unwrap_or_default(),
            source.file.display(),
            source.shared_bytes,
        );
        let mut of_source = verdicts.iter().filter(|verdict| verdict.entry == place).peekable();
        if of_source.peek().is_none() {
            let _ = writeln!(text, "{head}\t\tnot checked\t\t\t\t\t\t\t");
        }
        for verdict in of_source {
            let result = verdict.result.as_ref().map_or_else(|reason| reason.as_str(), |_| "ok");
            let _ = write!(text, "{head}\t{}\t{}", verdict.by, result.replace(['\t', '\n'], " "));
            match &verdict.result {
                Ok(Some(r)) => {
                    let _ = writeln!(
                        text,
                        "\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
                        r.vector_registers,
                        r.accumulator_registers,
                        r.scalar_registers,
                        r.vector_spills,
                        r.scalar_spills,
                        r.occupancy,
                        r.calls,
                    );
                }
                Ok(None) | Err(_) => text.push_str("\t\t\t\t\t\t\t\n"),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::emitted;
    use super::*;

    fn resources(vector: u32, spills: u32) -> Option<Resources> {
        Some(Resources {
            vector_registers: vector,
            scalar_registers: 20,
            vector_spills: spills,
            ..Resources::default()
        })
    }

    #[test]
    fn a_cell_counts_sources_and_takes_the_worst() {
        let entries = [
            emitted("hip-wave64", "attend::rows", "f32"),
            emitted("hip-wave64", "attend::rows", "f16"),
            emitted("hip-wave64", "attend::rows", "f16"),
            emitted("msl", "attend::rows", "f16"),
        ];
        let verdicts = [
            Verdict { entry: 0, by: "gfx90a", result: Ok(resources(64, 0)) },
            Verdict { entry: 1, by: "gfx90a", result: Ok(resources(256, 7)) },
            Verdict { entry: 0, by: "gfx942", result: Ok(resources(32, 0)) },
            Verdict { entry: 1, by: "gfx942", result: Err("no".to_owned()) },
        ];
        let text = summary(&entries, &verdicts);
        let row = text.lines().nth(2).unwrap();
        let cells: Vec<&str> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, ["attend::rows", "-", "-", "2/2 v256 s20 spill 7", "2/1 v32 s20", "-", "-", "1/-"]);
    }

    #[test]
    fn a_report_has_as_many_columns_in_every_row() {
        let entries = [
            emitted("hip-wave32", "a::b", "f32"),
            emitted("wgsl", "a::b", "f32"),
            emitted("msl", "a::b", "f32"),
        ];
        let verdicts = [
            Verdict { entry: 0, by: "gfx1100", result: Ok(resources(8, 0)) },
            Verdict { entry: 1, by: "naga", result: Err("two\nlines".to_owned()) },
        ];
        let text = report(&entries, &verdicts);
        assert_eq!(text.lines().count(), 4);
        let columns: BTreeSet<usize> = text.lines().map(|line| line.split('\t').count()).collect();
        assert_eq!(columns, BTreeSet::from([15]), "{text}");
    }
}
