//! Durations as Kubernetes users write them: `90s`, `1h30m`, `250ms`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A text such as `10s`; the schema's rule has seen it before we do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationText(pub String);

/// Like [`DurationText`], and may be zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PauseText(pub String);

/// Like [`DurationText`], and longer than a worker goes on without its coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LostNodeText(pub String);

/// Least value of a [`LostNodeText`]: a worker that hears nothing of its coordinator stops
/// its slots after 10 s, and takes a while to.
pub const LEAST_LOST_NODE_MS: u64 = 15_000;

/// The text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration: write for example 90s, 1h30m or 250ms")]
pub struct BadDuration(pub String);

impl DurationText {
    /// In milliseconds.
    pub fn millis(&self) -> Result<u64, BadDuration> {
        millis(&self.0)
    }
}

impl PauseText {
    /// In milliseconds.
    pub fn millis(&self) -> Result<u64, BadDuration> {
        millis(&self.0)
    }
}

impl LostNodeText {
    /// In milliseconds.
    pub fn millis(&self) -> Result<u64, BadDuration> {
        millis(&self.0)
    }
}

impl From<&str> for DurationText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

fn millis(text: &str) -> Result<u64, BadDuration> {
    let bad = || BadDuration(text.chars().take(40).collect());
    let mut rest = text;
    let mut sum = 0u64;
    for _ in 0..4 {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        if digits == 0 || digits > 5 {
            return Err(bad());
        }
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let (unit, letters) = match rest.as_bytes() {
            [b'm', b's', ..] => (1, 2),
            [b's', ..] => (1_000, 1),
            [b'm', ..] => (60_000, 1),
            [b'h', ..] => (3_600_000, 1),
            _ => return Err(bad()),
        };
        rest = &rest[letters..];
        sum += number * unit;
        if rest.is_empty() {
            return Ok(sum);
        }
    }
    Err(bad())
}

// One rule and no `pattern`: two checks of one thing would answer with two messages.
const FORM: &str = "self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$')";

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let rule = format!(
            "{FORM} && duration(self) >= duration('100ms') && duration(self) <= duration('24h')"
        );
        json_schema!({"type": "string", "maxLength": 32, "x-kubernetes-validations": [
            {"rule": rule, "message": "must be a duration from 100ms to 24h, for example 90s, 1h30m or 250ms"}]})
    }
}

impl JsonSchema for PauseText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Pause".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let rule = format!("{FORM} && duration(self) <= duration('24h')");
        json_schema!({"type": "string", "maxLength": 32, "x-kubernetes-validations": [
            {"rule": rule, "message": "must be a duration up to 24h, for example 0s, 90s or 1h30m"}]})
    }
}

impl JsonSchema for LostNodeText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "LostNode".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let rule = format!(
            "{FORM} && duration(self) >= duration('15s') && duration(self) <= duration('24h')"
        );
        json_schema!({"type": "string", "maxLength": 32, "x-kubernetes-validations": [
            {"rule": rule, "message": "must be a duration from 15s to 24h, for example 90s or 1h30m: a worker without its coordinator goes on for 10s"}]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_or_refused() {
        for (text, expected) in [
            ("10s", Some(10_000)),
            ("1h30m", Some(5_400_000)),
            ("250ms", Some(250)),
            ("0s", Some(0)),
            ("1m1ms", Some(60_001)),
            ("", None),
            ("10", None),
            ("s", None),
            ("123456s", None),
            ("1s1s1s1s1s", None),
            ("-1s", None),
            ("1d", None),
        ] {
            assert_eq!(millis(text).ok(), expected, "{text:?}");
        }
    }
}
