//! A report as text for people. Pure.

use super::report::{Keyed, List, Operator, Report};
use crate::cli::units::{bytes, count, plural};
use std::fmt::Write;

/// So many items of a list are shown.
const ITEMS: usize = 8;
/// So many lines are shown of what may be many.
const LINES: usize = 40;

/// The report as text.
pub fn print(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, report);
    out
}

fn write(out: &mut String, r: &Report) -> std::fmt::Result {
    writeln!(out, "{} {} of job {}", r.kind, r.checkpoint, r.job)?;
    writeln!(out, "  taken            {} by attempt {}", r.created_at, r.attempt)?;
    if let Some(phase) = &r.phase {
        let cause = r.cause.as_ref().map_or(String::new(), |cause| format!(": {cause}"));
        writeln!(out, "  job              {phase}{cause}")?;
    }
    if !r.retained.is_empty() {
        let ids: Vec<String> = r.retained.iter().map(u64::to_string).collect();
        writeln!(out, "  also kept        {}", ids.join(", "))?;
    }
    if !r.pinned.is_empty() {
        writeln!(out, "  being exported   {}", r.pinned.join(", "))?;
    }
    writeln!(out, "  max parallelism  {}", r.max_parallelism)?;
    writeln!(out, "  state            {} in {}", bytes(r.bytes), plural(r.files.len(), "file"))?;
    writeln!(out, "  manifest         {}", r.manifest)?;
    for operator in &r.operators {
        write_operator(out, operator)?;
    }
    writeln!(out)?;
    if r.pending.is_empty() {
        writeln!(out, "no output waits to be committed")?;
    }
    for p in &r.pending {
        writeln!(
            out,
            "sink {:?}: {} to commit, {} only if restored from here ({})",
            p.sink,
            p.ready,
            p.on_restore,
            bytes(p.bytes as u64)
        )?;
    }
    if !r.files.is_empty() {
        writeln!(out, "\nfiles")?;
    }
    for file in r.files.iter().take(LINES) {
        writeln!(out, "  {}  {} of checkpoint {}", file.path, bytes(file.bytes), file.checkpoint)?;
        if file.sections.is_empty() {
            writeln!(out, "    rows in flight")?;
        }
        for section in &file.sections {
            writeln!(out, "    {:?} key groups {}", section.operator, section.key_groups)?;
        }
    }
    more(out, r.files.len(), LINES, "  ")
}

fn more(out: &mut String, all: usize, shown: usize, indent: &str) -> std::fmt::Result {
    match all.saturating_sub(shown) {
        0 => Ok(()),
        n => writeln!(out, "{indent}... and {n} more (see --json)"),
    }
}

fn write_operator(out: &mut String, o: &Operator) -> std::fmt::Result {
    write!(out, "\n{} {:?}", o.kind, o.uid)?;
    if o.name != o.uid {
        write!(out, " ({})", o.name)?;
    }
    writeln!(out, ", parallelism {}", o.parallelism)?;
    for state in &o.keyed {
        write_keyed(out, state)?;
    }
    for list in &o.lists {
        write_list(out, list)?;
    }
    // Neighbours that agree are one line; groups without an event time lie between others.
    let mut watermarks: Vec<(String, &str)> = Vec::new();
    for w in &o.watermarks {
        let (first, end) = w.key_groups.split_once("..").unwrap_or_default();
        match watermarks.last_mut() {
            Some((groups, at)) if *at == w.watermark && groups.ends_with(&format!("..{first}")) => {
                let start = groups.split("..").next().unwrap_or_default().to_owned();
                *groups = format!("{start}..{end}");
            }
            _ => watermarks.push((w.key_groups.clone(), &w.watermark)),
        }
    }
    for (groups, at) in watermarks.iter().take(LINES) {
        writeln!(out, "  watermark {at} (key groups {groups})")?;
    }
    more(out, watermarks.len(), LINES, "  ")?;
    if !o.ended.is_empty() {
        writeln!(out, "  input ended in {} of {} subtasks", o.ended.len(), o.parallelism)?;
    }
    Ok(())
}

fn write_keyed(out: &mut String, state: &Keyed) -> std::fmt::Result {
    let windowed = if state.windowed { ", by window" } else { "" };
    write!(
        out,
        "  state {:?}{windowed}: {} entries, {} in {}",
        state.name,
        count(state.entries),
        bytes(state.bytes),
        plural(state.files, "file")
    )?;
    if state.tombstones > 0 {
        write!(out, ", {} removals", count(state.tombstones))?;
    }
    match &state.key_groups {
        Some(groups) => writeln!(out, ", key groups {groups}")?,
        None => writeln!(out)?,
    }
    if let (Some(key), Some(row)) = (&state.key, &state.row) {
        writeln!(out, "    {key} -> {row}")?;
    }
    Ok(())
}

fn write_list(out: &mut String, list: &List) -> std::fmt::Result {
    writeln!(
        out,
        "  list {:?}: {}, {}, {}",
        list.name,
        plural(list.items, "item"),
        bytes(list.bytes as u64),
        match list.redistribution.as_str() {
            "Even" => "dealt out evenly",
            "Union" => "all to every subtask",
            _ => "by subtask",
        }
    )?;
    for text in list.text.iter().take(ITEMS) {
        writeln!(out, "    {text}")?;
    }
    more(out, list.text.len(), ITEMS, "    ")
}
