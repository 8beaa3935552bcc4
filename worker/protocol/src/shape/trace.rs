//! Tracing: a type's `Deserialize` is run on made-up values until everything
//! it asks for has been seen, and its `Serialize` on what came out, which must
//! agree.

mod check;
mod make;
mod parts;

use super::{Field, Holds, Record, Shape, Variant};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// A type whose shape cannot be traced.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{type_name}: {reason}")]
pub struct ShapeError {
    /// The type that was traced.
    pub type_name: String,
    /// Why not, and what to do.
    pub reason: String,
}

/// What has been seen of a type so far.
#[derive(Debug, Default)]
enum Node {
    #[default]
    Unknown,
    Leaf(Shape),
    Option(Box<Node>),
    Seq(Box<Node>),
    Map(Box<(Node, Node)>),
    Tuple(Vec<Node>),
    Struct(Named),
    Enum {
        name: &'static str,
        variants: Vec<Option<VariantNode>>,
    },
}

#[derive(Debug)]
struct VariantNode {
    name: &'static str,
    holds: HoldsNode,
}

#[derive(Debug, Default)]
enum HoldsNode {
    #[default]
    Unknown,
    Nothing,
    One(Box<Node>),
    Tuple(Vec<Node>),
    Struct(Named),
}

#[derive(Debug, Default)]
struct Named {
    name: &'static str,
    /// All names that fields are read by.
    accepted: &'static [&'static str],
    /// The names that fields are written by, once known.
    written: Vec<&'static str>,
    fields: Vec<Node>,
    defaults: Vec<bool>,
    /// Which of the type's structs this is.
    id: usize,
}

/// Passes of tracing before it is given up.
const PASSES: usize = 2_000;
/// Kinds of made-up values that are tried on types that accept only some.
const GUESSES: usize = 8;

/// Traces the shape of a type.
///
/// Refused is what postcard cannot bring back, or what cannot be compared: flatten,
/// untagged and internally tagged enums, `skip_serializing_if`, recursive types.
pub fn trace<T: Serialize + DeserializeOwned>() -> Result<Shape, ShapeError> {
    let type_name = || std::any::type_name::<T>().to_owned();
    let refuse = |reason: String| ShapeError { type_name: type_name(), reason };
    let mut root = Node::default();
    let mut last = None;
    let mut guess = 0;
    for _ in 0..PASSES {
        let mut cx = make::Cx::new(guess);
        match make::value::<T>(&mut root, &mut cx) {
            Ok(value) => {
                check::value(&value, &mut root).map_err(|e| refuse(e.0))?;
                if root.complete() {
                    break;
                }
            }
            Err(_) if cx.refused.is_some() => {
                return Err(refuse(cx.refused.unwrap_or_default()));
            }
            // An enum's list of names may be longer than its variants.
            Err(_) if cx.beyond => {}
            Err(e) => {
                guess += 1;
                last = Some(e.0);
                if guess >= GUESSES {
                    break;
                }
            }
        }
    }
    if !root.complete() {
        let cause = last.unwrap_or_else(|| "it has too many parts".to_owned());
        let advice = "store a type with a plain derived Serialize and Deserialize instead";
        return Err(refuse(format!("its shape cannot be traced ({cause}); {advice}")));
    }
    // Once more with as little in it as can be: what is skipped then?
    let mut cx = make::Cx::new(guess);
    cx.empty = true;
    if let Ok(value) = make::value::<T>(&mut root, &mut cx) {
        check::value(&value, &mut root).map_err(|e| refuse(e.0))?;
    }
    let mut structs = Vec::new();
    root.number(&mut structs);
    for (id, fields) in structs.into_iter().enumerate() {
        for field in 0..fields {
            let mut cx = make::Cx::new(guess);
            cx.omit = Some((id, field));
            let default = make::value::<T>(&mut root, &mut cx).is_ok() && cx.omitted;
            root.set_default(id, field, default);
        }
    }
    Ok(root.shape())
}

impl Node {
    fn complete(&self) -> bool {
        match self {
            Self::Unknown => false,
            Self::Leaf(_) => true,
            Self::Option(inner) | Self::Seq(inner) => inner.complete(),
            Self::Map(both) => both.0.complete() && both.1.complete(),
            Self::Tuple(items) => items.iter().all(Self::complete),
            Self::Struct(named) => named.complete(),
            Self::Enum { variants, .. } => {
                variants.iter().all(|v| v.as_ref().is_some_and(|v| v.holds.complete()))
            }
        }
    }

