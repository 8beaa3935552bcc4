//! Large objects: in parts, of which one is sent while the next is filled.

use crate::bucket::{Bucket, crc32};
use crate::fault::Refusal;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use millrace_engine::store::{Certainty, ObjectWriter, StoreResult};
use std::sync::mpsc::Receiver;

/// Of all parts but the last. A writer holds two of them at most.
pub(crate) const PART_BYTES: usize = 8 << 20;
/// What has more bytes than this gets room for a part at once.
const LARGE: usize = 1 << 20;
/// S3 takes no more in an object.
const MAX_PARTS: usize = 10_000;

/// Writes one object, which is there once it is finished. An object of a single part is
/// put by one request.
#[derive(Debug)]
pub struct Upload {
    bucket: Bucket,
    key: String,
    buffer: Vec<u8>,
    len: u64,
    /// Known to the server, once there is more than one part.
    id: Option<String>,
    parts: Vec<CompletedPart>,
    sending: Option<Receiver<Result<CompletedPart, Refusal>>>,
}

impl Upload {
    pub(crate) fn new(bucket: Bucket, key: &str) -> Self {
        let key = key.to_owned();
        Self { bucket, key, buffer: Vec::new(), len: 0, id: None, parts: Vec::new(), sending: None }
    }

    fn failed<T>(&self, result: Result<T, Refusal>) -> StoreResult<T> {
        result.map_err(|refusal| refusal.at("write", self.bucket.url(&self.key)))
    }

    /// Waits for the part on its way.
    fn join(&mut self) -> Result<(), Refusal> {
        let Some(sending) = self.sending.take() else { return Ok(()) };
        let lost = || Refusal::unanswered(Certainty::Unknown, "the request panicked".to_owned());
        let part = sending.recv().unwrap_or_else(|_| Err(lost()))?;
        self.parts.push(part);
        Ok(())
    }

    fn begin(&mut self) -> Result<String, Refusal> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let shared = &self.bucket.shared;
        let create = shared.client.create_multipart_upload().bucket(&shared.name).key(&self.key);
        let create = create.checksum_algorithm(ChecksumAlgorithm::Crc32);
        let created =
            self.bucket.call(async move { create.send().await.map_err(Refusal::from) })?;
        let none =
            || Refusal::unanswered(Certainty::Failed, "the server names no upload".to_owned());
        let id = created.upload_id.ok_or_else(none)?;
        self.id = Some(id.clone());
        Ok(id)
    }

    /// Sends what is in the buffer as a part.
    fn send(&mut self) -> Result<(), Refusal> {
        let id = self.begin()?;
        self.join()?;
        let number = self.parts.len() + 1;
        if number > MAX_PARTS {
            let most = (MAX_PARTS * (PART_BYTES >> 20)) >> 10;
            let why =
                format!("it is larger than {most} GiB, the most that is written as one object");
            return Err(Refusal::unanswered(Certainty::Failed, why));
        }
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        let bytes = std::mem::take(&mut self.buffer);
        let sum = crc32(&bytes);
        let shared = &self.bucket.shared;
        let part = shared.client.upload_part().bucket(&shared.name).key(&self.key).upload_id(id);
        let part = part.checksum_crc32(&sum).part_number(number);
        let part = part.body(ByteStream::new(SdkBody::from(bytes)));
        self.sending = Some(shared.threads.start(async move {
            let sent = part.send().await?;
            let done = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
            Ok(done.checksum_crc32(sum).build())
        }));
        Ok(())
    }

    fn complete(&mut self) -> Result<(), Refusal> {
        if !self.buffer.is_empty() {
            self.send()?;
        }
        self.join()?;
        let Some(id) = self.id.clone() else { return Ok(()) };
        let parts = CompletedMultipartUpload::builder();
        let parts = parts.set_parts(Some(std::mem::take(&mut self.parts))).build();
        let shared = &self.bucket.shared;
        let complete = shared.client.complete_multipart_upload().bucket(&shared.name);
        let complete = complete.key(&self.key).upload_id(id).multipart_upload(parts);
        let done = self.bucket.call(async move { complete.send().await.map_err(Refusal::from) });
        match done {
            Ok(_) => {}
            // Perhaps by an attempt whose answer was lost.
            Err(refusal) if refusal.is_no_upload() => match self.bucket.size(&self.key) {
                Ok(Some(len)) if len == self.len => {}
                _ => return Err(refusal),
            },
            Err(refusal) => return Err(refusal),
        }
        self.id = None;
        Ok(())
    }

    /// Appends bytes.
    pub fn write(&mut self, mut bytes: &[u8]) -> StoreResult<()> {
        self.len += bytes.len() as u64;
        while self.buffer.len() + bytes.len() > PART_BYTES {
            let (now, later) = bytes.split_at(PART_BYTES - self.buffer.len());
            self.buffer.extend_from_slice(now);
            bytes = later;
            let sent = self.send();
            self.failed(sent)?;
        }
        if self.buffer.len() + bytes.len() > LARGE {
            // Not bit by bit, and copied each time.
            self.buffer.reserve_exact(PART_BYTES - self.buffer.len());
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Makes the object visible, durably; answers its length.
    pub fn finish(mut self) -> StoreResult<u64> {
        if self.id.is_none() {
            self.bucket.put(&self.key, &self.buffer)?;
        } else {
            let completed = self.complete();
            self.failed(completed)?;
        }
        Ok(self.len)
    }
}

impl Drop for Upload {
    /// Takes back what was not finished. A server that does not answer keeps it: the sweep
    /// finds it.
    fn drop(&mut self) {
        if self.id.is_none() {
            return;
        }
        // A part that arrived after the end would stay.
        let _ = self.join();
        if let Some(id) = self.id.take() {
            let shared = &self.bucket.shared;
            let abort = shared.client.abort_multipart_upload().bucket(&shared.name);
            let abort = abort.key(&self.key).upload_id(id);
            let aborted =
                self.bucket.call(async move { abort.send().await.map_err(Refusal::from) });
            match aborted {
                Err(refusal) if !refusal.is_no_upload() => {
                    let error = refusal.at("delete", self.bucket.url(&self.key));
                    tracing::warn!(%error, "an unfinished upload is left behind");
                }
                _ => {}
            }
        }
    }
}

impl ObjectWriter for Upload {
    fn write(&mut self, bytes: &[u8]) -> StoreResult<()> {
        Upload::write(self, bytes)
    }

    fn finish(self: Box<Self>) -> StoreResult<u64> {
        Upload::finish(*self)
    }

    fn abort(self: Box<Self>) {}
}
