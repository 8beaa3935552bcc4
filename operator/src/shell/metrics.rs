//! All metrics of the controller.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The metrics.
#[derive(Default)]
pub(crate) struct Metrics {
    pub passes: Counter,
    pub failed_passes: Counter,
    pub watch_errors: Counter,
    pub status_writes: Counter,
    pub actions: Family<Vec<(String, String)>, Counter>,
    pub events: Family<Vec<(String, String)>, Counter>,
    pub leads: Gauge,
}

impl Metrics {
    /// As Prometheus reads them.
    pub fn text(&self) -> String {
        let mut registry = Registry::with_prefix("millrace_controller");
        registry.register("passes", "Looks at a job", self.passes.clone());
        registry.register(
            "failed_passes",
            "Looks that ended with an error",
            self.failed_passes.clone(),
        );
        registry.register("watch_errors", "Watches that broke", self.watch_errors.clone());
        registry.register("status_writes", "Statuses written", self.status_writes.clone());
        registry.register("actions", "Actions by kind", self.actions.clone());
        registry.register("events", "Events by reason", self.events.clone());
        registry.register("leads", "1 while this process leads", self.leads.clone());
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