    /// Calls `f` with every struct in it, from the outside in.
    fn structs(&mut self, f: &mut dyn FnMut(&mut Named)) {
        match self {
            Self::Unknown | Self::Leaf(_) => {}
            Self::Option(inner) | Self::Seq(inner) => inner.structs(f),
            Self::Map(both) => {
                both.0.structs(f);
                both.1.structs(f);
            }
            Self::Tuple(items) => items.iter_mut().for_each(|n| n.structs(f)),
            Self::Struct(named) => named.structs(f),
            Self::Enum { variants, .. } => {
                variants.iter_mut().flatten().for_each(|v| v.holds.structs(f));
            }
        }
    }

    fn number(&mut self, counts: &mut Vec<usize>) {
        self.structs(&mut |named| {
            named.id = counts.len();
            named.defaults = vec![false; named.fields.len()];
            counts.push(named.fields.len());
        });
    }

    fn set_default(&mut self, id: usize, field: usize, default: bool) {
        self.structs(&mut |named| {
            if named.id == id
                && let Some(known) = named.defaults.get_mut(field)
            {
                *known = default;
            }
        });
    }

    fn contains(&mut self, id: usize) -> bool {
        let mut found = false;
        self.structs(&mut |named| found |= named.id == id);
        found
    }

    fn shape(&self) -> Shape {
        let boxed = |node: &Self| Box::new(node.shape());
        match self {
            Self::Unknown => Shape::Unit,
            Self::Leaf(shape) => shape.clone(),
            Self::Option(inner) => Shape::Option(boxed(inner)),
            Self::Seq(inner) => Shape::Seq(boxed(inner)),
            Self::Map(both) => Shape::Map(boxed(&both.0), boxed(&both.1)),
            Self::Tuple(items) => Shape::Tuple(items.iter().map(Self::shape).collect()),
            Self::Struct(named) => Shape::Struct(named.record()),
            Self::Enum { name, variants } => {
                let variants = variants.iter().flatten().map(|v| Variant {
                    name: v.name.to_owned(),
                    holds: match &v.holds {
                        HoldsNode::Unknown | HoldsNode::Nothing => Holds::Nothing,
                        HoldsNode::One(inner) => Holds::One(boxed(inner)),
                        HoldsNode::Tuple(items) => {
                            Holds::Tuple(items.iter().map(Self::shape).collect())
                        }
                        HoldsNode::Struct(named) => Holds::Struct(named.record()),
                    },
                });
                Shape::Enum { name: (*name).to_owned(), variants: variants.collect() }
            }
        }
    }
}

impl HoldsNode {
    fn complete(&self) -> bool {
        match self {
            Self::Unknown => false,
            Self::Nothing => true,
            Self::One(inner) => inner.complete(),
            Self::Tuple(items) => items.iter().all(Node::complete),
            Self::Struct(named) => named.complete(),
        }
    }

    fn structs(&mut self, f: &mut dyn FnMut(&mut Named)) {
        match self {
            Self::Unknown | Self::Nothing => {}
            Self::One(inner) => inner.structs(f),
            Self::Tuple(items) => items.iter_mut().for_each(|n| n.structs(f)),
            Self::Struct(named) => named.structs(f),
        }
    }
}

impl Named {
    fn new(name: &'static str, accepted: &'static [&'static str]) -> Self {
        Self { name, accepted, ..Self::default() }
    }

    fn complete(&self) -> bool {
        self.written.len() == self.fields.len() && self.fields.iter().all(Node::complete)
    }

    fn structs(&mut self, f: &mut dyn FnMut(&mut Named)) {
        f(self);
        self.fields.iter_mut().for_each(|n| n.structs(f));
    }

    fn record(&self) -> Record {
        let fields = self.fields.iter().zip(&self.written).enumerate();
        let fields = fields.map(|(i, (node, name))| Field {
            name: (*name).to_owned(),
            shape: node.shape(),
            default: self.defaults.get(i).copied().unwrap_or(false),
        });
        let aliases = self.accepted.iter().filter(|a| !self.written.contains(a));
        Record {
            name: self.name.to_owned(),
            fields: fields.collect(),
            aliases: aliases.map(|a| (*a).to_owned()).collect(),
        }
    }
}
