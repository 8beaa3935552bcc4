//! The live picture of a job: [`render`], a pure function of two views of it.

use crate::cli::units;
use crate::cli::view::{CheckpointView, Doing, OperatorView, View};
use millrace_connectors::rfc3339;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal.
    pub width: usize,
    /// Whether it shows colours.
    pub colour: bool,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// A watermark so far behind the clock is one of old data: its lag is then
/// behind the job's furthest watermark.
const LIVE: i64 = 24 * 3600 * 1000;

/// Draws a job. Rates and shares are those since `before`, or since the start.
pub fn render(now: &View, before: Option<&View>, style: Style) -> Vec<String> {
    let mut lines = vec![headline(now, style)];
    lines.extend(facts(now, before, style));
    if let Some(failure) = now.failures.last() {
        let text = format!("last failure: {}", failure.replace('\n', " "));
        lines.push(paint(&cut(&text, style.width), RED, style));
    }
    if !now.operators.is_empty() {
        lines.push(String::new());
        lines.extend(table(now, before, style));
    }
    lines
}

fn headline(now: &View, style: Style) -> String {
    let (word, colour) = match now.state {
        Doing::Starting => ("starting", YELLOW),
        Doing::Running => ("running", GREEN),
        Doing::Restarting => ("restarting", RED),
        Doing::Stopping => ("stopping", YELLOW),
        Doing::Ended => ("ended", BOLD),
    };
    let up = units::duration(Duration::from_millis(now.up_ms));
    let mut rest = format!(" {} {up}", if now.state == Doing::Ended { "after" } else { "for" });
    if let Some(attempt) = now.attempt {
        rest += &format!("  attempt {attempt}");
    }
    match now.restarts {
        0 => {}
        1 => rest += ", 1 restart",
        n => rest += &format!(", {n} restarts"),
    }
    let name = cut(&now.name, style.width.saturating_sub(word.len() + 2));
    let left = style.width.saturating_sub(length(&name) + 2 + word.len());
    format!(
        "{}  {}{}",
        paint(&name, BOLD, style),
        paint(word, colour, style),
        paint(&cut(&rest, left), DIM, style)
    )
}

/// Lines about checkpoints and rows that could not be read.
fn facts(now: &View, before: Option<&View>, style: Style) -> Vec<String> {
    let mut facts = vec![match &now.checkpoint {
        Some(checkpoint) => describe(checkpoint),
        None => "no checkpoint yet".to_owned(),
    }];
    if now.dead_letters > 0 {
        let new = now.dead_letters - before.map_or(0, |b| b.dead_letters.min(now.dead_letters));
        let new = if before.is_some() && new > 0 { format!(" (+{new})") } else { String::new() };
        facts.push(format!("{} bad rows{new}", units::count(now.dead_letters)));
    }
    let late: u64 = now.operators.iter().map(|o| o.late_dropped).sum();
    if late > 0 {
        facts.push(format!("{} late rows dropped", units::count(late)));
    }
    let one = facts.join("  |  ");
    if length(&one) <= style.width {
        return vec![one];
    }
    facts.iter().map(|fact| cut(fact, style.width)).collect()
}

fn describe(c: &CheckpointView) -> String {
    format!(
        "checkpoint {}: {} ago, took {}, wrote {} in {} entries",
        c.id,
        units::duration(Duration::from_millis(c.age_ms)),
        units::duration(Duration::from_millis(c.took_ms)),
        units::bytes(c.bytes),
        units::count(c.entries),
    )
}

/// A column: its title, how dear it is (the cheapest go first on a narrow
/// terminal), whether its text stands at the left, and its cells.
struct Column {
    title: &'static str,
    worth: u8,
    left: bool,
    cells: Vec<(String, Option<&'static str>)>,
}

impl Column {
    fn width(&self) -> usize {
        let cells = self.cells.iter().map(|(text, _)| length(text));
        // Room for what comes, so that columns do not jump.
        let least = match self.title {
            _ if self.is_empty() => 0,
            "watermark" => 24,
            "state" => 8,
            "in/s" | "out/s" | "lag" => 6,
            _ => 0,
        };
        cells.max().unwrap_or(0).max(length(self.title)).max(least)
    }

