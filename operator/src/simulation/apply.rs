//! Merge patches, and server-side apply as far as one forceful manager sees it.

use serde_json::{Map, Value};

pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge_patch(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// What was applied before and is not any more goes, unless another owns it too; what is
/// applied wins; lists are whole.
pub fn apply(target: &mut Value, before: &Value, kept: &Value, now: &Value) {
    let (Some(fields), Some(new)) = (target.as_object_mut(), now.as_object()) else {
        *target = now.clone();
        return;
    };
    if let Some(before) = before.as_object() {
        for key in before.keys().filter(|key| !new.contains_key(*key) && kept[*key].is_null()) {
            // The server's own fields are nobody's to drop.
            if !matches!(key.as_str(), "uid" | "creationTimestamp" | "generation") {
                fields.remove(key);
            }
        }
    }
    for (key, value) in new {
        match fields.get_mut(key) {
            Some(old) => apply(old, &before[key], &kept[key], value),
            None => {
                fields.insert(key.clone(), value.clone());
            }
        }
    }
}
