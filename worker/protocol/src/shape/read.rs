//! Postcard, read by the shape it was written with: structs are presented as
//! maps by field name, enums by the name of the variant.
//!
//! Postcard's encoding: <https://postcard.jamesmunns.com/wire-format>.

use super::{Holds, Int, Record, Shape};
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use thiserror::Error;

/// Bytes that do not have the shape they should.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct BadBytes(pub String);

impl de::Error for BadBytes {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

type Read<T> = Result<T, BadBytes>;

/// Reads a value off the front of `bytes`, which have shape `old`, by field name.
pub fn read_by_name<T: DeserializeOwned>(bytes: &mut &[u8], old: &Shape) -> Read<T> {
    T::deserialize(Named { bytes, shape: old })
}

/// Passes over a value of a shape.
pub fn skip(bytes: &mut &[u8], shape: &Shape) -> Read<()> {
    // Driven by the shape, as anything else is; what comes is dropped.
    de::Deserializer::deserialize_any(Named { bytes, shape }, de::IgnoredAny).map(drop)
}

/// A deserializer of bytes with a shape.
struct Named<'a, 'b, 's> {
    bytes: &'a mut &'b [u8],
    shape: &'s Shape,
}

fn short() -> BadBytes {
    BadBytes("the bytes end too early".to_owned())
}

fn take<'b>(bytes: &mut &'b [u8], n: usize) -> Read<&'b [u8]> {
    bytes.split_off(..n).ok_or_else(short)
}

fn byte(bytes: &mut &[u8]) -> Read<u8> {
    bytes.split_off_first().copied().ok_or_else(short)
}

fn varint(bytes: &mut &[u8]) -> Read<u128> {
    let mut value = 0_u128;
    for shift in (0..128).step_by(7) {
        let next = byte(bytes)?;
        value |= u128::from(next & 0x7f) << shift;
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(BadBytes("a number without an end".to_owned()))
}

fn length(bytes: &mut &[u8]) -> Read<usize> {
    usize::try_from(varint(bytes)?).map_err(|_| BadBytes("an impossible length".to_owned()))
}

fn text<'b>(bytes: &mut &'b [u8]) -> Read<&'b str> {
    let n = length(bytes)?;
    std::str::from_utf8(take(bytes, n)?).map_err(|_| BadBytes("text is not UTF-8".to_owned()))
}

fn int<'de, V: Visitor<'de>>(bytes: &mut &[u8], int: Int, visitor: V) -> Read<V::Value> {
    let raw = if int.bits == 8 { u128::from(byte(bytes)?) } else { varint(bytes)? };
    if !int.signed {
        return match int.bits {
            8 => visitor.visit_u8(raw as u8),
            16 => visitor.visit_u16(raw as u16),
            32 => visitor.visit_u32(raw as u32),
            64 => visitor.visit_u64(raw as u64),
            // Narrow ones are what more visitors know.
            _ => match u64::try_from(raw) {
                Ok(narrow) => visitor.visit_u64(narrow),
                Err(_) => visitor.visit_u128(raw),
            },
        };
    }
    let zigzag = (raw >> 1) as i128 ^ -((raw & 1) as i128);
    match int.bits {
        8 => visitor.visit_i8(raw as u8 as i8),
        16 => visitor.visit_i16(zigzag as i16),
        32 => visitor.visit_i32(zigzag as i32),
        64 => visitor.visit_i64(zigzag as i64),
        _ => match i64::try_from(zigzag) {
            Ok(narrow) => visitor.visit_i64(narrow),
            Err(_) => visitor.visit_i128(zigzag),
        },
    }
}

