//! Merges a user's `podTemplate` over our own, as JSON: maps by key, lists of things
//! with a name by that name, and a volume as a whole, for half of one source and half of
//! another is no volume. `null` removes.

use serde_json::{Map, Value};

/// Merges `over` into `base`.
pub fn merge(base: &mut Value, over: &Value) {
    merge_at("", base, over);
}

fn merge_at(key: &str, base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => merge_maps(base, over),
        (Value::Array(base), Value::Array(over)) => match identity(key) {
            Some((id, whole)) => merge_lists(base, over, id, whole),
            None => *base = over.clone(),
        },
        (base, over) => *base = over.clone(),
    }
}

fn merge_maps(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        if value.is_null() {
            base.remove(key);
        } else {
            match base.get_mut(key) {
                Some(old) => merge_at(key, old, value),
                None => {
                    base.insert(key.clone(), value.clone());
                }
            }
        }
    }
}

fn merge_lists(base: &mut Vec<Value>, over: &[Value], id: &str, whole: bool) {
    for value in over {
        let same = |other: &&mut Value| other.get(id).is_some() && other.get(id) == value.get(id);
        match base.iter_mut().find(same) {
            Some(old) if whole => *old = value.clone(),
            Some(Value::Object(old)) => {
                if let Value::Object(value) = value {
                    merge_maps(old, value);
                }
            }
            _ => base.push(value.clone()),
        }
    }
}

/// By what the members of a list are told apart, and whether one replaces the other whole.
fn identity(list: &str) -> Option<(&'static str, bool)> {
    match list {
        "containers" | "initContainers" | "ephemeralContainers" | "imagePullSecrets" => {
            Some(("name", false))
        }
        "env" | "volumes" | "ports" => Some(("name", true)),
        "volumeMounts" => Some(("mountPath", true)),
        "volumeDevices" => Some(("devicePath", true)),
        "tolerations" => Some(("key", true)),
        "hostAliases" => Some(("ip", true)),
        "topologySpreadConstraints" => Some(("topologyKey", true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_kind_of_list_merges_in_its_way() {
        let mut base = json!({
            "nodeSelector": {"a": "1"},
            "containers": [{"name": "worker", "image": "i", "env": [{"name": "A", "value": "1"}],
                "volumeMounts": [{"name": "state", "mountPath": "/s"}]}],
            "volumes": [{"name": "state", "emptyDir": {}}],
            "dnsConfig": {"searches": ["a"]},
            "priority": 1,
        });
        merge(
            &mut base,
            &json!({
                "nodeSelector": {"b": "2"},
                "containers": [
                    {"name": "worker", "env": [{"name": "A", "valueFrom": {"x": 1}}, {"name": "B"}],
                     "volumeMounts": [{"name": "fast", "mountPath": "/s"}]},
                    {"name": "sidecar"}],
                "volumes": [{"name": "state", "ephemeral": {}}, {"name": "more"}],
                "dnsConfig": {"searches": ["b"]},
                "priority": null,
            }),
        );
        assert_eq!(
            base,
            json!({
                "nodeSelector": {"a": "1", "b": "2"},
                "containers": [
                    {"name": "worker", "image": "i",
                     "env": [{"name": "A", "valueFrom": {"x": 1}}, {"name": "B"}],
                     "volumeMounts": [{"name": "fast", "mountPath": "/s"}]},
                    {"name": "sidecar"}],
                "volumes": [{"name": "state", "ephemeral": {}}, {"name": "more"}],
                "dnsConfig": {"searches": ["b"]},
            })
        );
    }

    #[test]
    fn nonsense_is_kept_for_the_api_server_to_refuse() {
        let mut base = json!({"containers": [{"name": "worker"}]});
        merge(&mut base, &json!({"containers": [7], "x": {"y": []}}));
        assert_eq!(base, json!({"containers": [{"name": "worker"}, 7], "x": {"y": []}}));
        merge(&mut base, &json!({"containers": 3}));
        assert_eq!(base["containers"], 3);
    }
}
