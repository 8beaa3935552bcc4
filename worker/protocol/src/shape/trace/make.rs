//! The deserializer that makes values up and notes what was asked for.

use super::super::{Int, Shape};
use super::parts::{Choice, Each, Repeat, RepeatPairs, record};
use super::{Named, Node};
use serde::de::{self, DeserializeOwned, Visitor};

/// Why a value could not be made.
#[derive(Debug)]
pub(super) struct Stop(pub String);

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

pub(super) type Made<T> = Result<T, Stop>;

/// One pass.
pub(super) struct Cx {
    guess: usize,
    /// A construct that is refused, found in this pass.
    pub refused: Option<String>,
    /// A variant was asked for that is not there.
    pub beyond: bool,
    /// Make everything as empty as can be.
    pub empty: bool,
    /// Leave out this field of this struct.
    pub omit: Option<(usize, usize)>,
    /// It was left out.
    pub omitted: bool,
    /// Structs and enums around the place: a type among them too often is recursive.
    path: Vec<(&'static str, *const &'static str)>,
    depth: usize,
    made: usize,
}

/// How often a type may stand within itself: generics may, a few times.
const NESTED: usize = 6;
const DEPTH: usize = 100;
const PARTS: usize = 20_000;

impl Cx {
    pub fn new(guess: usize) -> Self {
        Self {
            guess,
            refused: None,
            beyond: false,
            empty: false,
            omit: None,
            omitted: false,
            path: Vec::new(),
            depth: 0,
            made: 0,
        }
    }

    fn refuse<T>(&mut self, reason: &str) -> Made<T> {
        self.refused.get_or_insert_with(|| reason.to_owned());
        Err(Stop(reason.to_owned()))
    }

    fn enter(&mut self) -> Made<()> {
        (self.depth, self.made) = (self.depth + 1, self.made + 1);
        if self.depth > DEPTH || self.made > PARTS {
            return self.refuse("it is recursive or too large for state; box it into bytes");
        }
        Ok(())
    }

    fn enter_type(&mut self, name: &'static str, names: &'static [&'static str]) -> Made<()> {
        let this = (name, names.as_ptr());
        if self.path.iter().filter(|t| **t == this).count() >= NESTED {
            let reason = format!("{name} is recursive, which state cannot be; keep ids instead");
            return self.refuse(&reason);
        }
        self.path.push(this);
        Ok(())
    }

    /// Whether to go into an optional part.
    fn wants(&self, node: &mut Node) -> bool {
        match self.omit {
            Some((id, _)) => node.contains(id),
            None if self.empty => false,
            None => !node.complete() || self.guess % 2 == 1,
        }
    }

    fn int(&self) -> u8 {
        if self.empty { 0 } else { [1, 0, 2, 10][self.guess % 4] }
    }

    fn text(&self) -> &'static str {
        const TEXTS: [&str; super::GUESSES] = [
            "",
            "a",
            "1",
            "1970-01-01T00:00:00Z",
            "1970-01-01",
            "00000000-0000-0000-0000-000000000000",
            "00:00:00",
            "127.0.0.1",
        ];
        if self.empty && self.guess == 0 { "" } else { TEXTS[self.guess % TEXTS.len()] }
    }
}

/// Makes a value of a type, and adds to `node` what it asked for.
pub(super) fn value<T: DeserializeOwned>(node: &mut Node, cx: &mut Cx) -> Made<T> {
    T::deserialize(Maker { node, cx })
}

pub(super) struct Maker<'a> {
    pub node: &'a mut Node,
    pub cx: &'a mut Cx,
}

const FLATTEN: &str =
    "it asks for fields by name (flatten?), which postcard cannot bring back; write them out";

macro_rules! ints {
    ($($method:ident $visit:ident $signed:literal $bits:literal)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Made<V::Value> {
            *self.node = Node::Leaf(Shape::Int(Int { signed: $signed, bits: $bits }));
            visitor.$visit(self.cx.int() as _)
        }
    )*};
}

