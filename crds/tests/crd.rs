//! The definitions: the chart's files are what the types say, small, and of one piece.

use millrace_crds::crd;
use std::path::PathBuf;

/// Of the checkout that is tested: the test may have been built in another one that
/// shares its target directory.
fn folder() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    PathBuf::from(package).join("../charts/millrace/templates/crds")
}

#[test]
fn the_charts_files_are_what_the_types_say() {
    for (stem, definition) in crd::definitions().unwrap() {
        let path = folder().join(format!("{stem}.yaml"));
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == crd::template(&definition).unwrap(),
            "{} is stale: run cargo run -p millrace-crds -- charts/millrace/templates/crds",
            path.display()
        );
    }
}

#[test]
fn the_definitions_are_small() {
    let mut sum = 0;
    for (_, definition) in crd::definitions().unwrap() {
        sum += crd::yaml(&definition).unwrap().len();
    }
    assert!(sum < 100_000, "{sum} bytes");
}

#[test]
fn where_null_is_taken_values_are_a_rule_and_no_list() {
    fn rules(value: &serde_json::Value, found: &mut Vec<String>) {
        assert!(value["enum"].is_null() || value["nullable"] != true, "{value}");
        let rule = value["x-kubernetes-validations"][0]["rule"].as_str();
        found.extend(rule.filter(|rule| rule.starts_with("self in [")).map(str::to_owned));
        match value {
            serde_json::Value::Object(map) => map.values().for_each(|one| rules(one, found)),
            serde_json::Value::Array(list) => list.iter().for_each(|one| rules(one, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for (_, definition) in crd::definitions().unwrap() {
        rules(&definition, &mut found);
    }
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found.contains(&"self in ['Memory', 'Disk', 'RocksDB']".to_owned()), "{found:?}");
}

#[test]
fn only_the_frozen_defaults_stand_in_the_schema() {
    fn collect(path: &str, value: &serde_json::Value, out: &mut Vec<String>) {
        if let Some(map) = value.as_object() {
            if let (Some(default), true) = (map.get("default"), map.contains_key("type")) {
                out.push(format!("{path}={default}"));
            }
            for (key, value) in map {
                match key.as_str() {
                    "properties" => collect(path, value, out),
                    _ => collect(&format!("{path}.{key}"), value, out),
                }
            }
        }
    }
    let definitions = crd::definitions().unwrap();
    let mut found = Vec::new();
    for (_, definition) in &definitions {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        collect("", schema, &mut found);
    }
    found.sort();
    // Never add one: it would change what GET returns for objects that are stored.
    assert_eq!(
        found,
        [
            ".spec.deletionPolicy=\"Retain\"",
            ".spec.deletionPolicy=\"Retain\"",
            ".spec.desiredState=\"Running\"",
            ".spec.maxParallelism=1024",
            ".spec.onExistingState=\"Refuse\"",
            ".spec.restoreFrom.nonce=0",
            ".spec.slotsPerWorker=1",
            ".spec.storage.s3.caSecretRef.key=\"ca.crt\"",
            ".spec.storage.s3.prefix=\"\"",
            ".spec.storage.volume.path=\"\"",
            ".spec.upgrade.mode=\"Savepoint\"",
            ".spec.upgrade.onFailure=\"RollBack\"",
            ".spec.workers=1",
        ]
    );
}
