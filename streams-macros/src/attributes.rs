//! What stands in `#[event(..)]`.

use proc_macro2::Span;
use syn::meta::ParseNestedMeta;
use syn::parse::Parse;
use syn::spanned::Spanned;
use syn::{
    Attribute, Data, DeriveInput, Error, Field, Fields, LitInt, LitStr, Member, Path, Result, Token,
};

use crate::stream_name;

const ON_TYPE: &str = "`stream`, `key`, `name`, `version`, `codec`, `crate`";
const ON_FIELD: &str = "`key`, `header`";

/// What the attributes of a type and its fields say.
pub(crate) struct Attributes<'a> {
    pub(crate) stream: Option<LitStr>,
    pub(crate) name: Option<LitStr>,
    pub(crate) version: Option<u32>,
    pub(crate) codecs: Vec<CodecName>,
    pub(crate) crate_path: Option<Path>,
    pub(crate) key: Option<Source<'a>>,
    pub(crate) headers: Vec<(LitStr, Source<'a>)>,
}

/// A field that a key or header is made of.
pub(crate) struct Source<'a> {
    pub(crate) member: Member,
    pub(crate) field: &'a Field,
    /// Where the attribute names it, for errors about its type.
    pub(crate) span: Span,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Protobuf,
}

#[derive(Clone)]
pub(crate) struct CodecName {
    pub(crate) format: Format,
    pub(crate) span: Span,
}

impl<'a> Attributes<'a> {
    pub(crate) fn parse(input: &'a DeriveInput) -> Result<Self> {
        let mut this = Self {
            stream: None,
            name: None,
            version: None,
            codecs: Vec::new(),
            crate_path: None,
            key: None,
            headers: Vec::new(),
        };
        let mut key = None;
        for attribute in events(&input.attrs) {
            attribute.parse_nested_meta(|meta| this.on_type(&meta, &mut key))?;
        }
        let fields = match &input.data {
            Data::Struct(data) => Some(&data.fields),
            Data::Enum(data) => {
                refuse_on_variants(data)?;
                None
            }
            Data::Union(data) => {
                return Err(Error::new(
                    data.union_token.span,
                    "a union cannot be an event; use a struct or an enum",
                ));
            }
        };
        if let Some(key) = key {
            this.key = Some(find_key(&key, fields)?);
        }
        for (index, field) in fields.into_iter().flatten().enumerate() {
            let member = match &field.ident {
                Some(ident) => Member::Named(ident.clone()),
                None => Member::from(index),
            };
            for attribute in events(&field.attrs) {
                attribute.parse_nested_meta(|meta| this.on_field(&meta, field, &member))?;
            }
        }
        Ok(this)
    }

    fn on_type(&mut self, meta: &ParseNestedMeta<'_>, key: &mut Option<LitStr>) -> Result<()> {
        match &*name_of(&meta.path) {
            "stream" => {
                let stream = text(meta)?;
                if let Some(problem) = stream_name::problem(&stream.value()) {
                    return Err(Error::new(
                        stream.span(),
                        format!(
                            "the stream name {problem}; use 1 to 512 bytes without white space, \
                             control characters or *?[]"
                        ),
                    ));
                }
                once(&mut self.stream, meta, stream)
            }
            "key" => {
                let field = text(meta)?;
                once(key, meta, field)
            }
            "name" => {
                let name = text(meta)?;
                if name.value().is_empty() {
                    return Err(Error::new(
                        name.span(),
                        "the event's name is empty; leave `name` out to use the type's name",
                    ));
                }
                once(&mut self.name, meta, name)
            }
            "version" => {
                let version = version(meta)?;
                once(&mut self.version, meta, version)
            }
            "codec" => self.codec(meta),
            "crate" => {
                let path = crate_path(&text(meta)?)?;
                once(&mut self.crate_path, meta, path)
            }
            "header" => {
                Err(meta.error("`header` belongs on the field that holds the header's value"))
            }
            other => Err(meta.error(format!(
                "unknown attribute `{other}`; an event's type takes {ON_TYPE}"
            ))),
        }
    }

    fn on_field(
        &mut self,
        meta: &ParseNestedMeta<'_>,
        field: &'a Field,
        member: &Member,
    ) -> Result<()> {
        let source = |span| Source {
            member: member.clone(),
            field,
            span,
        };
        match &*name_of(&meta.path) {
            "key" => {
                if meta.input.peek(Token![=]) {
                    return Err(meta.error(
                        "on a field `key` takes no value; write `#[event(key)]`, or `key = \"..\"` \
                         on the type",
                    ));
                }
                once(&mut self.key, meta, source(field.ty.span()))
            }
            "header" => {
                let name = text(meta)?;
                if name.value().is_empty() {
                    return Err(Error::new(
                        name.span(),
                        "the header's name is empty; name it",
                    ));
                }
                if self
                    .headers
                    .iter()
                    .any(|(known, _)| known.value() == name.value())
                {
                    return Err(Error::new(
                        name.span(),
                        format!(
                            "two fields are sent as the header `{}`; rename one",
                            name.value()
                        ),
                    ));
                }
                self.headers.push((name, source(field.ty.span())));
                Ok(())
            }
            "stream" | "name" | "version" | "codec" | "crate" => Err(meta.error(format!(
                "`{}` belongs on the type, not on a field",
                name_of(&meta.path)
            ))),
            other => Err(meta.error(format!(
                "unknown attribute `{other}`; an event's field takes {ON_FIELD}"
            ))),
        }
    }

