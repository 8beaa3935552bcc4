//! Where the program's own messages go: the terminal for people, above the live
//! picture if there is one; JSON lines otherwise. Only the error that a command ends with is
//! text in any case.

use crate::cli::screen::{Above, Screen, is_terminal, wants_colour};
use millrace_engine::runtime::slot::panic_text;
use std::backtrace::{Backtrace, BacktraceStatus};
use tracing_subscriber::EnvFilter;

/// Starts logging to standard error; `RUST_LOG` chooses what (default: `info`).
pub fn start(screen: &Screen) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let screen = screen.clone();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(wants_colour())
        .with_writer(move || Above(screen.clone()));
    // A second start (tests) keeps the first.
    if is_terminal() {
        let _ = builder.with_target(false).compact().try_init();
    } else if builder.json().flatten_event(true).with_target(false).try_init().is_ok() {
        panics_are_logged();
    }
}

/// As one line, and not as text of several.
fn panics_are_logged() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let text = panic_text(info.payload());
        let place = info.location().map_or(String::new(), |place| format!(" at {place}"));
        let trace = Backtrace::capture();
        let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
        tracing::error!(thread = thread.name(), trace, "panicked{place}: {text}");
    }));
}
