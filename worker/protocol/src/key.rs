//! Keys: what a stream can be keyed by.
//!
//! A key has one canonical, order-preserving byte form and one 64-bit hash of
//! fixed seed. Both stand in checkpoints, so neither may ever change for a
//! given [`HASH_VERSION`]; golden values in the tests hold them.
//!
//! | type | bytes | hash |
//! |---|---|---|
//! | unsigned integers, `bool`, `char` | big endian | mixed as `u64` |
//! | signed integers | big endian, sign bit flipped | sign-extended, mixed |
//! | strings, byte vectors | as they are, 0 as `00 ff`, then `00 00` | XXH3 |
//! | byte arrays | as they are | XXH3 |
//! | `Option` | 0, or 1 and the value | of the marker and the value |
//! | tuples, structs of several fields | one after the other | of the fields in turn |
//! | structs of one field | as the field | as the field |
//! | enums | the variant's index in one byte, then its fields | of both in turn |

mod impls;
#[cfg(test)]
mod tests;

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

    /// Any byte that a comparison would look at first: read ahead of one, it is in the
    /// cache by then. 0 for a key that has none; only speed hangs on it.
    #[inline]
    fn touch(&self) -> u8 {
        0
    }
}

/// Mixes a 64-bit word (one widening multiplication, folded).
#[inline]
pub fn mix64(word: u64) -> u64 {
    let wide = u128::from(word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    let folded = (wide as u64) ^ ((wide >> 64) as u64);
    folded ^ (folded >> 29)
}

/// What the hash of a compound key starts from.
pub const HASH_SEED: u64 = 0x6d69_6c6c_7261_6365;

/// Adds the hash of the next part to that of a compound key so far.
#[inline]
pub fn combine(so_far: u64, part: u64) -> u64 {
    mix64(so_far.rotate_left(23) ^ part)
}
