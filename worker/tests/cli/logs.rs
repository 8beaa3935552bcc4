//! What is on standard error where that is no terminal: JSON lines.

use crate::common::{Dirs, ended, signal, wait};
use serde_json::Value;
use std::fs;

/// The log, of which every line must parse.
fn log(err: &str) -> Vec<Value> {
    let parsed = err.lines().map(|line| (line, serde_json::from_str::<Value>(line)));
    let lines: Vec<Value> =
        parsed.map(|(line, parsed)| parsed.unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
    lines
}

/// The only line with this in its message.
fn one<'a>(log: &'a [Value], message: &str) -> &'a Value {
    let has = |line: &&Value| line["message"].as_str().is_some_and(|m| m.contains(message));
    let found: Vec<_> = log.iter().filter(has).collect();
    assert_eq!(found.len(), 1, "{message:?} in {log:?}");
    found[0]
}

#[test]
fn log_lines_tell_of_the_start_what_is_restored_and_the_end() {
    let dirs = Dirs::new();
    let rows = ["--rows", "12000", "--rate", "4000"];
    let child = dirs.run(&rows).spawn().unwrap();
    dirs.wait_for_checkpoint();
    signal(&child, "-TERM");
    let (code, _, err) = wait(child);
    assert_eq!(code, 0, "{err}");
    let first = log(&err);
    let started = one(&first, "attempt 1 starts from nothing");
    assert_eq!((&started["attempt"], &started["level"]), (&1.into(), &"INFO".into()));
    one(&first, "stopping with a last checkpoint");
    assert_eq!(one(&first, "the job has ended")["how"], "stopped with a last checkpoint");
    let checkpoint = dirs.inspect("state")["checkpoint"].as_u64().unwrap();
    let (code, _, err) = ended(dirs.run(&rows).output().unwrap());
    assert_eq!(code, 0, "{err}");
    let second = log(&err);
    let restored = one(&second, &format!("attempt 2 starts from checkpoint {checkpoint}"));
    assert_eq!(restored["job"], started["job"]);
    assert_eq!(one(&second, "the job has ended")["how"], "finished");
    let (code, _, err) = ended(dirs.run(&rows).output().unwrap());
    assert_eq!(code, 0, "{err}");
    one(&log(&err), "--from none runs it again");
}

/// So does what is said of bad rows and of panics; the last line, the error, is for people.
#[test]
fn bad_rows_and_panics_are_log_lines() {
    let dirs = Dirs::new();
    fs::write(dirs.path("in.csv"), "n,text\n1,a\nx,b\n").unwrap();
    let (code, _, err) = ended(dirs.copy("in.csv", &[]).output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert_eq!(one(&log(&err), "1 bad rows: see")["level"], "WARN");
    let dirs = Dirs::new();
    let run = dirs.run(&["--panic-at", "777", "--restart", "fixed:1:10ms"]).output().unwrap();
    let (code, _, err) = ended(run);
    assert_eq!(code, 1, "{err}");
    let (lines, error) = err.trim_end().rsplit_once('\n').unwrap();
    assert!(error.starts_with("error: "), "{error}");
    let lines = log(lines);
    let messages = lines.iter().map(|line| line["message"].as_str().unwrap());
    let panics: Vec<_> = messages.filter(|m| m.starts_with("panicked at ")).collect();
    assert_eq!(panics.len(), 2, "{lines:?}");
    assert!(panics.iter().all(|m| m.ends_with(": row 777 is not to be counted")), "{panics:?}");
    one(&lines, "giving up");
}
