//! Parts in S3: a multipart upload each, straight to the final key.
//!
//! A commit is its completion with the parts that counted at the checkpoint. Numbers of
//! parts are never used twice, so what a writer sends later changes nothing of it.

use super::names::{Upload, UploadPart, escape};
use super::place::{Body, Place, Seal};
use super::{Error, FileCommit};
use millrace_engine::connector::Committed;
use millrace_engine::store::{Fault, StoreError};
use millrace_protocol::ids::{Attempt, JobUid, Uid};
use millrace_s3::{Bucket, Completed, Location, Sent, StagedPart, Staging};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// S3 demands 5 MiB of all but the last that count.
const PART: usize = 8 << 20;
/// So many are on their way before rows wait.
const FLYING: usize = 2;
/// Numbers kept for the end of an upload.
const RESERVE: u16 = 64;

/// The keys of one sink of one job.
pub(super) struct Keys {
    bucket: Bucket,
    /// Empty, or ends with `/`.
    root: String,
    dir: PathBuf,
    uid: String,
    job: String,
}

impl Keys {
    /// Nothing is asked of the server yet.
    pub(super) fn open(dir: &Path, url: &str, job: &JobUid, uid: &Uid) -> Result<Self, Error> {
        let unusable =
            |why: String| Error::Directory { path: dir.into(), source: io::Error::other(why) };
        let location = Location::parse(url, &millrace_s3::default_server());
        let Location(storage) = location.map_err(|error| unusable(error.to_string()))?;
        let bucket = Bucket::open(&storage).map_err(|error| unusable(error.to_string()))?;
        let root = match storage.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        // Behind it come a dot and the extension: none of its own, or one job could be taken
        // for another.
        let job = escape(job.as_str()).replace('.', "%2e");
        Ok(Self { bucket, root, dir: dir.into(), uid: escape(uid.as_str()), job })
    }

    fn key(&self, commit: &FileCommit) -> String {
        format!("{}{}", self.root, commit.target)
    }

    fn failed(&self, error: StoreError) -> Error {
        match error.fault {
            Fault::Denied | Fault::Full => {
                Error::Directory { path: self.dir.clone(), source: io::Error::other(error) }
            }
            _ => Error::write(&self.dir, io::Error::other(error)),
        }
    }

    /// The attempt whose part would have this key, if it is one of this sink of this job.
    fn attempt_of(&self, key: &str) -> Option<Attempt> {
        let name = key.rsplit('/').next()?;
        let mut rest = name.strip_prefix(&self.uid)?.strip_prefix('-')?;
        let mut numbers = [0; 3];
        for (number, width) in numbers.iter_mut().zip([5, 8, 8]) {
            let (digits, after) = rest.split_once('-')?;
            let is_one = digits.len() >= width && digits.bytes().all(|b| b.is_ascii_digit());
            *number = digits.parse().ok().filter(|_| is_one)?;
            rest = after;
        }
        let rest = rest.strip_prefix(&self.job)?;
        (rest.is_empty() || rest.starts_with('.')).then_some(Attempt(numbers[1]))
    }

    /// Whether the object is there, as it should be.
    fn found(&self, commit: &FileCommit) -> Result<Option<Committed>, Error> {
        let key = self.key(commit);
        Ok(match self.bucket.size(&key).map_err(|error| self.failed(error))? {
            Some(len) if len == commit.len => Some(Committed::Before),
            Some(len) => Some(Committed::Lost(format!(
                "`{}` exists with {len} bytes where {} were to be committed: it was written by a \
                 later checkpoint than the one restored, or by someone else",
                self.bucket.url(&key),
                commit.len
            ))),
            None => None,
        })
    }
}

impl Place for Keys {
    fn job(&self) -> &str {
        &self.job
    }

