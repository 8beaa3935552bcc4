//! The way to another process of the job: TLS with the job's key, the token with each call.

use crate::token::Token;
use millrace_protocol::pinned::is_stranger;
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
    match is_stranger(error) {
        true => format!(
            "what answers at {address} is no process of this job, or has another token: {cause}"
        ),
        false => format!("cannot reach {address}: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_protocol::pinned::Pinned;
    use std::io::Write;
    use std::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::Server;

    const TOKEN: &str = "the-token-of-this-job";

    /// Why the process that listens there is not reached.
    async fn why(address: std::net::SocketAddr) -> String {
        let address = address.to_string();
        let endpoint = reach(&address, &Token::new(TOKEN).unwrap()).unwrap();
        why_not(&address, &endpoint.connect().await.unwrap_err())
    }

    #[tokio::test]
    async fn another_jobs_process_is_told_from_one_that_is_away() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = listener.local_addr().unwrap();
        let (_reporter, health) = tonic_health::server::health_reporter();
        let server = Server::builder()
            .tls_config(Pinned::of("the-token-of-another-job").unwrap().server())
            .unwrap()
            .add_service(health);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let text = why(theirs).await;
        assert!(text.contains("is no process of this job, or has another token"), "{text}");

        // No TLS at all.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let plain = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            // Until the other side goes.
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        });
        let text = why(plain).await;
        assert!(text.contains("is no process of this job, or has another token"), "{text}");

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let away = listener.local_addr().unwrap();
        drop(listener);
        let text = why(away).await;
        assert!(text.starts_with(&format!("cannot reach {away}: ")), "{text}");
    }
}
