//! Values outside tables: items of list states, positions of splits, committables of
//! sinks. Their shape stands beside them, once for all, so that they evolve as rows of
//! a table do. Pure.

use super::delta::StateSchema;
use super::row::{Plain, Row, RowReader};
use crate::data::{Data, Fail, Res};
use millrace_protocol::manifest::ShapeBytes;
use millrace_protocol::shape::{self, ShapeError};
use std::marker::PhantomData;

/// The shape of a type, in the form in which manifests hold those of keyed states too.
pub fn shape_of<T: Data>() -> Result<ShapeBytes, ShapeError> {
    let schema =
        StateSchema { key: shape::trace::<()>()?, row: Plain::<T>::shape()?, panes: false };
    Ok(ShapeBytes(serde_json::to_vec(&schema).unwrap_or_default()))
}

/// Reads values of one stored shape as `T`.
pub struct ValueReader<T> {
    reader: RowReader,
    _value: PhantomData<fn() -> T>,
}

impl<T: Data> ValueReader<T> {
    /// For values of shape `stored`. Without one, they are taken for this program's own.
    pub fn new(stored: &ShapeBytes) -> Res<Self> {
        let own = stored.0.is_empty() || shape_of::<T>().is_ok_and(|own| own == *stored);
        let reader = if own {
            RowReader::same()
        } else {
            let old: StateSchema = serde_json::from_slice(&stored.0)
                .map_err(|e| Fail::from(format!("its shape is not readable: {e}")))?;
            RowReader::new(&old.row, &Plain::<T>::shape()?)?
        };
        Ok(Self { reader, _value: PhantomData })
    }

    /// Reads a value that is all of `bytes`.
    pub fn read(&self, bytes: &[u8]) -> Res<T> {
        let mut rest = bytes;
        let value = Plain::<T>::read(&mut rest, &self.reader)?.0;
        if rest.is_empty() { Ok(value) } else { Err("bytes are left over".into()) }
    }

    /// Reads many.
    pub fn read_all(&self, items: &[Vec<u8>]) -> Res<Vec<T>> {
        items.iter().map(|bytes| self.read(bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Old {
        file: String,
        offset: u32,
        gone: bool,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New {
        offset: u64,
        file: String,
        #[serde(default)]
        rows: u64,
    }

    #[test]
    fn values_are_read_by_name_where_their_type_has_changed() {
        let old = Old { file: "a".to_owned(), offset: 7, gone: true };
        let bytes = postcard::to_stdvec(&old).unwrap();
        let shape = shape_of::<Old>().unwrap();
        assert_eq!(ValueReader::<Old>::new(&shape).unwrap().read(&bytes).unwrap(), old);
        let new = ValueReader::<New>::new(&shape).unwrap().read(&bytes).unwrap();
        assert_eq!(new, New { offset: 7, file: "a".to_owned(), rows: 0 });
        assert!(ValueReader::<(u8,)>::new(&shape).is_err());
        assert!(ValueReader::<u8>::new(&ShapeBytes::default()).unwrap().read(&[1, 2]).is_err());
    }
}
