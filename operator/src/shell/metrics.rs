//! All metrics of the controller.

use kube::api::DynamicObject;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::Value;

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
    /// As Prometheus reads them. `jobs`: all that are looked after.
    pub fn text(&self, jobs: Jobs) -> String {
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
        registry.register("jobs", "Jobs by state and by who rendered their pods", jobs.0);
        registry.register("leads", "1 while this process leads", self.leads.clone());
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

/// How many jobs there are. Labels are there always, empty where nothing is known.
#[derive(Default)]
pub(crate) struct Jobs(Family<Vec<(String, String)>, Gauge>);

impl Jobs {
    /// Counts one.
    pub fn count(&mut self, job: &DynamicObject) {
        let status = &job.data["status"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels = vec![
            ("state".to_owned(), text(&status["state"])),
            ("rendered_by".to_owned(), text(&status["revision"]["renderedBy"])),
        ];
        self.0.get_or_create(&labels).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::api::ApiResource;
    use serde_json::json;

    #[test]
    fn row_48_jobs_are_counted_by_who_rendered_them() {
        let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        let job = |state: &str, by: &str| {
            let status = json!({"state": state, "revision": {"renderedBy": by}});
            DynamicObject::new("a", &resource).data(json!({"status": status}))
        };
        let new = DynamicObject::new("b", &resource).data(json!({}));
        let mut jobs = Jobs::default();
        for one in [job("Running", "0.1.0"), job("Running", "0.1.0"), job("Failed", "0.2.0"), new] {
            jobs.count(&one);
        }
        let text = Metrics::default().text(jobs);
        for line in [
            r#"millrace_controller_jobs{state="Running",rendered_by="0.1.0"} 2"#,
            r#"millrace_controller_jobs{state="Failed",rendered_by="0.2.0"} 1"#,
            r#"millrace_controller_jobs{state="",rendered_by=""} 1"#,
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
