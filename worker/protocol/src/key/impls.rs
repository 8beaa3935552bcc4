//! The keys there are: integers, text, bytes, and what is made of them.

use super::{BadKey, HASH_SEED, Key, combine, mix64};
use serde::{Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Takes `N` bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8], type_name: &'static str) -> Result<[u8; N], BadKey> {
    let (head, rest) = bytes.split_first_chunk().ok_or(BadKey { type_name })?;
    *bytes = rest;
    Ok(*head)
}

macro_rules! unsigned {
    ($($int:ident)*) => {$(
        impl Key for $int {
            #[inline]
            fn hash64(&self) -> u64 {
                mix64(u64::from(*self))
            }

            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            #[inline]
            fn read(bytes: &mut &[u8]) -> Result<Self, BadKey> {
                Ok($int::from_be_bytes(take(bytes, stringify!($int))?))
            }

            #[inline]
            fn touch(&self) -> u8 {
                *self as u8
            }
        }
    )*};
}

macro_rules! signed {
    ($($int:ident as $unsigned:ident)*) => {$(
        impl Key for $int {
            #[inline]
            fn hash64(&self) -> u64 {
                mix64(i64::from(*self) as u64)
            }

            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                let flipped = *self as $unsigned ^ (1 << ($unsigned::BITS - 1));
                out.extend_from_slice(&flipped.to_be_bytes());
            }

            #[inline]
            fn read(bytes: &mut &[u8]) -> Result<Self, BadKey> {
                let flipped = $unsigned::from_be_bytes(take(bytes, stringify!($int))?);
                Ok((flipped ^ (1 << ($unsigned::BITS - 1))) as $int)
            }

            #[inline]
            fn touch(&self) -> u8 {
                *self as u8
            }
        }
    )*};
}

unsigned!(u8 u16 u32 u64);
signed!(i8 as u8 i16 as u16 i32 as u32 i64 as u64);

fn hash_wide(word: u128) -> u64 {
    combine(combine(HASH_SEED, word as u64), (word >> 64) as u64)
}

impl Key for u128 {
    fn hash64(&self) -> u64 {
        hash_wide(*self)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn read(bytes: &mut &[u8]) -> Result<Self, BadKey> {
        Ok(u128::from_be_bytes(take(bytes, "u128")?))
    }
}

impl Key for i128 {
    fn hash64(&self) -> u64 {
        hash_wide(*self as u128)
    }

    fn write(&self, out: &mut Vec<u8>) {
        (*self as u128 ^ (1 << 127)).write(out);
    }

    fn read(bytes: &mut &[u8]) -> Result<Self, BadKey> {
        Ok((u128::from_be_bytes(take(bytes, "i128")?) ^ (1 << 127)) as i128)
    }
}

impl Key for bool {
    #[inline]
    fn hash64(&self) -> u64 {
        mix64(u64::from(*self))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(bytes: &mut &[u8]) -> Result<Self, BadKey> {
        match take(bytes, "bool")? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(BadKey { type_name: "bool" }),
        }
    }
}

impl Key for char {
    #[inline]
    fn hash64(&self) -> u64 {
        mix64(u64::from(*self))
    }

    fn write(&self, out: &mut Vec<u8>) {
        u32::from(*self).write(out);
    }

    fn read(bytes: &mut &[u8]) -> Result<Self, BadKey> {
        let code = u32::from_be_bytes(take(bytes, "char")?);
        char::from_u32(code).ok_or(BadKey { type_name: "char" })
    }
}

impl Key for () {
    #[inline]
    fn hash64(&self) -> u64 {
        mix64(0)
    }

    fn write(&self, _out: &mut Vec<u8>) {}

    fn read(_bytes: &mut &[u8]) -> Result<Self, BadKey> {
        Ok(())
    }
}

/// Text and bytes: 0 becomes `00 ff`, and `00 00` ends them. So they are
/// ordered as they should be, whatever follows, and delimit themselves.
fn write_escaped(mut bytes: &[u8], out: &mut Vec<u8>) {
    while let Some(zero) = bytes.iter().position(|b| *b == 0) {
        out.extend_from_slice(&bytes[..zero]);
        out.extend_from_slice(&[0, 0xff]);
        bytes = &bytes[zero + 1..];
    }
    out.extend_from_slice(bytes);
    out.extend_from_slice(&[0, 0]);
}

fn read_escaped(bytes: &mut &[u8], type_name: &'static str) -> Result<Vec<u8>, BadKey> {
    let mut found = Vec::new();
    loop {
        let zero = bytes.iter().position(|b| *b == 0).ok_or(BadKey { type_name })?;
        found.extend_from_slice(&bytes[..zero]);
        let next = bytes.get(zero + 1).copied();
        *bytes = bytes.get(zero + 2..).unwrap_or_default();
        match next {
            Some(0) => return Ok(found),
            Some(0xff) => found.push(0),
            _ => return Err(BadKey { type_name }),
        }
    }
}

impl Key for String {
    #[inline]
    fn hash64(&self) -> u64 {
        xxh3_64_with_seed(self.as_bytes(), HASH_SEED)
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_escaped(self.as_bytes(), out);
    }

    fn read(bytes: &mut &[u8]) -> Result<Self, BadKey> {
        String::from_utf8(read_escaped(bytes, "String")?)
            .map_err(|_| BadKey { type_name: "String" })
    }

    #[inline]
    fn touch(&self) -> u8 {
        self.as_bytes().first().copied().unwrap_or(0)
    }
}

impl Key for Vec<u8> {
    #[inline]
    fn hash64(&self) -> u64 {
        xxh3_64_with_seed(self, HASH_SEED)
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_escaped(self, out);
    }

    fn read(bytes: &mut &[u8]) -> Result<Self, BadKey> {
        read_escaped(bytes, "Vec<u8>")
    }

    #[inline]
    fn touch(&self) -> u8 {
        self.first().copied().unwrap_or(0)
    }
}

impl<const N: usize> Key for [u8; N]
where
    [u8; N]: Serialize + DeserializeOwned,
{
    #[inline]
    fn hash64(&self) -> u64 {
        xxh3_64_with_seed(self, HASH_SEED)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read(bytes: &mut &[u8]) -> Result<Self, BadKey> {
        take(bytes, "byte array")
    }

    #[inline]
    fn touch(&self) -> u8 {
        self.first().copied().unwrap_or(0)
    }
}

impl<K: Key> Key for Option<K> {
    #[inline]
    fn hash64(&self) -> u64 {
        match self {
            None => combine(HASH_SEED, 0),
            Some(key) => combine(combine(HASH_SEED, 1), key.hash64()),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        if let Some(key) = self {
            key.write(out);
        }
    }

    fn read(bytes: &mut &[u8]) -> Result<Self, BadKey> {
        match take(bytes, "Option")? {
            [0] => Ok(None),
            [1] => Ok(Some(K::read(bytes)?)),
            _ => Err(BadKey { type_name: "Option" }),
        }
    }
}

macro_rules! tuple {
    ($($k:ident $i:tt),*) => {
        impl<$($k: Key),*> Key for ($($k,)*) {
            #[inline]
            fn hash64(&self) -> u64 {
                let hash = HASH_SEED;
                $(let hash = combine(hash, self.$i.hash64());)*
                hash
            }

            fn write(&self, out: &mut Vec<u8>) {
                $(self.$i.write(out);)*
            }

            fn read(bytes: &mut &[u8]) -> Result<Self, BadKey> {
                Ok(($($k::read(bytes)?,)*))
            }

            #[inline]
            fn touch(&self) -> u8 {
                self.0.touch()
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
