//! An API server that knows one Lease, and refuses to write what was not seen.

use super::http::{Call, client_of};
use super::server::{Answer, refused};
use kube::Client;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

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
        let server = self.clone();
        client_of(move |call| Ok(server.obey(call)))
    }

    /// Who leads.
    pub fn holder(&self) -> String {
        let stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = stored.lease.as_ref();
        let holder = lease.and_then(|lease| lease["spec"]["holderIdentity"].as_str());
        holder.unwrap_or_default().to_owned()
    }

    fn obey(&self, call: Call) -> Answer {
        let mut body = call.body;
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = stored.lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
        match (call.method.as_str(), seen) {
            ("GET", None) => return Err(refused(404, "NotFound", "no")),
            ("GET", Some(_)) => return Ok(stored.lease.clone().unwrap_or_default()),
            ("POST", None) => {}
            ("PUT", Some(seen)) if body["metadata"]["resourceVersion"] == seen => {}
            _ => return Err(refused(409, "Conflict", "no")),
        }
        stored.version += 1;
        body["metadata"]["resourceVersion"] = json!(stored.version.to_string());
        stored.lease = Some(body.clone());
        Ok(body)
    }
}
