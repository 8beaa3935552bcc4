//! Objects that are stored in parts and become visible when somebody says so, perhaps
//! another process, perhaps twice.
//!
//! Every part has a number of its own that is never used again, and who completes the object
//! names the parts that make it up: an object can be ended at any moment of its past, while
//! its writer goes on.

use crate::bucket::{Bucket, crc32};
use crate::fault::Refusal;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use millrace_engine::store::{Certainty, StoreResult};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use tokio::sync::OnceCell;

/// S3 takes no higher number.
const LAST_NUMBER: u16 = 10_000;

/// A part that the server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedPart {
    /// Its number.
    pub number: u16,
    /// What the server calls its content.
    pub e_tag: String,
    /// CRC-32, as the headers of S3 have it.
    pub crc32: String,
}

/// What became of the completion of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completed {
    /// It is visible now.
    Done,
    /// The server knows of no such upload: it was completed or aborted before.
    Gone,
}

/// An object that is being stored. Dropping it aborts nothing: others may have been told of
/// its parts.
#[derive(Debug)]
pub struct Staging {
    bucket: Bucket,
    key: String,
    id: Arc<OnceCell<String>>,
    next: u16,
}

/// A part on its way, or there.
#[derive(Debug, Clone)]
pub struct Sent(Arc<Mutex<State>>);

type Arrived = Result<(String, StagedPart), Refusal>;

#[derive(Debug)]
enum State {
    Flies(Receiver<Arrived>),
    Ended(Arrived),
}

impl Staging {
    pub(crate) fn new(bucket: Bucket, key: &str) -> Self {
        Self { bucket, key: key.to_owned(), id: Arc::new(OnceCell::new()), next: 1 }
    }

    /// How many parts may still be sent.
    pub fn left(&self) -> u16 {
        LAST_NUMBER + 1 - self.next.min(LAST_NUMBER + 1)
    }

    /// Sends a part; does not wait for it. S3 demands that all but the last of those that
    /// make up an object have 5 MiB.
    pub fn send(&mut self, bytes: Vec<u8>) -> Sent {
        if self.left() == 0 {
            let why = format!("it has more than {LAST_NUMBER} parts");
            let refused = Refusal::unanswered(Certainty::Failed, why);
            return Sent(Arc::new(Mutex::new(State::Ended(Err(refused)))));
        }
        let number = self.next;
        self.next += 1;
        let (shared, key) = (Arc::clone(&self.bucket.shared), self.key.clone());
        let id = Arc::clone(&self.id);
        let sending = self.bucket.shared.threads.start(async move {
            let id = id.get_or_try_init(|| begin(&shared.client, &shared.name, &key)).await?;
            let crc32 = crc32(&bytes);
            let part = shared.client.upload_part().bucket(&shared.name).key(&key).upload_id(id);
            let part = part.checksum_crc32(&crc32).part_number(number.into());
            let sent = part.body(ByteStream::new(SdkBody::from(bytes))).send().await?;
            let e_tag = sent.e_tag.unwrap_or_default();
            Ok((id.clone(), StagedPart { number, e_tag, crc32 }))
        });
        Sent(Arc::new(Mutex::new(State::Flies(sending))))
    }
}

async fn begin(client: &aws_sdk_s3::Client, bucket: &str, key: &str) -> Result<String, Refusal> {
    let create = client.create_multipart_upload().bucket(bucket).key(key);
    let created = create.checksum_algorithm(ChecksumAlgorithm::Crc32).send().await?;
    let none = || Refusal::unanswered(Certainty::Failed, "the server names no upload".to_owned());
    created.upload_id.ok_or_else(none)
}

impl Sent {
    /// Whether it is there, or will never be.
    pub fn has_ended(&self) -> bool {
        let mut state = match self.0.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody waits for it.
            Err(TryLockError::WouldBlock) => return false,
        };
        if let State::Flies(sending) = &*state {
            match sending.try_recv() {
                Ok(ended) => *state = State::Ended(ended),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => *state = State::Ended(Err(lost())),
            }
        }
        true
    }

    /// Waits until it is there; the upload it belongs to, and what completing it needs.
    /// `object` is named in an error.
    pub fn wait(&self, object: &str) -> StoreResult<(String, StagedPart)> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Flies(sending) = &*state {
            *state = State::Ended(sending.recv().unwrap_or_else(|_| Err(lost())));
        }
        match &*state {
            State::Ended(Ok(part)) => Ok(part.clone()),
            State::Ended(Err(refusal)) => Err(refusal.clone().at("write", object.to_owned())),
            State::Flies(_) => Err(lost().at("write", object.to_owned())),
        }
    }
}

fn lost() -> Refusal {
    Refusal::unanswered(Certainty::Unknown, "the request panicked: this is a bug".to_owned())
}

impl Bucket {
    /// Begins an object that [`Bucket::complete`] makes visible.
    pub fn stage(&self, key: &str) -> Staging {
        Staging::new(self.clone(), key)
    }

    /// Makes an object visible that consists of these parts of an upload.
    pub fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[StagedPart],
    ) -> StoreResult<Completed> {
        let part = |part: &StagedPart| {
            let built = CompletedPart::builder().part_number(part.number.into());
            built.e_tag(&part.e_tag).checksum_crc32(&part.crc32).build()
        };
        let parts = parts.iter().map(part).collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = self.shared.client.complete_multipart_upload().bucket(&self.shared.name);
        let complete = complete.key(key).upload_id(upload).multipart_upload(parts);
        match self.call(async move { complete.send().await.map_err(Refusal::from) }) {
            Ok(_) => Ok(Completed::Done),
            Err(refusal) if refusal.is_no_upload() => Ok(Completed::Gone),
            Err(refusal) => Err(refusal.at("write", self.url(key))),
        }
    }
}
