//! Where the program's own messages go: the terminal for people, above the live
//! picture if there is one; JSON lines otherwise.

use crate::cli::screen::{Above, Screen, is_terminal, wants_colour};
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
    let _ = if is_terminal() {
        builder.with_target(false).compact().try_init()
    } else {
        builder.json().flatten_event(true).with_target(false).try_init()
    };
}
