//! Scenarios against a real cluster: what they stand on.
//!
//! A [`Stage`] is a cluster for the length of a run: one that the lab's scripts bring up
//! in network namespaces (`lab/`), or a given one. A [`Scenario`] is one story on it: a
//! namespace of its own, its pods' logs, and what is looked at when it ends. Everything
//! is done with `kubectl`, as users do it. The stories are in `tests/scenarios`.

mod background;
mod cluster;
mod images;
mod logs;
mod rows;
mod s3;
mod scenario;
mod shell;
mod stage;
mod wait;

pub use background::Background;
pub use cluster::{Cluster, Part};
pub use images::{Image, Images, executable};
pub use rows::{Numbers, csv_rows, lines};
pub use s3::S3;
pub use scenario::Scenario;
pub use shell::checkout;
pub use stage::{Stage, Wish, given};
pub use wait::{PATIENCE, wait_for};
