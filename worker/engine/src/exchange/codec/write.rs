//! Values as bytes: positional, fixed width, little endian.
//!
//! Every value takes at least one byte (a struct without fields is a zero), so that a
//! reader can check any number of elements against the bytes that are left.

use super::{CodecError, Coded};
use serde::Serialize;
use serde::ser;

/// Appends values to a buffer.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// A writer behind what the buffer holds.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Length of the buffer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether the buffer is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    #[inline(always)]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) -> Coded {
        self.out.extend_from_slice(&bytes);
        Ok(())
    }

    #[inline]
    fn length(&mut self, length: usize) -> Coded {
        let limit = u64::from(u32::MAX);
        let short = u32::try_from(length).map_err(|_| CodecError::Beyond {
            what: "length",
            found: length as u64,
            limit,
        })?;
        self.put(short.to_le_bytes())
    }

    #[inline]
    fn fields(&mut self, fields: usize) -> Coded {
        if fields == 0 { self.put([0]) } else { Ok(()) }
    }
}

/// Elements whose number may be known only at the end.
pub struct Counted<'w, 'a> {
    writer: &'w mut Writer<'a>,
    at: usize,
    count: usize,
}

impl<'w, 'a> Counted<'w, 'a> {
    fn new(writer: &'w mut Writer<'a>) -> Coded<Self> {
        let at = writer.out.len();
        writer.put([0; 4])?;
        Ok(Self { writer, at, count: 0 })
    }

    fn finish(self) -> Coded {
        let limit = u64::from(u32::MAX);
        let count = u32::try_from(self.count).map_err(|_| CodecError::Beyond {
            what: "length",
            found: self.count as u64,
            limit,
        })?;
        if let Some(place) = self.writer.out.get_mut(self.at..self.at + 4) {
            place.copy_from_slice(&count.to_le_bytes());
        }
        Ok(())
    }
}

macro_rules! fixed {
    ($($method:ident: $type:ty),*) => {
        $(
            #[inline(always)]
            fn $method(self, value: $type) -> Coded {
                self.put(value.to_le_bytes())
            }
        )*
    };
}

impl<'w, 'a> ser::Serializer for &'w mut Writer<'a> {
    type Ok = ();
    type Error = CodecError;
    type SerializeSeq = Counted<'w, 'a>;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Counted<'w, 'a>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fixed!(
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_u128: u128, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32,
        serialize_i64: i64, serialize_i128: i128, serialize_f32: f32, serialize_f64: f64
    );

    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Coded {
        self.put([u8::from(value)])
    }

    fn serialize_char(self, value: char) -> Coded {
        self.put(u32::from(value).to_le_bytes())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Coded {
        self.serialize_bytes(value.as_bytes())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Coded {
        self.length(value.len())?;
        self.out.extend_from_slice(value);
        Ok(())
    }

    fn serialize_none(self) -> Coded {
        self.put([0])
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Coded {
        self.put([1])?;
        value.serialize(self)
    }

    fn serialize_unit(self) -> Coded {
        self.put([0])
    }

    fn serialize_unit_struct(self, _: &'static str) -> Coded {
        self.put([0])
    }

    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Coded {
        self.put(index.to_le_bytes())
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Coded {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Coded {
        self.put(index.to_le_bytes())?;
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Coded<Counted<'w, 'a>> {
        Counted::new(self)
    }

    #[inline]
    fn serialize_tuple(self, fields: usize) -> Coded<Self> {
        self.fields(fields)?;
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, fields: usize) -> Coded<Self> {
        self.serialize_tuple(fields)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Coded<Self> {
        self.put(index.to_le_bytes())?;
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Coded<Counted<'w, 'a>> {
        Counted::new(self)
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, fields: usize) -> Coded<Self> {
        self.serialize_tuple(fields)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Coded<Self> {
        self.put(index.to_le_bytes())?;
        Ok(self)
    }
}

impl ser::SerializeSeq for Counted<'_, '_> {
    type Ok = ();
    type Error = CodecError;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Coded {
        self.count += 1;
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Coded {
        self.finish()
    }
}

impl ser::SerializeMap for Counted<'_, '_> {
    type Ok = ();
    type Error = CodecError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Coded {
        self.count += 1;
        key.serialize(&mut *self.writer)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Coded {
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Coded {
        self.finish()
    }
}

macro_rules! in_turn {
    ($($trait:ident, $method:ident);*) => {
        $(
            impl ser::$trait for &mut Writer<'_> {
                type Ok = ();
                type Error = CodecError;

                #[inline]
                fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Coded {
                    value.serialize(&mut **self)
                }

                #[inline]
                fn end(self) -> Coded {
                    Ok(())
                }
            }
        )*
    };
}

in_turn!(
    SerializeTuple, serialize_element;
    SerializeTupleStruct, serialize_field;
    SerializeTupleVariant, serialize_field
);

macro_rules! by_name {
    ($($trait:ident),*) => {
        $(
            impl ser::$trait for &mut Writer<'_> {
                type Ok = ();
                type Error = CodecError;

                #[inline]
                fn serialize_field<T: Serialize + ?Sized>(
                    &mut self,
                    _: &'static str,
                    value: &T,
                ) -> Coded {
                    value.serialize(&mut **self)
                }

                fn skip_field(&mut self, name: &'static str) -> Coded {
                    // Its reader would take the next field for it.
                    Err(CodecError::Custom(format!(
                        "field {name:?} is left out (serde(skip_serializing_if)), which rows \
                         between workers cannot do: write it always"
                    )))
                }

                #[inline]
                fn end(self) -> Coded {
                    Ok(())
                }
            }
        )*
    };
}

by_name!(SerializeStruct, SerializeStructVariant);
