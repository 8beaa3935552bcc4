//! DNS that is slow to learn, or does not answer, while a job recovers.

use crate::jobs;
use anyhow::Result;
use millrace_e2e::{Part, Scenario};
use std::time::Duration;

/// As long as the DNS of many clusters remembers what it said.
const CACHED: u32 = 30;
/// So long nobody knows any name: longer than one look-up is waited for.
const AWAY: Duration = Duration::from_secs(20);

fn delete(s: &Scenario<'_>, pods: &[&str]) -> Result<()> {
    let delete = [&["delete", "pod", "--grace-period=0", "--force"], pods].concat();
    s.kubectl(&delete).map(drop)
}

/// Deletes pods and sees the job run on.
fn recovers(s: &mut Scenario<'_>, pods: &[&str]) -> Result<()> {
    let before = jobs::attempt(s)?;
    delete(s, pods)?;
    jobs::restarted_after(s, before)?;
    s.wait_ready(jobs::PODS, 2)?;
    jobs::output_goes_on(s)
}

pub fn answers_that_are_half_a_minute_old_hold_up_no_recovery(s: &mut Scenario<'_>) -> Result<()> {
    s.cluster()?.cache_names(CACHED)?;
    let played = cached(s);
    // The next story's names are new every time; what it changes is known at once.
    played.and(s.cluster()?.cache_names(0))
}

fn cached(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    // Each has another address afterwards, and DNS the old one, or none.
    recovers(s, &["counts-millrace-1"])?;
    recovers(s, &["counts-millrace-0"])?;
    recovers(s, &["counts-millrace-0", "counts-millrace-1"])?;
    s.kubectl(&["scale", jobs::JOB, "--replicas=3"])?;
    s.wait(jobs::JOB, "condition=Ready")?;
    s.wait_ready(jobs::PODS, 3)?;
    jobs::ends_exactly_once(s)
}

pub fn a_job_recovers_as_soon_as_names_are_known_again(s: &mut Scenario<'_>) -> Result<()> {
    jobs::counts(s, 2)?;
    // Questions stay without an answer: worse than being told that nobody knows.
    let before = jobs::attempt(s)?;
    s.cluster()?.pause(Part::Dns)?;
    delete(s, &["counts-millrace-0", "counts-millrace-1"])?;
    std::thread::sleep(AWAY);
    s.cluster()?.resume(Part::Dns)?;
    jobs::restarted_after(s, before)?;
    s.wait_ready(jobs::PODS, 2)?;
    jobs::output_goes_on(s)?;

    // Nobody is there to be asked.
    let before = jobs::attempt(s)?;
    s.cluster()?.kill(Part::Dns)?;
    delete(s, &["counts-millrace-1"])?;
    std::thread::sleep(AWAY);
    s.cluster()?.start(Part::Dns)?;
    jobs::restarted_after(s, before)?;
    s.wait_ready(jobs::PODS, 2)?;
    jobs::output_goes_on(s)?;
    jobs::ends_exactly_once(s)
}
