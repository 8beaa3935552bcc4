//! The calls to a bucket, with keys of any form. They block.

use crate::client::{self, ATTEMPTS, FIRST_PAUSE};
use crate::fault::Refusal;
use crate::location::{self, Location};
use crate::threads::Threads;
use crate::upload::Upload;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, retry::RetryConfig};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use millrace_engine::store::{Certainty, Fault, Put, StoreError, StoreResult};
use millrace_protocol::config::S3Storage;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

const PANICKED: &str = "the request panicked: this is a bug";
/// So often a put is tried that a server takes for one of a directory's name.
const CLASHES: u32 = 10;
const CLASH_PAUSE: Duration = Duration::from_millis(10);
/// No object is larger.
const MAX_OBJECT: u64 = 50 << 40;
/// No more is allocated before bytes come.
const RESERVE: usize = 64 << 20;

/// A bucket on a server. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) name: String,
    pub(crate) threads: Arc<Threads>,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its whole key.
    pub key: String,
    /// Its length in bytes.
    pub len: u64,
    /// When it was put, in milliseconds since 1970 by the server's clock.
    pub modified_ms: Option<i64>,
}

impl Bucket {
    /// The bucket that `storage` names; its prefix does not count. Nothing is asked of the
    /// server yet.
    pub fn open(storage: &S3Storage) -> StoreResult<Self> {
        let object = Location(storage.clone()).to_string();
        let failed = |reason: String| StoreError {
            action: "use",
            object: object.clone(),
            certainty: Certainty::Failed,
            fault: Fault::Denied,
            reason,
        };
        location::check(storage).map_err(failed)?;
        let threads = Threads::shared()
            .map_err(|error| failed(format!("no threads can be started: {error}")))?;
        let (name, storage) = (storage.bucket.clone(), storage.clone());
        let client = threads.wait(async move { client::client(&storage).await });
        let client = client.unwrap_or_else(|| Err(PANICKED.to_owned())).map_err(failed)?;
        Ok(Self { shared: Arc::new(Shared { client, name, threads }) })
    }

    /// An object as the user can find it.
    pub fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.shared.name)
    }

    /// Puts an object unless there is one: one request, never repeated.
    pub fn put_if_absent(&self, key: &str, bytes: &[u8]) -> StoreResult<Put> {
        let put = || {
            let once = Builder::new().retry_config(RetryConfig::disabled());
            let put = self.putting(key, bytes).if_none_match("*");
            let put = put.customize().config_override(once);
            self.call(async move { put.send().await.map_err(Refusal::from) })
        };
        match unless_clashing(put) {
            Ok(_) => Ok(Put::Created),
            Err(refusal) if refusal.is_precondition() => Ok(Put::Exists),
            Err(refusal) => Err(refusal.at("write", self.url(key))),
        }
    }

    /// Puts an object whether or not there is one.
    pub fn put(&self, key: &str, bytes: &[u8]) -> StoreResult<()> {
        let put = || {
            let put = self.putting(key, bytes);
            self.call(async move { put.send().await.map_err(Refusal::from) })
        };
        unless_clashing(put).map(drop).map_err(|refusal| refusal.at("write", self.url(key)))
    }

    fn putting(
        &self,
        key: &str,
        bytes: &[u8],
    ) -> aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder {
        let body = ByteStream::new(SdkBody::from(bytes));
        let put = self.shared.client.put_object().bucket(&self.shared.name).key(key);
        put.checksum_crc32(crc32(bytes)).body(body)
    }

    /// Begins a large object, which is there once it is finished.
    pub fn upload(&self, key: &str) -> Upload {
        Upload::new(self.clone(), key)
    }

    /// All of an object; `None` if there is none.
    pub fn get(&self, key: &str) -> StoreResult<Option<Vec<u8>>> {
        match self.call(read(Arc::clone(&self.shared), key.to_owned(), None)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(refusal) if refusal.is_missing() => Ok(None),
            Err(refusal) => Err(refusal.at("read", self.url(key))),
        }
    }

    /// Part of an object. Beyond its end, or if there is none: an error.
    pub fn get_range(&self, key: &str, offset: u64, len: usize) -> StoreResult<Vec<u8>> {
        let failed = |refusal: Refusal| refusal.at("read", self.url(key));
        let beyond = |size: String| {
            Refusal::beyond(format!("{len} bytes from {offset} are beyond its end{size}"))
        };
        let end = offset.checked_add(len as u64);
        let Some(last) = end.filter(|end| *end <= MAX_OBJECT).map(|end| end.saturating_sub(1))
        else {
            return Err(failed(beyond(String::new())));
        };
        if len == 0 {
            return match self.size(key)? {
                Some(size) if size >= offset => Ok(Vec::new()),
                Some(size) => Err(failed(beyond(format!(" at {size}")))),
                None => Err(failed(Refusal::answered(404, "NoSuchKey", ""))),
            };
        }
        self.call(read(Arc::clone(&self.shared), key.to_owned(), Some((offset, last))))
            .map_err(failed)
    }

    /// An object's length in bytes; `None` if there is none.
    pub fn size(&self, key: &str) -> StoreResult<Option<u64>> {
        self.head(key).map(|found| found.map(|found| found.len))
    }

    /// An object's properties; `None` if there is none.
    pub fn head(&self, key: &str) -> StoreResult<Option<Listed>> {
        let head = self.shared.client.head_object().bucket(&self.shared.name).key(key);
        match self.call(async move { head.send().await.map_err(Refusal::from) }) {
            Ok(found) => Ok(Some(Listed {
                key: key.to_owned(),
                len: length(found.content_length),
                modified_ms: found.last_modified.and_then(|at| at.to_millis().ok()),
            })),
            Err(refusal) if refusal.is_missing() => Ok(None),
            Err(refusal) => Err(refusal.at("read", self.url(key))),
        }
    }

    /// All objects whose keys begin with `prefix`, in the order of keys.
    pub fn list(&self, prefix: &str) -> StoreResult<Vec<Listed>> {
        let (shared, text) = (Arc::clone(&self.shared), prefix.to_owned());
        let list = async move {
            let mut found = Vec::new();
            let mut next: Option<String> = None;
            loop {
                let page = shared.client.list_objects_v2().bucket(&shared.name).prefix(&text);
                let page = page.set_continuation_token(next).send().await?;
                for object in page.contents.unwrap_or_default() {
                    let modified_ms = object.last_modified.and_then(|at| at.to_millis().ok());
                    let (key, len) = (object.key.unwrap_or_default(), length(object.size));
                    found.push(Listed { key, len, modified_ms });
                }
                next = page.next_continuation_token;
                if next.is_none() || page.is_truncated != Some(true) {
                    return Ok(found);
                }
            }
        };
        self.call(list).map_err(|refusal: Refusal| refusal.at("list", self.url(prefix)))
    }

    /// Deletes an object. No error if there is none.
    pub fn delete(&self, key: &str) -> StoreResult<()> {
        let delete = self.shared.client.delete_object().bucket(&self.shared.name).key(key);
        match self.call(async move { delete.send().await.map_err(Refusal::from) }) {
            Ok(_) => Ok(()),
            // Of some servers; and "directories" that hold objects are no objects.
            Err(refusal) if refusal.is_missing() || refusal.is_key_clash() => Ok(()),
            Err(refusal) => Err(refusal.at("delete", self.url(key))),
        }
    }

    /// Runs a call on the shared threads and waits for it.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Refusal> {
        let ended = self.shared.threads.wait(work);
        ended.unwrap_or_else(|| Err(Refusal::unanswered(Certainty::Unknown, PANICKED.to_owned())))
    }
}

