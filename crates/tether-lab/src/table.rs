//! Tables, as Markdown and for a terminal.

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    head: String,
    numbers: bool,
}

/// A column of words, set to the left.
pub fn words(head: &str) -> Column {
    Column { head: head.to_owned(), numbers: false }
}

/// A column of numbers, set to the right.
pub fn numbers(head: &str) -> Column {
    Column { head: head.to_owned(), numbers: true }
}

/// A table: rows are added, or written one by one as they are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row. Cells that are missing are empty.
    pub fn push(&mut self, row: impl IntoIterator<Item = String>) {
        self.rows.push(row.into_iter().collect());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The head of the Markdown table, two lines.
    pub fn head(&self) -> String {
        let heads = self.columns.iter().map(|c| format!(" {} |", escaped(&c.head)));
        let rules = self.columns.iter().map(|c| if c.numbers { "---:|" } else { "---|" });
        format!("|{}\n|{}\n", heads.collect::<String>(), rules.collect::<String>())
    }

    /// One row of the Markdown table, a line.
    pub fn line(&self, row: impl IntoIterator<Item = String>) -> String {
        let mut line = "|".to_owned();
        let mut cells = row.into_iter();
        for _ in &self.columns {
            line.push_str(&format!(" {} |", escaped(&cells.next().unwrap_or_default())));
        }
        line.push('\n');
        line
    }

    /// All of it as Markdown.
    pub fn markdown(&self) -> String {
        let rows = self.rows.iter().map(|row| self.line(row.iter().cloned()));
        std::iter::once(self.head()).chain(rows).collect()
    }

    /// Lines of aligned columns, two spaces apart; the first is the head.
    pub fn plain(&self) -> Vec<String> {
        let heads: Vec<String> = self.columns.iter().map(|c| c.head.clone()).collect();
        let rows: Vec<&Vec<String>> = std::iter::once(&heads).chain(&self.rows).collect();
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |row: &&Vec<String>| {
            let cells = self.columns.iter().zip(&widths).enumerate().map(|(i, (column, &width))| {
                let cell = cell(row, i);
                if column.numbers { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        rows.iter().map(line).collect()
    }
}

/// Text that cannot end a cell.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([words("name"), numbers("kept")]);
        table.push(["a|b".to_owned(), "0.5".to_owned()]);
        table.push(["longer".to_owned()]);
        table
    }

    #[test]
    fn markdown_by_hand() {
        let text = "| name | kept |\n|---|---:|\n| a\\|b | 0.5 |\n| longer |  |\n";
        assert_eq!(table().markdown(), text);
        assert_eq!(
            table().head() + &table().line(["x".into(), "1".into()]),
            "| name | kept |\n|---|---:|\n| x | 1 |\n"
        );
    }

    #[test]
    fn a_terminal_gets_aligned_columns() {
        assert_eq!(table().plain(), ["name    kept", "a|b      0.5", "longer"]);
    }
}