macro_rules! leaves {
    ($($method:ident $shape:ident |$cx:ident, $visitor:ident| $visit:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $visitor: V) -> Made<V::Value> {
            *self.node = Node::Leaf(Shape::$shape);
            let $cx = self.cx;
            $visit
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Maker<'_> {
    type Error = Stop;

    ints! {
        deserialize_i8 visit_i8 true 8
        deserialize_i16 visit_i16 true 16
        deserialize_i32 visit_i32 true 32
        deserialize_i64 visit_i64 true 64
        deserialize_i128 visit_i128 true 128
        deserialize_u8 visit_u8 false 8
        deserialize_u16 visit_u16 false 16
        deserialize_u32 visit_u32 false 32
        deserialize_u64 visit_u64 false 64
        deserialize_u128 visit_u128 false 128
    }

    leaves! {
        deserialize_bool Bool |cx, v| v.visit_bool(!cx.empty);
        deserialize_f32 F32 |cx, v| v.visit_f32(cx.int().into());
        deserialize_f64 F64 |cx, v| v.visit_f64(cx.int().into());
        deserialize_char Char |cx, v| v.visit_char(if cx.empty { '\0' } else { 'a' });
        deserialize_str Str |cx, v| v.visit_str(cx.text());
        deserialize_string Str |cx, v| v.visit_str(cx.text());
        deserialize_bytes Bytes |cx, v| v.visit_bytes(&[0; 16][..[0, 16, 4, 8][cx.guess % 4]]);
        deserialize_byte_buf Bytes |cx, v| v.visit_bytes(&[0; 16][..[0, 16, 4, 8][cx.guess % 4]]);
        deserialize_unit Unit |_cx, v| v.visit_unit();
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Made<V::Value> {
        self.cx.refuse(
            "it asks what stands in the bytes (an untagged or internally tagged enum, flatten, or \
             a value of any type), which postcard does not say; use a plain enum",
        )
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Made<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _visitor: V) -> Made<V::Value> {
        self.cx.refuse(FLATTEN)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Made<V::Value> {
        self.cx.enter()?;
        if !matches!(self.node, Node::Option(_)) {
            *self.node = Node::Option(Box::default());
        }
        let Node::Option(inner) = self.node else { return visitor.visit_none() };
        if !self.cx.wants(inner) {
            self.cx.depth -= 1;
            return visitor.visit_none();
        }
        let made = visitor.visit_some(Maker { node: inner, cx: self.cx });
        self.cx.depth -= 1;
        made
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Made<V::Value> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Made<V::Value> {
        self.cx.enter()?;
        self.cx.enter_type(name, &[])?;
        let made = visitor.visit_newtype_struct(Maker { node: self.node, cx: &mut *self.cx });
        self.cx.path.pop();
        self.cx.depth -= 1;
        made
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Made<V::Value> {
        self.cx.enter()?;
        if !matches!(self.node, Node::Seq(_)) {
            *self.node = Node::Seq(Box::default());
        }
        let Node::Seq(inner) = self.node else { return Err(Stop(String::new())) };
        let left = usize::from(self.cx.wants(inner));
        let made = visitor.visit_seq(Repeat { node: inner, cx: self.cx, left });
        self.cx.depth -= 1;
        made
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Made<V::Value> {
        self.cx.enter()?;
        if !matches!(self.node, Node::Tuple(_)) {
            if len > PARTS {
                return self.cx.refuse("it is an array too large for state");
            }
            *self.node = Node::Tuple((0..len).map(|_| Node::Unknown).collect());
        }
        let Node::Tuple(nodes) = self.node else { return Err(Stop(String::new())) };
        let made = visitor.visit_seq(Each { nodes: nodes.iter_mut(), cx: self.cx });
        self.cx.depth -= 1;
        made
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Made<V::Value> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Made<V::Value> {
        self.cx.enter()?;
        if !matches!(self.node, Node::Map(_)) {
            *self.node = Node::Map(Box::default());
        }
        let Node::Map(both) = self.node else { return Err(Stop(String::new())) };
        let left = usize::from(self.cx.wants(&mut both.0) || self.cx.wants(&mut both.1));
        let made = visitor.visit_map(RepeatPairs { both, cx: self.cx, left });
        self.cx.depth -= 1;
        made
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Made<V::Value> {
        self.cx.enter()?;
        self.cx.enter_type(name, fields)?;
        if !matches!(self.node, Node::Struct(_)) {
            *self.node = Node::Struct(Named::new(name, fields));
        }
        let Node::Struct(named) = self.node else { return Err(Stop(String::new())) };
        let made = record(named, self.cx, visitor);
        self.cx.path.pop();
        self.cx.depth -= 1;
        made
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Made<V::Value> {
        self.cx.enter()?;
        self.cx.enter_type(name, names)?;
        if !matches!(self.node, Node::Enum { .. }) {
            let variants = names.iter().map(|_| None).collect();
            *self.node = Node::Enum { name, variants };
        }
        let Node::Enum { variants, .. } = self.node else { return Err(Stop(String::new())) };
        if variants.is_empty() {
            return self.cx.refuse("an enum without variants has no values");
        }
        let incomplete =
            variants.iter().position(|v| v.as_ref().is_none_or(|v| !v.holds.complete()));
        let at = match self.cx.omit {
            Some((id, _)) => variants.iter_mut().flatten().position(|v| {
                let mut found = false;
                v.holds.structs(&mut |named| found |= named.id == id);
                found
            }),
            None => incomplete,
        };
        let at = at.unwrap_or(0);
        let made = visitor.visit_enum(Choice { variants, at, name: names[at], cx: self.cx });
        self.cx.path.pop();
        self.cx.depth -= 1;
        made
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}