/// Some servers keep keys as files and, while another call removes an emptied directory,
/// answer as if the key were one. Nothing has happened then, so another try is safe.
fn unless_clashing<T>(mut put: impl FnMut() -> Result<T, Refusal>) -> Result<T, Refusal> {
    for _ in 1..CLASHES {
        match put() {
            Err(refusal) if refusal.is_key_clash() => std::thread::sleep(CLASH_PAUSE),
            other => return other,
        }
    }
    put()
}

/// As the headers of S3 have it. Not left to the SDK, which may send it behind the body in
/// a form that few servers but AWS know.
pub(crate) fn crc32(bytes: &[u8]) -> String {
    aws_smithy_types::base64::encode(crc32fast::hash(bytes).to_be_bytes())
}

fn length(len: Option<i64>) -> u64 {
    len.and_then(|len| u64::try_from(len).ok()).unwrap_or(0)
}

/// How the reading of a body ended early.
enum Cut {
    /// The SDK has repeated the request as often as is sensible.
    Refused(Refusal),
    /// In the middle, which the SDK does not repeat.
    Short(String),
}

/// Reads an object, or the bytes `first..=last` of it. What breaks off is gone on with.
async fn read(
    shared: Arc<Shared>,
    key: String,
    range: Option<(u64, u64)>,
) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        match read_on(&shared, &key, range, &mut bytes).await {
            Ok(()) => break,
            Err(Cut::Refused(refusal)) => return Err(refusal),
            Err(Cut::Short(why)) if attempt == ATTEMPTS => {
                return Err(Refusal::unanswered(Certainty::Failed, why));
            }
            Err(Cut::Short(_)) if range.is_none() => bytes.clear(),
            Err(Cut::Short(_)) => {}
        }
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause *= 2;
    }
    Ok(bytes)
}

/// Appends to `bytes` what is missing of the range.
async fn read_on(
    shared: &Shared,
    key: &str,
    range: Option<(u64, u64)>,
    bytes: &mut Vec<u8>,
) -> Result<(), Cut> {
    let get = shared.client.get_object().bucket(&shared.name).key(key);
    let (get, expected) = match range {
        Some((first, last)) => {
            let from = first + bytes.len() as u64;
            (get.range(format!("bytes={from}-{last}")), Some(last + 1 - from))
        }
        None => (get, None),
    };
    let mut got = get.send().await.map_err(|error| Cut::Refused(error.into()))?;
    let announced = length(got.content_length);
    if expected.is_some_and(|expected| expected != announced) {
        // Before anything is allocated: a length from a damaged file may be absurd.
        let why = format!("only {announced} bytes are left at its end");
        return Err(Cut::Refused(Refusal::beyond(why)));
    }
    bytes.reserve_exact(usize::try_from(announced).unwrap_or(0).min(RESERVE));
    let before = bytes.len();
    let cut = |why: String| Cut::Short(format!("the answer broke off: {why}"));
    while let Some(chunk) = got.body.next().await {
        bytes.extend_from_slice(&chunk.map_err(|error| cut(error.to_string()))?);
    }
    let read = (bytes.len() - before) as u64;
    if read == announced {
        return Ok(());
    }
    bytes.truncate(before);
    Err(cut(format!("{read} bytes instead of {announced}")))
}
