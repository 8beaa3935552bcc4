//! A CSV row as a serde deserializer. The columns that a struct needs are looked
//! up once a file, not once a row, and the others are not visited.

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use std::fmt;

/// Which columns the row type needs, in its order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Address of the struct's list of fields: the same at every row, unless a
    /// row type picks its struct by content.
    fields: Option<(usize, usize)>,
    columns: Vec<u32>,
}

/// A row split into fields.
pub(super) struct Record<'r> {
    pub bytes: &'r [u8],
    pub fields: &'r [(u32, u32)],
    pub names: &'r [String],
    pub nulls: &'r [String],
    pub plan: &'r mut Plan,
}

impl<'r> Record<'r> {
    #[inline]
    fn field(&self, column: usize) -> Result<Field<'r>, Error> {
        let &(from, to) =
            self.fields.get(column).ok_or_else(|| Error::new("the row has no field"))?;
        Ok(Field { bytes: &self.bytes[from as usize..to as usize], nulls: self.nulls })
    }

    fn in_column(&self, column: usize, e: Error) -> Error {
        let value = self.field(column).map(|f| String::from_utf8_lossy(f.bytes).into_owned());
        let value = value.unwrap_or_default();
        let message = match self.names.get(column) {
            Some(name) => format!("column `{name}`, value `{value}`: {}", e.message),
            None => format!("field {}, value `{value}`: {}", column + 1, e.message),
        };
        Error { message, ..e }
    }
}

/// Why a row could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Error {
    message: String,
    /// The row type needs a column that the file does not have.
    pub missing_column: bool,
}

impl Error {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), missing_column: false }
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self { message: format!("there is no column `{field}`"), missing_column: true }
    }
}

/// Rows that are a single value take the first field.
macro_rules! by_first_field {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
            self.field(0)?.$method(visitor).map_err(|e| self.in_column(0, e))
        }
    )*};
}

impl<'r> Deserializer<'r> for Record<'r> {
    type Error = Error;

    #[inline]
    fn deserialize_struct<V: Visitor<'r>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.names.is_empty() {
            return visitor.visit_seq(ByPosition { record: self, column: 0 });
        }
        let key = (fields.as_ptr() as usize, fields.len());
        if self.plan.fields != Some(key) {
            self.plan.columns.clear();
            for field in fields {
                let column = self.names.iter().position(|name| name == field);
                self.plan.columns.extend(column.map(|c| c as u32));
            }
            self.plan.fields = Some(key);
        }
        visitor.visit_map(ByName { record: self, at: 0 })
    }

    fn deserialize_map<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.names.is_empty() {
            return Err(Error::new("without a header, rows must be tuples or structs"));
        }
        if self.plan.fields.is_some() || self.plan.columns.len() != self.names.len() {
            self.plan.fields = None;
            self.plan.columns = (0..self.names.len() as u32).collect();
        }
        visitor.visit_map(ByName { record: self, at: 0 })
    }

    fn deserialize_seq<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(ByPosition { record: self, column: 0 })
    }

    fn deserialize_tuple<V: Visitor<'r>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'r>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'r>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.names.is_empty() {
            self.deserialize_seq(visitor)
        } else {
            self.deserialize_map(visitor)
        }
    }

    fn deserialize_enum<V: Visitor<'r>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.field(0)?.deserialize_enum(name, variants, visitor).map_err(|e| self.in_column(0, e))
    }

    fn deserialize_unit_struct<V: Visitor<'r>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    by_first_field! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option
        deserialize_identifier
    }
}

/// The columns of the plan, with their names.
struct ByName<'r> {
    record: Record<'r>,
    at: usize,
}

impl<'r> de::MapAccess<'r> for ByName<'r> {
    type Error = Error;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'r>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(&column) = self.record.plan.columns.get(self.at) else {
            return Ok(None);
        };
        let name: &'r str = &self.record.names[column as usize];
        seed.deserialize(de::value::BorrowedStrDeserializer::new(name)).map(Some)
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'r>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let column = self.record.plan.columns[self.at] as usize;
        self.at += 1;
        seed.deserialize(self.record.field(column)?).map_err(|e| self.record.in_column(column, e))
    }
}

/// The fields in their order.
struct ByPosition<'r> {
    record: Record<'r>,
    column: usize,
}

impl<'r> de::SeqAccess<'r> for ByPosition<'r> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'r>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        if self.column == self.record.fields.len() {
            return Ok(None);
        }
        let column = self.column;
        self.column += 1;
        seed.deserialize(self.record.field(column)?)
            .map(Some)
            .map_err(|e| self.record.in_column(column, e))
    }
}

/// One field.
#[derive(Clone, Copy)]
struct Field<'r> {
    bytes: &'r [u8],
    nulls: &'r [String],
}

impl<'r> Field<'r> {
    #[inline]
    fn text(self) -> Result<&'r str, Error> {
        std::str::from_utf8(self.bytes).map_err(|_| Error::new("not UTF-8"))
    }

    fn parse<N: std::str::FromStr<Err: fmt::Display>>(self) -> Result<N, Error> {
        self.text()?.parse().map_err(|e: N::Err| Error::new(e.to_string()))
    }

    #[inline]
    fn is_null(self) -> bool {
        self.bytes.is_empty() || self.nulls.iter().any(|null| null.as_bytes() == self.bytes)
    }
}

