//! Pages to read. They are files of the folder `docs/`, and a part of this documentation alone: a
//! program has no module of this name.
//!
//! - [`cookbook`]: ways to do what services do, in code and in operation.
//! - [`errors`]: what each error means, what was stored, and what to do about it.
//! - [`from_flask`]: the way here from the Flask application, with its database.
//! - [`engines`]: what holds on other engines of the family.
//! - [`readme`]: limits, encryption, replicas, failover, poolers, and how all of it is tested.
//!
//! # Benchmarks
//!
//! How fast it is, beside which others, and how that was measured is in `benches/README.md` of the
//! repository.

// A page links to others by reference, `[text][FILE.md#heading]`, and ends with the places of these
// files. In front of it stand the places on this site, and the first one counts.

/// A page, as it stands. Without the places where its code is run, so that the line of a failure is
/// that of the file.
macro_rules! page {
    ($name:ident, $file:literal) => {
        #[cfg_attr(not(doctest), doc = include_str!("../docs/links.txt"))]
        #[doc = include_str!($file)]
        pub mod $name {}
    };
}

page!(cookbook, "../docs/COOKBOOK.md");
page!(errors, "../docs/ERRORS.md");
page!(from_flask, "../docs/FROM_FLASK.md");
page!(readme, "../README.md");

// What stands in brackets there are sources.
#[allow(rustdoc::broken_intra_doc_links)]
mod with_sources {
    page!(engines, "../docs/ENGINES.md");
}
pub use with_sources::engines;
