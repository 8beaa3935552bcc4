//! The shell around `plan`: watches, calls, clocks. No decisions.

pub(crate) mod cache;
mod calls;
mod client;
pub(crate) mod coordinator;
pub(crate) mod events;
mod execute;
mod hidden;
pub(crate) mod kept;
pub(crate) mod kinds;
pub(crate) mod leader;
mod master_key;
pub(crate) mod metrics;
mod observe;
pub mod options;
pub(crate) mod pass;
mod pods;
mod queue;
pub mod release;
mod serve;

use crate::observed::Millis;
use anyhow::Context;
use coordinator::Connect;
use events::Recorder;
#[cfg(test)]
pub(crate) use execute::summary;
use kept::Cache;
use kube::Client;
use leader::Leader;
use metrics::Metrics;
use options::Options;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Passes under way have so long to end: an API server that does not answer holds nobody.
const FINISH: Duration = Duration::from_secs(10);

/// What every pass needs.
pub(crate) struct Shell {
    pub client: Client,
    pub cache: Cache,
    pub recorder: Recorder,
    pub leader: Leader,
    pub metrics: Metrics,
    pub controller: String,
    pub cluster: String,
    pub master_key: Vec<u8>,
    pub watches_nodes: bool,
    pub refreshes: bool,
    pub connect: Connect,
    /// Milliseconds since 1970.
    pub now: Box<dyn Fn() -> Millis + Send + Sync>,
}

/// Runs until told to end.
pub async fn run(mut options: Options) -> anyhow::Result<()> {
    options.identity = options.identity();
    let client = client::client().await?;
    let master_key = master_key::load(&client, &options).await?;
    let cluster = calls::cluster_id(&client).await;
    let controller = format!("{}/{}", options.own_namespace, options.name);
    let context = Arc::new(Shell {
        recorder: Recorder::new(client.clone(), options.identity.clone()),
        cache: Cache::default(),
        leader: Leader::default(),
        metrics: Metrics::default(),
        controller,
        cluster,
        master_key,
        watches_nodes: options.watch_nodes,
        refreshes: options.refresh_status,
        connect: Box::new(coordinator::connect),
        now: Box::new(pass::now),
        client,
    });
    let (stop, stopped) = watch::channel(false);
    let stop = Arc::new(stop);
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("{} cannot be listened on", options.listen))?;
    tokio::spawn(serve::serve(listener, context.clone()));
    tokio::spawn(signals(stop.clone()));
    let (dirty, marked) = mpsc::unbounded_channel();
    let leads = async {
        let led = leader::campaign(context.clone(), &options, stopped.clone()).await;
        // Who does not lead any more ends, and does not look on for ever.
        let _ = stop.send(true);
        led
    };
    let work = async {
        // Caches are warm before we lead, so that a change of leaders is short.
        cache::watch_all(&context, &options, dirty.clone());
        context.leader.first(stopped.clone()).await;
        queue::work(context.clone(), marked, stopped.clone()).await;
    };
    let ended = async {
        let mut stopped = stopped.clone();
        let _ = stopped.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(FINISH).await;
    };
    let work = async {
        tokio::select! { () = work => {}, () = ended => {} }
    };
    let (led, ()) = tokio::join!(leads, work);
    led
}

async fn signals(stop: Arc<watch::Sender<bool>>) {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    tracing::info!("told to end");
    let _ = stop.send(true);
    tokio::time::sleep(Duration::from_secs(60)).await;
}
