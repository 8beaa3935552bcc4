//! What a process in a pod says before it ends: one JSON object in the pod's termination
//! log, which outlives the pod in its events and in the job's status.

use crate::cli::trouble::Trouble;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Longest termination message that Kubernetes keeps, and some room.
const LONGEST: usize = 3000;

const LOG: &str = "/dev/termination-log";

/// Whether this process is in a pod.
pub fn in_pod() -> bool {
    std::env::var_os("MILLRACE_POD_NAME").is_some()
}

/// Says why the process ends, if it is in a pod.
pub fn of_trouble(trouble: &Trouble) {
    let text = trouble.to_string();
    let code = match trouble {
        Trouble::Storage(_) => "StorageUnusable",
        Trouble::EarlierState(_) => "EarlierStateFound",
        Trouble::StateMissing(_) => "StateMissing",
        Trouble::TakenOver(_) => "TakenOver",
        Trouble::User(_) => "InvalidProgram",
        Trouble::Failed(_) => "Failed",
    };
    // The message says what to do; the operator knows where in the StreamJob.
    say(code, &text, "", Map::new());
}

/// Says something, with more that only its reader knows.
pub fn say(code: &str, message: &str, remedy: &str, more: Map<String, Value>) {
    if !in_pod() {
        return;
    }
    let message: String = message.chars().take(LONGEST / 2).collect();
    let mut words = json!({ "code": code, "message": message, "remedy": remedy });
    if let Value::Object(words) = &mut words {
        words.extend(more);
    }
    // There is none outside of Kubernetes.
    if Path::new(LOG).exists()
        && let Err(error) = std::fs::write(LOG, words.to_string())
    {
        tracing::warn!(%error, "the last words are not written");
    }
}
