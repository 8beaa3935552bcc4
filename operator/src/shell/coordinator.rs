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
}

/// The way to the coordinator at an address, with a token.
pub(crate) type Connect =
    Box<dyn Fn(&str, &str) -> Result<Box<dyn Control>, Failure> + Send + Sync>;

/// The way over the network.
pub(crate) fn connect(ip: &str, token: &str) -> Result<Box<dyn Control>, Failure> {
    Ok(Box::new(Coordinator::new(ip, token)?))
}

/// One coordinator.
struct Coordinator {
    client: ControlClient<Channel>,
    bearer: MetadataValue<Ascii>,
}

/// What went wrong, in words.
pub(crate) type Failure = String;

impl Coordinator {
    fn new(ip: &str, token: &str) -> Result<Self, Failure> {
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let tls = Pinned::of(token).map_err(|error| error.to_string())?.client();
        let endpoint = Endpoint::from_shared(format!("https://{host}:{PORT_CONTROL}"))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(|error| error.to_string())?
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE);
        let bearer = format!("Bearer {token}").parse().map_err(|_| "bad token".to_owned())?;
        Ok(Self { client: ControlClient::new(endpoint.connect_lazy()), bearer })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }
}

impl Control for Coordinator {
    fn status(&mut self) -> BoxFuture<'_, Result<control::Status, Failure>> {
        let request = self.request(control::StatusRequest {});
        async { self.client.get_status(request).await.map(Response::into_inner).map_err(words) }
            .boxed()
    }

    fn propose(&mut self, live: Vec<u8>, force: bool) -> BoxFuture<'_, Result<(), Failure>> {
        let request =
            self.request(control::Proposal { live, revision: Vec::new(), r#override: force });
        async {
            let answer = self.client.propose(request).await.map_err(words)?.into_inner();
            match answer.verdict() {
                control::proposal_answer::Verdict::Invalid => Err(answer.message),
                // The status tells what became of it.
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn hold(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        let request = self.request(control::HoldStopRequest { hold_ms: HOLD_MS });
        async { self.client.hold_stop(request).await.map(drop).map_err(words) }.boxed()
    }

    fn release(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        let request = self.request(control::ReleaseStopRequest {});
        async { self.client.release_stop(request).await.map(drop).map_err(words) }.boxed()
    }

    fn want(&mut self, wanted: Vec<(String, String)>) -> BoxFuture<'_, Result<(), Failure>> {
        let wanted = wanted.into_iter().map(|(id, target)| control::WantedSavepoint { id, target });
        let request = self.request(control::WantedSavepoints { wanted: wanted.collect() });
        async { self.client.want_savepoints(request).await.map(drop).map_err(words) }.boxed()
    }
}

fn words(status: Status) -> Failure {
    format!("{}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_token_hangs_on_key_and_job() {
        let token = |key: &[u8], uid: &str| super::token(key, uid).unwrap();
        assert_eq!(token(b"k", "a"), token(b"k", "a"));
        assert_eq!(token(b"k", "a").len(), 64);
        assert_ne!(token(b"k", "a"), token(b"k", "b"));
        assert_ne!(token(b"k", "a"), token(b"l", "a"));
    }
}
