//! The options of `run`, and how their values are written.

use crate::cli::place::Server;
use crate::cli::progress;
use crate::cli::state::StateOptions;
use clap::Args;
use millrace_engine::coordinator::{CheckpointPolicy, RestartPolicy, Unclaimed};
use std::path::PathBuf;
use std::time::Duration;

/// How the job is run.
#[derive(Args, Clone)]
#[command(next_help_heading = "Options of run")]
pub struct RunOptions {
    /// Subtasks of each operator that says nothing else [default: number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub parallelism: Option<u16>,
    /// Processes that run the job, each watched over and started again when it dies [default:
    /// this one alone]
    #[cfg(feature = "cluster")]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub workers: Option<u16>,
    /// Slots (threads that run tasks) of each of them [default: what the parallelism needs]
    #[cfg(feature = "cluster")]
    #[arg(long, value_name = "N", requires = "workers",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub slots_per_worker: Option<u16>,
    /// Silence of one of them for so long means that it is lost [default: 10s]
    #[cfg(feature = "cluster")]
    #[arg(long, value_name = "TIME", requires = "workers", value_parser = parse_duration)]
    pub heartbeat_timeout: Option<Duration>,
    /// Rows between them go by mutual TLS, with tls.crt, tls.key and ca.crt of this directory;
    /// the certificate must be good for 127.0.0.1
    #[cfg(feature = "cluster")]
    #[arg(long, value_name = "DIR", requires = "workers")]
    pub exchange_tls: Option<PathBuf>,
    /// Where the job's state is kept, a directory or s3://bucket/prefix; without it state is
    /// kept only while the job runs
    #[arg(long, value_name = "DIR|URL")]
    pub storage: Option<String>,
    /// Where to start: `latest` checkpoint, `none` of them, or the PATH of a savepoint
    #[arg(long, value_name = "latest|none|PATH", default_value = "latest")]
    pub from: String,
    /// Start although the checkpoint holds state that no operator claims (it is dropped)
    #[arg(long)]
    pub allow_unclaimed_state: bool,
    /// Number of key groups, fixed for the life of the job's state
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_parallelism: u32,
    /// Time between checkpoints; 0 takes none but the last
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub checkpoint_interval: Duration,
    /// A checkpoint that takes longer is given up
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub checkpoint_timeout: Duration,
    /// Least time between the end of a checkpoint and the start of the next
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_duration)]
    pub min_pause: Duration,
    /// Barriers under way for longer overtake the rows before them, which then become part
    /// of the checkpoint: 0 at once
    #[arg(long, value_name = "TIME|never", default_value = "never",
          value_parser = parse_unaligned)]
    pub unaligned_after: UnalignedAfter,
    /// How many complete checkpoints are kept
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub retained: u32,
    /// So many failed checkpoints in a row are borne; one more fails the attempt
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub tolerated_failures: u32,
    /// What follows a failure: `none`, `fixed:N:DELAY` (N times), `backoff[:INITIAL:MAX]`
    /// (for ever, each time later), `rate:N:INTERVAL:DELAY` (unless more than N within
    /// INTERVAL)
    #[arg(long, value_name = "POLICY", default_value = "backoff:1s:1m",
          value_parser = parse_restart)]
    pub restart: RestartPolicy,
    /// Where state lives.
    #[command(flatten)]
    pub state: StateOptions,
    /// Directory for rows that could not be read [default: dead-letters in the storage
    /// directory]
    #[arg(long, value_name = "DIR")]
    pub dead_letters: Option<PathBuf>,
    /// When the live picture is shown (on standard error)
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    pub progress: progress::Mode,
    /// The S3 server.
    #[command(flatten)]
    pub server: Server,
}

impl RunOptions {
    /// What becomes of state that no operator claims.
    pub fn unclaimed(&self) -> Unclaimed {
        if self.allow_unclaimed_state { Unclaimed::Dropped } else { Unclaimed::Refused }
    }

    /// When checkpoints are taken and kept.
    pub fn checkpoints(&self) -> CheckpointPolicy {
        CheckpointPolicy {
            interval: Some(self.checkpoint_interval).filter(|interval| !interval.is_zero()),
            min_pause: self.min_pause,
            timeout: self.checkpoint_timeout,
            tolerated_failures: self.tolerated_failures,
            retained: self.retained,
            unaligned_after: self.unaligned_after.0,
        }
    }
}

