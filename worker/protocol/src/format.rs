//! Errors of persisted records: every record carries a format version and is
//! checked before it is believed.

use thiserror::Error;

/// Why a stored record cannot be read. Each names the object.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FormatError {
    /// Written by a newer version of Millrace.
    #[error(
        "{object} has format {found}, and this program reads formats up to {known}: \
         run the version that wrote it, or a newer one"
    )]
    Newer {
        /// Key or path of the object.
        object: String,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// Truncated, corrupt or not such a record at all.
    #[error(
        "{object} is damaged ({why}): put it back from a copy, or start from another \
         checkpoint or savepoint"
    )]
    Damaged {
        /// Key or path of the object.
        object: String,
        /// What does not fit.
        why: String,
    },
}

impl FormatError {
    /// A damaged object.
    pub fn damaged(object: &str, why: impl Into<String>) -> Self {
        Self::Damaged { object: object.to_owned(), why: why.into() }
    }
}
