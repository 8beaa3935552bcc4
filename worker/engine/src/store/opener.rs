//! Places as users write them: a directory's path, or `scheme://…` for what a program is
//! built with. How they are opened is handed in, so that the engine knows no server.

use super::{Certainty, DirectoryStore, Fault, ObjectStore, StoreError, StoreResult};
use std::path::Path;
use std::sync::Arc;

/// What a place is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only to read: nothing is made.
    Read,
    /// To write: what is missing is made, as far as the kind of place allows.
    Write,
}

/// Opens places.
pub trait Opener: Send + Sync + 'static {
    /// The store at `location`: a path, or `scheme://…`.
    fn open(&self, location: &str, access: Access) -> StoreResult<Arc<dyn ObjectStore>>;
}

/// Opens directories and nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirectoryOpener;

impl Opener for DirectoryOpener {
    fn open(&self, location: &str, access: Access) -> StoreResult<Arc<dyn ObjectStore>> {
        if let Some((scheme, _)) = location.split_once("://") {
            let reason = match scheme {
                "s3" => "this program is built without S3: build it with feature `s3` of millrace",
                _ => "write the path of a directory, or s3://bucket/prefix",
            };
            return Err(StoreError {
                action: "use",
                object: location.to_owned(),
                certainty: Certainty::Failed,
                fault: Fault::Denied,
                reason: reason.to_owned(),
            });
        }
        let path = Path::new(location);
        Ok(match access {
            Access::Read => Arc::new(DirectoryStore::open_to_read(path)),
            Access::Write => Arc::new(DirectoryStore::open(path)?),
        })
    }
}

/// Whether a location is `scheme://…` rather than a path.
pub fn is_url(location: &str) -> bool {
    location.contains("://")
}

/// The place `name` in `location`: below its path, before its query.
pub fn join(location: &str, name: &str) -> String {
    if !is_url(location) {
        return Path::new(location).join(name).display().to_string();
    }
    let (path, query) = parts(location);
    format!("{}/{name}{query}", path.trim_end_matches('/'))
}

/// A place and the name of what is meant in it. `None`: it is nowhere beneath another.
pub fn split(location: &str) -> Option<(String, String)> {
    if !is_url(location) {
        let path = Path::new(location);
        let name = path.file_name()?.to_str()?.to_owned();
        let parent = match path.parent()?.to_str()? {
            "" => ".",
            parent => parent,
        };
        return Some((parent.to_owned(), name));
    }
    let (path, query) = parts(location);
    let (scheme, path) = path.split_once("://")?;
    let (parent, name) = path.trim_end_matches('/').rsplit_once('/')?;
    Some((format!("{scheme}://{parent}{query}"), name.to_owned()))
}

/// A URL without and from its `?`.
fn parts(location: &str) -> (&str, &str) {
    location.split_at(location.find('?').unwrap_or(location.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_before_the_query() {
        for (place, name, whole) in [
            ("/a/b", "c", "/a/b/c"),
            (".", "c", "./c"),
            ("s3://b", "c", "s3://b/c"),
            ("s3://b/p", "c", "s3://b/p/c"),
            ("s3://b/p?endpoint=http://h:1/", "c", "s3://b/p/c?endpoint=http://h:1/"),
        ] {
            assert_eq!(join(place, name), whole);
            assert_eq!(split(whole), Some((place.to_owned(), name.to_owned())));
        }
        assert_eq!(split("c"), Some((".".to_owned(), "c".to_owned())));
        assert_eq!(split("s3://b"), None);
        assert_eq!(split("/"), None);
    }

    #[test]
    fn what_is_not_built_in_is_said() {
        let error = DirectoryOpener.open("s3://b/p", Access::Read).err().unwrap().to_string();
        assert!(error.contains("feature `s3`"), "{error}");
        assert!(DirectoryOpener.open("gs://b", Access::Write).is_err());
    }
}
