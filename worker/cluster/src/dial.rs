//! The way to another process of the job: TLS with the job's key, the token with each call.

use crate::token::Token;
use std::error::Error;
use tonic::transport::Endpoint;

/// The process at `host:port`.
pub(crate) fn reach(address: &str, token: &Token) -> Result<Endpoint, String> {
    let tls = token.pinned()?.client();
    Endpoint::from_shared(format!("https://{address}"))
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(|error| format!("{address} is no address: {error}"))
}

/// Why there is no way.
pub(crate) fn why_not(address: &str, error: &tonic::transport::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let cause = cause.to_string();
    match cause.contains("certificate") {
        true => format!(
            "what answers at {address} is no process of this job, or has another token: {cause}"
        ),
        false => format!("cannot reach {address}: {cause}"),
    }
}
