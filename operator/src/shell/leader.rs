//! One leader at a time, by a Lease. Leadership ends on our own clock, before anyone else
//! could take it: a process that was paused past its lease changes nothing.

use super::Shell;
use super::options::Options;
use anyhow::Context;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const LEASE: Duration = Duration::from_secs(15);
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

async fn turn(
    api: &Api<Lease>,
    name: &str,
    us: &str,
    seen: &mut Option<(String, Instant)>,
) -> anyhow::Result<bool> {
    let now = MicroTime(Timestamp::now());
    let Some(mut lease) = api.get_opt(name).await.context("reading it")? else {
        let spec = LeaseSpec {
            holder_identity: Some(us.to_owned()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(spec) };
        return won(api.create(&PostParams::default(), &lease).await);
    };
    let version = lease.metadata.resource_version.clone().unwrap_or_default();
    if seen.as_ref().is_none_or(|(last, _)| *last != version) {
        *seen = Some((version, Instant::now()));
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    let holder = spec.holder_identity.clone().unwrap_or_default();
    let quiet = seen.as_ref().is_some_and(|(_, since)| since.elapsed() > LEASE);
    if holder != us && !holder.is_empty() && !quiet {
        return Ok(false);
    }
    if holder != us {
        spec.holder_identity = Some(us.to_owned());
        spec.acquire_time = Some(now.clone());
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
    }
    spec.lease_duration_seconds = i32::try_from(LEASE.as_secs()).ok();
    spec.renew_time = Some(now);
    won(api.replace(name, &PostParams::default(), &lease).await)
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
