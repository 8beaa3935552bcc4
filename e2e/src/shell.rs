//! Running programs, with errors that show what they said.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    // Of the checkout it is run in, if by cargo: it may have been built in another that
    // shares its target directory.
    let built_in = || env!("CARGO_MANIFEST_DIR").into();
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(built_in);
    PathBuf::from(package).join("..")
}

/// One of the lab's scripts.
pub fn lab(script: &str) -> Command {
    Command::new(checkout().join("e2e/lab").join(script))
}

/// `cargo` in this checkout.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo tells a test of its package is none of another run's business: dependencies
    // that look at it would be built anew for every one who asks.
    let of_test = |name: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(of_test) {
            command.env_remove(name);
        }
    }
    command.current_dir(checkout());
    command
}

/// Where things that survive a run are kept.
pub fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("millrace")
}

/// Runs a program to its end and gives its standard output; an error holds what it was
/// and all that it said.
pub fn run(command: &mut Command) -> Result<String> {
    finish(command.stderr(Stdio::piped()), b"")
}

/// The same for what takes long: what it says on standard error is shown as it comes.
pub fn run_aloud(command: &mut Command) -> Result<String> {
    finish(command.stderr(Stdio::inherit()), b"")
}

/// The same as `run` with something on its standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<String> {
    finish(command.stderr(Stdio::piped()), input)
}

fn finish(command: &mut Command, input: &[u8]) -> Result<String> {
    let line = command_line(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {line}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why itself.
        let _ = stdin.write_all(input);
    }
    let Output { status, stdout, stderr } =
        child.wait_with_output().with_context(|| format!("cannot wait for {line}"))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!("{line} ended with {status}\n{}{stdout}", stderr);
    }
    Ok(stdout)
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
