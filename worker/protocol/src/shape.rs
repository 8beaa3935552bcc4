//! The serde shape of a type: traced from its `Deserialize` and `Serialize`,
//! compared when state outlives the program that wrote it. Pure.
//!
//! State is stored as postcard, which is positional: bytes can be read only by
//! who knows the shape they were written with. So the writer's shape stands in
//! every file. Where the reader's is the same, bytes are read as they stand;
//! where it differs in a way that [`compatible`] allows, they are read by field
//! name, driven by the old shape, and serde's defaults fill in the rest.

mod compare;
mod read;
#[cfg(test)]
mod tests;
mod trace;

pub use compare::{Fit, Incompatible, compatible};
pub use read::{BadBytes, read_by_name, skip};
pub use trace::{ShapeError, trace};

use serde::{Deserialize, Serialize};
use std::fmt;

/// What the postcard bytes of a type look like. Newtypes are as what they hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// No bytes.
    Unit,
    /// `bool`.
    Bool,
    /// An integer.
    Int(Int),
    /// `f32`.
    F32,
    /// `f64`.
    F64,
    /// `char`.
    Char,
    /// Text.
    Str,
    /// Bytes.
    Bytes,
    /// Something or nothing.
    Option(Box<Shape>),
    /// Any number of elements.
    Seq(Box<Shape>),
    /// Any number of keys with their values.
    Map(Box<Shape>, Box<Shape>),
    /// Elements in fixed number.
    Tuple(Vec<Shape>),
    /// Named fields.
    Struct(Record),
    /// One of several variants.
    Enum {
        /// The type's name.
        name: String,
        /// The variants, by index.
        variants: Vec<Variant>,
    },
}

/// An integer type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Int {
    /// Whether it has a sign.
    pub signed: bool,
    /// 8, 16, 32, 64 or 128.
    pub bits: u8,
}

/// Named fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The type's (or variant's) name.
    pub name: String,
    /// In the order they are written.
    pub fields: Vec<Field>,
    /// Other names that fields are read by: serde's aliases.
    pub aliases: Vec<String>,
}

/// A named field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// Whether it may be missing.
    pub default: bool,
}

/// A variant of an enum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub holds: Holds,
}

/// What a variant holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holds {
    /// Nothing.
    Nothing,
    /// One value.
    One(Box<Shape>),
    /// Several values.
    Tuple(Vec<Shape>),
    /// Named fields.
    Struct(Record),
}

impl fmt::Display for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.signed { 'i' } else { 'u' }, self.bits)
    }
}

impl fmt::Display for Shape {
    /// As a user would write the type, without what is in structs and enums.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit => f.write_str("()"),
            Self::Bool => f.write_str("bool"),
            Self::Int(int) => int.fmt(f),
            Self::F32 => f.write_str("f32"),
            Self::F64 => f.write_str("f64"),
            Self::Char => f.write_str("char"),
            Self::Str => f.write_str("String"),
            Self::Bytes => f.write_str("bytes"),
            Self::Option(inner) => write!(f, "Option<{inner}>"),
            Self::Seq(inner) => write!(f, "Vec<{inner}>"),
            Self::Map(key, value) => write!(f, "Map<{key}, {value}>"),
            Self::Tuple(items) => {
                f.write_str("(")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str(if items.len() == 1 { ",)" } else { ")" })
            }
            Self::Struct(record) => write!(f, "struct {}", record.name),
            Self::Enum { name, .. } => write!(f, "enum {name}"),
        }
    }
}
