//! Types of state as a user would write them, with what is in structs and enums. Pure.

use millrace_engine::state::RowShape;
use millrace_engine::state::delta::StateSchema;
use millrace_engine::state::row::FieldKind;
use millrace_protocol::manifest::ShapeBytes;
use millrace_protocol::shape::{Holds, Record, Shape};

/// Deeper than this a type is only named.
const DEPTH: usize = 6;

/// The types of a keyed state.
pub struct Types {
    /// Of its keys.
    pub key: String,
    /// Of its rows.
    pub row: String,
    /// Whether it has a table per window.
    pub panes: bool,
}

/// The types that a manifest's bytes describe; `None` if they describe none.
pub fn types(shape: &ShapeBytes) -> Option<Types> {
    let schema: StateSchema = serde_json::from_slice(&shape.0).ok()?;
    Some(of_schema(&schema))
}

/// The types of a schema.
pub fn of_schema(schema: &StateSchema) -> Types {
    let row = match &schema.row {
        RowShape::Plain(shape) => text(shape, 0),
        RowShape::Fields { expires, fields } => {
            let fields = fields.iter().map(|field| {
                let value = text(&field.value, 0);
                let ty = match (field.kind, &field.key) {
                    (FieldKind::Value, _) => format!("value {value}"),
                    (FieldKind::List, _) => format!("list of {value}"),
                    (FieldKind::Map, Some(key)) => format!("map {} -> {value}", text(key, 0)),
                    (FieldKind::Map, None) => format!("map -> {value}"),
                };
                format!("{}: {ty}", field.name)
            });
            let fields = fields.collect::<Vec<_>>().join(", ");
            let expires = if *expires { " (with a time to live)" } else { "" };
            format!("{{ {fields} }}{expires}")
        }
    };
    Types { key: text(&schema.key, 0), row, panes: schema.panes }
}

fn text(shape: &Shape, depth: usize) -> String {
    if depth > DEPTH {
        return shape.to_string();
    }
    let inner = |shape: &Shape| text(shape, depth + 1);
    match shape {
        Shape::Option(of) => format!("Option<{}>", inner(of)),
        Shape::Seq(of) => format!("Vec<{}>", inner(of)),
        Shape::Map(key, value) => format!("Map<{}, {}>", inner(key), inner(value)),
        Shape::Tuple(items) => tuple(items, depth),
        Shape::Struct(of) => format!("{} {}", of.name, record(of, depth)),
        Shape::Enum { name, variants } => {
            let variants = variants.iter().map(|variant| match &variant.holds {
                Holds::Nothing => variant.name.clone(),
                Holds::One(of) => format!("{}({})", variant.name, inner(of)),
                Holds::Tuple(items) => format!("{}{}", variant.name, tuple(items, depth)),
                Holds::Struct(of) => format!("{} {}", variant.name, record(of, depth)),
            });
            format!("{name} {{ {} }}", variants.collect::<Vec<_>>().join(" | "))
        }
        simple => simple.to_string(),
    }
}

fn tuple(items: &[Shape], depth: usize) -> String {
    let texts: Vec<_> = items.iter().map(|item| text(item, depth + 1)).collect();
    let comma = if items.len() == 1 { "," } else { "" };
    format!("({}{comma})", texts.join(", "))
}

fn record(record: &Record, depth: usize) -> String {
    let fields = record.fields.iter().map(|field| {
        let default = if field.default { " = default" } else { "" };
        format!("{}: {}{default}", field.name, text(&field.shape, depth + 1))
    });
    format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_protocol::shape::trace;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize, Default)]
    struct Sum {
        flights: u64,
        #[serde(default)]
        longest: Option<i64>,
        by: Kind,
    }

    #[derive(Serialize, Deserialize, Default)]
    enum Kind {
        #[default]
        None,
        Some(u8),
    }

    #[test]
    fn types_are_shown_with_their_fields() {
        let shape = trace::<(String, Sum)>().unwrap();
        assert_eq!(
            text(&shape, 0),
            "(String, Sum { flights: u64, longest: Option<i64> = default, \
             by: Kind { None | Some(u8) } })"
        );
    }
}
