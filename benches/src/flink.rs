//! The figures that `flink/run.sh` printed. Pure.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Figure {
    mevents_per_s: f64,
    events: u64,
    checksum: u64,
}

/// Flink's figures by job name; empty where Flink was not run.
#[derive(Debug, Default)]
pub struct Flink(BTreeMap<String, Figure>);

impl Flink {
    /// Reads lines of `name <tab> M events/s <tab> events <tab> checksum`.
    pub fn parse(text: &str) -> Result<Self> {
        let figure = |line: &str| {
            let [name, rate, events, checksum] = line.split('\t').collect::<Vec<_>>()[..] else {
                anyhow::bail!("not four columns");
            };
            Ok((
                name.to_owned(),
                Figure {
                    mevents_per_s: rate.parse()?,
                    events: events.parse()?,
                    checksum: u64::from_str_radix(checksum, 16)?,
                },
            ))
        };
        let lines = text.lines().filter(|line| !line.is_empty());
        let figures =
            lines.map(|line| figure(line).with_context(|| format!("Flink's line {line:?}")));
        Ok(Self(figures.collect::<Result<_>>()?))
    }

    /// Flink's rate at the job `name`, once `plain` has the same checksum over
    /// as many events.
    pub fn rate(&self, name: &str, plain: impl Fn(u64) -> u64) -> Result<Option<f64>> {
        let Some(figure) = self.0.get(name) else { return Ok(None) };
        let checksum = plain(figure.events);
        ensure!(
            checksum == figure.checksum,
            "{name}: Flink's checksum over {} events is {:016x}, the plain loop's {checksum:016x}",
            figure.events,
            figure.checksum
        );
        Ok(Some(figure.mevents_per_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_only_with_the_right_checksum() {
        let flink = Flink::parse("a\t2.5\t100\tff\n\n").unwrap();
        assert_eq!(flink.rate("a", |n| n + 155).unwrap(), Some(2.5));
        assert_eq!(flink.rate("b", |_| 0).unwrap(), None);
        assert!(flink.rate("a", |_| 0).is_err());
        assert!(Flink::parse("a\tfast\t1\t1").is_err());
    }
}
