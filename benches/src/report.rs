//! The table: what was measured, beside what, and whether it is enough. Pure.

use std::fmt;

/// A bound that a figure must keep.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// More is better.
    AtLeast(f64),
    /// Less is better.
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

/// What a row must reach.
#[derive(Debug, Clone, Copy, Default)]
pub struct Target {
    /// Bound on our own figure, in the row's unit.
    pub ours: Option<Bound>,
    /// Bound on ours divided by what stands beside it.
    pub ratio: Option<Bound>,
}

/// What a figure of ours is compared with, in the same unit.
#[derive(Debug, Clone)]
pub struct Beside {
    /// What it is: "plain loop", "Flink 2.3, heap".
    pub what: String,
    /// Its figure.
    pub value: f64,
}

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The work.
    pub name: String,
    /// The unit of both figures.
    pub unit: &'static str,
    /// The engine's figure.
    pub ours: f64,
    /// What was measured beside it in the same run.
    pub beside: Option<Beside>,
    /// What is wanted.
    pub target: Target,
}

impl Measured {
    /// Ours divided by what stands beside it.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.ours / self.beside.as_ref()?.value)
    }

    /// Whether every bound of the target is kept; `None` if there is no bound,
    /// or one whose figure was not measured.
    pub fn reached(&self) -> Option<bool> {
        let checks = [(self.target.ours, Some(self.ours)), (self.target.ratio, self.ratio())];
        let mut reached = None;
        for (bound, value) in checks.into_iter().filter_map(|(b, v)| Some((b?, v))) {
            reached = Some(reached.unwrap_or(true) && bound.holds(value?));
        }
        reached
    }
}

/// The rows as a markdown table.
pub fn markdown(rows: &[Measured]) -> String {
    let mut cells = vec![
        ["work", "unit", "ours", "beside it", "", "ratio", "target", "reached"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in rows {
        let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), figure);
        let targets = [
            row.target.ours.map(|bound| bound.to_string()),
            row.target.ratio.map(|bound| format!("{bound}x")),
        ];
        cells.push(vec![
            row.name.clone(),
            row.unit.to_owned(),
            figure(row.ours),
            row.beside.as_ref().map_or_else(String::new, |beside| beside.what.clone()),
            number(row.beside.as_ref().map(|beside| beside.value)),
            row.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}x")),
            targets.into_iter().flatten().collect::<Vec<_>>().join(", "),
            row.reached().map_or("–", |reached| if reached { "yes" } else { "NO" }).to_owned(),
        ]);
    }
    table(&cells)
}

/// What the machine can do, as a markdown table.
pub fn machine(figures: &[(&str, f64, &str)]) -> String {
    let mut cells = vec![["the machine", "", "unit"].map(str::to_owned).to_vec()];
    for (name, value, unit) in figures {
        cells.push(vec![(*name).to_owned(), figure(*value), (*unit).to_owned()]);
    }
    table(&cells)
}

/// `cells` with its first row as the heading; all rows as long as the first.
fn table(cells: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..cells.first().map_or(0, Vec::len))
        .map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for (n, row) in cells.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            out.push_str(&format!("| {cell:width$} "));
        }
        out.push_str("|\n");
        if n == 0 {
            for width in &widths {
                out.push_str(&format!("|{}", "-".repeat(width + 2)));
            }
            out.push_str("|\n");
        }
    }
    out
}

/// Three significant digits, as many as a median on a shared machine is worth.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: f64, beside: Option<f64>) -> Measured {
        Measured {
            name: "count".to_owned(),
            unit: "M/s",
            ours,
            beside: beside.map(|value| Beside { what: "plain loop".to_owned(), value }),
            target: Target { ours: Some(Bound::AtLeast(80.0)), ratio: Some(Bound::AtLeast(0.6)) },
        }
    }

    #[test]
    fn a_target_is_reached_only_if_every_bound_holds() {
        assert_eq!(row(90.0, Some(100.0)).reached(), Some(true));
        assert_eq!(row(90.0, Some(200.0)).reached(), Some(false));
        assert_eq!(row(70.0, Some(100.0)).reached(), Some(false));
        assert_eq!(row(90.0, None).reached(), None);
    }

    #[test]
    fn the_table_shows_what_is_missing_as_a_dash() {
        let table = markdown(&[row(90.0, None), row(90.0, Some(100.0))]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[2].contains("| –   | –     |"), "{}", lines[2]);
        assert!(lines[3].contains("0.90x") && lines[3].contains("yes"), "{}", lines[3]);
    }
}
