//! `#[derive(State)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Fields, LitStr, Path, Result};

pub fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let attributes = attributes(input)?;
    let module = crate::module(attributes.path);
    let name = &input.ident;
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(name, "State is a struct, whose fields are state types"));
    };
    let fields = match &data.fields {
        Fields::Named(fields) => fields.named.iter().filter_map(|f| f.ident.as_ref()).collect(),
        Fields::Unit => Vec::new(),
        Fields::Unnamed(_) => {
            let why = "State has named fields: their names identify them in checkpoints";
            return Err(Error::new_spanned(name, why));
        }
    };
    let names: Vec<String> = fields.iter().map(|f| f.to_string()).collect();
    let ttl = attributes.ttl_ms.map(|ms| {
        let refresh = if attributes.on_read { quote!(OnReadAndWrite) } else { quote!(OnWrite) };
        quote! {
            const TTL: ::std::option::Option<#module::Ttl> = ::std::option::Option::Some(
                #module::Ttl {
                    after: ::std::time::Duration::from_millis(#ms),
                    refresh: #module::TtlRefresh::#refresh,
                }
            );
        }
    });
    let (impls, types, bounds) = input.generics.split_for_impl();
    let result = quote!(
        ::std::result::Result<
            (),
            ::std::boxed::Box<
                dyn ::std::error::Error + ::std::marker::Send + ::std::marker::Sync
            >
        >
    );
    Ok(quote! {
        #[automatically_derived]
        impl #impls #module::State for #name #types #bounds {
            #ttl
            #[inline]
            fn visit<__V: #module::Visit>(&self, visitor: &mut __V) -> #result {
                let _ = &visitor;
                #(visitor.field(#names, &self.#fields)?;)*
                ::std::result::Result::Ok(())
            }
            #[inline]
            fn visit_mut<__V: #module::VisitMut>(&mut self, visitor: &mut __V) -> #result {
                let _ = &visitor;
                #(visitor.field(#names, &mut self.#fields)?;)*
                ::std::result::Result::Ok(())
            }
        }
    })
}

#[derive(Default)]
struct Attributes {
    path: Option<Path>,
    ttl_ms: Option<u64>,
    on_read: bool,
}

fn attributes(input: &DeriveInput) -> Result<Attributes> {
    let mut found = Attributes::default();
    for attribute in input.attrs.iter().filter(|a| a.path().is_ident("state")) {
        attribute.parse_nested_meta(|meta| {
            let text: LitStr = meta.value()?.parse()?;
            if meta.path.is_ident("crate") {
                found.path = Some(text.parse()?);
            } else if meta.path.is_ident("ttl") {
                let bad = || Error::new_spanned(&text, "a duration such as \"90s\" or \"7d\"");
                found.ttl_ms = Some(millis(&text.value()).ok_or_else(bad)?);
            } else if meta.path.is_ident("refresh") {
                found.on_read = match text.value().as_str() {
                    "read" => true,
                    "write" => false,
                    _ => return Err(Error::new_spanned(&text, "\"write\" or \"read\"")),
                };
            } else {
                return Err(meta.error("there are `ttl`, `refresh` and `crate`"));
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// Milliseconds of a duration such as `90s`.
fn millis(text: &str) -> Option<u64> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let factor = match &text[unit..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    text[..unit].parse::<u64>().ok()?.checked_mul(factor).filter(|ms| *ms > 0)
}
