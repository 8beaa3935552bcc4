//! Logs and, as an option, traces.
//!
//! With `--traces URL` each look at a job is a span, `pass`, with one each for `observe` and
//! the actions; a look that fails says why in the attribute `error`. They go to an
//! OpenTelemetry collector by OTLP over gRPC, in batches: a collector that is away costs
//! spans, never a look.

use crate::shell::options::{LogFormat, Options};
use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// A text of someone else's as one line of a log, in which it can pass for nothing else.
pub fn line(text: &str) -> String {
    let shown = |c: char| {
        let hides = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match hides {
            true => c.escape_default().to_string(),
            false => c.to_string(),
        }
    };
    text.chars().map(shown).collect()
}

/// What is sent when this ends.
#[derive(Debug, Default)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Sends what is left.
    pub fn end(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// Logs and traces from here on; in a tokio runtime.
pub fn begin(options: &Options) -> anyhow::Result<Traces> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // The client logs each failed call as an error; who made the call knows better what it is.
    let filter = match std::env::var("RUST_LOG").is_ok_and(|wish| wish.contains("kube_client")) {
        true => filter,
        false => filter.add_directive("kube_client::client::builder=off".parse()?),
    };
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = match options.log_format {
        LogFormat::Json => logs.json().boxed(),
        LogFormat::Text => logs.boxed(),
    };
    let provider = options.traces.as_deref().map(|url| provider(url, &options.name)).transpose()?;
    let spans = provider.as_ref().map(layer);
    tracing_subscriber::registry().with(filter).with(logs).with(spans).init();
    Ok(Traces(provider))
}

fn provider(url: &str, name: &str) -> anyhow::Result<SdkTracerProvider> {
    anyhow::ensure!(
        url.starts_with("http://"),
        "traces go to http://HOST:PORT, an OpenTelemetry collector's gRPC port, and not to {url:?}"
    );
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(url).build();
    let exporter = exporter.with_context(|| format!("traces cannot go to {url}"))?;
    let resource = Resource::builder().with_service_name(format!("millrace-controller/{name}"));
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build())
}

fn layer<S: Subscriber + for<'s> LookupSpan<'s>>(provider: &SdkTracerProvider) -> impl Layer<S> {
    tracing_opentelemetry::layer().with_tracer(provider.tracer("millrace"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
        TraceService, TraceServiceServer,
    };
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
    };
    use std::collections::BTreeMap;
    use std::time::Duration;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
    use tonic::{Request, Response, Status};

    struct Collector(UnboundedSender<ExportTraceServiceRequest>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: Request<ExportTraceServiceRequest>,
        ) -> Result<Response<ExportTraceServiceResponse>, Status> {
            self.0.send(request.into_inner()).unwrap();
            Ok(Response::new(ExportTraceServiceResponse::default()))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn spans_reach_a_collector_with_what_went_wrong() {
        let (send, mut got) = unbounded_channel();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Collector(send)))
            .serve_with_incoming(incoming);
        tokio::spawn(server);
        let provider = provider(&url, "millrace").unwrap();
        let subscriber = tracing_subscriber::registry().with(layer(&provider));
        tracing::subscriber::with_default(subscriber, || {
            let pass = tracing::info_span!("pass", job = "orders", error = tracing::field::Empty);
            let _inside = pass.enter();
            pass.record("error", "no way to the API server");
            tracing::info_span!("observe").in_scope(|| ());
        });
        tokio::task::spawn_blocking(|| Traces(Some(provider)).end()).await.unwrap();
        let request = tokio::time::timeout(Duration::from_secs(60), got.recv());
        let sent = request.await.expect("no spans in a minute").unwrap().resource_spans.remove(0);
        let resource = format!("{:?}", sent.resource.unwrap());
        assert!(resource.contains("millrace-controller/millrace"), "{resource}");
        let spans = &sent.scope_spans[0].spans;
        let ids: BTreeMap<_, _> = spans.iter().map(|s| (s.name.as_str(), s)).collect();
        let (pass, observe) = (ids["pass"], ids["observe"]);
        assert_eq!(observe.parent_span_id, pass.span_id);
        let attributes = format!("{:?} {:?}", pass.attributes, pass.status);
        assert!(attributes.contains("no way to the API server"), "{attributes}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
        // Bound and closed again: nobody is there.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let provider = provider(&format!("http://{address}"), "millrace").unwrap();
        let subscriber = tracing_subscriber::registry().with(layer(&provider));
        tracing::subscriber::with_default(subscriber, || {
            // More than wait to be sent.
            (0..10_000).for_each(|_| tracing::info_span!("pass").in_scope(|| ()));
        });
        let ended = tokio::task::spawn_blocking(|| Traces(Some(provider)).end());
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it waits").unwrap();
    }

    #[test]
    fn a_text_of_someone_else_s_is_one_line_of_a_log() {
        assert_eq!(line("über 'x' \\n"), "über 'x' \\n");
        let hostile = "a\nlevel=error\r\u{1b}[2J\u{7}\u{202e}\u{2028}";
        assert_eq!(line(hostile), r"a\nlevel=error\r\u{1b}[2J\u{7}\u{202e}\u{2028}");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused_with_what_is_wanted() {
        let error = provider("collector:4317", "millrace").unwrap_err().to_string();
        assert!(error.contains("http://HOST:PORT"), "{error}");
    }
}
