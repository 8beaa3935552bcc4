//! The control API, generated from `proto/control.proto`: what a job's coordinator is asked
//! by the controller and by command lines.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

tonic::include_proto!("millrace.control.v1");

/// For the reflection service.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("control");