    fn is_empty(&self) -> bool {
        self.cells.iter().all(|(text, _)| text.is_empty())
    }
}

fn table(now: &View, before: Option<&View>, style: Style) -> Vec<String> {
    let mut columns = columns(now, before);
    columns.retain(|column| column.worth == u8::MAX || !column.is_empty());
    // The name may shrink so far before a column goes.
    let name = columns.first().map_or(0, Column::width);
    let need = |columns: &[Column]| -> usize {
        columns.iter().skip(1).map(|c| c.width() + 2).sum::<usize>() + name.min(12)
    };
    while need(&columns) > style.width && columns.len() > 1 {
        let cheapest = columns.iter().map(|c| c.worth).min().unwrap_or(0);
        if cheapest == u8::MAX {
            break;
        }
        columns.retain(|c| c.worth != cheapest);
    }
    let others: usize = columns.iter().skip(1).map(|c| c.width() + 2).sum();
    let name = name.min(style.width.saturating_sub(others)).max(1);
    let line = |cell: &dyn Fn(&Column) -> (String, Option<&'static str>)| {
        let mut line = String::new();
        for (i, column) in columns.iter().enumerate() {
            let width = if i == 0 { name } else { column.width() };
            let (text, colour) = cell(column);
            let text = cut(&text, width);
            let pad = " ".repeat(width - length(&text));
            let text = match colour {
                Some(colour) if !text.is_empty() => paint(&text, colour, style),
                _ => text,
            };
            line += if i == 0 { "" } else { "  " };
            line += &if column.left { text + &pad } else { pad + &text };
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&|column| (column.title.to_owned(), Some(DIM)))];
    for row in 0..now.operators.len() {
        lines.push(line(&|column| column.cells.get(row).cloned().unwrap_or_default()));
    }
    lines
}

fn columns(now: &View, before: Option<&View>) -> Vec<Column> {
    // Counters begin anew with an attempt.
    let before = before.filter(|b| b.attempt == now.attempt && b.up_ms < now.up_ms);
    let millis = (now.up_ms - before.map_or(0, |b| b.up_ms)).max(1) as f64;
    let was = |i: usize| before.and_then(|b| b.operators.get(i));
    let furthest = now.operators.iter().filter_map(|o| o.watermark).filter(|w| *w != i64::MAX);
    let furthest = furthest.max();
    let column = |title, worth, left, cell: &dyn Fn(usize, &OperatorView) -> Cell| Column {
        title,
        worth,
        left,
        cells: now.operators.iter().enumerate().map(|(i, o)| cell(i, o)).collect(),
    };
    type Cell = (String, Option<&'static str>);
    let plain = |text: String| (text, None);
    let rate = |n: u64, was: u64| units::rate(n.saturating_sub(was) as f64 * 1000.0 / millis);
    let share = |n: f64, o: &OperatorView| {
        (n * 100.0 / (millis * f64::from(o.parallelism.max(1)))).clamp(0.0, 100.0)
    };
    let works = |o: &OperatorView| o.kind == "source" || o.kind == "operator";
    vec![
        column("operator", u8::MAX, true, &|_, o| plain(o.name.clone())),
        column("x", 60, false, &|_, o| plain(o.parallelism.to_string())),
        column("rows in", 200, false, &|_, o| {
            plain(if o.kind == "source" { String::new() } else { units::count(o.rows_in) })
        }),
        column("in/s", 210, false, &|i, o| {
            let was = was(i).map_or(0, |o| o.rows_in);
            plain(if o.kind == "source" { String::new() } else { rate(o.rows_in, was) })
        }),
        column("rows out", 190, false, &|_, o| {
            plain(if o.kind == "sink" { String::new() } else { units::count(o.rows_out) })
        }),
        column("out/s", 195, false, &|i, o| {
            let was = was(i).map_or(0, |o| o.rows_out);
            plain(if o.kind == "sink" { String::new() } else { rate(o.rows_out, was) })
        }),
        column("watermark", 150, true, &|_, o| plain(o.watermark.map_or(String::new(), watermark))),
        column("lag", 160, false, &|_, o| plain(lag(o.watermark, furthest, now.at_ms))),
        column("state", 170, false, &|_, o| {
            let some = o.state_entries > 0 || o.state_bytes > 0;
            plain(if some { units::bytes(o.state_bytes) } else { String::new() })
        }),
        column("entries", 120, false, &|_, o| {
            let some = o.state_entries > 0;
            plain(if some { units::count(o.state_entries) } else { String::new() })
        }),
        column("busy", 180, false, &|i, o| {
            if !works(o) {
                return plain(String::new());
            }
            let ns = o.busy_ns.saturating_sub(was(i).map_or(0, |o| o.busy_ns));
            plain(format!("{:.0}%", share(ns as f64 / 1e6, o)))
        }),
        column("blocked", 140, false, &|i, o| {
            if !works(o) {
                return plain(String::new());
            }
            let ms = o.blocked_ms.saturating_sub(was(i).map_or(0, |o| o.blocked_ms));
            let share = share(ms as f64, o);
            (format!("{share:.0}%"), (share >= 50.0).then_some(YELLOW))
        }),
    ]
}

/// A watermark as text.
pub fn watermark(at: i64) -> String {
    match at {
        i64::MAX => "end".to_owned(),
        i64::MIN => "none".to_owned(),
        at => rfc3339::format(at).to_string(),
    }
}

/// How far a watermark is behind: the clock or, in old data, the furthest one.
fn lag(watermark: Option<i64>, furthest: Option<i64>, now_ms: i64) -> String {
    let Some(at) = watermark.filter(|at| *at != i64::MAX) else { return String::new() };
    let behind = now_ms.saturating_sub(at);
    let behind =
        if behind.abs() <= LIVE { behind } else { furthest.unwrap_or(at).saturating_sub(at) };
    units::duration(Duration::from_millis(u64::try_from(behind).unwrap_or(0)))
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// At most `width` columns of a line.
fn cut(text: &str, width: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    if length(text) <= width {
        return text.chars().map(clean).collect();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).map(clean).collect();
    if width > 0 {
        short.push('…');
    }
    short
}

fn paint(text: &str, code: &str, style: Style) -> String {
    if style.colour && !text.is_empty() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
