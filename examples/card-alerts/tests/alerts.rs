//! The alerts are those of a plain loop, however the program is run.
#![allow(clippy::unwrap_used)] // helpers of tests panic as tests do

#[path = "../src/payment.rs"]
mod payment;

use payment::{Payment, made_up};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const PAYMENTS: u64 = 60_000;
/// So many that it takes a while to read them.
const MANY: u64 = 600_000;

/// What must be found.
fn expected(payments: impl Iterator<Item = Payment>) -> Vec<String> {
    let (mut small, mut alerts) = (HashMap::new(), Vec::new());
    for Payment { card, at_ms, cents } in payments {
        if cents > 50_000
            && let Some(at) = small.get(&card).filter(|at| at_ms - **at <= 60_000)
        {
            let alert =
                json!({"card": card, "small_at_ms": at, "large_at_ms": at_ms, "cents": cents});
            alerts.push(alert.to_string());
            small.remove(&card);
        }
        if cents < 100 {
            small.insert(card, at_ms);
        }
    }
    alerts.sort();
    alerts
}

/// What was written.
fn found(directory: &Path) -> Vec<String> {
    let mut alerts = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with('.') {
            continue;
        }
        for line in std::fs::read_to_string(path).unwrap().lines() {
            alerts.push(serde_json::from_str::<Value>(line).unwrap().to_string());
        }
    }
    alerts.sort();
    alerts
}

fn program(output: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_card-alerts"));
    command.arg("run").arg("--output").arg(output).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn made_up_payments_raise_the_alerts_of_a_plain_loop() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("alerts");
    let count = PAYMENTS.to_string();
    let mut command = program(&output);
    command.args(["--payments", &count, "--rate", "1000000", "--parallelism", "2"]);
    assert!(command.status().unwrap().success());
    let expected = expected((0..PAYMENTS).map(made_up));
    assert!(expected.len() > 20, "only {} alerts", expected.len());
    assert_eq!(found(&output), expected);
}

#[test]
fn a_file_is_read_and_killed_programs_go_on_where_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (output, storage) = (dir.path().join("alerts"), dir.path().join("state"));
    let input = dir.path().join("payments.jsonl");
    let lines = (0..MANY).map(|i| serde_json::to_string(&made_up(i)).unwrap() + "\n");
    std::fs::write(&input, lines.collect::<String>()).unwrap();
    let start = |parallelism: &str| {
        let mut command = program(&output);
        command.arg("--input").arg(&input).arg("--storage").arg(&storage);
        command.args(["--parallelism", parallelism, "--checkpoint-interval", "20ms"]);
        command.spawn().unwrap()
    };
    let mut killed = 0;
    for parallelism in ["2", "1", "3"] {
        let mut child = start(parallelism);
        std::thread::sleep(Duration::from_millis(120));
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().code().is_none());
    }
    assert!(killed > 0, "it was never killed before its end");
    assert!(start("2").wait().unwrap().success());
    assert!(found(&output) == expected((0..MANY).map(made_up)));
}
