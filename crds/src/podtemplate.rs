//! The schema of `podTemplate`: everything is kept, and only what our rules look at is
//! declared. The typed schema of a pod is 141 KB and would drop fields that are newer.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;

/// An overlay for the pods, merged as JSON: see [`crate::render::overlay`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodTemplate(pub Value);

impl JsonSchema for PodTemplate {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "PodTemplate".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let keep = json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let containers = |extra: Value| {
            let mut schema = serde_json::json!({
                "type": "array", "maxItems": 16,
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object", "required": ["name"],
                    "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {
                        "name": {"type": "string", "maxLength": 63},
                        "image": {"type": "string", "maxLength": 1024},
                        "command": {"type": "array", "maxItems": 256, "items": {"type": "string"}},
                        "args": {"type": "array", "maxItems": 256, "items": {"type": "string"}},
                        "resources": keep,
                    },
                },
            });
            if let (Value::Object(schema), Value::Object(extra)) = (&mut schema, extra) {
                schema.extend(extra);
            }
            schema
        };
        let ours = serde_json::json!({"x-kubernetes-validations": [{
            "rule": "self.all(c, c.name != 'worker' || !(has(c.image) || has(c.command) || has(c.args) || has(c.resources)))",
            "message": "container worker may not set image, command, args or resources here: use spec.image, spec.job.program.args and spec.resources",
        }]});
        json_schema!({
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {
                "metadata": keep,
                "spec": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {
                        "containers": containers(ours),
                        "initContainers": containers(serde_json::json!({})),
                    },
                },
            },
        })
    }
}
