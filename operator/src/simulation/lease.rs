//! An API server that knows one Lease, and refuses to write what was not seen.

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

#[derive(Default)]
struct Stored {
    lease: Option<Value>,
    version: u64,
}

/// The server.
#[derive(Clone, Default)]
pub(crate) struct Server(Arc<Mutex<Stored>>);

impl Server {
    /// A client of it.
    pub fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    /// Who leads.
    pub fn holder(&self) -> String {
        let stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = stored.lease.as_ref();
        let holder = lease.and_then(|lease| lease["spec"]["holderIdentity"].as_str());
        holder.unwrap_or_default().to_owned()
    }

    fn obey(&self, method: &str, mut body: Value) -> (u16, Value) {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                "metadata": {}, "message": "no", "reason": reason, "code": code});
            (code, status)
        };
        let seen = stored.lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
        match (method, seen) {
            ("GET", None) => return refused(404, "NotFound"),
            ("GET", Some(_)) => return (200, stored.lease.clone().unwrap_or_default()),
            ("POST", None) => {}
            ("PUT", Some(seen)) if body["metadata"]["resourceVersion"] == seen => {}
            _ => return refused(409, "Conflict"),
        }
        stored.version += 1;
        body["metadata"]["resourceVersion"] = json!(stored.version.to_string());
        stored.lease = Some(body.clone());
        (200, body)
    }
}

impl tower::Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.map_err(std::io::Error::other)?;
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (status, answer) = server.obey(parts.method.as_str(), body);
            let body = Body::from(serde_json::to_vec(&answer).map_err(std::io::Error::other)?);
            Response::builder().status(status).body(body).map_err(std::io::Error::other)
        })
    }
}
