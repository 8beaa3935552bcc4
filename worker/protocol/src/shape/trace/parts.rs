//! The parts of made-up values: elements, fields, entries, variants.

use super::make::{Cx, Made, Maker, Stop};
use super::{HoldsNode, Named, Node, VariantNode};
use serde::de::value::{StrDeserializer, U32Deserializer};
use serde::de::{
    DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// Fields in order, or by name with one left out.
pub(super) fn record<'de, V: Visitor<'de>>(
    named: &mut Named,
    cx: &mut Cx,
    visitor: V,
) -> Made<V::Value> {
    match cx.omit {
        Some((id, omitted)) if named.id == id => {
            cx.omitted = true;
            // What is inside of the fields is not left out.
            cx.omit = Some((usize::MAX, 0));
            let names = named.written.iter().zip(&mut named.fields).enumerate();
            let left: Vec<_> =
                names.filter(|(i, _)| *i != omitted).map(|(_, field)| field).collect();
            visitor.visit_map(ByName { left: left.into_iter(), value: None, cx })
        }
        _ => visitor.visit_seq(Fields { named, cx, at: 0 }),
    }
}

pub(super) struct Repeat<'a> {
    pub node: &'a mut Node,
    pub cx: &'a mut Cx,
    pub left: usize,
}

impl<'de> SeqAccess<'de> for Repeat<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Made<Option<T::Value>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(Maker { node: self.node, cx: self.cx }).map(Some)
    }
}

pub(super) struct Each<'a> {
    pub nodes: std::slice::IterMut<'a, Node>,
    pub cx: &'a mut Cx,
}

impl<'de> SeqAccess<'de> for Each<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Made<Option<T::Value>> {
        let Some(node) = self.nodes.next() else { return Ok(None) };
        seed.deserialize(Maker { node, cx: self.cx }).map(Some)
    }
}

pub(super) struct Fields<'a> {
    pub named: &'a mut Named,
    pub cx: &'a mut Cx,
    pub at: usize,
}

impl<'de> SeqAccess<'de> for Fields<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Made<Option<T::Value>> {
        if self.at == self.named.accepted.len() {
            return Ok(None);
        }
        if self.at == self.named.fields.len() {
            self.named.fields.push(Node::Unknown);
        }
        let node = &mut self.named.fields[self.at];
        self.at += 1;
        seed.deserialize(Maker { node, cx: self.cx }).map(Some)
    }
}

pub(super) struct ByName<'a, I> {
    pub left: I,
    pub value: Option<&'a mut Node>,
    pub cx: &'a mut Cx,
}

impl<'de, 'a, I> MapAccess<'de> for ByName<'a, I>
where
    I: Iterator<Item = (&'a &'static str, &'a mut Node)>,
{
    type Error = Stop;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Made<Option<T::Value>> {
        let Some((name, node)) = self.left.next() else { return Ok(None) };
        self.value = Some(node);
        let name: StrDeserializer<'_, Stop> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Made<T::Value> {
        let node = self.value.take().ok_or_else(|| Stop("a value before its key".to_owned()))?;
        seed.deserialize(Maker { node, cx: self.cx })
    }
}

pub(super) struct RepeatPairs<'a> {
    pub both: &'a mut (Node, Node),
    pub cx: &'a mut Cx,
    pub left: usize,
}

impl<'de> MapAccess<'de> for RepeatPairs<'_> {
    type Error = Stop;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Made<Option<T::Value>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(Maker { node: &mut self.both.0, cx: self.cx }).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Made<T::Value> {
        seed.deserialize(Maker { node: &mut self.both.1, cx: self.cx })
    }
}

pub(super) struct Choice<'a> {
    pub variants: &'a mut Vec<Option<VariantNode>>,
    pub at: usize,
    pub name: &'static str,
    pub cx: &'a mut Cx,
}

impl<'de, 'a> EnumAccess<'de> for Choice<'a> {
    type Error = Stop;
    type Variant = Inside<'a>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Made<(T::Value, Inside<'a>)> {
        let index: U32Deserializer<Stop> = (self.at as u32).into_deserializer();
        let variant = match seed.deserialize(index) {
            Ok(variant) => variant,
            Err(e) if self.at > 0 => {
                // The names went on (with aliases), the variants do not.
                self.variants.truncate(self.at);
                self.cx.beyond = true;
                return Err(e);
            }
            Err(e) => return Err(e),
        };
        let fresh = || VariantNode { name: self.name, holds: HoldsNode::Unknown };
        let node = self.variants[self.at].get_or_insert_with(fresh);
        Ok((variant, Inside { holds: &mut node.holds, cx: self.cx, name: self.name }))
    }
}

pub(super) struct Inside<'a> {
    pub holds: &'a mut HoldsNode,
    pub cx: &'a mut Cx,
    pub name: &'static str,
}

impl<'de> VariantAccess<'de> for Inside<'_> {
    type Error = Stop;

    fn unit_variant(self) -> Made<()> {
        *self.holds = HoldsNode::Nothing;
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Made<T::Value> {
        if !matches!(self.holds, HoldsNode::One(_)) {
            *self.holds = HoldsNode::One(Box::default());
        }
        let HoldsNode::One(node) = self.holds else { return Err(Stop(String::new())) };
        seed.deserialize(Maker { node, cx: self.cx })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Made<V::Value> {
        if !matches!(self.holds, HoldsNode::Tuple(_)) {
            *self.holds = HoldsNode::Tuple((0..len).map(|_| Node::Unknown).collect());
        }
        let HoldsNode::Tuple(nodes) = self.holds else { return Err(Stop(String::new())) };
        visitor.visit_seq(Each { nodes: nodes.iter_mut(), cx: self.cx })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Made<V::Value> {
        if !matches!(self.holds, HoldsNode::Struct(_)) {
            *self.holds = HoldsNode::Struct(Named::new(self.name, fields));
        }
        let HoldsNode::Struct(named) = self.holds else { return Err(Stop(String::new())) };
        record(named, self.cx, visitor)
    }
}
