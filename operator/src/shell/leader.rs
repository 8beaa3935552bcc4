//! One leader at a time, by a Lease. Leadership ends on our own clock, before anyone else
//! could take it: a process that was paused past its lease changes nothing.

use super::Shell;
use super::options::Options;
use anyhow::Context;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

pub(crate) const LEASE: Duration = Duration::from_secs(15);
/// We stop this long before others may begin.
const MARGIN: Duration = Duration::from_secs(5);
const RENEW: Duration = Duration::from_secs(3);

/// Whether we lead.
#[derive(Default)]
pub(crate) struct Leader {
    until: Mutex<Option<Instant>>,
}

impl Leader {
    /// We do, at this moment.
    pub fn leads(&self) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    pub(crate) fn set(&self, until: Option<Instant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Waits until we lead for the first time, or are told to end.
    pub async fn first(&self, stopped: watch::Receiver<bool>) {
        while !self.leads() && !*stopped.borrow() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Leads, or waits to, until told to end. Losing the lead is an error: a fresh process
/// knows better what is left of the old one's plans.
pub(crate) async fn campaign(
    shell: Arc<Shell>,
    options: &Options,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let api: Api<Lease> = Api::namespaced(shell.client.clone(), &options.own_namespace);
    let us = options.identity.clone();
    // What the lease said last, and when we saw it change: our clock, not another's.
    let mut seen: Option<(String, Instant)> = None;
    let mut led = false;
    while !*stopped.borrow() {
        let began = Instant::now();
        match tokio::time::timeout(RENEW, turn(&api, &options.name, &us, &mut seen)).await {
            Ok(Ok(true)) => {
                shell.leader.set(Some(began + LEASE - MARGIN));
                shell.metrics.leads.set(1);
                if !std::mem::replace(&mut led, true) {
                    tracing::info!(identity = us, "leads");
                }
            }
            Ok(Ok(false)) if led => anyhow::bail!("another process leads now"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!("the lease cannot be renewed: {error:#}"),
            Err(_) => tracing::warn!("the lease cannot be renewed: the API server does not answer"),
        }
        if led && !shell.leader.leads() {
            anyhow::bail!("the lease ran out before it could be renewed");
        }
        tokio::select! { () = tokio::time::sleep(RENEW) => {}, _ = stopped.changed() => {} }
    }
    if led {
        // Passes under way end first; then the next one need not wait for us.
        tokio::time::sleep(Duration::from_millis(500)).await;
        shell.leader.set(None);
        let _ = tokio::time::timeout(RENEW, resign(&api, &options.name, &us)).await;
    }
    Ok(())
}

/// Takes the lead from whoever has it, and answers `patience` later, when that one has
/// surely stopped: it counts from a renewal that was before ours. From here on it is to be
/// [held](hold).
pub(crate) async fn seize(
    api: &Api<Lease>,
    name: &str,
    us: &str,
    patience: Duration,
) -> anyhow::Result<()> {
    let mut tries = 0;
    let before = loop {
        let lease = api.get_opt(name).await.context("reading the lease")?;
        let holder = lease.as_ref().and_then(|lease| lease.spec.as_ref()?.holder_identity.clone());
        if won(write(api, name, us, lease).await)? {
            break holder.unwrap_or_default();
        }
        tries += 1;
        anyhow::ensure!(tries < 50, "the lease {name} is written by others again and again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // Who resigned did so after its last act.
    if !before.is_empty() && before != us {
        tracing::info!(from = before, "took the lead; waits until it is noticed");
        tokio::select! {
            () = tokio::time::sleep(patience) => {}
            lost = hold(api, name, us) => return lost,
        }
    }
    Ok(())
}

/// Keeps the lead that was [seized](seize); answers only when it is lost.
pub(crate) async fn hold(api: &Api<Lease>, name: &str, us: &str) -> anyhow::Result<()> {
    let mut until = Instant::now() + LEASE - MARGIN;
    let mut seen = None;
    loop {
        tokio::time::sleep(RENEW).await;
        let began = Instant::now();
        match tokio::time::timeout(RENEW, turn(api, name, us, &mut seen)).await {
            Ok(Ok(true)) => until = began + LEASE - MARGIN,
            Ok(Ok(false)) => anyhow::bail!("another process leads now"),
            Ok(Err(error)) => tracing::warn!("the lease cannot be renewed: {error:#}"),
            Err(_) => tracing::warn!("the lease cannot be renewed: the API server does not answer"),
        }
        anyhow::ensure!(Instant::now() < until, "the lease ran out before it could be renewed");
    }
}

async fn turn(
    api: &Api<Lease>,
    name: &str,
    us: &str,
    seen: &mut Option<(String, Instant)>,
) -> anyhow::Result<bool> {
    let lease = api.get_opt(name).await.context("reading it")?;
    if let Some(lease) = &lease {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if seen.as_ref().is_none_or(|(last, _)| *last != version) {
            *seen = Some((version, Instant::now()));
        }
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        let others = holder.is_some_and(|holder| holder != us && !holder.is_empty());
        if others && seen.as_ref().is_none_or(|(_, since)| since.elapsed() <= LEASE) {
            return Ok(false);
        }
    }
    won(write(api, name, us, lease).await)
}

/// Writes that we lead from now on, if the lease is as it was seen.
async fn write(api: &Api<Lease>, name: &str, us: &str, seen: Option<Lease>) -> kube::Result<Lease> {
    let now = MicroTime(Timestamp::now());
    let new = seen.is_none();
    let mut lease = seen.unwrap_or_default();
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if spec.holder_identity.as_deref() != Some(us) {
        spec.holder_identity = Some(us.to_owned());
        spec.acquire_time = Some(now.clone());
        if !new {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
    }
    spec.lease_duration_seconds = i32::try_from(LEASE.as_secs()).ok();
    spec.renew_time = Some(now);
    if new {
        lease.metadata.name = Some(name.to_owned());
        return api.create(&PostParams::default(), &lease).await;
    }
    api.replace(name, &PostParams::default(), &lease).await
}

fn won(result: kube::Result<Lease>) -> anyhow::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error).context("writing it"),
    }
}

async fn resign(api: &Api<Lease>, name: &str, us: &str) -> anyhow::Result<()> {
    let mut lease = api.get(name).await?;
    if let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(us)) {
        spec.holder_identity = None;
        api.replace(name, &PostParams::default(), &lease).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::lease;

    fn api(server: &lease::Server) -> Api<Lease> {
        Api::namespaced(server.client(), "sys")
    }

    const PATIENCE: Duration = Duration::from_millis(300);

    fn played(story: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(story);
    }

    #[test]
    fn a_lead_that_is_seized_is_kept_from_all_others() {
        let server = lease::Server::default();
        played(async {
            let api = api(&server);
            assert!(turn(&api, "millrace", "old", &mut None).await.unwrap());
            let began = Instant::now();
            seize(&api, "millrace", "hook", PATIENCE).await.unwrap();
            assert!(began.elapsed() >= PATIENCE, "the old one may not have noticed");
            for us in ["old", "new"] {
                assert!(!turn(&api, "millrace", us, &mut None).await.unwrap(), "{us} leads");
            }
            assert!(turn(&api, "millrace", "hook", &mut None).await.unwrap());
            // Another try of the same uninstall: the first one's process may still work.
            let began = Instant::now();
            seize(&api, "millrace", "hook-2", PATIENCE).await.unwrap();
            assert!(began.elapsed() >= PATIENCE);
            let lost = hold(&api, "millrace", "hook").await.unwrap_err().to_string();
            assert!(lost.contains("another process"), "{lost}");
        });
    }

    #[test]
    fn nobody_is_waited_for_where_nobody_leads() {
        let server = lease::Server::default();
        // Longer than any test may take.
        let long = Duration::from_secs(100_000);
        played(async {
            let api = api(&server);
            seize(&api, "millrace", "hook", long).await.unwrap();
            resign(&api, "millrace", "hook").await.unwrap();
            seize(&api, "millrace", "hook-2", long).await.unwrap();
            assert_eq!(server.holder(), "hook-2");
        });
    }
}