    fn begin(&self, commit: &FileCommit) -> Result<Box<dyn Body>, Error> {
        let key = self.key(commit);
        let staging = self.bucket.stage(&key);
        let url = self.bucket.url(&key);
        let (bytes, parts, flying) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Box::new(Object { path: url.into(), staging, bytes, parts, flying, tail: None }))
    }

    fn settle(&self) -> Result<(), Error> {
        Ok(())
    }

    fn commit(&self, commit: &FileCommit) -> Result<Committed, Error> {
        if let Some(found) = self.found(commit)? {
            return Ok(found);
        }
        let (key, lost) = (self.key(commit), |why| Ok(Committed::Lost(why)));
        let Some(upload) = &commit.upload else {
            return lost(format!(
                "{} bytes of `{}` were staged in a directory, while the output is now in S3",
                commit.len, commit.target
            ));
        };
        let part = |part: &UploadPart| StagedPart {
            number: part.number,
            e_tag: part.e_tag.clone(),
            crc32: part.crc32.clone(),
        };
        let parts: Vec<StagedPart> = upload.parts.iter().map(part).collect();
        let completed = self.bucket.complete(&key, &upload.id, &parts);
        match completed.map_err(|error| self.failed(error))? {
            Completed::Done => Ok(Committed::Done),
            // Another committer was faster, or this call was repeated after an answer was lost.
            Completed::Gone => match self.found(commit)? {
                Some(found) => Ok(found),
                None => lost(format!(
                    "`{}` does not exist, and the upload that held it ({} bytes) is gone: \
                     somebody aborted it, or a rule of the bucket did",
                    self.bucket.url(&key),
                    commit.len
                )),
            },
        }
    }

    fn abort_others(&self, attempt: Attempt, keep: &[FileCommit]) -> Result<(), Error> {
        let keep: BTreeSet<&str> =
            keep.iter().filter_map(|c| c.upload.as_ref()).map(|u| u.id.as_str()).collect();
        let unfinished = self.bucket.unfinished(&self.root).map_err(|e| self.failed(e))?;
        for upload in unfinished {
            let earlier = self.attempt_of(&upload.key).is_some_and(|by| by < attempt);
            if earlier && !keep.contains(upload.id.as_str()) {
                self.bucket.abort(&upload).map_err(|error| self.failed(error))?;
            }
        }
        Ok(())
    }
}

/// An object in the making.
struct Object {
    path: PathBuf,
    staging: Staging,
    /// Behind `parts`.
    bytes: Vec<u8>,
    parts: Vec<Sent>,
    /// Of them, those on their way.
    flying: Vec<Sent>,
    /// What `bytes` held when it was sealed last.
    tail: Option<Sent>,
}

impl Write for Object {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PART - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..n]);
        if self.bytes.len() == PART {
            let part = self.staging.send(std::mem::take(&mut self.bytes));
            self.flying.push(part.clone());
            self.parts.push(part);
            self.tail = None;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Body for Object {
    fn path(&self) -> &Path {
        &self.path
    }

    fn seal(&mut self, changed: bool) -> io::Result<Option<Seal>> {
        if changed {
            // S3 has no objects of no parts.
            let needed = !self.bytes.is_empty() || self.parts.is_empty();
            self.tail = needed.then(|| self.staging.send(self.bytes.clone()));
        }
        let (sent, path) = (self.parts.iter().chain(&self.tail).cloned(), self.path.clone());
        let sent: Vec<Sent> = sent.collect();
        Ok(Some(Box::new(move |commit| {
            let failed = |error| Error::write(&path, io::Error::other(error));
            let mut upload = Upload { id: String::new(), parts: Vec::with_capacity(sent.len()) };
            for part in sent {
                let (id, part) = part.wait(&path.to_string_lossy()).map_err(failed)?;
                let StagedPart { number, e_tag, crc32 } = part;
                upload.id = id;
                upload.parts.push(UploadPart { number, e_tag, crc32 });
            }
            commit.upload = Some(upload);
            Ok(())
        })))
    }

    fn has_room(&mut self) -> bool {
        self.flying.retain(|part| !part.has_ended());
        self.flying.len() < FLYING
    }

    fn is_full(&self) -> bool {
        self.staging.left() < RESERVE
    }

    fn held(&self) -> usize {
        self.bytes.len() + self.flying.len() * PART
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_others_are_not_taken_for_ours() {
        let keys = |job: &str, uid: &str| {
            let url = "s3://b/out?endpoint=http://127.0.0.1:1";
            Keys::open(Path::new(url), url, &job.into(), &uid.into()).unwrap()
        };
        let name = |of: &Keys, attempt| {
            let cx = millrace_engine::connector::SinkCx {
                job: "unused".into(),
                uid: of.uid.as_str().into(),
                attempt: Attempt(attempt),
                subtask: millrace_protocol::ids::Subtask(368),
            };
            let commit = super::super::names::part(&cx, &of.job, "day=1/x", 3, ".csv.gz");
            of.key(&commit)
        };
        let all = [
            keys("a", "out"),
            keys("a.b", "out"),
            keys("a.csv", "out"),
            keys("a-b", "out"),
            keys("a", "out-00001-00000002"),
            keys("a", "out-1"),
        ];
        for one in &all {
            assert!(name(one, 7).starts_with("out/day=1/x/out-"));
            assert_eq!(one.attempt_of(&name(one, 7)), Some(Attempt(7)));
            assert_eq!(one.attempt_of(&name(one, 123_456_789)), Some(Attempt(123_456_789)));
            for other in all.iter().filter(|other| !std::ptr::eq(*other, one)) {
                assert_eq!(other.attempt_of(&name(one, 7)), None, "{}", name(one, 7));
            }
        }
        for strange in ["", "out/x.csv", "out/out-1-2-3-a.csv", "out/out-00001-00000001-a.csv"] {
            assert_eq!(all[0].attempt_of(strange), None);
        }
    }
}
