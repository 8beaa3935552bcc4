//! Where files stand: all names of the file sink are built and parsed here.

use super::Error;
use millrace_engine::connector::SinkCx;
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The directory that parts are staged in, hidden from readers of the output.
const STAGE: &str = ".millrace";

/// A part to be committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCommit {
    /// Name among the staged files of the sink.
    pub staged: String,
    /// Final path, relative to the output directory, `/` between components.
    pub target: String,
    /// How much of the staged file counts, in bytes.
    pub len: u64,
    /// Whether the part was closed. If not, its writer may have gone on.
    pub closed: bool,
    /// The output directory, as the sink had been given it; nothing: the one it has now.
    #[serde(default)]
    pub at: Option<String>,
    /// In S3: what makes up the object.
    #[serde(default)]
    pub upload: Option<Upload>,
}

/// A multipart upload, and those of its parts that count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// What the server calls it.
    pub id: String,
    /// In the order of their numbers.
    pub parts: Vec<UploadPart>,
}

/// A part of a multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadPart {
    /// Its number.
    pub number: u16,
    /// What the server calls its content.
    pub e_tag: String,
    /// CRC-32, as the headers of S3 have it.
    pub crc32: String,
}

/// The directories of one sink of one job.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) dir: PathBuf,
    pub(super) stage: PathBuf,
    /// The sink's uid as names begin with it.
    uid: String,
    /// The job as names have it.
    pub(super) job: String,
}

impl Places {
    /// Creates them, and finds out whether files can be made there.
    pub(super) fn create(dir: &Path, job: &JobUid, uid: &Uid) -> Result<Self, Error> {
        let failed = |source| Error::Directory { path: dir.to_path_buf(), source };
        let places = Self::former(dir, job, uid);
        fs::create_dir_all(&places.stage).map_err(failed)?;
        for made in places.stage.ancestors().take_while(|path| path.starts_with(dir)) {
            sync_dir(made).map_err(failed)?;
        }
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            // As far as we may: it is not ours.
            let _ = sync_dir(parent);
        }
        // In the parent of what committers clean, so that none takes it away.
        let probe = |dir: &Path| make_and_remove(dir).map_err(failed);
        probe(dir)?;
        probe(&dir.join(STAGE))?;
        Ok(places)
    }

    /// Of a directory that output went to earlier: nothing is made there.
    pub(super) fn former(dir: &Path, job: &JobUid, uid: &Uid) -> Self {
        let (job, uid) = (escape(job.as_str()), escape(uid.as_str()));
        let stage = dir.join(STAGE).join(&job).join(&uid);
        Self { dir: dir.to_path_buf(), stage, uid, job }
    }

    /// The attempt that staged a file of this name, or of which this is a copy.
    pub(super) fn attempt_of(&self, name: &str) -> Option<Attempt> {
        let rest = name.strip_prefix(&self.uid)?.strip_prefix('-')?;
        rest.split('-').nth(1)?.parse().ok().map(Attempt)
    }

    pub(super) fn staged(&self, commit: &FileCommit) -> PathBuf {
        self.stage.join(&commit.staged)
    }

    /// A copy of a part that was open: one that no writer appends to.
    pub(super) fn copy(&self, commit: &FileCommit, process: u32, n: u32) -> PathBuf {
        self.stage.join(format!("{}.copy-{process}-{n}", commit.staged))
    }

    pub(super) fn target(&self, commit: &FileCommit) -> PathBuf {
        self.dir.join(&commit.target)
    }
}

/// The names of a part. Unique: an attempt is deployed once, and a subtask counts its parts.
pub(super) fn part(
    cx: &SinkCx,
    job: &str,
    partition: &str,
    counter: u64,
    extension: &str,
) -> FileCommit {
    let SinkCx { uid, attempt, subtask, .. } = cx;
    let uid = escape(uid.as_str());
    let name = format!("{uid}-{:05}-{:08}-{counter:08}-{job}{extension}", subtask.0, attempt.0);
    let slash = if partition.is_empty() { "" } else { "/" };
    let target = format!("{partition}{slash}{name}");
    FileCommit { staged: name, target, len: 0, closed: false, at: None, upload: None }
}

/// Whether a partition's path leads to a place below the directory.
pub(super) fn is_sub_path(path: &str) -> bool {
    path.is_empty()
        || path
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', '\0']))
}

/// Makes a name that is safe in a path; two ids never get the same one.
pub(super) fn escape(id: &str) -> String {
    let mut name = String::new();
    for (at, byte) in id.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
            b'.' if at > 0 => name.push('.'),
            _ => _ = write!(name, "%{byte:02x}"),
        }
    }
    name
}

/// Makes entries of a directory last.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn make_and_remove(dir: &Path) -> io::Result<()> {
    // One name: probes of several subtasks at a time do not disturb each other.
    let probe = dir.join(".millrace-probe");
    fs::write(&probe, b"")?;
    match fs::remove_file(&probe) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
