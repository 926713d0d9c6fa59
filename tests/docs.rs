//! The documents: their links lead somewhere, on this site and among the files; their code is
//! compiled; every error has its section; and the crate page says what the README says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All documents, by their paths from here.
fn documents() -> Vec<String> {
    let mut all = ["README.md", "CHANGELOG.md", "benches/README.md"]
        .map(String::from)
        .to_vec();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            all.push(format!("docs/{name}"));
        }
    }
    assert!(all.len() > 5, "{all:?}");
    all
}

/// The pages of the documentation, by the names of their modules.
fn pages() -> BTreeMap<String, String> {
    let text = read("src/docs.rs");
    let calls = text.lines().filter_map(|line| {
        let (name, file) = line.trim().strip_prefix("page!(")?.split_once(", ")?;
        let file = file.strip_prefix("\"../")?.strip_suffix("\");")?;
        Some((name.to_owned(), file.to_owned()))
    });
    let pages: BTreeMap<_, _> = calls.collect();
    assert!(pages.contains_key("readme"), "{pages:?}");
    pages
}

/// The lines outside blocks of code, with an `x` for each piece of code in them.
fn prose(text: &str) -> String {
    let mut prose = String::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    assert!(!fenced, "a block of code is not closed");
    let pieces = prose.split('`').enumerate();
    let shown = |(n, piece)| if n % 2 == 0 { piece } else { "x" };
    pieces.map(shown).collect()
}

/// A place that a text leads to, or the name of one that is missing.
type Link = Result<String, String>;

/// `[label]: place`, by label.
fn definitions(prose: &str) -> BTreeMap<&str, &str> {
    let one = |line: &'_ str| -> Option<(usize, usize)> {
        let end = line.strip_prefix('[')?.find("]: ")? + 1;
        Some((end, end + 3))
    };
    prose
        .lines()
        .filter_map(|line| one(line).map(|(end, place)| (&line[1..end], line[place..].trim())))
        .collect()
}

/// Every link of a document: `[text](place)`, `[text][label]` and `[label]: place`.
fn links(text: &str) -> Vec<Link> {
    let prose = prose(text);
    let defined = definitions(&prose);
    let place = |place: &&str| Ok((*place).to_owned());
    let mut links: Vec<Link> = defined.values().map(place).collect();
    for rest in prose.split("](").skip(1) {
        links.push(Ok(rest.split(')').next().unwrap().to_owned()));
    }
    for rest in prose.split("][").skip(1) {
        let label = rest.split(']').next().unwrap();
        if !defined.contains_key(label) {
            links.push(Err(format!("nothing is called [{label}]")));
        }
    }
    links
}

fn is_elsewhere(place: &str) -> bool {
    place.starts_with("https://") || place.starts_with("http://")
}

/// The anchors of the headings of a document, as its readers make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let title = line.trim_start_matches('#');
        if fenced || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let anchor: String = title.trim().chars().filter_map(anchor_of).collect();
        assert!(anchors.insert(anchor), "two headings: {title}");
    }
    anchors
}

fn anchor_of(c: char) -> Option<char> {
    match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ => c.is_alphanumeric().then(|| c.to_ascii_lowercase()),
    }
}

/// What is wrong with a link of a document.
fn wrong(document: &str, link: &Link) -> Option<String> {
    let place = match link {
        Ok(place) if is_elsewhere(place) => return None,
        Ok(place) => place,
        Err(missing) => return Some(missing.clone()),
    };
    let (path, anchor) = place.split_once('#').unwrap_or((place, ""));
    let file: PathBuf = match path {
        "" => root().join(document),
        path => root().join(document).parent().unwrap().join(path),
    };
    if !file.exists() {
        return Some(format!("{place}: there is no such file"));
    }
    let is_there = || anchors(&fs::read_to_string(&file).unwrap()).contains(anchor);
    (!anchor.is_empty() && !is_there()).then(|| format!("{place}: there is no such heading"))
}

#[test]
fn every_link_leads_somewhere() {
    let (mut all, mut bad) = (0, Vec::new());
    for document in documents() {
        let links = links(&read(&document));
        all += links.len();
        let wrong = links.iter().filter_map(|link| wrong(&document, link));
        bad.extend(wrong.map(|what| format!("{document}: {what}")));
    }
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(all > 30, "only {all} links were found");
}

/// On the documentation site there are no files: what leads from a page to a file leads to a page
/// there.
#[test]
fn every_link_of_a_page_has_its_place_on_the_site() {
    let text = read("docs/links.txt");
    let site = definitions(&text);
    let pages = pages();
    for (label, place) in &site {
        leads_to_a_page(place, &pages).unwrap_or_else(|what| panic!("[{label}]: {what}"));
    }
    let mut used = BTreeSet::new();
    for file in pages.values() {
        let text = prose(&read(file));
        let defined = definitions(&text);
        let of_files = defined.iter().filter(|(_, place)| !is_elsewhere(place));
        for (label, place) in of_files {
            let there = site.get(label);
            let there = there.unwrap_or_else(|| panic!("{file}: docs/links.txt has no [{label}]"));
            assert_eq!(
                place.split_once('#').map(|at| at.1),
                match there.starts_with("crate::docs::") {
                    true => there.split_once('#').map(|at| at.1),
                    false => None,
                },
                "{file}: [{label}]"
            );
            used.insert((*label).to_owned());
        }
        for rest in text.split("](").skip(1) {
            let place = rest.split(')').next().unwrap();
            assert!(
                place.starts_with('#') || is_elsewhere(place),
                "{file}: ({place}) leads to a file, which the site does not have"
            );
        }
    }
    let unused: Vec<_> = site
        .keys()
        .filter(|label| !used.contains(**label))
        .collect();
    assert!(unused.is_empty(), "nobody uses {unused:?}");
}

