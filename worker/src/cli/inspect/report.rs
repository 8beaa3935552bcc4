//! What `inspect` says, as data: the manifest, joined with what the ends of its state
//! files say, and everything that is wrong with them.

use super::Subject;
use super::shapes;
use crate::cli::render;
use millrace_connectors::rfc3339;
use millrace_engine::data::Res;
use millrace_engine::runtime::flight;
use millrace_engine::runtime::source::{COMPLETE, KNOWN, POSITIONS};
use millrace_engine::state::delta::Section;
use millrace_engine::state::reader::{DeltaReader, RangeRead};
use millrace_protocol::ids::Uid;
use millrace_protocol::keygroup::KeyGroupRange;
use millrace_protocol::manifest::{
    FileRef, KeyedState, ListState, ManifestKind, OperatorState, PendingCommit, When,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;

/// What a checkpoint or savepoint holds.
#[derive(Debug, Serialize)]
pub struct Report {
    pub manifest: String,
    pub kind: &'static str,
    pub job: String,
    pub attempt: u64,
    pub checkpoint: u64,
    pub created_at: String,
    /// Of a storage directory: what the job is doing.
    pub phase: Option<String>,
    /// Why, if there is a reason.
    pub cause: Option<String>,
    /// Other complete checkpoints that are kept.
    pub retained: Vec<u64>,
    /// Savepoints that are being exported.
    pub pinned: Vec<String>,
    pub max_parallelism: u16,
    pub hash_version: u32,
    pub fingerprint: String,
    pub operators: Vec<Operator>,
    /// Output that waits to be committed.
    pub pending: Vec<Pending>,
    /// Whether the manifest's output is known to be committed, so that none is pending.
    pub committed: bool,
    pub files: Vec<StateFile>,
    pub bytes: u64,
    /// What is wrong with state files; each names the file.
    pub problems: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Operator {
    pub uid: String,
    pub name: String,
    pub kind: String,
    pub parallelism: u16,
    pub keyed: Vec<Keyed>,
    pub lists: Vec<List>,
    pub watermarks: Vec<Watermark>,
    /// Subtasks whose input had ended.
    pub ended: Vec<u16>,
}

#[derive(Debug, Default, Serialize)]
pub struct Keyed {
    pub name: String,
    pub key: Option<String>,
    pub row: Option<String>,
    /// Whether it has a table per window.
    pub windowed: bool,
    /// In all files: a key that changed since its base is counted again.
    pub entries: u64,
    pub tombstones: u64,
    pub bytes: u64,
    pub files: usize,
    pub key_groups: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct List {
    pub name: String,
    pub redistribution: String,
    pub items: usize,
    pub bytes: usize,
    /// Items by subtask.
    pub by_subtask: BTreeMap<u16, usize>,
    /// What could be made out of them without their types.
    pub text: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Watermark {
    pub key_groups: String,
    pub watermark: String,
}

#[derive(Debug, Serialize)]
pub struct Pending {
    pub sink: String,
    pub connector: String,
    /// Committed once the checkpoint is complete.
    pub ready: usize,
    /// Committed only if the job is restored from this very checkpoint.
    pub on_restore: usize,
    pub bytes: usize,
}

#[derive(Debug, Serialize)]
pub struct StateFile {
    pub path: String,
    pub bytes: u64,
    pub checkpoint: u64,
    pub sections: Vec<FileSection>,
}

#[derive(Debug, Serialize)]
pub struct FileSection {
    pub operator: String,
    pub key_groups: String,
}

/// A file of the local file system.
struct OnDisk(PathBuf);

impl RangeRead for OnDisk {
    fn len(&self) -> Res<u64> {
        Ok(std::fs::metadata(&self.0)?.len())
    }

    fn read(&self, range: Range<u64>) -> Res<Vec<u8>> {
        let mut file = File::open(&self.0)?;
        file.seek(SeekFrom::Start(range.start))?;
        let mut bytes = vec![0; usize::try_from(range.end - range.start)?];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// An opened state file, and what the manifest says of it.
struct Opened<'a> {
    file: &'a FileRef,
    reader: DeltaReader,
}

/// Reads the state files and puts it all together. `all`: their blocks are checked too.
pub fn build(subject: &Subject, all: bool) -> Report {
    let manifest = &subject.manifest;
    let mut problems = Vec::new();
    let mut opened: Vec<Opened<'_>> = Vec::new();
    for file in &manifest.files {
        match open(subject, file, all) {
            Ok(Some(reader)) => opened.push(Opened { file, reader }),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    opened.sort_by_key(|opened| opened.file.order);
    let head = subject.head.as_ref();
    let committed = head.and_then(|head| head.latest.as_ref()).is_some_and(|at| at.pending == 0);
    let files = manifest.files.iter().map(|file| StateFile {
        path: subject.file(&file.key).display().to_string(),
        bytes: file.len,
        checkpoint: file.order.checkpoint.0,
        sections: file.sections.iter().map(section).collect(),
    });
    Report {
        manifest: subject.path.display().to_string(),
        kind: match manifest.kind {
            ManifestKind::Checkpoint => "checkpoint",
            ManifestKind::Savepoint => "savepoint",
        },
        job: manifest.job.0.clone(),
        attempt: manifest.attempt.0,
        checkpoint: manifest.checkpoint.0,
        created_at: time(manifest.created_at_ms),
        phase: head.map(|head| format!("{:?}", head.phase)),
        cause: head.and_then(|head| head.cause.clone()),
        retained: head
            .map_or(Vec::new(), |h| h.retained.iter().map(|at| at.checkpoint.0).collect()),
        pinned: head.map_or(Vec::new(), |h| h.pins.iter().map(|p| p.savepoint.clone()).collect()),
        max_parallelism: manifest.max_parallelism.get(),
        hash_version: manifest.hash_version,
        fingerprint: manifest.fingerprint.clone(),
        operators: manifest.operators.iter().map(|o| operator(o, &opened)).collect(),
        pending: if committed { Vec::new() } else { pending(&manifest.pending) },
        committed,
        files: files.collect(),
        bytes: manifest.files.iter().map(|file| file.len).sum(),
        problems,
    }
}

fn time(ms: u64) -> String {
    rfc3339::format(i64::try_from(ms).unwrap_or(i64::MAX)).to_string()
}

fn range(groups: KeyGroupRange) -> String {
    format!("{}..{}", groups.start, groups.end)
}

fn section(section: &millrace_protocol::manifest::Section) -> FileSection {
    FileSection { operator: section.operator.0.clone(), key_groups: range(section.groups) }
}

const CURE: &str = "put it back from a copy, or start from another checkpoint or savepoint";

/// `None`: a file of rows in flight.
fn open(subject: &Subject, file: &FileRef, all: bool) -> Result<Option<DeltaReader>, String> {
    let path = subject.file(&file.key);
    let shown = path.display().to_string();
    match std::fs::metadata(&path) {
        Err(error) => return Err(format!("{shown} cannot be read ({error}): {CURE}")),
        Ok(found) if found.len() != file.len => {
            let (found, named) = (found.len(), file.len);
            return Err(format!(
                "{shown} is damaged ({found} bytes, where the manifest says {named}): {CURE}"
            ));
        }
        Ok(_) => {}
    }
    if file.sections.is_empty() {
        if all {
            let bytes = std::fs::read(&path).map_err(|error| format!("{shown}: {error}"))?;
            flight::check(&bytes, file.crc32)
                .map_err(|why| format!("{shown} is damaged ({why}): {CURE}"))?;
        }
        return Ok(None);
    }
    let reader = DeltaReader::open(&shown, Box::new(OnDisk(path))).map_err(|e| e.to_string())?;
    reader.check_groups(subject.manifest.max_parallelism).map_err(|e| e.to_string())?;
    if all {
        for (index, section) in reader.footer().sections.iter().enumerate() {
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            reader.blocks((index, section), |_| true, |_, _| Ok(())).map_err(|e| e.to_string())?;
        }
    }
    Ok(Some(reader))
}

fn operator(operator: &OperatorState, files: &[Opened<'_>]) -> Operator {
    let watermarks = operator.watermarks.iter().map(|w| Watermark {
        key_groups: range(w.groups),
        watermark: render::watermark(w.watermark),
    });
    Operator {
        uid: operator.uid.0.clone(),
        name: operator.name.clone(),
        kind: operator.kind.clone(),
        parallelism: operator.parallelism,
        keyed: operator.keyed.iter().map(|state| keyed(&operator.uid, state, files)).collect(),
        lists: operator.lists.iter().map(list).collect(),
        watermarks: watermarks.collect(),
        ended: operator.ended.iter().map(|subtask| subtask.0).collect(),
    }
}

/// What of a file's section of a state counts.
fn valid<'a>(
    opened: &'a Opened<'_>,
    uid: &'a Uid,
    state: &'a str,
) -> Option<(&'a Section, Vec<KeyGroupRange>)> {
    let (_, section) = opened.reader.section(uid.as_str(), state)?;
    let named = opened.file.sections.iter().filter(|s| s.operator == *uid);
    Some((section, named.map(|s| s.groups.intersect(section.groups)).collect()))
}

fn keyed(uid: &Uid, state: &KeyedState, files: &[Opened<'_>]) -> Keyed {
    let types = shapes::types(&state.shape);
    let mut keyed = Keyed { name: state.name.clone(), ..Keyed::default() };
    if let Some(types) = types {
        (keyed.key, keyed.row, keyed.windowed) = (Some(types.key), Some(types.row), types.panes);
    }
    let found: Vec<_> = files.iter().filter_map(|file| valid(file, uid, &state.name)).collect();
    let mut covered: Option<(u16, u16)> = None;
    for (at, (section, groups)) in found.iter().enumerate() {
        let newer = &found[at + 1..];
        let dead = |namespace: i64, first: u16, last: u16| {
            newer.iter().any(|(section, groups)| {
                let covers = |g: &KeyGroupRange| g.start <= first && last < g.end;
                namespace < section.dead_before && groups.iter().any(covers)
            })
        };
        let counts =
            |first: u16, last: u16| groups.iter().any(|g| first < g.end && g.start <= last);
        let blocks = section.blocks.iter().filter(|b| counts(b.first, b.last));
        let mut any = false;
        for block in blocks.filter(|b| !dead(b.namespace, b.first, b.last)) {
            any = true;
            keyed.entries += u64::from(block.entries);
            keyed.tombstones += u64::from(block.dead);
            keyed.bytes += u64::from(block.bytes);
            let (low, high) = covered.unwrap_or((block.first, block.last));
            covered = Some((low.min(block.first), high.max(block.last)));
        }
        keyed.files += usize::from(any);
    }
    keyed.key_groups =
        covered.map(|(low, high)| range(KeyGroupRange { start: low, end: high + 1 }));
    keyed
}

fn list(list: &ListState) -> List {
    let items = || list.parts.iter().flat_map(|part| &part.items);
    let source = [KNOWN, COMPLETE, POSITIONS].contains(&list.name.as_str());
    let text = items().map(|item| match (source, list.name.as_str(), item.as_slice()) {
        (true, COMPLETE, [done]) => (*done != 0).to_string(),
        (_, _, item) => readable(item),
    });
    let mut by_subtask = BTreeMap::new();
    for part in &list.parts {
        *by_subtask.entry(part.subtask.0).or_insert(0) += part.items.len();
    }
    List {
        name: list.name.clone(),
        redistribution: format!("{:?}", list.redistribution),
        items: items().count(),
        bytes: items().map(Vec::len).sum(),
        by_subtask,
        text: text.collect(),
    }
}

/// The texts in bytes of unknown type (names of files, say), else the bytes in hex.
fn readable(bytes: &[u8]) -> String {
    let runs = bytes.split(|b| !(b' '..=b'~').contains(b)).filter(|run| run.len() >= 4);
    let runs: Vec<_> = runs.map(|run| String::from_utf8_lossy(run).into_owned()).collect();
    if !runs.is_empty() {
        return format!("{:?}", runs.join(" "));
    }
    let mut hex: String = bytes.iter().take(24).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > 24 {
        hex.push('…');
    }
    format!("0x{hex}")
}

fn pending(commits: &[PendingCommit]) -> Vec<Pending> {
    let mut by_sink: BTreeMap<&Uid, Pending> = BTreeMap::new();
    for commit in commits {
        let pending = by_sink.entry(&commit.sink).or_insert_with(|| Pending {
            sink: commit.sink.0.clone(),
            connector: commit.connector.clone(),
            ready: 0,
            on_restore: 0,
            bytes: 0,
        });
        match commit.when {
            When::Ready => pending.ready += 1,
            When::OnRestore => pending.on_restore += 1,
        }
        pending.bytes += commit.payload.len();
    }
    by_sink.into_values().collect()
}
