//! S3, and servers that speak its protocol: the object store of a job, and a place for files.
//!
//! [`S3Store`] keeps a job's objects below a prefix of a bucket; [`Bucket`] has the calls
//! beneath, for keys of any form; [`S3Opener`] opens what users write,
//! `s3://bucket/prefix?endpoint=https://…`. Calls block and are made from threads that may
//! wait; what they wait for runs on two threads that all stores of a process share.
//!
//! **Fencing** rests on single `PUT`s with `If-None-Match: *`, which are never repeated
//! here: a repetition would turn a success whose answer was lost into "exists". All other
//! calls are repeated with growing, jittered pauses.

mod bucket;
mod client;
mod credentials;
mod fault;
mod leftovers;
mod location;
mod opener;
mod staged;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod threads;
mod upload;

pub use bucket::{Bucket, Listed};
pub use leftovers::Unfinished;
pub use location::{BadLocation, Location};
pub use opener::{S3Opener, default_server, set_default_server};
pub use staged::{Completed, Sent, StagedPart, Staging};
pub use store::S3Store;
pub use upload::Upload;
