//! A job at one moment, as it is shown, logged and sent to `status`. Pure data.

use millrace_engine::graph::NodeKind;
use millrace_engine::job::{Stats, Status};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What the job is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Doing {
    /// No task has run yet.
    #[default]
    Starting,
    /// Tasks run.
    Running,
    /// An attempt failed, the next has not begun.
    Restarting,
    /// A last checkpoint is being taken and committed.
    Stopping,
    /// It has ended.
    Ended,
}

/// A job at one moment. Times are milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// The program's name.
    pub name: String,
    /// Where its state is kept; none: only while it runs.
    pub storage: Option<String>,
    /// The process.
    pub process: u32,
    /// The job's uid, once known.
    pub job: Option<String>,
    /// What it is doing.
    pub state: Doing,
    /// The attempt.
    pub attempt: Option<u64>,
    /// When this view was taken, since 1970.
    pub at_ms: i64,
    /// How long this process has been at it.
    pub up_ms: u64,
    /// Restarts of this process.
    pub restarts: u64,
    /// The last failures, newest last.
    pub failures: Vec<String>,
    /// The newest complete checkpoint of this process.
    pub checkpoint: Option<CheckpointView>,
    /// Rows that could not be read.
    pub dead_letters: u64,
    /// Savepoints that ended: (id, place or reason).
    pub savepoints: Vec<(String, Result<String, String>)>,
    /// The operators, upstream first.
    pub operators: Vec<OperatorView>,
    /// The generation of the configuration that its tasks were started with.
    #[serde(default)]
    pub generation: Option<u64>,
    /// The processes that run it.
    #[serde(default)]
    pub workers: Vec<WorkerView>,
}

/// A process that runs a part of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Which.
    pub ordinal: u16,
    /// Slots that it offers.
    pub slots: u16,
    /// Slots that the attempt uses.
    pub used: u16,
}

/// A complete checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointView {
    /// Its number.
    pub id: u64,
    /// Since it completed.
    pub age_ms: u64,
    /// From trigger to completion.
    pub took_ms: u64,
    /// Written for it.
    pub bytes: u64,
    /// Written for it.
    pub entries: u64,
    /// That it names.
    pub files: usize,
}

/// An operator, over its subtasks. Counters are those of the attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OperatorView {
    /// Its name.
    pub name: String,
    /// `source`, `operator`, `chained` or `sink`.
    pub kind: String,
    /// Number of subtasks.
    pub parallelism: u16,
    /// Rows taken.
    pub rows_in: u64,
    /// Rows given.
    pub rows_out: u64,
    /// Late rows that had nowhere to go.
    pub late_dropped: u64,
    /// Lowest watermark, milliseconds since 1970; `i64::MAX`: its input has ended.
    pub watermark: Option<i64>,
    /// Bytes of keyed state.
    pub state_bytes: u64,
    /// Entries of keyed state.
    pub state_entries: u64,
    /// Time at work, over its subtasks. Chained operators and sinks count for
    /// the operator that calls them.
    pub busy_ns: u64,
    /// Time without room downstream, over its subtasks.
    pub blocked_ms: u64,
}

impl View {
    /// What the engine says of the job; the caller fills in what only it knows.
    pub fn of(status: Status, now: Instant) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let state = match (status.running, status.attempt) {
            (true, _) => Doing::Running,
            (false, None) => Doing::Starting,
            (false, Some(_)) => Doing::Restarting,
        };
        Self {
            job: status.job.map(|job| job.0),
            state,
            attempt: status.attempt.map(|attempt| attempt.0),
            restarts: status.restarts,
            failures: status.failures.into_iter().map(|failure| failure.message).collect(),
            generation: status.generation.filter(|_| status.running),
            workers: status
                .workers
                .into_iter()
                .map(|(ordinal, slots, used)| WorkerView { ordinal, slots, used })
                .collect(),
            checkpoint: status.checkpoint.map(|(report, at)| CheckpointView {
                id: report.checkpoint.0,
                age_ms: millis(now.saturating_duration_since(at)),
                took_ms: millis(report.took),
                bytes: report.bytes,
                entries: report.entries,
                files: report.files,
            }),
            savepoints: status.savepoints,
            operators: status.nodes.into_iter().filter_map(operator).collect(),
            ..Self::default()
        }
    }

    /// Rows that sources gave.
    pub fn rows_read(&self) -> u64 {
        self.of_kind("source").map(|o| o.rows_out).sum()
    }

    /// Rows that sinks took.
    pub fn rows_written(&self) -> u64 {
        self.of_kind("sink").map(|o| o.rows_in).sum()
    }

    /// The lowest watermark, as text.
    pub fn watermark(&self) -> Option<String> {
        let lowest = self.operators.iter().filter_map(|o| o.watermark).min();
        lowest.map(crate::cli::render::watermark)
    }

    fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = &OperatorView> {
        self.operators.iter().filter(move |o| o.kind == kind)
    }
}

/// Enumerators are part of their source.
fn operator(stats: Stats) -> Option<OperatorView> {
    let kind = match stats.kind? {
        NodeKind::Enumerator => return None,
        NodeKind::Source => "source",
        NodeKind::Operator => "operator",
        NodeKind::Chained => "chained",
        NodeKind::Sink => "sink",
    };
    Some(OperatorView {
        name: stats.name,
        kind: kind.to_owned(),
        parallelism: stats.parallelism,
        rows_in: stats.rows_in,
        rows_out: stats.rows_out,
        late_dropped: stats.late_dropped,
        // A source's counters know only watermarks that travel without rows: too old to show.
        watermark: stats.watermark.filter(|_| kind != "source"),
        state_bytes: stats.state_bytes,
        state_entries: stats.state_entries,
        busy_ns: stats.busy_ns,
        blocked_ms: stats.blocked_ms,
    })
}
