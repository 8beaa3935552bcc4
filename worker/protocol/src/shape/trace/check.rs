//! The serializer that compares what is written with what was read: the same
//! parts in the same order, else postcard bytes would not come back. It also
//! learns the names that fields are written by.

use super::super::{Int, Shape};
use super::{HoldsNode, Named, Node};
use serde::ser::{self, Serialize};

/// Why a type is refused.
#[derive(Debug)]
pub(super) struct Refused(pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(format!("it cannot be serialized: {message}"))
    }
}

type Checked<T = ()> = Result<T, Refused>;

/// Compares a value's serialization with what its deserialization asked for.
pub(super) fn value<T: Serialize + ?Sized>(value: &T, node: &mut Node) -> Checked {
    value.serialize(Checker { node })
}

struct Checker<'a> {
    node: &'a mut Node,
}

fn differs<T>(written: &str) -> Checked<T> {
    Err(Refused(format!(
        "its Serialize writes {written} where its Deserialize reads something else; they must agree"
    )))
}

fn skipped<T>(name: &str) -> Checked<T> {
    Err(Refused(format!(
        "field {name} is not always written (skip_serializing_if or skip_serializing), which \
         postcard cannot bring back; remove the attribute"
    )))
}

impl Checker<'_> {
    fn leaf(self, shape: Shape) -> Checked {
        match self.node {
            Node::Leaf(known) if *known == shape => Ok(()),
            _ => differs(&shape.to_string()),
        }
    }

    fn int(self, signed: bool, bits: u8) -> Checked {
        self.leaf(Shape::Int(Int { signed, bits }))
    }
}

/// The parts of a sequence, tuple or struct.
struct Parts<'a>(PartsOf<'a>);

