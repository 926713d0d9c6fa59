//! What rustdoc says of the crate.

use public_api::tokens::Token;
use public_api::{Builder, PublicItem};
use rustdoc_types::{Crate, FORMAT_VERSION, Impl, Item, ItemEnum};
use serde::Deserialize;

use crate::Result;

pub struct Face {
    /// In order of their paths. One that can be reached by two paths is there twice.
    pub items: Vec<PublicItem>,
    index: Crate,
}

/// Read first, because the rest means something only in the version that it is written in.
#[derive(Deserialize)]
struct Head {
    format_version: u32,
}

impl Face {
    pub fn read(json: &str) -> Result<Face> {
        let text = std::fs::read_to_string(json)?;
        let Head { format_version } = serde_json::from_str(&text)?;
        if format_version != FORMAT_VERSION {
            return Err(format!(
                "rustdoc of this compiler writes version {format_version} of its JSON, and \
                 .ci/api reads version {FORMAT_VERSION}. Install the compiler that .ci/api/check \
                 names, or raise it there together with `public-api` in .ci/api/Cargo.toml."
            )
            .into());
        }
        let index = serde_json::from_str(&text)?;
        let api = Builder::from_rustdoc_json(json)
            .include_function_parameter_names(true)
            .omit_blanket_impls(true)
            .build()?;
        let items = api.into_items().collect();
        Ok(Face { items, index })
    }

    pub fn item(&self, item: &PublicItem) -> Option<&Item> {
        self.index.index.get(&item.id())
    }

    /// The `impl` of a trait that the item stands in.
    pub fn in_impl_of_trait(&self, item: &PublicItem) -> Option<&Impl> {
        let parent = self.index.index.get(&item.parent_id()?)?;
        match &parent.inner {
            ItemEnum::Impl(parent) => parent.trait_.is_some().then_some(parent),
            _ => None,
        }
    }
}

/// The path of an item, without its signature. `None` for an `impl`.
pub fn path(item: &PublicItem) -> Option<String> {
    let mut path = String::new();
    // How many `<` are open: `motorpool::Page<T, K>::cut` is `motorpool::Page::cut`.
    let mut open = 0;
    for token in item.tokens() {
        match token {
            Token::Symbol(text) if text == "<" => open += 1,
            Token::Symbol(text) if text == ">" => open -= 1,
            _ if open > 0 => {}
            Token::Keyword(text) if text == "impl" => return None,
            Token::Identifier(text) | Token::Type(text) | Token::Function(text) => path += text,
            Token::Symbol(text) if text == "::" => path += text,
            _ if path.is_empty() => {}
            _ => break,
        }
    }
    (!path.is_empty()).then_some(path)
}
