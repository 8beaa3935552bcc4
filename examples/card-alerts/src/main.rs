//! Thieves try a stolen card with a small payment before a large one. This job looks at
//! payments by card, and raises an alert when a large payment follows a small one within a
//! minute.

mod payment;
mod rule;

use clap::Args;
use millrace::prelude::*;
use payment::Payment;
use rule::SmallThenLarge;
use std::process::ExitCode;
use std::time::Duration;

/// Options of this program; those of Millrace stand beside them.
#[derive(Args, Clone)]
struct Options {
    /// Where to write alerts: a directory or s3://BUCKET/PREFIX
    #[arg(long, value_name = "WHERE", default_value = "alerts")]
    output: String,
    /// Payments to read, JSON lines: a file, a directory or s3://BUCKET/PREFIX [default: some
    /// are made up]
    #[arg(long, value_name = "WHERE")]
    input: Option<String>,
    /// Made-up payments a second
    #[arg(long, value_name = "N", default_value_t = 1_000, conflicts_with = "input")]
    rate: u64,
    /// End after so many made-up payments [default: never]
    #[arg(long, value_name = "N", conflicts_with = "input")]
    payments: Option<u64>,
}

/// How far a payment may come behind later ones.
const OUT_OF_ORDER: Duration = Duration::from_secs(10);

fn build(env: &Env, options: &Options) -> Res {
    let payments = match &options.input {
        Some(input) => env.source(
            "payments",
            FileSource::<Payment, _>::json_lines(input),
            Watermarks::bounded(OUT_OF_ORDER, |payment: &Payment| payment.at_ms),
        ),
        None => {
            let mut made = Generator::new(payment::made_up).rate(options.rate).splits(8);
            if let Some(count) = options.payments {
                made = made.count(count);
            }
            env.source("payments", made, Watermarks::monotonous(|payment: &Payment| payment.at_ms))
        }
    };
    payments
        .key_by(|payment| payment.card)
        .process("small-then-large", SmallThenLarge)
        .sink("alerts", FileSink::json_lines(&options.output));
    Ok(())
}

fn main() -> ExitCode {
    millrace::main(build)
}
