//! The custom resource definitions, as YAML and as files of the chart.

use crate::{Savepoint, StreamJob};
use kube::CustomResourceExt;
use serde_json::{Value, json};

/// A definition could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// As JSON.
    #[error("the definition is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// As YAML.
    #[error("the definition is no YAML: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
}

/// Both definitions, by the stem of their file.
pub fn definitions() -> Result<[(&'static str, Value); 2], CrdError> {
    let mut all = [
        ("streamjobs", serde_json::to_value(StreamJob::crd())?),
        ("savepoints", serde_json::to_value(Savepoint::crd())?),
    ];
    for (_, crd) in &mut all {
        // Without it `helm uninstall` would delete every job in the cluster.
        crd["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
        tidy(crd);
        for version in crd["spec"]["versions"].as_array_mut().into_iter().flatten() {
            let schema = &mut version["schema"]["openAPIV3Schema"]["properties"];
            optional(&mut schema["status"]);
            list_map(&mut schema["status"]["properties"]["conditions"]);
        }
    }
    Ok(all)
}

/// The definition as plain YAML.
pub fn yaml(crd: &Value) -> Result<String, CrdError> {
    Ok(serde_yaml_ng::to_string(crd)?)
}

/// The definition as a template of the chart: templates are upgraded by `helm upgrade`,
/// files of a chart's `crds/` are not.
pub fn template(crd: &Value) -> Result<String, CrdError> {
    Ok(format!(
        "{{{{- /* Written by `cargo run -p millrace-crds -- charts/millrace/templates/crds`. */}}}}\n\
         {{{{- if .Values.crds.install }}}}\n{}{{{{- end }}}}\n",
        yaml(crd)?
    ))
}

// Every field of a status comes late, and none may keep the others from being written.
fn optional(status: &mut Value) {
    if let Some(schema) = status.as_object_mut() {
        schema.remove("required");
        for (name, property) in
            schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten()
        {
            // Conditions have the form that all of Kubernetes has agreed on.
            if name != "conditions" {
                optional(property);
            }
        }
    }
}

fn list_map(conditions: &mut Value) {
    if let Some(conditions) = conditions.as_object_mut() {
        conditions.insert("x-kubernetes-list-type".to_owned(), json!("map"));
        conditions.insert("x-kubernetes-list-map-keys".to_owned(), json!(["type"]));
        conditions.insert("maxItems".to_owned(), json!(16));
    }
}

// Where null is as good as nothing, `enum` is no way to say what else there may be: API servers
// refuse null then, even if it is among the values. A rule is not asked about null.
//
// `format: uint16` and the like mean nothing to an API server, which warns about them;
// texts of k8s-openapi hold escapes and braces that a template would choke on.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("format").and_then(Value::as_str).is_some_and(|f| f.starts_with("uint")) {
                map.remove("format");
            }
            let nullable = map.get("nullable") == Some(&Value::Bool(true));
            if nullable && let Some(Value::Array(values)) = map.remove("enum") {
                let names: Vec<_> = values.iter().filter_map(Value::as_str).collect();
                let rule = format!("self in ['{}']", names.join("', '"));
                let message = format!("must be one of {}", names.join(", "));
                let longest = names.iter().map(|name| name.len()).max();
                map.insert("maxLength".to_owned(), json!(longest.unwrap_or(0).max(32)));
                let rules = json!([{"rule": rule, "message": message}]);
                map.insert("x-kubernetes-validations".to_owned(), rules);
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.replace("{{", "{ {").replace('\\', "").replace('\n', " ");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}
