//! `inspect`: what a checkpoint or savepoint holds. Reads only, needs no program and
//! no lock.

mod print;
mod report;
mod shapes;

use crate::cli::home::{Stored, is_storage};
use crate::cli::trouble::Trouble;
use millrace_engine::store::opener::is_url;
use millrace_protocol::head::HeadRecord;
use millrace_protocol::manifest::{Manifest, ManifestKind};
use millrace_protocol::objects::ObjectKey;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A manifest, and where its files are.
pub struct Subject {
    /// What was read: for people.
    path: PathBuf,
    manifest: Manifest,
    /// Keys count from here.
    root: PathBuf,
    /// In a savepoint the first part of a key is the savepoint's own name, which may
    /// have been changed since.
    skip: bool,
    /// The newest entry of the job's chain, of a storage directory.
    head: Option<HeadRecord>,
}

impl Subject {
    fn file(&self, key: &ObjectKey) -> PathBuf {
        let key = key.as_str();
        let key = if self.skip { key.split_once('/').map_or(key, |(_, rest)| rest) } else { key };
        self.root.join(key)
    }
}

/// Shows what `path` holds.
pub fn inspect(path: &Path, json: bool, quick: bool) -> Result<(), Trouble> {
    let subject = match open(path)? {
        Found::Subject(subject) => subject,
        Found::Empty(head) => return empty(path, head.as_deref(), json),
    };
    let report = report::build(&subject, !quick);
    let text = if json {
        serde_json::to_string_pretty(&report).map_err(Trouble::failed)? + "\n"
    } else {
        print::print(&report)
    };
    say(&text);
    match report.problems.first() {
        None => Ok(()),
        Some(problem) => Err(Trouble::user(match report.problems.len() {
            1 => problem.clone(),
            n => format!("{problem} (and {} more)", n - 1),
        })),
    }
}

/// Prints; a reader that has gone (`| head`) is no error.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// A job without a checkpoint.
fn empty(path: &Path, head: Option<&HeadRecord>, json: bool) -> Result<(), Trouble> {
    if json {
        say(&format!("{:#}\n", serde_json::json!({ "head": head, "manifest": null })));
        return Ok(());
    }
    let path = path.display();
    say(&match head {
        None => format!("{path}: a job that has never run\n"),
        Some(head) => format!(
            "{path}: job {}, attempt {}, {:?}: no complete checkpoint\n",
            head.job, head.attempt, head.phase
        ),
    });
    Ok(())
}

enum Found {
    Subject(Box<Subject>),
    Empty(Option<Box<HeadRecord>>),
}

fn open(path: &Path) -> Result<Found, Trouble> {
    if path.to_str().is_some_and(is_url) {
        return Err(Trouble::user(format!(
            "{} is not on this machine: copy the savepoint here, or take one into a directory",
            path.display()
        )));
    }
    let data = std::fs::metadata(path)
        .map_err(|error| Trouble::user(format!("cannot read {}: {error}", path.display())))?;
    if data.is_file() {
        return Ok(Found::Subject(Box::new(manifest_file(path)?)));
    }
    if path.join("_manifest").exists() {
        return Ok(Found::Subject(Box::new(manifest_file(&path.join("_manifest"))?)));
    }
    if !is_storage(&path.into())? {
        return Err(Trouble::user(nothing_there(path)));
    }
    let stored = Stored::read(&path.into())?;
    let Some(latest) = stored.head.as_ref().and_then(|head| head.latest.clone()) else {
        return Ok(Found::Empty(stored.head.map(Box::new)));
    };
    let manifest = stored.manifest(&latest)?;
    Ok(Found::Subject(Box::new(Subject {
        path: path.join(latest.manifest.as_str()),
        manifest,
        root: path.to_owned(),
        skip: false,
        head: stored.head,
    })))
}

fn manifest_file(path: &Path) -> Result<Subject, Trouble> {
    let shown = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|error| Trouble::user(format!("cannot read {shown}: {error}")))?;
    let manifest = Manifest::decode(&shown, &bytes).map_err(Trouble::user)?;
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // A checkpoint's is <root>/<job>/data/<attempt>/m-<n>, a savepoint's <id>/_manifest.
    let skip = manifest.kind == ManifestKind::Savepoint;
    let up = if skip { 1 } else { 4 };
    let root = absolute.ancestors().nth(up).unwrap_or(Path::new("/")).to_owned();
    Ok(Subject { path: path.to_owned(), manifest, root, skip, head: None })
}

fn nothing_there(path: &Path) -> String {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut savepoints: Vec<String> = entries
        .filter(|entry| entry.path().join("_manifest").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    savepoints.sort();
    let shown = path.display();
    if savepoints.is_empty() {
        format!(
            "{shown} is neither the storage of a job nor a savepoint: give one of these, or a \
             manifest file"
        )
    } else {
        format!("{shown} holds savepoints: give one of {}", savepoints.join(", "))
    }
}
