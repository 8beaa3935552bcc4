//! `#[derive(Key)]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Error, Fields, Ident, LitStr, Path, Result};

pub fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let module = crate::module(attributes(input)?);
    let name = &input.ident;
    let mut generics = input.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(syn::parse_quote!(#module::Key));
    }
    let (impls, types, bounds) = generics.split_for_impl();
    let touch = touch(&input.data, &module);
    let (hash, write, read) = match &input.data {
        Data::Struct(data) => of_struct(&data.fields, &module),
        Data::Enum(data) if data.variants.is_empty() => {
            return Err(Error::new_spanned(name, "an enum without variants cannot be a key"));
        }
        Data::Enum(data) if data.variants.len() > 256 => {
            return Err(Error::new_spanned(name, "an enum key has at most 256 variants"));
        }
        Data::Enum(data) => of_enum(name, data, &module),
        Data::Union(_) => return Err(Error::new_spanned(name, "a union cannot be a key")),
    };
    Ok(quote! {
        #[automatically_derived]
        impl #impls #module::Key for #name #types #bounds {
            #[inline]
            fn hash64(&self) -> u64 { #hash }
            fn write(&self, out: &mut ::std::vec::Vec<u8>) { #write }
            fn read(bytes: &mut &[u8]) -> ::std::result::Result<Self, #module::BadKey> { #read }
            #[inline]
            fn touch(&self) -> u8 { #touch }
        }
    })
}

/// What is compared first: a struct's first field. Of an enum nothing is said.
fn touch(data: &Data, module: &Path) -> TokenStream {
    match data {
        Data::Struct(data) => match data.fields.members().next() {
            Some(first) => quote!(#module::Key::touch(&self.#first)),
            None => quote!(0),
        },
        _ => quote!(0),
    }
}

fn attributes(input: &DeriveInput) -> Result<Option<Path>> {
    let mut path = None;
    for attribute in input.attrs.iter().filter(|a| a.path().is_ident("key")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("crate") {
                return Err(meta.error("there is only `crate = \"...\"`"));
            }
            path = Some(meta.value()?.parse::<LitStr>()?.parse()?);
            Ok(())
        })?;
    }
    Ok(path)
}

type Bodies = (TokenStream, TokenStream, TokenStream);

/// Names for a pattern, and the pattern itself after the type's path.
fn pattern(fields: &Fields) -> (Vec<Ident>, TokenStream) {
    let names: Vec<Ident> = (0..fields.len()).map(|i| format_ident!("f{i}")).collect();
    let pattern = match fields {
        Fields::Unit => quote!(),
        Fields::Unnamed(_) => quote!((#(#names),*)),
        Fields::Named(named) => {
            let fields = named.named.iter().map(|f| &f.ident);
            quote!({ #(#fields: #names),* })
        }
    };
    (names, pattern)
}

fn of_struct(fields: &Fields, module: &Path) -> Bodies {
    let (names, pattern) = pattern(fields);
    let types = fields.iter().map(|f| &f.ty);
    let hash = match names.as_slice() {
        // A newtype is as what it holds.
        [one] => quote!(#module::Key::hash64(#one)),
        _ => combined(&names, module),
    };
    (
        quote!(let Self #pattern = self; #hash),
        quote!(let Self #pattern = self; let _ = &out; #(#module::Key::write(#names, out);)*),
        quote! {
            let _ = &bytes;
            #(let #names = <#types as #module::Key>::read(bytes)?;)*
            ::std::result::Result::Ok(Self #pattern)
        },
    )
}

fn combined(names: &[Ident], module: &Path) -> TokenStream {
    quote! {
        let hash = #module::HASH_SEED;
        #(let hash = #module::combine(hash, #module::Key::hash64(#names));)*
        hash
    }
}

fn of_enum(name: &Ident, data: &syn::DataEnum, module: &Path) -> Bodies {
    let mut arms = (Vec::new(), Vec::new(), Vec::new());
    for (i, variant) in data.variants.iter().enumerate() {
        let (ident, index) = (&variant.ident, i as u8);
        let (names, pattern) = pattern(&variant.fields);
        let types = variant.fields.iter().map(|f| &f.ty);
        arms.0.push(quote! {
            Self::#ident #pattern => {
                let hash = #module::combine(#module::HASH_SEED, u64::from(#index));
                #(let hash = #module::combine(hash, #module::Key::hash64(#names));)*
                hash
            }
        });
        arms.1.push(quote! {
            Self::#ident #pattern => {
                out.push(#index);
                #(#module::Key::write(#names, out);)*
            }
        });
        arms.2.push(quote! {
            #index => {
                #(let #names = <#types as #module::Key>::read(bytes)?;)*
                ::std::result::Result::Ok(Self::#ident #pattern)
            }
        });
    }
    let (hash, write, read) = arms;
    let type_name = name.to_string();
    (
        quote!(match self { #(#hash)* }),
        quote!(match self { #(#write)* }),
        quote!(match <u8 as #module::Key>::read(bytes)? {
            #(#read)*
            _ => ::std::result::Result::Err(#module::BadKey { type_name: #type_name }),
        }),
    )
}
