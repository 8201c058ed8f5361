//! The implementation that the derive writes.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{DeriveInput, Error, GenericArgument, PathArguments, Result, Type};

use crate::attributes::{Attributes, CodecName, Format, Source};

pub(crate) fn event(input: &DeriveInput) -> Result<TokenStream> {
    if let Some(lifetime) = input.generics.lifetimes().next() {
        return Err(Error::new_spanned(
            lifetime,
            "an event owns its data, so that it can be handled after it was received; use `String` \
             for `&str`, `Vec<T>` for `&[T]`",
        ));
    }
    let attributes = Attributes::parse(input)?;
    let core = match &attributes.crate_path {
        Some(path) => quote!(#path),
        None => quote!(::streams_core),
    };
    let schema = schema(input, &attributes, &core);
    let key = attributes.key.as_ref().map(|source| key(source, &core));
    let headers = headers(&attributes, &core);

    let ident = &input.ident;
    let mut generics = input.generics.clone();
    if generics.type_params().next().is_some() {
        let codecs = codecs(&attributes);
        let types = codecs.iter().map(|codec| codec_type(codec, &core));
        let clause = generics.make_where_clause();
        clause.predicates.push(syn::parse_quote! {
            Self: ::core::marker::Send + ::core::marker::Sync + 'static
        });
        for codec in types {
            clause
                .predicates
                .push(syn::parse_quote!(#codec: #core::Codec<Self>));
        }
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #core::Event for #ident #type_generics #where_clause {
            #schema
            #key
            #headers
        }
    })
}

fn schema(input: &DeriveInput, attributes: &Attributes<'_>, core: &TokenStream) -> TokenStream {
    let name = match &attributes.name {
        Some(name) => name.value(),
        None => {
            use syn::ext::IdentExt;
            input.ident.unraw().to_string()
        }
    };
    let stream = attributes
        .stream
        .as_ref()
        .map(|stream| quote!(.stream(#stream)));
    let version = attributes.version.map(|version| quote!(.version(#version)));
    let codecs = codecs(attributes);
    let codecs = codecs.iter().map(|codec| {
        let value = codec_type(codec, core);
        quote_spanned!(codec.span=> .codec(#value))
    });
    quote! {
        fn schema() -> #core::Schema<Self> {
            #core::Schema::new(#name) #stream #version #(#codecs)*
        }
    }
}

fn codecs<'a>(attributes: &'a Attributes<'_>) -> std::borrow::Cow<'a, [CodecName]> {
    if attributes.codecs.is_empty() {
        vec![CodecName {
            format: Format::Json,
            span: Span::call_site(),
        }]
        .into()
    } else {
        attributes.codecs.as_slice().into()
    }
}

fn codec_type(codec: &CodecName, core: &TokenStream) -> TokenStream {
    match codec.format {
        Format::Json => quote_spanned!(codec.span=> #core::Json),
        Format::Protobuf => quote_spanned!(codec.span=> #core::Protobuf),
    }
}

fn key(source: &Source<'_>, core: &TokenStream) -> TokenStream {
    let body = value_of(source, |value, bytes| {
        if bytes {
            quote_spanned!(source.span=> #core::Key::from(&#value[..]))
        } else {
            quote_spanned!(source.span=> #core::Key::from_display(#value))
        }
    });
    let body = match body {
        Value::Always(value) => quote!(::core::option::Option::Some(#value)),
        Value::Maybe(value) => value,
    };
    quote! {
        fn key(&self) -> ::core::option::Option<#core::Key> {
            #body
        }
    }
}

fn headers(attributes: &Attributes<'_>, core: &TokenStream) -> Option<TokenStream> {
    if attributes.headers.is_empty() {
        return None;
    }
    let inserts = attributes.headers.iter().map(|(name, source)| {
        let value = value_of(source, |value, bytes| {
            if bytes {
                quote_spanned!(source.span=> &#value[..])
            } else {
                quote_spanned!(source.span=> ::std::string::ToString::to_string(#value))
            }
        });
        match value {
            Value::Always(value) => quote!(headers.insert(#name, #value);),
            Value::Maybe(value) => quote! {
                if let ::core::option::Option::Some(value) = #value {
                    headers.insert(#name, value);
                }
            },
        }
    });
    Some(quote! {
        fn headers(&self) -> #core::Headers {
            let mut headers = #core::Headers::new();
            #(#inserts)*
            headers
        }
    })
}

enum Value {
    /// An expression of the value.
    Always(TokenStream),
    /// An expression of an `Option` of the value.
    Maybe(TokenStream),
}

/// The field's value made with `convert`, which gets a reference to it and whether it is bytes.
fn value_of(source: &Source<'_>, convert: impl Fn(TokenStream, bool) -> TokenStream) -> Value {
    let member = &source.member;
    // An error about the field's type then points at the field, not at the derive.
    let span = source.span.resolved_at(Span::call_site());
    match inside_option(&source.field.ty) {
        Some(inner) => {
            let converted = convert(quote_spanned!(span=> value), is_bytes(inner));
            Value::Maybe(quote_spanned!(span=> self.#member.as_ref().map(|value| #converted)))
        }
        None => {
            let bytes = is_bytes(&source.field.ty);
            let place = if bytes {
                quote_spanned!(span=> self.#member)
            } else {
                quote_spanned!(span=> &self.#member)
            };
            Value::Always(convert(place, bytes))
        }
    }
}

fn inside_option(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    match arguments.args.first() {
        Some(GenericArgument::Type(inner)) if last.ident == "Option" => Some(inner),
        _ => None,
    }
}

fn is_bytes(ty: &Type) -> bool {
    match ty {
        Type::Array(_) => true,
        Type::Path(path) => {
            let last = path.path.segments.last();
            last.is_some_and(|last| last.ident == "Vec" || last.ident == "Bytes")
        }
        _ => false,
    }
}
