//! Keys: what a stream can be keyed by.
//!
//! A key has one canonical, order-preserving byte form and one 64-bit hash of
//! fixed seed. Both stand in checkpoints, so neither may ever change for a
//! given [`HASH_VERSION`]; golden values in the tests hold them.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Version of the hash and byte form; stands in every checkpoint.
pub const HASH_VERSION: u32 = 1;

/// Key bytes that are not the canonical form of any key of the type.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not the bytes of a {type_name}")]
pub struct BadKey {
    /// The Rust type that was asked for.
    pub type_name: &'static str,
}

/// What a stream can be keyed by.
pub trait Key: Serialize + DeserializeOwned + Clone + Eq + Send + 'static {
    /// The key's hash: stable for ever, well mixed in all bits.
    fn hash64(&self) -> u64;

    /// Appends the canonical bytes: self-delimiting, and ordered as the key is.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads one key off the front of `bytes`.
    fn read(bytes: &mut &[u8]) -> Result<Self, BadKey>;
}

/// Mixes a 64-bit word (one widening multiplication, folded).
#[inline]
pub fn mix64(word: u64) -> u64 {
    let wide = u128::from(word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    let folded = (wide as u64) ^ ((wide >> 64) as u64);
    folded ^ (folded >> 29)
}

impl Key for u64 {
    #[inline]
    fn hash64(&self) -> u64 {
        mix64(*self)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn read(bytes: &mut &[u8]) -> Result<Self, BadKey> {
        let (head, rest) = bytes.split_first_chunk().ok_or(BadKey { type_name: "u64" })?;
        *bytes = rest;
        Ok(u64::from_be_bytes(*head))
    }
}
