//! The control API of a job's coordinator: pod 0, by its address.

use futures::future::{BoxFuture, FutureExt};
use hmac::{Hmac, Mac};
use millrace_crds::names::PORT_CONTROL;
use millrace_protocol::control;
use millrace_protocol::control::control_client::ControlClient;
use millrace_protocol::pinned::Pinned;
use sha2::Sha256;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(3);
/// A stop is held for so long after the last request.
pub(crate) const HOLD_MS: u64 = 60_000;

/// The token of a job: only who has the master key can make it, and nobody need store it.
pub(crate) fn token(master_key: &[u8], uid: &str) -> anyhow::Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(master_key)?;
    mac.update(b"millrace control token v1\0");
    mac.update(uid.as_bytes());
    Ok(mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What a coordinator is asked.
pub(crate) trait Control: Send {
    fn status(&mut self) -> BoxFuture<'_, Result<control::Status, Failure>>;
    fn propose(&mut self, live: Vec<u8>, force: bool) -> BoxFuture<'_, Result<(), Failure>>;
    fn hold(&mut self) -> BoxFuture<'_, Result<(), Failure>>;
    fn release(&mut self) -> BoxFuture<'_, Result<(), Failure>>;
    fn want(&mut self, wanted: Vec<(String, String)>) -> BoxFuture<'_, Result<(), Failure>>;
    /// It is not asked for a while: what a connection takes is given back until then.
    fn rest(&mut self);
}

/// The way to the coordinator at an address, with a token.
pub(crate) type Connect =
    Box<dyn Fn(&str, &str) -> Result<Box<dyn Control>, Failure> + Send + Sync>;

/// The way over the network.
pub(crate) fn connect(ip: &str, token: &str) -> Result<Box<dyn Control>, Failure> {
    Ok(Box::new(Coordinator::new(ip, token)?))
}

/// One coordinator. A connection takes some 60 KiB for its buffers and keys, which is most
/// of what a job at rest would take, and is asked one question a minute: it is made anew for
/// that.
struct Coordinator {
    address: String,
    token: String,
    client: Option<ControlClient<Channel>>,
}

/// What went wrong, in words.
pub(crate) type Failure = String;

impl Coordinator {
    fn new(ip: &str, token: &str) -> Result<Self, Failure> {
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let address = format!("https://{host}:{PORT_CONTROL}");
        let client = Some(dial(&address, token)?);
        Ok(Self { address, token: token.to_owned(), client })
    }

    fn client(&mut self) -> Result<&mut ControlClient<Channel>, Failure> {
        let client = match self.client.take() {
            Some(client) => client,
            None => dial(&self.address, &self.token)?,
        };
        Ok(self.client.insert(client))
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Failure> {
        let bearer: MetadataValue<Ascii> =
            format!("Bearer {}", self.token).parse().map_err(|_| "bad token".to_owned())?;
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", bearer);
        Ok(request)
    }
}

/// The way there; nothing is sent yet.
fn dial(address: &str, token: &str) -> Result<ControlClient<Channel>, Failure> {
    let tls = Pinned::of(token).map_err(|error| error.to_string())?.client();
    let endpoint = Endpoint::from_shared(address.to_owned())
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(|error| error.to_string())?
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE);
    Ok(ControlClient::new(endpoint.connect_lazy()))
}

impl Control for Coordinator {
    fn status(&mut self) -> BoxFuture<'_, Result<control::Status, Failure>> {
        async {
            let request = self.request(control::StatusRequest {})?;
            self.client()?.get_status(request).await.map(Response::into_inner).map_err(words)
        }
        .boxed()
    }

    fn propose(&mut self, live: Vec<u8>, force: bool) -> BoxFuture<'_, Result<(), Failure>> {
        async move {
            let proposal = control::Proposal { live, revision: Vec::new(), r#override: force };
            let request = self.request(proposal)?;
            let answer = self.client()?.propose(request).await.map_err(words)?.into_inner();
            match answer.verdict() {
                control::proposal_answer::Verdict::Invalid => Err(answer.message),
                // The status tells what became of it.
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn hold(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        async {
            let request = self.request(control::HoldStopRequest { hold_ms: HOLD_MS })?;
            self.client()?.hold_stop(request).await.map(drop).map_err(words)
        }
        .boxed()
    }

    fn release(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        async {
            let request = self.request(control::ReleaseStopRequest {})?;
            self.client()?.release_stop(request).await.map(drop).map_err(words)
        }
        .boxed()
    }

    fn want(&mut self, wanted: Vec<(String, String)>) -> BoxFuture<'_, Result<(), Failure>> {
        let wanted = wanted.into_iter().map(|(id, target)| control::WantedSavepoint { id, target });
        let wanted = control::WantedSavepoints { wanted: wanted.collect() };
        async move {
            let request = self.request(wanted)?;
            self.client()?.want_savepoints(request).await.map(drop).map_err(words)
        }
        .boxed()
    }

    fn rest(&mut self) {
        self.client = None;
    }
}

fn words(status: Status) -> Failure {
    format!("{}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests;
