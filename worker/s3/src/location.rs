//! How a place in S3 is written: `s3://bucket/prefix?endpoint=https://…&region=…`.
//!
//! The prefix is taken as it stands, as the AWS command line takes it. Behind `?` are the
//! settings of the server, percent-encoded where they hold `&`, `%` or `+`: `endpoint`,
//! `region`, `path_style`, `ca_file`, `credentials_dir`. Secrets have no place in it.

use millrace_protocol::config::S3Storage;
use std::fmt;
use thiserror::Error;

const SCHEME: &str = "s3://";

/// A place in S3 and the settings of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location(pub S3Storage);

/// Text that names no place in S3.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no place in S3: {reason}; write s3://bucket/prefix")]
pub struct BadLocation {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Location {
    /// Whether `text` is meant as a place in S3.
    pub fn is_one(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// Reads a place; what it does not say of the server is as in `defaults`.
    pub fn parse(text: &str, defaults: &S3Storage) -> Result<Self, BadLocation> {
        let bad = |reason: String| BadLocation { text: text.to_owned(), reason };
        let rest =
            text.strip_prefix(SCHEME).ok_or_else(|| bad("it does not begin with s3://".into()))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let mut storage = S3Storage {
            bucket: bucket.to_owned(),
            prefix: prefix.trim_end_matches('/').to_owned(),
            ..defaults.clone()
        };
        for setting in query.split('&').filter(|setting| !setting.is_empty()) {
            let (name, value) =
                setting.split_once('=').ok_or_else(|| bad(format!("{setting:?} has no value")))?;
            let value = decode(value)
                .ok_or_else(|| bad(format!("the value of {name} is not percent-encoded UTF-8")))?;
            match name {
                "endpoint" => storage.endpoint = Some(value),
                "region" => storage.region = Some(value),
                "ca_file" => storage.ca_file = Some(value),
                "credentials_dir" => storage.credentials_dir = Some(value),
                "path_style" => {
                    let value = value.parse();
                    let value = value.map_err(|_| bad("path_style is true or false".into()))?;
                    storage.path_style = Some(value);
                }
                _ => {
                    return Err(bad(format!(
                        "there is no setting {name:?}, only endpoint, region, path_style, \
                         ca_file and credentials_dir"
                    )));
                }
            }
        }
        check(&storage).map_err(bad)?;
        Ok(Self(storage))
    }
}

/// What no server would take, or would take for something else.
pub(crate) fn check(storage: &S3Storage) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_:".contains(&b);
    if storage.bucket.is_empty() {
        return Err("it has no bucket".to_owned());
    }
    if !storage.bucket.bytes().all(allowed) || storage.bucket.starts_with('.') {
        return Err(format!("{:?} cannot be the name of a bucket", storage.bucket));
    }
    let strange = |segment: &str| matches!(segment, "" | "." | "..");
    if !storage.prefix.is_empty() && storage.prefix.split('/').any(strange) {
        return Err("the prefix has an empty part, or one that is . or ..".to_owned());
    }
    if storage.prefix.chars().any(char::is_control) {
        return Err("the prefix holds a control character".to_owned());
    }
    match &storage.endpoint {
        Some(endpoint) if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") => {
            Err(format!("the endpoint {endpoint:?} begins neither with http:// nor https://"))
        }
        _ => Ok(()),
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s3 = &self.0;
        write!(f, "{SCHEME}{}", s3.bucket)?;
        if !s3.prefix.is_empty() {
            write!(f, "/{}", s3.prefix)?;
        }
        let path_style = s3.path_style.map(|yes| yes.to_string());
        let settings = [
            ("endpoint", &s3.endpoint),
            ("region", &s3.region),
            ("path_style", &path_style),
            ("ca_file", &s3.ca_file),
            ("credentials_dir", &s3.credentials_dir),
        ];
        let mut mark = '?';
        for (name, value) in settings {
            if let Some(value) = value {
                write!(f, "{mark}{name}={}", encode(value))?;
                mark = '&';
            }
        }
        Ok(())
    }
}

fn encode(value: &str) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-._~:/".contains(&b) => text.push(b.into()),
            b => _ = write!(text, "%{b:02X}"),
        }
    }
    text
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, BadLocation> {
        Location::parse(text, &S3Storage::default())
    }

    #[test]
    fn what_is_written_can_be_read() {
        for text in [
            "s3://acme",
            "s3://acme/prod/a b/date=2013-01-01",
            "s3://acme/x?endpoint=http://127.0.0.1:9000&region=eu-1&path_style=true",
            "s3://acme?ca_file=/etc/a%26b.pem&credentials_dir=/run/%C3%BC",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("s3://acme/a/").unwrap().to_string(), "s3://acme/a");
    }

    #[test]
    fn what_is_not_said_is_as_in_the_defaults() {
        let defaults = S3Storage {
            region: Some("r".into()),
            prefix: "p".into(),
            ..parse("s3://d?endpoint=http://e").unwrap().0
        };
        let found = Location::parse("s3://b?region=x", &defaults).unwrap();
        assert_eq!(found.to_string(), "s3://b?endpoint=http://e&region=x");
    }

    #[test]
    fn bad_places_say_what_is_wrong() {
        for (text, reason) in [
            ("s3:///a", "no bucket"),
            ("s3://a b/c", "name of a bucket"),
            ("s3://b//c", "empty part"),
            ("s3://b/../c", "empty part"),
            ("s3://b?endpoint=127.0.0.1:9000", "neither with http:// nor https://"),
            ("s3://b?secret=x", "no setting \"secret\""),
            ("s3://b?region", "has no value"),
            ("s3://b?region=%f", "percent-encoded"),
            ("s3://b?path_style=yes", "true or false"),
            ("/tmp/x", "does not begin with s3://"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
