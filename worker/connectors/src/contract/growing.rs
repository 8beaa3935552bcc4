//! The contract of a source that looks for more input while it runs.

use super::source::{BySplit, Run, append};
use super::{through_bytes, with_seeds};
use millrace_engine::connector::{Source, Split};
use std::collections::BTreeSet;
use std::fmt::Debug;

/// So many looks that find nothing, at what no longer grows, mean that all is found.
const QUIET_LOOKS: u32 = 3;

/// A source that looks for more input, and a place that its input comes to.
pub struct GrowingSource<S> {
    /// Makes the source as a restarted program would.
    pub make: Box<dyn Fn() -> S>,
    /// Puts the next piece of input there; false: there was none left.
    pub grow: Box<dyn FnMut() -> bool>,
}

/// The contract of a source that looks for more input while it runs. `place` gives one whose
/// place has no input yet.
///
/// - All that comes is found within three looks, by the enumerator that saw it come as by one
///   that a restart has made since, and what is known is not found again, read or not.
/// - A split that was found while there was less input has the rows that it has in the end.
/// - Every row comes once, whatever was being read, looked for or brought when the job was
///   restarted, with any number of readers.
///
/// # Panics
/// Where the contract is broken.
pub fn growing_source<S: Source>(place: impl Fn() -> GrowingSource<S>)
where
    S::Out: PartialEq + Debug,
{
    with_seeds("growing source", |rng| {
        let GrowingSource { make, mut grow } = place();
        let mut source = make();
        assert!(source.discover_every().is_some(), "it never looks again");
        let mut known = Known::<S>(Vec::new());
        let mut seen: BySplit<S::Out> = BySplit::new();
        let mut run = Run::start(&source, Vec::new(), rng.u16(1..5), rng);
        let (mut grows, mut quiet) = (true, 0);
        while grows || quiet < QUIET_LOOKS {
            match rng.u8(..12) {
                0 if grows => grows = grow(),
                1 => {
                    let (rows, rest) = run.crash();
                    append(&mut seen, rows);
                    (source, quiet) = (make(), 0);
                    let rest = rest.iter().map(through_bytes).collect();
                    run = Run::start(&source, rest, rng.u16(1..5), rng);
                }
                2..5 => {
                    let found = known.look(&mut source);
                    quiet = if found.is_empty() && !grows { quiet + 1 } else { 0 };
                    run.waiting.extend(found);
                }
                _ => run.poll_one(rng),
            }
        }
        append(&mut seen, run.finish(rng));
        seen.retain(|_, rows| !rows.is_empty());
        assert_eq!(seen, at_rest(&*make, rng), "rows by split, beside those of the whole input");
    });
}

/// Splits that were found, as a checkpoint holds them.
struct Known<S: Source>(Vec<S::Split>);

impl<S: Source> Known<S> {
    fn look(&mut self, source: &mut S) -> Vec<S::Split> {
        let known: Vec<_> = self.0.iter().map(through_bytes).collect();
        let found = source.discover(&known).expect("discover");
        self.0.extend(found.iter().cloned());
        let ids: BTreeSet<String> = self.0.iter().map(Split::id).collect();
        assert_eq!(ids.len(), self.0.len(), "a split is found twice");
        found
    }
}

/// All rows, of a source that comes when all input is there.
fn at_rest<S: Source>(make: &dyn Fn() -> S, rng: &mut fastrand::Rng) -> BySplit<S::Out> {
    let (mut source, mut known) = (make(), Known::<S>(Vec::new()));
    for _ in 0..QUIET_LOOKS {
        known.look(&mut source);
    }
    let mut rows = Run::start(&source, known.0, 1, rng).finish(rng);
    rows.retain(|_, rows| !rows.is_empty());
    rows
}
