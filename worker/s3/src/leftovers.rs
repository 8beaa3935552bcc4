//! Multipart uploads that nobody finished: parts that are stored and never seen.

use crate::bucket::Bucket;
use crate::fault::Refusal;
use millrace_engine::store::StoreResult;
use std::sync::Arc;

/// An upload that is neither finished nor aborted.
#[derive(Debug)]
struct Unfinished {
    key: String,
    id: String,
}

impl Bucket {
    /// Aborts the unfinished uploads of keys that begin with `prefix` and that were begun
    /// before `before_ms` (milliseconds since 1970, by the server's clock). How many.
    pub fn discard_uploads(&self, prefix: &str, before_ms: i64) -> StoreResult<usize> {
        let found = self.unfinished(prefix, before_ms)?;
        let count = found.len();
        for Unfinished { key, id } in found {
            let abort = self.shared.client.abort_multipart_upload().bucket(&self.shared.name);
            let abort = abort.key(&key).upload_id(id);
            match self.call(async move { abort.send().await.map_err(Refusal::from) }) {
                Err(refusal) if !refusal.is_missing() => {
                    return Err(refusal.at("delete", self.url(&key)));
                }
                _ => {}
            }
        }
        Ok(count)
    }

    fn unfinished(&self, prefix: &str, before_ms: i64) -> StoreResult<Vec<Unfinished>> {
        let (shared, text) = (Arc::clone(&self.shared), prefix.to_owned());
        let list = async move {
            let mut found = Vec::new();
            let mut next = (None, None);
            loop {
                let page = shared.client.list_multipart_uploads().bucket(&shared.name);
                let page = page.prefix(&text).set_key_marker(next.0).set_upload_id_marker(next.1);
                let page = page.send().await?;
                for upload in page.uploads.unwrap_or_default() {
                    let begun = upload.initiated.and_then(|at| at.to_millis().ok());
                    let (Some(key), Some(id)) = (upload.key, upload.upload_id) else { continue };
                    // Some servers do not filter.
                    if key.starts_with(&text) && begun.is_none_or(|begun| begun < before_ms) {
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
