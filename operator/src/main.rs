//! The controller: StreamJob and Savepoint objects into running jobs.
//!
//! `plan` decides, purely, from what `observed` describes; `shell` watches, asks and does.
//! `reasons` is the one table of why something is as it is and what to do about it.

mod observed;
mod plan;
mod reasons;
mod shell;
#[cfg(test)]
mod simulation;

use clap::Parser;
use shell::options::{Command, LogFormat, Options};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // The client logs each failed call as an error; who made the call knows better what it is.
    let filter = match std::env::var("RUST_LOG").is_ok_and(|wish| wish.contains("kube_client")) {
        true => filter,
        false => filter.add_directive("kube_client::client::builder=off".parse()?),
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Json => logs.json().init(),
        LogFormat::Text => logs.init(),
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match options.command {
            Some(Command::Release) => shell::release::release(&options).await,
            Some(Command::Probe) => shell::release::probe(&options).await,
            Some(Command::Reasons) => {
                print!("{}", reasons::markdown());
                Ok(())
            }
            None => shell::run(options).await,
        }
    })
}