/// An unsigned number of at most 18 digits; others take the slow way.
#[inline]
fn digits(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || bytes.len() > 18 {
        return None;
    }
    bytes.iter().try_fold(0u64, |n, &b| {
        let digit = b.wrapping_sub(b'0');
        (digit < 10).then(|| n * 10 + u64::from(digit))
    })
}

/// A number such as `-16.25`, of at most 15 digits; others take the slow way. Exact: the
/// digits and the power of ten are both floating point numbers, so their quotient is
/// the nearest one (Clinger 1990, "How to read floating point numbers accurately").
#[inline]
fn short_decimal(bytes: &[u8]) -> Option<f64> {
    const TENS: [f64; 16] =
        [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    let (negative, unsigned) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, bytes),
    };
    if unsigned.len() > 16 {
        return None;
    }
    let (mut number, mut digits, mut point) = (0u64, 0, None);
    for &byte in unsigned {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            number = number * 10 + u64::from(digit);
            digits += 1;
        } else if byte == b'.' && point.is_none() {
            point = Some(digits);
        } else {
            return None;
        }
    }
    if digits == 0 || digits > 15 {
        return None;
    }
    let value = number as f64 / TENS[digits - point.unwrap_or(digits)];
    Some(if negative { -value } else { value })
}

macro_rules! integer {
    ($($method:ident $visit:ident $wide:ty;)*) => {$(
        #[inline]
        fn $method<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
            // Range is checked by the visitor of the narrow type.
            if let Some(n) = digits(self.bytes) {
                return visitor.$visit(n as $wide);
            }
            if let [b'-', rest @ ..] = self.bytes
                && let Some(n) = digits(rest)
            {
                return visitor.visit_i64(-(n as i64));
            }
            visitor.$visit(self.parse::<$wide>()?)
        }
    )*};
}

macro_rules! parsed {
    ($($method:ident $visit:ident;)*) => {$(
        #[inline]
        fn $method<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.parse()?)
        }
    )*};
}

impl<'r> Deserializer<'r> for Field<'r> {
    type Error = Error;

    integer! {
        deserialize_i8 visit_i64 i64; deserialize_i16 visit_i64 i64;
        deserialize_i32 visit_i64 i64; deserialize_i64 visit_i64 i64;
        deserialize_u8 visit_u64 u64; deserialize_u16 visit_u64 u64;
        deserialize_u32 visit_u64 u64; deserialize_u64 visit_u64 u64;
    }
    parsed! {
        deserialize_i128 visit_i128; deserialize_u128 visit_u128; deserialize_f32 visit_f32;
        deserialize_char visit_char;
    }

    #[inline]
    fn deserialize_f64<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        match short_decimal(self.bytes) {
            Some(value) => visitor.visit_f64(value),
            None => visitor.visit_f64(self.parse()?),
        }
    }

    fn deserialize_bool<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.bytes {
            b"true" => visitor.visit_bool(true),
            b"false" => visitor.visit_bool(false),
            _ => Err(Error::new("neither `true` nor `false`")),
        }
    }

    #[inline]
    fn deserialize_str<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.text()?)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_bytes(self.bytes)
    }

    fn deserialize_byte_buf<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_bytes(self.bytes)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    /// As a number where it reads as one.
    fn deserialize_any<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() {
            return visitor.visit_none();
        }
        let text = self.text()?;
        if let Ok(n) = text.parse::<i64>() {
            return visitor.visit_i64(n);
        }
        if let Ok(n) = text.parse::<f64>() {
            return visitor.visit_f64(n);
        }
        match text {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => visitor.visit_borrowed_str(text),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit<V: Visitor<'r>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_unit() } else { Err(Error::new("not empty")) }
    }

    fn deserialize_unit_struct<V: Visitor<'r>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'r>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'r>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self.text()?.into_deserializer())
    }

    fn deserialize_seq<V: Visitor<'r>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::new("a CSV field cannot hold a list"))
    }

    fn deserialize_tuple<V: Visitor<'r>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'r>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'r>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::new("a CSV field cannot hold a struct or map"))
    }

    fn deserialize_struct<V: Visitor<'r>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::short_decimal;

    #[test]
    fn short_decimals_are_what_the_standard_library_reads() {
        for text in ["0", "-0", "5.", ".5", "-.25", "0.1", "123456789012345", "1.23456789012345"] {
            let expected: f64 = text.parse().unwrap();
            assert_eq!(short_decimal(text.as_bytes()).map(f64::to_bits), Some(expected.to_bits()));
        }
        for text in ["", "-", ".", "-.", "1e5", "+1", "1.2.3", "--1", "nan", "1234567890123456"] {
            assert_eq!(short_decimal(text.as_bytes()), None, "{text}");
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100_000 {
            let digits = random.u64(..1_000_000_000_000_000) >> random.u32(..50);
            let mut text = format!("{digits}");
            text.insert(random.usize(..=text.len()), '.');
            let expected: f64 = text.parse().unwrap();
            assert_eq!(short_decimal(text.as_bytes()), Some(expected), "{text}");
        }
    }
}
