//! Whether a newer shape can read what an older one wrote.

use super::{Field, Holds, Int, Record, Shape};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How bytes of an old shape can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fit {
    /// As they stand.
    Fast,
    /// By field name.
    ByName,
}

impl Fit {
    fn and(self, other: Self) -> Self {
        if self == Self::Fast { other } else { self }
    }
}

/// Two shapes of which the newer cannot read the older.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{}{}was {old}, is {new}", .path, if .path.is_empty() { "" } else { ": " })]
pub struct Incompatible {
    /// The field, from the outside in; empty for the whole.
    pub path: String,
    /// Its type when it was written.
    pub old: String,
    /// Its type now.
    pub new: String,
}

impl Incompatible {
    /// A difference at `path`.
    pub fn new(path: &str, old: &str, new: &str) -> Self {
        Self { path: path.to_owned(), old: old.to_owned(), new: new.to_owned() }
    }

    /// The same difference, seen from one level further out.
    #[must_use]
    pub fn under(mut self, outer: &str) -> Self {
        self.path = match self.path.as_str() {
            "" => outer.to_owned(),
            inner => format!("{outer}.{inner}"),
        };
        self
    }
}

/// Whether, and how, bytes of shape `old` can be read as a type of shape `new`.
///
/// Allowed: fields reordered, removed, or added with a serde default; variants
/// reordered or added; integers and floats widened without loss; a value that
/// became optional. Names of types do not count, names of fields and variants do.
pub fn compatible(old: &Shape, new: &Shape) -> Result<Fit, Incompatible> {
    use Shape::{Enum, F32, F64, Map, Option, Seq, Struct, Tuple};
    match (old, new) {
        (Shape::Int(o), Shape::Int(n)) if o == n => Ok(Fit::Fast),
        (Shape::Int(o), Shape::Int(n)) if widens(*o, *n) => Ok(Fit::ByName),
        (F32, F64) => Ok(Fit::ByName),
        (Option(o), Option(n)) => compatible(o, n),
        (o, Option(n)) => compatible(o, n).map(|_| Fit::ByName),
        (Seq(o), Seq(n)) => compatible(o, n).map_err(|e| e.under("[]")),
        (Map(ok, ov), Map(nk, nv)) => {
            let keys = compatible(ok, nk).map_err(|e| e.under("{key}"))?;
            Ok(keys.and(compatible(ov, nv).map_err(|e| e.under("{value}"))?))
        }
        (Tuple(o), Tuple(n)) if o.len() == n.len() => tuples(o, n),
        (Struct(o), Struct(n)) => records(o, n),
        (Enum { variants: ovs, .. }, Enum { name, variants: nvs }) => {
            let mut fit = Fit::Fast;
            for (i, o) in ovs.iter().enumerate() {
                let at = nvs.iter().position(|n| n.name == o.name).ok_or_else(|| {
                    Incompatible::new(&o.name, "a variant", &format!("missing in enum {name}"))
                })?;
                let here = holds(&o.holds, &nvs[at].holds).map_err(|e| e.under(&o.name))?;
                fit = fit.and(here).and(if at == i { Fit::Fast } else { Fit::ByName });
            }
            Ok(fit)
        }
        (o, n) if o == n => Ok(Fit::Fast),
        (o, n) => Err(Incompatible::new("", &o.to_string(), &n.to_string())),
    }
}

fn widens(old: Int, new: Int) -> bool {
    new.bits > old.bits && (new.signed || !old.signed)
}

fn tuples(old: &[Shape], new: &[Shape]) -> Result<Fit, Incompatible> {
    old.iter().zip(new).enumerate().try_fold(Fit::Fast, |fit, (i, (o, n))| {
        Ok(fit.and(compatible(o, n).map_err(|e| e.under(&i.to_string()))?))
    })
}

fn records(old: &Record, new: &Record) -> Result<Fit, Incompatible> {
    let position = |fields: &[Field], name: &str| fields.iter().position(|f| f.name == name);
    let mut fit = if old.fields.len() == new.fields.len() { Fit::Fast } else { Fit::ByName };
    // Which field an alias stands for cannot be traced: it might be any that is
    // missing, so those are left for the reading to fill.
    let aliased = old.fields.iter().any(|f| new.aliases.contains(&f.name));
    for (i, field) in new.fields.iter().enumerate() {
        match position(&old.fields, &field.name) {
            Some(at) => {
                let here = compatible(&old.fields[at].shape, &field.shape);
                fit = fit.and(here.map_err(|e| e.under(&field.name))?);
                fit = fit.and(if at == i { Fit::Fast } else { Fit::ByName });
            }
            None if field.default || aliased => fit = Fit::ByName,
            None => {
                let new = format!("{} without a serde default", field.shape);
                return Err(Incompatible::new(&field.name, "missing", &new));
            }
        }
    }
    Ok(fit)
}

fn holds(old: &Holds, new: &Holds) -> Result<Fit, Incompatible> {
    match (old, new) {
        (Holds::Nothing, Holds::Nothing) => Ok(Fit::Fast),
        (Holds::One(o), Holds::One(n)) => compatible(o, n),
        (Holds::Tuple(o), Holds::Tuple(n)) if o.len() == n.len() => tuples(o, n),
        (Holds::Struct(o), Holds::Struct(n)) => records(o, n),
        (o, n) => Err(Incompatible::new("", &kind(o), &kind(n))),
    }
}

fn kind(holds: &Holds) -> String {
    match holds {
        Holds::Nothing => "a variant without fields".to_owned(),
        Holds::One(shape) => format!("a variant of one {shape}"),
        Holds::Tuple(shapes) => format!("a variant of {} values", shapes.len()),
        Holds::Struct(_) => "a variant with named fields".to_owned(),
    }
}
