//! Derives for Millrace's traits: `Key` and `State`.
//!
//! Paths go through the crate `millrace`, the only one a program depends on.
//! Inside of Millrace's own crates, name the module that has the traits:
//! `#[key(crate = "millrace_protocol::key")]`, `#[state(crate = "crate::state")]`.

mod key;
mod state;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Derives `Key` for a struct or enum whose fields are keys.
///
/// The bytes of a key are those of its fields in order; a struct of one field
/// is as its field. An enum's variants are numbered as they are declared, so new
/// ones go to the end. The type must also be `Clone`, `Eq`, `Serialize` and
/// `Deserialize`.
#[proc_macro_derive(Key, attributes(key))]
pub fn derive_key(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    key::derive(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Derives `State` for a struct with named fields, each a state type.
///
/// `#[state(ttl = "90m")]` gives the row a time to live (`ms`, `s`, `m`, `h`, `d`),
/// renewed by writes; `#[state(ttl = "90m", refresh = "read")]` by reads too. The
/// struct must also be `Default`.
#[proc_macro_derive(State, attributes(state))]
pub fn derive_state(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    state::derive(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// The module that has the traits.
fn module(path: Option<syn::Path>) -> syn::Path {
    path.unwrap_or_else(|| syn::parse_quote!(::millrace::__private))
}
