//! Whether every public item is shown in an example that is compiled.

use std::collections::BTreeMap;

use rustdoc_types::ItemEnum;

use crate::Result;
use crate::face::{Face, path};

/// A line `path: reason` of the list of those that need no example. A path that ends in `::*`
/// stands for everything below it.
struct Excuse<'a> {
    line: usize,
    path: &'a str,
    used: bool,
}

impl Excuse<'_> {
    fn covers(&self, path: &str) -> bool {
        match self.path.strip_suffix('*') {
            Some(above) => path.starts_with(above),
            None => path == self.path,
        }
    }
}

/// What has no example and no excuse, and the excuses for nothing.
pub fn findings(face: &Face, excused: &str) -> Result<Vec<String>> {
    let mut excuses = excuses(excused)?;
    let mut findings = Vec::new();
    for path in without_example(face) {
        match excuses.iter_mut().find(|excuse| excuse.covers(&path)) {
            Some(excuse) => excuse.used = true,
            None => findings.push(format!("no example: {path}")),
        }
    }
    let stale = excuses.iter().filter(|excuse| !excuse.used);
    findings.extend(stale.map(|excuse| {
        let Excuse { line, path, .. } = excuse;
        format!("line {line} excuses nothing: {path}")
    }));
    Ok(findings)
}

fn excuses(text: &str) -> Result<Vec<Excuse<'_>>> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let parsed = lines.map(|(line, text)| match text.split_once(": ") {
        Some((path, reason)) if !reason.trim().is_empty() => Ok(Excuse {
            line,
            path,
            used: false,
        }),
        _ => Err(format!("line {line} is not `path: reason`: {text}").into()),
    });
    parsed.collect()
}

/// The paths of the items without one, each item once, by the shortest of its paths.
fn without_example(face: &Face) -> Vec<String> {
    let mut bare: BTreeMap<u32, String> = BTreeMap::new();
    for public in &face.items {
        let (Some(path), Some(item)) = (path(public), face.item(public)) else {
            continue;
        };
        // Fields and variants are shown where their type is. What an `impl` of a trait does, the
        // trait shows.
        let shown_elsewhere = matches!(
            item.inner,
            ItemEnum::StructField(_) | ItemEnum::Variant(_) | ItemEnum::Impl(_)
        );
        if shown_elsewhere || face.in_impl_of_trait(public).is_some() {
            continue;
        }
        if has_example(item.docs.as_deref().unwrap_or_default()) {
            continue;
        }
        let known = bare.entry(public.id().0).or_insert_with(|| path.clone());
        if path.len() < known.len() {
            *known = path;
        }
    }
    let mut paths: Vec<String> = bare.into_values().collect();
    paths.sort();
    paths
}

/// Whether one of the code blocks is compiled with the tests.
fn has_example(docs: &str) -> bool {
    let mut fences = docs
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("```"));
    while let Some(opening) = fences.next() {
        let words = opening.trim_start_matches('`').split([',', ' ']);
        let mut words = words.filter(|word| !word.is_empty());
        if words.all(|word| matches!(word, "rust" | "no_run" | "should_panic")) {
            return true;
        }
        // Its end.
        fences.next();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::has_example;

    #[test]
    fn only_blocks_that_are_compiled_are_examples() {
        assert!(has_example("text\n\n```\nf();\n```"));
        assert!(has_example("```no_run\nf();\n```"));
        assert!(has_example("```text\nno\n```\n\n```rust,no_run\nf();\n```"));
        assert!(!has_example("no block, `code` alone"));
        assert!(!has_example("```text\nno\n```"));
        assert!(!has_example("```ignore\nf();\n```"));
        assert!(!has_example("```compile_fail\nf();\n```"));
    }
}