    /// `codec = "json"` or `codec("json", "protobuf")`.
    fn codec(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        if !self.codecs.is_empty() {
            return Err(meta.error(
                "`codec` is given twice; list them in one: `codec(\"json\", \"protobuf\")`",
            ));
        }
        let names: Vec<LitStr> = if meta.input.peek(syn::token::Paren) {
            let list;
            syn::parenthesized!(list in meta.input);
            list.parse_terminated(<LitStr as Parse>::parse, Token![,])?
                .into_iter()
                .collect()
        } else {
            vec![text(meta)?]
        };
        for name in &names {
            let format = match &*name.value() {
                "json" => Format::Json,
                "protobuf" => Format::Protobuf,
                other => {
                    return Err(Error::new(
                        name.span(),
                        format!(
                            "unknown codec `{other}`; use \"json\" or \"protobuf\", or implement \
                             `Event` by hand for a codec of your own"
                        ),
                    ));
                }
            };
            if self.codecs.iter().any(|known| known.format == format) {
                return Err(Error::new(
                    name.span(),
                    "this codec is listed twice; list it once",
                ));
            }
            self.codecs.push(CodecName {
                format,
                span: name.span(),
            });
        }
        if self.codecs.is_empty() {
            return Err(
                meta.error("`codec` is empty; list at least one, such as `codec = \"json\"`")
            );
        }
        Ok(())
    }
}

fn events(attributes: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("event"))
}

fn name_of(path: &Path) -> String {
    let segments: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
    segments.join("::")
}

fn once<T>(slot: &mut Option<T>, meta: &ParseNestedMeta<'_>, value: T) -> Result<()> {
    if slot.is_some() {
        let name = name_of(&meta.path);
        return Err(Error::new_spanned(
            &meta.path,
            format!("`{name}` is given twice; keep one"),
        ));
    }
    *slot = Some(value);
    Ok(())
}

fn text(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    let name = name_of(&meta.path);
    let value = meta
        .value()
        .map_err(|_| meta.error(format!("`{name}` needs a value: `{name} = \"..\"`")))?;
    value.parse().map_err(|error: Error| {
        Error::new(
            error.span(),
            format!("`{name}` takes text in quotes: `{name} = \"..\"`"),
        )
    })
}

fn version(meta: &ParseNestedMeta<'_>) -> Result<u32> {
    let wrong = |span| Error::new(span, "`version` takes a whole number from 1: `version = 2`");
    let value = meta.value().map_err(|_| wrong(meta.path.span()))?;
    let literal: LitInt = value.parse().map_err(|error| wrong(error.span()))?;
    match literal.base10_parse() {
        Ok(version) if version > 0 => Ok(version),
        _ => Err(wrong(literal.span())),
    }
}

fn crate_path(text: &LitStr) -> Result<Path> {
    // Resolved as the macro's own, so that lints about paths people write leave it alone.
    let path = LitStr::new(&text.value(), Span::call_site()).parse();
    path.map_err(|_| {
        Error::new(
            text.span(),
            "`crate` takes the path of `streams-core`: `crate = \"my_reexport::streams_core\"`",
        )
    })
}

fn find_key<'a>(key: &LitStr, fields: Option<&'a Fields>) -> Result<Source<'a>> {
    let Some(fields) = fields else {
        return Err(Error::new(
            key.span(),
            "the variants of an enum share no field to be the key; implement `Event` by hand to \
             give it one, or use a struct",
        ));
    };
    let wanted = key.value();
    let found = fields
        .members()
        .zip(fields)
        .find(|(member, _)| member_name(member) == wanted);
    if let Some((member, field)) = found {
        return Ok(Source {
            member,
            field,
            span: key.span(),
        });
    }
    let known: Vec<_> = fields
        .members()
        .map(|m| format!("`{}`", member_name(&m)))
        .collect();
    let known = if known.is_empty() {
        "the event has no fields".to_owned()
    } else {
        format!("the event has {}", known.join(", "))
    };
    Err(Error::new(
        key.span(),
        format!("no field `{wanted}` to be the key; {known}"),
    ))
}

fn member_name(member: &Member) -> String {
    use syn::ext::IdentExt;
    match member {
        Member::Named(ident) => ident.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}

fn refuse_on_variants(data: &syn::DataEnum) -> Result<()> {
    let on_variants = data.variants.iter().flat_map(|variant| &variant.attrs);
    let on_fields = data
        .variants
        .iter()
        .flat_map(|variant| &variant.fields)
        .flat_map(|field| &field.attrs);
    match on_variants
        .chain(on_fields)
        .find(|a| a.path().is_ident("event"))
    {
        Some(attribute) => Err(Error::new_spanned(
            attribute,
            "the variants of an enum take no `#[event(..)]`; implement `Event` by hand to give it a \
             key or headers, or use a struct",
        )),
        None => Ok(()),
    }
}
