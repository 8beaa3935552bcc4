//! Values from bytes that nobody vouches for; see [`super::write`] for their form.

use super::{CodecError, Coded};
use serde::Deserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

/// Values within values, at most: a longer chain of boxes would end the thread's stack.
const DEPTH: u32 = 256;

/// Reads values off the front of a slice.
pub struct Reader<'de> {
    bytes: &'de [u8],
    depth: u32,
}

impl<'de> Reader<'de> {
    /// A reader of `bytes`.
    #[must_use]
    pub fn new(bytes: &'de [u8]) -> Self {
        Self { bytes, depth: DEPTH }
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Coded<[u8; N]> {
        let (front, rest) = self.bytes.split_first_chunk::<N>().ok_or(CodecError::Short)?;
        self.bytes = rest;
        Ok(*front)
    }

    /// A byte.
    #[inline]
    pub fn u8(&mut self) -> Coded<u8> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    /// Four bytes.
    #[inline]
    pub fn u32(&mut self) -> Coded<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    /// Eight bytes.
    #[inline]
    pub fn u64(&mut self) -> Coded<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// A number of things of which each takes at least a byte.
    #[inline]
    fn length(&mut self) -> Coded<usize> {
        let length = self.u32()? as usize;
        if length > self.bytes.len() {
            let (found, limit) = (length as u64, self.bytes.len() as u64);
            return Err(CodecError::Beyond { what: "length", found, limit });
        }
        Ok(length)
    }

    #[inline]
    fn slice(&mut self) -> Coded<&'de [u8]> {
        let length = self.length()?;
        let (front, rest) = self.bytes.split_at_checked(length).ok_or(CodecError::Short)?;
        self.bytes = rest;
        Ok(front)
    }

    fn text(&mut self) -> Coded<&'de str> {
        std::str::from_utf8(self.slice()?).map_err(|_| CodecError::Utf8)
    }

    fn zero(&mut self, what: &'static str) -> Coded {
        match self.u8()? {
            0 => Ok(()),
            other => Err(CodecError::Tag(u32::from(other), what)),
        }
    }

    #[inline]
    fn within<T>(&mut self, f: impl FnOnce(&mut Self) -> Coded<T>) -> Coded<T> {
        if self.depth == 0 {
            return Err(CodecError::Depth(DEPTH));
        }
        self.depth -= 1;
        let value = f(self);
        self.depth += 1;
        value
    }
}

macro_rules! fixed {
    ($($method:ident, $visit:ident: $type:ty);*) => {
        $(
            #[inline(always)]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Coded<V::Value> {
                visitor.$visit(<$type>::from_le_bytes(self.take()?))
            }
        )*
    };
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = CodecError;

    fixed!(
        deserialize_u8, visit_u8: u8; deserialize_u16, visit_u16: u16;
        deserialize_u32, visit_u32: u32; deserialize_u64, visit_u64: u64;
        deserialize_u128, visit_u128: u128; deserialize_i8, visit_i8: i8;
        deserialize_i16, visit_i16: i16; deserialize_i32, visit_i32: i32;
        deserialize_i64, visit_i64: i64; deserialize_i128, visit_i128: i128;
        deserialize_f32, visit_f32: f32; deserialize_f64, visit_f64: f64
    );

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Coded<V::Value> {
        Err(CodecError::SelfDescribing)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Coded<V::Value> {
        Err(CodecError::SelfDescribing)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Coded<V::Value> {
        Err(CodecError::SelfDescribing)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Coded<V::Value> {
        match self.u8()? {
            0 => visitor.visit_bool(false),
            1 => visitor.visit_bool(true),
            other => Err(CodecError::Tag(u32::from(other), "bool")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Coded<V::Value> {
        let code = self.u32()?;
        visitor.visit_char(char::from_u32(code).ok_or(CodecError::Tag(code, "char"))?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Coded<V::Value> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Coded<V::Value> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Coded<V::Value> {
        visitor.visit_borrowed_bytes(self.slice()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Coded<V::Value> {
        visitor.visit_borrowed_bytes(self.slice()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Coded<V::Value> {
        match self.u8()? {
            0 => visitor.visit_none(),
            1 => self.within(|r| visitor.visit_some(r)),
            other => Err(CodecError::Tag(u32::from(other), "option")),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Coded<V::Value> {
        self.zero("unit")?;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Coded<V::Value> {
        self.deserialize_unit(visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Coded<V::Value> {
        self.within(|r| visitor.visit_newtype_struct(r))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Coded<V::Value> {
        let left = self.length()?;
        self.within(|reader| visitor.visit_seq(Elements { reader, left }))
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, left: usize, visitor: V) -> Coded<V::Value> {
        if left == 0 {
            self.zero("value without fields")?;
        }
        self.within(|reader| visitor.visit_seq(Elements { reader, left }))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: usize,
        visitor: V,
    ) -> Coded<V::Value> {
        self.deserialize_tuple(fields, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Coded<V::Value> {
        let left = self.length()?;
        self.within(|reader| visitor.visit_map(Elements { reader, left }))
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Coded<V::Value> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Coded<V::Value> {
        self.within(|reader| visitor.visit_enum(Variant { reader }))
    }
}

struct Elements<'r, 'de> {
    reader: &'r mut Reader<'de>,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = CodecError;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Coded<Option<S::Value>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.reader).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> de::MapAccess<'de> for Elements<'_, 'de> {
    type Error = CodecError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Coded<Option<S::Value>> {
        de::SeqAccess::next_element_seed(self, seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Coded<S::Value> {
        seed.deserialize(&mut *self.reader)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

struct Variant<'r, 'de> {
    reader: &'r mut Reader<'de>,
}

impl<'de> de::EnumAccess<'de> for Variant<'_, 'de> {
    type Error = CodecError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Coded<(S::Value, Self)> {
        let index = self.reader.u32()?;
        let value = seed.deserialize(IntoDeserializer::<CodecError>::into_deserializer(index))?;
        Ok((value, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, 'de> {
    type Error = CodecError;

    fn unit_variant(self) -> Coded {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Coded<S::Value> {
        seed.deserialize(self.reader)
    }

    fn tuple_variant<V: Visitor<'de>>(self, left: usize, visitor: V) -> Coded<V::Value> {
        visitor.visit_seq(Elements { reader: self.reader, left })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Coded<V::Value> {
        visitor.visit_seq(Elements { reader: self.reader, left: fields.len() })
    }
}
