//! Shows how a job is doing: a picture on a terminal, log lines elsewhere.

use crate::cli::render::{Style, render};
use crate::cli::screen::{self, Screen};
use crate::cli::view::View;
use clap::ValueEnum;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const REDRAW_EVERY: Duration = Duration::from_millis(500);
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Columns where there is no terminal to ask.
const COLUMNS: usize = 120;

/// When the live picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// On a terminal; elsewhere a log line every 10 seconds
    Auto,
    /// Always
    Always,
    /// Neither the picture nor those log lines
    Never,
}

/// Shows progress until it is dropped.
pub struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts; `view` looks at the job.
    pub fn start(
        mode: Mode,
        screen: Screen,
        view: impl Fn() -> View + Send + 'static,
    ) -> std::io::Result<Self> {
        let live = match mode {
            Mode::Never => return Ok(Self { stop: None, thread: None }),
            Mode::Always => true,
            Mode::Auto => screen::is_terminal(),
        };
        let (stop, stopped) = channel::<()>();
        let every = if live { REDRAW_EVERY } else { LOG_EVERY };
        let thread = std::thread::Builder::new().name("millrace-progress".to_owned());
        let thread = thread.spawn(move || {
            let mut before: Option<View> = None;
            loop {
                let ended = stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout);
                let now = view();
                if live {
                    let width = screen::size().map_or(COLUMNS, |(columns, _)| columns);
                    let style = Style { width, colour: screen::wants_colour() };
                    // What stays on the screen shows the whole run.
                    let before = before.as_ref().filter(|_| !ended);
                    screen.show(render(&now, before, style));
                } else if !ended {
                    log(&now, before.as_ref());
                }
                if ended {
                    return screen.leave();
                }
                before = Some(now);
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

/// One line about the job; one for each operator at level `debug`.
fn log(now: &View, before: Option<&View>) {
    let before = before.filter(|b| b.attempt == now.attempt);
    // The process that leads may be another one, and younger, than a moment ago.
    let elapsed = now.up_ms.saturating_sub(before.map_or(0, |b| b.up_ms));
    let seconds = elapsed.max(1) as f64 / 1000.0;
    let rate = |n: u64, was: u64| (n.saturating_sub(was) as f64 / seconds) as u64;
    let checkpoint = now.checkpoint.as_ref();
    tracing::info!(
        job = now.name,
        attempt = now.attempt,
        state = ?now.state,
        rows_read = now.rows_read(),
        rows_read_per_s = rate(now.rows_read(), before.map_or(0, View::rows_read)),
        rows_written = now.rows_written(),
        rows_written_per_s = rate(now.rows_written(), before.map_or(0, View::rows_written)),
        watermark = now.watermark(),
        state_bytes = now.operators.iter().map(|o| o.state_bytes).sum::<u64>(),
        state_entries = now.operators.iter().map(|o| o.state_entries).sum::<u64>(),
        checkpoint = checkpoint.map(|c| c.id),
        checkpoint_age_ms = checkpoint.map(|c| c.age_ms),
        checkpoint_took_ms = checkpoint.map(|c| c.took_ms),
        checkpoint_bytes = checkpoint.map(|c| c.bytes),
        restarts = now.restarts,
        dead_letters = now.dead_letters,
        "progress"
    );
    for o in &now.operators {
        tracing::debug!(
            job = now.name,
            attempt = now.attempt,
            operator = o.name,
            parallelism = o.parallelism,
            rows_in = o.rows_in,
            rows_out = o.rows_out,
            late_dropped = o.late_dropped,
            watermark = o.watermark,
            state_bytes = o.state_bytes,
            state_entries = o.state_entries,
            busy_ms = o.busy_ns / 1_000_000,
            blocked_ms = o.blocked_ms,
            "operator"
        );
    }
}