/// Whether a path in the documentation of the crate leads to a page, and to a heading of it. The
/// compiler of the documentation looks after all others, and does not look at headings.
fn leads_to_a_page(place: &str, pages: &BTreeMap<String, String>) -> Result<(), String> {
    let Some(page) = place.split("docs::").nth(1) else {
        return Ok(());
    };
    let (page, anchor) = page.split_once('#').unwrap_or((page, ""));
    let file = pages.get(page).ok_or(format!("there is no page {page}"))?;
    match anchor.is_empty() || anchors(&read(file)).contains(anchor) {
        true => Ok(()),
        false => Err(format!("{file} has no heading for #{anchor}")),
    }
}

#[test]
fn every_link_from_the_source_to_a_page_has_its_heading() {
    let pages = pages();
    let mut all = 0;
    for source in ["src/lib.rs", "src/error/mod.rs", "src/error/unavailable.rs"] {
        let text = read(source);
        for rest in text.split("](").skip(1) {
            let place = rest.split(')').next().unwrap();
            all += usize::from(place.contains("docs::"));
            leads_to_a_page(place, &pages).unwrap_or_else(|what| panic!("{source}: {what}"));
        }
    }
    assert!(all > 32, "only {all} links were found");
}

#[test]
fn every_page_is_on_the_site_and_its_code_is_compiled() {
    let pages: BTreeSet<_> = pages().into_values().collect();
    for document in documents() {
        if document.starts_with("docs/") || document == "README.md" {
            assert!(pages.contains(&document), "src/docs.rs lacks {document}");
        }
        let text = read(&document);
        let fences = text.lines().filter_map(|line| line.strip_prefix("```"));
        for kind in fences.step_by(2) {
            // Nothing that is code and not compiled.
            let known = ["rust", "rust,no_run", "sh", "text"].contains(&kind);
            assert!(known, "{document}: a block of code is {kind:?}");
        }
    }
}

/// The variants of an enum, read from its source.
fn variants(source: &str, name: &str) -> BTreeSet<String> {
    let text = read(source);
    let begin = format!("pub enum {name} {{\n");
    let body = text.split_once(&begin).unwrap().1;
    let body = body.split_once("\n}").unwrap().0;
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let variants = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    let name = |line: &str| {
        let end = line.find(|c: char| !c.is_ascii_alphanumeric());
        line[..end.unwrap()].to_owned()
    };
    variants.map(name).collect()
}

/// The part of the page between its heading and the next one of the same level.
fn part<'a>(page: &'a str, heading: &str) -> &'a str {
    let rest = page.split_once(&format!("\n## {heading}\n")).unwrap().1;
    rest.split("\n## ").next().unwrap()
}

#[test]
fn every_error_has_its_section_and_nothing_else_has_one() {
    let page = read("docs/ERRORS.md");
    for (file, name, heading, least) in [
        ("mod", "Error", "The variants of Error", 19),
        (
            "unavailable",
            "UnavailableReason",
            "The reasons of Unavailable",
            13,
        ),
    ] {
        let variants = variants(&format!("src/error/{file}.rs"), name);
        assert!(variants.len() >= least, "{variants:?}");
        let mut sections = BTreeSet::new();
        for section in part(&page, heading).split("\n### ").skip(1) {
            let (variant, text) = section.split_once('\n').unwrap();
            for label in ["**Stored:**", "**HTTP:**", "**Operator:**"] {
                assert!(text.contains(label), "{variant}: {label}");
            }
            let again = text.contains("**Again:**") || text.contains("**Retryable:**");
            assert!(again, "{variant}: whether to call again");
            sections.insert(variant.to_owned());
        }
        assert_eq!(sections, variants, "{name}");
    }
}

#[test]
fn every_kind_of_wrong_input_and_every_state_has_its_line() {
    let page = read("docs/ERRORS.md");
    for (source, name, heading) in [
        ("src/model/input.rs", "InvalidInput", "InvalidInput"),
        (
            "src/migrate/status.rs",
            "MigrationState",
            "The states of a migration",
        ),
    ] {
        let first = part(&page, heading)
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let lines: BTreeSet<_> = first.map(str::to_owned).collect();
        assert_eq!(lines, variants(source, name), "{name}");
    }
}

/// The numbers of a text, `23 507` being one.
fn numbers(text: &str) -> BTreeSet<String> {
    let mut joined = String::new();
    let chars: Vec<char> = text.chars().collect();
    for (n, c) in chars.iter().enumerate() {
        let digit = |n: usize| chars.get(n).is_some_and(char::is_ascii_digit);
        let thousands = *c == ' ' && n > 0 && digit(n - 1) && (1..4).all(|k| digit(n + k));
        if !thousands {
            joined.push(*c);
        }
    }
    let numbers = joined.split(|c: char| !c.is_ascii_digit());
    let numbers = numbers.filter(|number| !number.is_empty());
    numbers.map(str::to_owned).collect()
}

#[test]
fn the_figures_of_the_crate_page_are_those_of_the_readme() {
    let crate_page = read("src/lib.rs");
    let (_, rest) = crate_page.split_once("//! # What is promised").unwrap();
    let table: String = (rest.lines())
        .filter_map(|line| line.strip_prefix("//! | "))
        .collect();
    let stated = numbers(&table);
    // One with thousands, too.
    let large = stated.iter().any(|number| number.len() > 4);
    assert!(large && stated.contains("141"), "{stated:?}");
    let readme = read("README.md");
    let readme = numbers(part(&readme, "How it is tested"));
    let other: Vec<_> = stated.difference(&readme).collect();
    assert!(other.is_empty(), "the README does not say {other:?}");
}
