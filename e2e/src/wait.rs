//! Waiting for something to become true.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long a scenario waits for anything: wide, for the machine may be loaded, and a
/// bound that is reached is a failure. Nothing here asserts a speed.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks.
const NAP: Duration = Duration::from_millis(200);

/// Looks until `look` gives a value. An error is looked past, for much fails while a
/// cluster changes; the last one is shown if the time is over.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        let error = match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if begun.elapsed() > patience {
            let waited = format!("waited {} s for {what}", patience.as_secs());
            match error {
                Some(error) => return Err(error.context(waited)),
                None => bail!(waited),
            }
        }
        std::thread::sleep(NAP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_shown() {
        let mut looks = 0;
        let error = wait_for::<()>("rain", Duration::from_millis(1), || {
            looks += 1;
            bail!("look {looks}")
        });
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.starts_with("waited 0 s for rain: look "), "{error}");
    }

    #[test]
    fn a_value_ends_it() {
        let mut looks = 0;
        let value = wait_for("three", PATIENCE, || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(value.unwrap(), 3);
    }
}
