//! Plain tables: aligned columns, two spaces between, no frame, so that `awk` and eyes both read them.

/// Rows under a head.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
    columns: usize,
}

impl Table {
    /// An empty table with these column heads.
    pub fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|h| (*h).to_owned()).collect()], columns: head.len() }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { printable(&cell) };
        let mut row: Vec<String> = cells.into_iter().take(self.columns).map(shown).collect();
        row.resize(self.columns, "-".to_owned());
        self.rows.push(row);
    }

    /// Has it no row but the head?
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The lines, each with its end.
    pub fn render(&self) -> String {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Text from servers must not steer the terminal: control characters become spaces.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let mut table = Table::new(&["server", "release", "health"]);
        table.row(["web-1".into(), "20261124101112".into(), "healthy".into()]);
        table.row(["a-longer-name".into(), String::new()]);
        assert_eq!(
            table.render(),
            "server         release         health\nweb-1          20261124101112  healthy\na-longer-name  -               -\n"
        );
    }

    #[test]
    fn a_cell_cannot_steer_the_terminal() {
        let mut table = Table::new(&["words"]);
        table.row(["\u{1b}[2Jgone\nnext".into()]);
        assert_eq!(table.render(), "words\n [2Jgone next\n");
    }
}