/// `10s`, `250ms`, `2h`, `5m`, `1d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a time such as 10s"))?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == 0 => 1,
        _ => return Err(format!("{text:?} needs a unit: ms, s, m, h or d")),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text} is too long"))
}

/// When barriers may overtake rows; `None`: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnalignedAfter(pub Option<Duration>);

/// `never`, or a time.
pub fn parse_unaligned(text: &str) -> Result<UnalignedAfter, String> {
    match text {
        "never" => Ok(UnalignedAfter(None)),
        time => parse_duration(time).map(|time| UnalignedAfter(Some(time))),
    }
}

/// `none`, `fixed:3:10s`, `backoff`, `backoff:1s:1m`, `rate:3:5m:10s`.
pub fn parse_restart(text: &str) -> Result<RestartPolicy, String> {
    let number = |text: &str| -> Result<u32, String> {
        text.parse().map_err(|_| format!("{text:?} is not a number of failures"))
    };
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        ["none"] => Ok(RestartPolicy::None),
        ["fixed", n, delay] => {
            Ok(RestartPolicy::FixedDelay { attempts: number(n)?, delay: parse_duration(delay)? })
        }
        ["backoff"] => Ok(RestartPolicy::default()),
        ["backoff", first, last] => {
            let (first, last) = (parse_duration(first)?, parse_duration(last)?);
            match RestartPolicy::default() {
                _ if first > last => Err(format!("{text:?} begins above its maximum")),
                RestartPolicy::ExponentialBackoff { multiplier, jitter, reset_after, .. } => {
                    let (initial, max) = (first, last);
                    Ok(RestartPolicy::ExponentialBackoff {
                        initial,
                        max,
                        multiplier,
                        jitter,
                        reset_after,
                        limit: None,
                    })
                }
                other => Ok(other),
            }
        }
        ["rate", n, interval, delay] => Ok(RestartPolicy::FailureRate {
            failures: number(n)?,
            interval: parse_duration(interval)?,
            delay: parse_duration(delay)?,
        }),
        _ => Err("write none, fixed:N:DELAY, backoff, backoff:INITIAL:MAX or \
                  rate:N:INTERVAL:DELAY, as in fixed:3:10s"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn times_have_units() {
        let times = ["0", "250ms", "2h", "5m", "5min", "1d"].map(|t| parse_duration(t).unwrap());
        assert_eq!(
            times.map(|t| t.as_millis() as u64 / 10),
            [0, 25, 720_000, 30_000, 30_000, 8_640_000]
        );
        for bad in ["", "10", "s", "-1s", "1.5s", "10 s", "99999999999999999999s", "1w"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn barriers_overtake_never_or_after_a_time() {
        assert_eq!(parse_unaligned("never"), Ok(UnalignedAfter(None)));
        assert_eq!(parse_unaligned("0"), Ok(UnalignedAfter(Some(Duration::ZERO))));
        assert_eq!(parse_unaligned("1s"), Ok(UnalignedAfter(Some(SECOND))));
        assert!(parse_unaligned("always").is_err());
    }

    #[test]
    fn restart_policies_are_read() {
        assert_eq!(parse_restart("none"), Ok(RestartPolicy::None));
        assert_eq!(
            parse_restart("fixed:3:10s"),
            Ok(RestartPolicy::FixedDelay { attempts: 3, delay: 10 * SECOND })
        );
        assert_eq!(
            parse_restart("rate:2:5m:1s"),
            Ok(RestartPolicy::FailureRate { failures: 2, interval: 300 * SECOND, delay: SECOND })
        );
        assert_eq!(parse_restart("backoff"), Ok(RestartPolicy::default()));
        assert_eq!(parse_restart("backoff:1s:1m"), Ok(RestartPolicy::default()));
        for bad in ["", "never", "fixed:3", "fixed:x:1s", "fixed:3:1", "backoff:1m:1s", "rate:1:1s"]
        {
            assert!(parse_restart(bad).is_err(), "{bad}");
        }
    }
}