enum PartsOf<'a> {
    Seq(&'a mut Node),
    Map(&'a mut (Node, Node)),
    Tuple(std::slice::IterMut<'a, Node>),
    Struct { named: &'a mut Named, at: usize },
}

impl Parts<'_> {
    fn next<T: Serialize + ?Sized>(&mut self, part: &T) -> Checked {
        match &mut self.0 {
            PartsOf::Seq(node) => value(part, node),
            PartsOf::Tuple(nodes) => match nodes.next() {
                Some(node) => value(part, node),
                None => differs("more elements"),
            },
            _ => differs("an element"),
        }
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, part: &T) -> Checked {
        let PartsOf::Struct { named, at } = &mut self.0 else { return differs("a field") };
        if !named.accepted.contains(&name) {
            return Err(Refused(format!(
                "field {name} is read by another name than it is written by; use one name"
            )));
        }
        match named.written.get(*at) {
            Some(known) if *known == name => {}
            Some(known) => return skipped(known),
            None => named.written.push(name),
        }
        let Some(node) = named.fields.get_mut(*at) else {
            return differs(&format!("the field {name}"));
        };
        *at += 1;
        value(part, node)
    }

    fn done(self) -> Checked {
        match self.0 {
            PartsOf::Tuple(nodes) if nodes.len() > 0 => differs("fewer elements"),
            PartsOf::Struct { named, at } if at < named.fields.len() => {
                skipped(named.written.get(at).copied().unwrap_or("(the last)"))
            }
            _ => Ok(()),
        }
    }
}

macro_rules! ints {
    ($($method:ident $int:ident $signed:literal $bits:literal)*) => {$(
        fn $method(self, _v: $int) -> Checked {
            self.int($signed, $bits)
        }
    )*};
}

impl<'a> ser::Serializer for Checker<'a> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = Parts<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    ints! {
        serialize_i8 i8 true 8
        serialize_i16 i16 true 16
        serialize_i32 i32 true 32
        serialize_i64 i64 true 64
        serialize_i128 i128 true 128
        serialize_u8 u8 false 8
        serialize_u16 u16 false 16
        serialize_u32 u32 false 32
        serialize_u64 u64 false 64
        serialize_u128 u128 false 128
    }

    fn serialize_bool(self, _v: bool) -> Checked {
        self.leaf(Shape::Bool)
    }

    fn serialize_f32(self, _v: f32) -> Checked {
        self.leaf(Shape::F32)
    }

    fn serialize_f64(self, _v: f64) -> Checked {
        self.leaf(Shape::F64)
    }

    fn serialize_char(self, _v: char) -> Checked {
        self.leaf(Shape::Char)
    }

    fn serialize_str(self, _v: &str) -> Checked {
        self.leaf(Shape::Str)
    }

    fn serialize_bytes(self, _v: &[u8]) -> Checked {
        self.leaf(Shape::Bytes)
    }

    fn serialize_unit(self) -> Checked {
        self.leaf(Shape::Unit)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Checked {
        self.leaf(Shape::Unit)
    }

    fn serialize_none(self) -> Checked {
        if matches!(self.node, Node::Option(_)) { Ok(()) } else { differs("an Option") }
    }

    fn serialize_some<T: Serialize + ?Sized>(self, inner: &T) -> Checked {
        match self.node {
            Node::Option(node) => value(inner, node),
            _ => differs("an Option"),
        }
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        inner: &T,
    ) -> Checked {
        inner.serialize(self)
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Checked {
        match variant_of(self.node, index, variant)? {
            HoldsNode::Nothing => Ok(()),
            _ => differs("a variant without fields"),
        }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        index: u32,
        variant: &'static str,
        inner: &T,
    ) -> Checked {
        match variant_of(self.node, index, variant)? {
            HoldsNode::One(node) => value(inner, node),
            _ => differs("a variant of one value"),
        }
    }

    fn serialize_seq(self, _len: Option<usize>) -> Checked<Parts<'a>> {
        match self.node {
            Node::Seq(node) => Ok(Parts(PartsOf::Seq(node))),
            _ => differs("a sequence"),
        }
    }

    fn serialize_tuple(self, _len: usize) -> Checked<Parts<'a>> {
        match self.node {
            Node::Tuple(nodes) => Ok(Parts(PartsOf::Tuple(nodes.iter_mut()))),
            _ => differs("a tuple"),
        }
    }

    fn serialize_tuple_struct(self, _name: &'static str, len: usize) -> Checked<Parts<'a>> {
        self.serialize_tuple(len)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Checked<Parts<'a>> {
        match variant_of(self.node, index, variant)? {
            HoldsNode::Tuple(nodes) => Ok(Parts(PartsOf::Tuple(nodes.iter_mut()))),
            _ => differs("a variant of several values"),
        }
    }

    fn serialize_map(self, _len: Option<usize>) -> Checked<Parts<'a>> {
        match self.node {
            Node::Map(both) => Ok(Parts(PartsOf::Map(both))),
            _ => differs("a map (flatten?)"),
        }
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Checked<Parts<'a>> {
        match self.node {
            Node::Struct(named) => Ok(Parts(PartsOf::Struct { named, at: 0 })),
            _ => differs("a struct"),
        }
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Checked<Parts<'a>> {
        match variant_of(self.node, index, variant)? {
            HoldsNode::Struct(named) => Ok(Parts(PartsOf::Struct { named, at: 0 })),
            _ => differs("a variant with named fields"),
        }
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

fn variant_of<'n>(
    node: &'n mut Node,
    index: u32,
    name: &'static str,
) -> Checked<&'n mut HoldsNode> {
    let Node::Enum { variants, .. } = node else { return differs("an enum") };
    match variants.get_mut(index as usize) {
        Some(Some(variant)) => {
            variant.name = name;
            Ok(&mut variant.holds)
        }
        _ => Err(Refused(format!(
            "variant {name} is read by another index than it is written by (a skipped variant?), \
             which postcard cannot bring back; remove the attribute"
        ))),
    }
}

macro_rules! parts {
    ($($tr:ident $method:ident)*) => {$(
        impl ser::$tr for Parts<'_> {
            type Ok = ();
            type Error = Refused;

            fn $method<T: Serialize + ?Sized>(&mut self, part: &T) -> Checked {
                self.next(part)
            }

            fn end(self) -> Checked {
                self.done()
            }
        }
    )*};
}

parts! {
    SerializeSeq serialize_element
    SerializeTuple serialize_element
    SerializeTupleStruct serialize_field
    SerializeTupleVariant serialize_field
}

macro_rules! fields {
    ($($tr:ident)*) => {$(
        impl ser::$tr for Parts<'_> {
            type Ok = ();
            type Error = Refused;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                part: &T,
            ) -> Checked {
                self.field(name, part)
            }

            fn skip_field(&mut self, name: &'static str) -> Checked {
                skipped(name)
            }

            fn end(self) -> Checked {
                self.done()
            }
        }
    )*};
}

fields!(SerializeStruct SerializeStructVariant);

impl ser::SerializeMap for Parts<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Checked {
        match &mut self.0 {
            PartsOf::Map(both) => value(key, &mut both.0),
            _ => differs("a key"),
        }
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, part: &T) -> Checked {
        match &mut self.0 {
            PartsOf::Map(both) => value(part, &mut both.1),
            _ => differs("a value"),
        }
    }

    fn end(self) -> Checked {
        Ok(())
    }
}
