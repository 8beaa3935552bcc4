//! What Kubernetes and Prometheus ask a process over HTTP: `/ready` and `/metrics`.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use millrace_engine::graph::Graph;
use millrace_engine::job::agent::Watch;
use millrace_engine::job::order::Counters;
use std::fmt::Write;
use std::sync::Arc;
use tokio::net::TcpListener;

/// What is shown.
#[derive(Clone)]
pub struct Seen {
    /// What runs here.
    pub watch: Watch,
    /// The program.
    pub graph: Arc<Graph>,
}

/// Answers until the runtime ends.
pub async fn serve(listener: TcpListener, seen: Seen) {
    let routes =
        Router::new().route("/ready", get(ready)).route("/metrics", get(metrics)).with_state(seen);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the process no longer answers /ready and /metrics");
    }
}

/// Whether the process runs its share of an attempt.
async fn ready(State(seen): State<Seen>) -> (StatusCode, &'static str) {
    if seen.watch.runs() {
        (StatusCode::OK, "runs\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "runs no tasks\n")
    }
}

async fn metrics(State(seen): State<Seen>) -> String {
    let (attempt, counters) = seen.watch.counters().map_or((0, Vec::new()), |(a, c)| (a.0, c));
    let name = |node: u32| {
        let node = seen.graph.nodes().iter().find(|n| n.id.0 == node);
        node.map_or(String::new(), |n| n.uid.as_str().replace(['\\', '"', '\n'], "_"))
    };
    text(attempt, seen.watch.runs(), seen.watch.completed(), &counters, name)
}

/// In Prometheus' text format.
fn text(
    attempt: u64,
    runs: bool,
    completed: u64,
    counters: &[Counters],
    name: impl Fn(u32) -> String,
) -> String {
    let mut text = String::new();
    let mut simple = |metric: &str, kind: &str, help: &str, value: u64| {
        let _ = write!(text, "# HELP {metric} {help}\n# TYPE {metric} {kind}\n{metric} {value}\n");
    };
    simple("millrace_attempt", "gauge", "Attempt that runs or ran last.", attempt);
    simple("millrace_running", "gauge", "Whether tasks run in this process.", runs.into());
    simple(
        "millrace_checkpoints_completed_total",
        "counter",
        "Complete checkpoints that this process was told of.",
        completed,
    );
    type Get = fn(&Counters) -> Option<i128>;
    let of: [(&str, &str, &str, Get); 8] = [
        ("millrace_rows_in_total", "counter", "Rows taken.", |c| Some(c.rows_in.into())),
        ("millrace_rows_out_total", "counter", "Rows given.", |c| Some(c.rows_out.into())),
        ("millrace_late_dropped_total", "counter", "Late rows dropped.", |c| {
            Some(c.late_dropped.into())
        }),
        ("millrace_busy_nanoseconds_total", "counter", "Time at work.", |c| Some(c.busy_ns.into())),
        ("millrace_blocked_milliseconds_total", "counter", "Time without room downstream.", |c| {
            Some(c.blocked_ms.into())
        }),
        ("millrace_state_bytes", "gauge", "Bytes of keyed state.", |c| Some(c.state_bytes.into())),
        ("millrace_state_entries", "gauge", "Entries of keyed state.", |c| {
            Some(c.state_entries.into())
        }),
        ("millrace_watermark_milliseconds", "gauge", "Lowest event time to come.", |c| {
            c.watermark.map(Into::into)
        }),
    ];
    for (metric, kind, help, get) in of {
        let _ = write!(text, "# HELP {metric} {help}\n# TYPE {metric} {kind}\n");
        let mut by_node = std::collections::BTreeMap::new();
        for c in counters {
            let Some(value) = get(c) else { continue };
            let sum = by_node.entry(c.node).or_insert(None);
            *sum = Some(match *sum {
                None => value,
                Some(sum) if metric.contains("watermark") => value.min(sum),
                Some(sum) => value + sum,
            });
        }
        for (node, value) in by_node {
            if let Some(value) = value {
                let _ = writeln!(text, "{metric}{{operator=\"{}\"}} {value}", name(node));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_subtasks_and_watermarks_are_the_lowest() {
        let one = Counters { node: 1, rows_in: 2, watermark: Some(9), ..Counters::default() };
        let two = Counters { node: 1, rows_in: 3, watermark: Some(7), ..Counters::default() };
        let text = text(4, true, 5, &[one, two], |node| format!("n{node}"));
        for line in [
            "millrace_attempt 4",
            "millrace_running 1",
            "millrace_checkpoints_completed_total 5",
            "millrace_rows_in_total{operator=\"n1\"} 5",
            "millrace_watermark_milliseconds{operator=\"n1\"} 7",
            "# TYPE millrace_state_bytes gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
