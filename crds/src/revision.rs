//! What needs new processes, and the hash that names it.
//!
//! The hash is taken over the fields as they are stored, absent and null ones dropped:
//! a controller that learns a new default, or a definition that learns a new field,
//! changes no hash, and so restarts nothing.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Fields of `spec` whose change needs new processes or a check of the program.
pub const RESTART_RELEVANT: [&str; 14] = [
    "image",
    "job",
    "slotsPerWorker",
    "maxParallelism",
    "restartNonce",
    "onExistingState",
    "storage",
    "state",
    "resources",
    "serviceAccountName",
    "tls",
    "podTemplate",
    "upgrade.dropState",
    "disruption.lostNodeTimeout",
];

/// The restart-relevant part of a stored spec.
pub fn relevant(spec: &Value) -> Value {
    let mut picked = Map::new();
    for path in RESTART_RELEVANT {
        let mut value = Some(spec);
        for key in path.split('.') {
            value = value.and_then(|value| value.get(key));
        }
        if let Some(value) = value.and_then(without_nulls) {
            picked.insert(path.to_owned(), value);
        }
    }
    Value::Object(picked)
}

/// Names the revision of a stored spec: 8 hexadecimal digits.
pub fn hash(spec: &Value) -> String {
    let mut text = String::new();
    canonical(&relevant(spec), &mut text);
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn without_nulls(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(map) => Some(Value::Object(
            map.iter()
                .filter_map(|(key, value)| Some((key.clone(), without_nulls(value)?)))
                .collect(),
        )),
        Value::Array(list) => Some(Value::Array(
            list.iter().map(|value| without_nulls(value).unwrap_or(Value::Null)).collect(),
        )),
        other => Some(other.clone()),
    }
}

// Written here because the order of keys in `serde_json` hangs on a feature that any
// crate of the build may switch on.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            out.push('{');
            for key in keys {
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                canonical(&map[key], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(list) => {
            out.push('[');
            for value in list {
                canonical(value, out);
                out.push(',');
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn golden() -> Value {
        json!({
            "image": "example.org/acme/orders:1.4",
            "job": {"program": {"args": ["--topic", "orders"]}},
            "workers": 4, "slotsPerWorker": 2, "maxParallelism": 1024,
            "desiredState": "Running", "onExistingState": "Refuse",
            "storage": {"s3": {"bucket": "acme-streams", "prefix": "prod"}},
            "resources": {"limits": {"memory": "4Gi"}},
            "podTemplate": {"spec": {"nodeSelector": {"disk": "fast"}}},
        })
    }

    #[test]
    fn the_golden_job_keeps_its_hash() {
        assert_eq!(hash(&golden()), "73a05553");
    }

    #[test]
    fn nulls_and_what_is_taken_over_live_change_nothing() {
        let mut job = golden();
        let before = hash(&job);
        for (field, value) in [
            ("workers", json!(9)),
            ("parallelism", json!(3)),
            ("checkpoint", json!({"interval": "1s"})),
            ("restart", json!({"maxRestarts": 3})),
            ("desiredState", json!("Suspended")),
            ("deletionPolicy", json!("Delete")),
            ("upgrade", json!({"timeout": "1m", "dropState": null})),
            ("state", json!(null)),
            ("tls", json!(null)),
            ("aFieldOfNextYear", json!(1)),
        ] {
            job[field] = value;
        }
        assert_eq!(hash(&job), before);
    }

    #[test]
    fn what_needs_new_processes_changes_the_hash() {
        for (field, value) in [
            ("image", json!("example.org/acme/orders:1.5")),
            ("job", json!({"program": {"args": ["--topic", "order"]}})),
            ("slotsPerWorker", json!(3)),
            ("restartNonce", json!(1)),
            ("state", json!({"backend": "RocksDB"})),
            ("upgrade", json!({"dropState": ["old"]})),
            ("tls", json!({"exchange": "Plaintext"})),
        ] {
            let mut job = golden();
            job[field] = value;
            assert_ne!(hash(&job), hash(&golden()), "{field}");
        }
    }
}
