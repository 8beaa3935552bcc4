//! Metrics, health and readiness over HTTP.

use super::Shell;
use super::kinds::What;
use super::metrics::Jobs;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, shell: Arc<Shell>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let shell = shell.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&shell, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A client that goes away is no news.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn metrics(shell: &Shell) -> String {
    let mut jobs = Jobs::default();
    shell.cache.each(What::StreamJob, |job| jobs.count(&job));
    shell.metrics.text(jobs)
}

fn answer<B>(shell: &Shell, request: &Request<B>) -> Response<String> {
    let (status, body) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, metrics(shell)),
        "/healthz" => (StatusCode::OK, "ok".to_owned()),
        "/readyz" if shell.cache.is_ready() => (StatusCode::OK, "ok".to_owned()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "caches are filling".to_owned()),
        _ => (StatusCode::NOT_FOUND, "here are /metrics, /healthz, /readyz".to_owned()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
