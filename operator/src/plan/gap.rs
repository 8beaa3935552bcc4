//! How long a job stood still: told when it runs again, and once more when its first
//! checkpoint is complete, with which its output goes on.

use super::Draft;
use super::status::time;
use crate::observed::Millis;
use crate::reasons::Reason;
use millrace_crds::streamjob::LastGap;
use millrace_protocol::control::Gap;

impl Draft<'_> {
    /// The job runs; `news`: it was not yet seen to since this gap.
    pub(super) fn gap(&mut self, gap: &Gap, news: bool) {
        // A coordinator that was not heard for a while has no news of the same attempt.
        let known = self.status.last_gap.as_ref().and_then(|known| known.attempt);
        if news && known != self.status.attempt {
            self.event(false, Reason::Resumed, &told(gap));
            self.status.last_gap = Some(LastGap {
                attempt: self.status.attempt,
                cause: Some(gap.cause.clone()),
                checkpoint_at: at(gap.checkpoint_at_ms).map(time),
                running_at: at(gap.began_at_ms.saturating_add(gap.total_ms)).map(time),
                ..LastGap::default()
            });
        }
        let attempt = self.status.attempt;
        let Some(first) = at(gap.first_checkpoint_at_ms) else { return };
        // Of a gap that nobody told of there is no more to be told.
        let open =
            |known: &&mut LastGap| known.attempt == attempt && known.first_checkpoint_at.is_none();
        let Some(known) = self.status.last_gap.as_mut().filter(open) else { return };
        known.first_checkpoint_at = Some(time(first));
        let Some(before) = at(gap.checkpoint_at_ms) else { return };
        known.duration = Some(format!("{}ms", first.saturating_sub(before).max(0)));
        // How long it was suspended is no news.
        if gap.cause != "Resume" {
            self.event(false, Reason::OutputResumed, &committed(gap, before, first));
        }
    }
}

/// A moment, if there is one.
fn at(ms: u64) -> Option<Millis> {
    Millis::try_from(ms).ok().filter(|ms| *ms > 0)
}

/// Where the time went.
fn told(gap: &Gap) -> String {
    let Gap { total_ms, stop_ms, workers_ms, restore_ms, .. } = gap;
    let parts = match gap.cause.as_str() {
        "Takeover" => {
            let pods = format!("workers {workers_ms} + restore {restore_ms}");
            let begun = at(gap.checkpoint_at_ms).zip(at(gap.began_at_ms));
            match begun.and_then(|(before, began)| u64::try_from(began - before).ok()) {
                Some(before) => format!(
                    "Gap {} ms since the last checkpoint of another process = {before} until \
                     this one claimed the job (Kubernetes, and what ran after it) + {pods}.",
                    before.saturating_add(*total_ms)
                ),
                None => {
                    format!("Gap {total_ms} ms since another process claimed the job = {pods}.")
                }
            }
        }
        _ => format!(
            "Gap {total_ms} ms = stop {stop_ms} + pods {workers_ms} (Kubernetes) + restore \
             {restore_ms}."
        ),
    };
    format!("{parts} {}", replayed(gap))
}

/// What is read a second time.
fn replayed(gap: &Gap) -> String {
    let Some(checkpoint) = at(gap.checkpoint_at_ms) else {
        return "It begins without a checkpoint of its own.".to_owned();
    };
    match gap.replayed_ms {
        Some(0) => "Nothing is read again.".to_owned(),
        Some(ms) => format!("What was read in the {ms} ms before it is read again."),
        None => format!(
            "What was read after the checkpoint of {}, if anything, is read again.",
            time(checkpoint).0
        ),
    }
}

fn committed(gap: &Gap, before: Millis, first: Millis) -> String {
    let clocks = if gap.cause == "Takeover" { ", by the clocks of two processes" } else { "" };
    format!(
        "The first checkpoint since is of {}, the last before of {}: nothing was committed for {} \
         ms{clocks}.",
        time(first).0,
        time(before).0,
        first.saturating_sub(before).max(0)
    )
}
