//! The controller: StreamJob and Savepoint objects into running jobs.
//!
//! `plan` decides, purely, from what `observed` describes; `shell` watches, asks and does.
//! `reasons` is the one table of why something is as it is and what to do about it; `traces`
//! has logs and spans.

mod observed;
mod plan;
mod reasons;
mod shell;
#[cfg(test)]
mod simulation;
mod traces;

use clap::Parser;
use shell::options::{Command, Options};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let traces = traces::begin(&options)?;
        let ended = match options.command {
            Some(Command::Release) => shell::release::release(&options).await,
            Some(Command::Probe) => shell::release::probe(&options).await,
            Some(Command::Reasons) => {
                print!("{}", reasons::markdown());
                Ok(())
            }
            None => shell::run(options).await,
        };
        tokio::task::spawn_blocking(|| traces.end()).await?;
        ended
    })
}
