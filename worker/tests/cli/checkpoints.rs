//! Which checkpoints are taken and kept, and that each of those can be gone back to.

use crate::common::{Dirs, ended, expected, kept, program, refused, tree, wait};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

/// Manifests and state files in a storage directory.
fn data(storage: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let files = tree(storage).into_keys().filter(|path| path.to_string_lossy().contains("/data/"));
    files.partition(|path| path.file_name().unwrap().to_string_lossy().starts_with("m-"))
}

fn inspect(path: &Path) -> serde_json::Value {
    let output = program().args(["inspect", "--json"]).arg(path).output().unwrap();
    let (code, out, err) = ended(output);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

fn files_of(report: &serde_json::Value) -> Vec<PathBuf> {
    let files = report["files"].as_array().unwrap().iter();
    files.map(|file| file["path"].as_str().unwrap().into()).collect()
}

/// As many as are asked for, each with its state files, and no other.
#[test]
fn so_many_checkpoints_are_kept_as_are_asked_for_and_each_can_be_gone_back_to() {
    let dirs = Dirs::new();
    let rows = ["--rows", "12000", "--rate", "4000", "--retained", "3"];
    let child = dirs.run(&rows).spawn().unwrap();
    let begun = Instant::now();
    loop {
        let (_, out, _) = dirs.ask(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&out).unwrap_or_default();
        if status["checkpoint"]["id"].as_u64().is_some_and(|id| id >= 6) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{out}");
        std::thread::sleep(Duration::from_millis(50));
    }
    dirs.ask(&["stop"]);
    let (code, _, err) = wait(child);
    assert_eq!(code, 0, "{err}");

    let latest = dirs.inspect("state");
    let id = latest["checkpoint"].as_u64().unwrap();
    assert_eq!(latest["retained"], serde_json::json!([id - 1, id - 2]));
    let (manifests, mut states) = data(&dirs.path("state"));
    let mut ids: Vec<u64> =
        manifests.iter().map(|m| inspect(m)["checkpoint"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [id - 2, id - 1, id], "{manifests:?}");
    let mut named: Vec<PathBuf> = manifests.iter().flat_map(|m| files_of(&inspect(m))).collect();
    named.sort();
    named.dedup();
    states.sort();
    assert_eq!(states, named, "files that none of them names");

    let mut begins = Vec::new();
    for manifest in &manifests {
        // Of a copy, for whoever goes back forgets what came after.
        let other = Dirs::new();
        copy(&dirs.path("state"), &other.path("state"));
        let from = other.path("state").join(manifest.strip_prefix(dirs.path("state")).unwrap());
        let (code, _, err) = ended(other.run(&rows).arg("--from").arg(&from).output().unwrap());
        assert_eq!(code, 0, "{err}");
        let checkpoint = inspect(manifest)["checkpoint"].as_u64().unwrap();
        assert!(err.contains(&format!("starts from checkpoint {checkpoint}")), "{err}");
        // From there on all windows are whole: what was counted before it is in its state.
        let (rest, all) = (other.counts(), expected(12_000));
        let first = rest.keys().map(|(_, window)| *window).min().unwrap();
        begins.push((checkpoint, first));
        let whole = all.into_iter().filter(|((_, window), _)| *window >= first);
        assert!(rest.into_iter().eq(whole), "from checkpoint {checkpoint}");
    }
    begins.sort_unstable();
    assert!(begins[0].1 < begins[2].1, "the older, the more comes again: {begins:?}");
}

#[test]
fn a_checkpoint_of_another_job_is_refused_and_changes_nothing() {
    let (mine, other) = (Dirs::new(), Dirs::new());
    for dirs in [&mine, &other] {
        let child = dirs.start(&[]);
        dirs.ask(&["stop"]);
        assert_eq!(wait(child).0, 0);
    }
    let before = tree(&mine.path("state"));
    let (theirs, _) = data(&other.path("state"));
    let mut run = mine.run(&[]);
    refused(run.arg("--from").arg(&theirs[0]), &["belongs to job", "take a savepoint of that job"]);
    kept(&before, "refused");
}

/// However short the interval is.
#[test]
fn the_least_pause_between_checkpoints_is_kept() {
    let dirs = Dirs::new();
    let (begun, pause) = (Instant::now(), Duration::from_secs(2));
    let child = dirs.start(&["--checkpoint-interval", "10ms", "--min-pause", "2s"]);
    std::thread::sleep(2 * pause);
    dirs.ask(&["stop"]);
    assert_eq!(wait(child).0, 0);
    let most = begun.elapsed().as_secs() / pause.as_secs() + 1;
    let taken = dirs.inspect("state")["checkpoint"].as_u64().unwrap();
    // The last does not wait.
    assert!((2..=most).contains(&taken), "{taken} checkpoints, at most {most}");
}
