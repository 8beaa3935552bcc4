//! Multipart uploads that nobody finished: parts that are stored and never seen.

use crate::bucket::Bucket;
use crate::fault::Refusal;
use millrace_engine::store::StoreResult;
use std::sync::Arc;

/// An upload that is neither finished nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The key that its object would have.
    pub key: String,
    /// What the server calls it.
    pub id: String,
}

impl Bucket {
    /// Aborts an upload. No error if it has ended.
    pub fn abort(&self, upload: &Unfinished) -> StoreResult<()> {
        let abort = self.shared.client.abort_multipart_upload().bucket(&self.shared.name);
        let abort = abort.key(&upload.key).upload_id(&upload.id);
        match self.call(async move { abort.send().await.map_err(Refusal::from) }) {
            Err(refusal) if !refusal.is_missing() => {
                Err(refusal.at("delete", self.url(&upload.key)))
            }
            _ => Ok(()),
        }
    }

    /// The unfinished uploads of keys that begin with `prefix`, as far as the server lists
    /// them: MinIO knows those of one key only, and drops old ones by itself.
    pub fn unfinished(&self, prefix: &str) -> StoreResult<Vec<Unfinished>> {
        let (shared, text) = (Arc::clone(&self.shared), prefix.to_owned());
        let list = async move {
            let mut found = Vec::new();
            let mut next = (None, None);
            loop {
                let page = shared.client.list_multipart_uploads().bucket(&shared.name);
                let page = page.prefix(&text).set_key_marker(next.0).set_upload_id_marker(next.1);
                let page = page.send().await?;
                for upload in page.uploads.unwrap_or_default() {
                    let (Some(key), Some(id)) = (upload.key, upload.upload_id) else { continue };
                    // Some servers do not filter.
                    if key.starts_with(&text) {
                        found.push(Unfinished { key, id });
                    }
                }
                next = (page.next_key_marker, page.next_upload_id_marker);
                if page.is_truncated != Some(true) || next.0.is_none() {
                    return Ok(found);
                }
            }
        };
        self.call(list).map_err(|refusal: Refusal| refusal.at("list", self.url(prefix)))
    }
}