impl<'de> de::Deserializer<'de> for Named<'_, '_, '_> {
    type Error = BadBytes;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let Self { bytes, shape } = self;
        match shape {
            Shape::Unit => visitor.visit_unit(),
            Shape::Bool => match byte(bytes)? {
                0 => visitor.visit_bool(false),
                1 => visitor.visit_bool(true),
                _ => Err(BadBytes("a bool that is neither".to_owned())),
            },
            Shape::Int(kind) => int(bytes, *kind, visitor),
            Shape::F32 => {
                let raw = take(bytes, 4)?.first_chunk().ok_or_else(short)?;
                visitor.visit_f32(f32::from_le_bytes(*raw))
            }
            Shape::F64 => {
                let raw = take(bytes, 8)?.first_chunk().ok_or_else(short)?;
                visitor.visit_f64(f64::from_le_bytes(*raw))
            }
            Shape::Char => {
                let one = text(bytes)?.chars().next();
                visitor.visit_char(one.ok_or_else(|| BadBytes("an empty char".to_owned()))?)
            }
            Shape::Str => visitor.visit_str(text(bytes)?),
            Shape::Bytes => {
                let n = length(bytes)?;
                visitor.visit_bytes(take(bytes, n)?)
            }
            Shape::Option(inner) => match byte(bytes)? {
                0 => visitor.visit_none(),
                1 => visitor.visit_some(Named { bytes, shape: inner }),
                _ => Err(BadBytes("an option that is neither".to_owned())),
            },
            Shape::Seq(inner) => {
                let left = length(bytes)?;
                visitor.visit_seq(Same { bytes, shapes: std::iter::repeat_n(&**inner, left) })
            }
            Shape::Map(key, value) => {
                let left = length(bytes)?;
                visitor.visit_map(Pairs { bytes, key, value, left })
            }
            Shape::Tuple(shapes) => visitor.visit_seq(Same { bytes, shapes: shapes.iter() }),
            Shape::Struct(record) => visitor.visit_map(Fields::new(bytes, record)),
            Shape::Enum { .. } => visitor.visit_enum(Self { bytes, shape }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.shape {
            Shape::Option(_) => self.deserialize_any(visitor),
            _ => visitor.visit_some(self), // It has become optional.
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Read<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        skip(self.bytes, self.shape)?;
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier
    }
}

/// Elements in order.
struct Same<'a, 'b, I> {
    bytes: &'a mut &'b [u8],
    shapes: I,
}

impl<'de, 's, I: Iterator<Item = &'s Shape>> SeqAccess<'de> for Same<'_, '_, I> {
    type Error = BadBytes;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        let Some(shape) = self.shapes.next() else { return Ok(None) };
        seed.deserialize(Named { bytes: self.bytes, shape }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        // Lengths come from a file: memory is taken as elements come.
        self.shapes.size_hint().1.map(|n| n.min(4096))
    }
}

/// Keys and values.
struct Pairs<'a, 'b, 's> {
    bytes: &'a mut &'b [u8],
    key: &'s Shape,
    value: &'s Shape,
    left: usize,
}

impl<'de> MapAccess<'de> for Pairs<'_, '_, '_> {
    type Error = BadBytes;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(Named { bytes: self.bytes, shape: self.key }).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<T::Value> {
        seed.deserialize(Named { bytes: self.bytes, shape: self.value })
    }
}

/// Fields by name.
struct Fields<'a, 'b, 's> {
    bytes: &'a mut &'b [u8],
    fields: std::slice::Iter<'s, super::Field>,
    value: Option<&'s Shape>,
}

impl<'a, 'b, 's> Fields<'a, 'b, 's> {
    fn new(bytes: &'a mut &'b [u8], record: &'s Record) -> Self {
        Self { bytes, fields: record.fields.iter(), value: None }
    }
}

impl<'de> MapAccess<'de> for Fields<'_, '_, '_> {
    type Error = BadBytes;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        let Some(field) = self.fields.next() else { return Ok(None) };
        self.value = Some(&field.shape);
        let name: StrDeserializer<'_, BadBytes> = field.name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<T::Value> {
        let shape = self.value.take().unwrap_or(&Shape::Unit);
        seed.deserialize(Named { bytes: self.bytes, shape })
    }
}

impl<'de, 'a, 'b, 's> EnumAccess<'de> for Named<'a, 'b, 's> {
    type Error = BadBytes;
    type Variant = Inside<'a, 'b, 's>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Read<(T::Value, Self::Variant)> {
        let index = length(self.bytes)?;
        let variant = match self.shape {
            Shape::Enum { variants, .. } => variants.get(index),
            _ => None,
        };
        let variant = variant.ok_or_else(|| BadBytes(format!("no variant {index}")))?;
        let name: StrDeserializer<'_, BadBytes> = variant.name.as_str().into_deserializer();
        Ok((seed.deserialize(name)?, Inside { bytes: self.bytes, holds: &variant.holds }))
    }
}

/// What a variant holds.
struct Inside<'a, 'b, 's> {
    bytes: &'a mut &'b [u8],
    holds: &'s Holds,
}

impl Inside<'_, '_, '_> {
    fn other<T>(&self) -> Read<T> {
        Err(BadBytes("a variant of another kind".to_owned()))
    }
}

impl<'de> VariantAccess<'de> for Inside<'_, '_, '_> {
    type Error = BadBytes;

    fn unit_variant(self) -> Read<()> {
        // Whoever ignores a variant asks for this, whatever it holds.
        match self.holds {
            Holds::Nothing => Ok(()),
            _ => self.other(),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Read<T::Value> {
        match self.holds {
            Holds::One(shape) => seed.deserialize(Named { bytes: self.bytes, shape }),
            // `IgnoredAny` takes every variant for one of these.
            Holds::Nothing => seed.deserialize(Named { bytes: self.bytes, shape: &Shape::Unit }),
            Holds::Tuple(shapes) => {
                let shape = Shape::Tuple(shapes.clone());
                seed.deserialize(Named { bytes: self.bytes, shape: &shape })
            }
            Holds::Struct(record) => {
                let shape = Shape::Struct(record.clone());
                seed.deserialize(Named { bytes: self.bytes, shape: &shape })
            }
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Read<V::Value> {
        match self.holds {
            Holds::Tuple(shapes) => {
                visitor.visit_seq(Same { bytes: self.bytes, shapes: shapes.iter() })
            }
            _ => self.other(),
        }
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        match self.holds {
            Holds::Struct(record) => visitor.visit_map(Fields::new(self.bytes, record)),
            _ => self.other(),
        }
    }
}
