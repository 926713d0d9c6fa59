//! The listing: one line for each public item, with its signature.

use public_api::PublicItem;
use rustdoc_types::{Impl, ItemEnum};
use serde_json::Value;

use crate::Result;
use crate::face::Face;

const HEAD: &str = "\
# The features, and every public item with its signature, all features on. Of the traits that the
# compiler implements by itself, Send and Sync are listed. Written by `.ci/api/check --update`.
";

/// The features, and what each turns on, of the one package in cargo's metadata.
pub fn features(metadata: &str) -> Result<Vec<String>> {
    let metadata: Value = serde_json::from_str(metadata)?;
    let features = metadata["packages"][0]["features"].as_object();
    let features = features.ok_or("cargo's metadata has no features")?;
    let line = |(name, on): (&String, &Value)| format!("feature {name} = {on}");
    Ok(features.iter().map(line).collect())
}

pub fn listing(face: &Face, features: &[String]) -> String {
    let mut text = HEAD.to_owned();
    for feature in features {
        text += feature;
        text.push('\n');
    }
    for item in face.items.iter().filter(|item| is_listed(face, item)) {
        let line = item.to_string();
        text += &async_trait(&line).unwrap_or(line);
        text.push('\n');
    }
    text
}

fn is_listed(face: &Face, item: &PublicItem) -> bool {
    // What an `impl` of a trait has to look like, the trait says.
    if face.in_impl_of_trait(item).is_some() {
        return !matches!(
            face.item(item).map(|item| &item.inner),
            Some(ItemEnum::Function(_))
        );
    }
    match face.item(item).map(|item| &item.inner) {
        Some(ItemEnum::Impl(block)) => !is_compilers_own(block),
        _ => true,
    }
}

/// Traits that come and go with versions of the compiler.
fn is_compilers_own(block: &Impl) -> bool {
    let name = block.trait_.as_ref().map(|of| of.path.as_str());
    let name = name.map(|path| path.rsplit("::").next().unwrap_or(path));
    match block.is_synthetic {
        true => !matches!(name, Some("Send" | "Sync")),
        false => name == Some("StructuralPartialEq"),
    }
}

/// A method as it was written, before `async_trait` made it return a boxed future. `None` for every
/// other line, and for one that is not exactly of that form.
fn async_trait(line: &str) -> Option<String> {
    let (method, bounds) = line.split_once(" where ")?;
    let of_async_trait = |bound: &str| bound.ends_with(": 'async_trait");
    if !bounds.split(", ").all(of_async_trait) {
        return None;
    }
    let (before, rest) = method.split_once("<'life0, ")?;
    let (_, after) = rest.split_once("'async_trait>")?;
    let (arguments, output) = after.split_once(
        ") -> core::pin::Pin<alloc::boxed::Box<(dyn core::future::future::Future<Output = ",
    )?;
    let output = output.strip_suffix("> + core::marker::Send + 'async_trait)>>")?;
    let arguments = ["'life0 ", "'life1 ", "'life2 "]
        .iter()
        .fold(arguments.to_owned(), |text, life| text.replace(life, ""));
    Some(format!("#[async_trait] {before}{arguments}) -> {output}"))
}

#[cfg(test)]
mod tests {
    use super::async_trait;

    #[test]
    fn a_boxed_future_is_shown_as_it_was_written() {
        let boxed = "pub fn m::T::get<'life0, 'life1, 'async_trait>(&'life0 self, ids: &'life1 [u8]) \
            -> core::pin::Pin<alloc::boxed::Box<(dyn core::future::future::Future<Output = m::R<u8>> \
            + core::marker::Send + 'async_trait)>> \
            where Self: 'async_trait, 'life0: 'async_trait, 'life1: 'async_trait";
        let written = "#[async_trait] pub fn m::T::get(&self, ids: &[u8]) -> m::R<u8>";
        assert_eq!(async_trait(boxed).as_deref(), Some(written));
        let other = boxed.replace("Self: 'async_trait", "Self: Sized");
        assert_eq!(async_trait(&other), None);
        let not_send = boxed.replace(" + core::marker::Send", "");
        assert_eq!(async_trait(&not_send), None);
    }
}
