//! The contract of a store as tests (feature `contract`): the rules that [`repo`](crate::repo)
//! and [`store`](crate::store) state in words, each as one function over `&dyn Store`. Every
//! store of this crate keeps them; run them on your own implementation, or on your wrapper around
//! one of ours.
//!
//! A rule is handed a fresh, empty store and panics when the store breaks it. Its name says what
//! must hold. [`contract_tests!`](crate::contract_tests) makes one test of each, so that a failure
//! names the rule and the store:
//!
//! ```
//! use motorpool::MemoryStore;
//! use motorpool::contract::Rule;
//!
//! async fn run_on_memory(rule: Rule) {
//!     rule.run(&MemoryStore::new()).await;
//! }
//!
//! motorpool::contract_tests!(memory, run_on_memory);
//! # fn main() {}
//! ```
//!
//! `cargo test` then runs `memory::register_race_has_one_winner` and all the others. The caller
//! needs `tokio` with the features `macros` and `rt-multi-thread` among its dev-dependencies.
//!
//! A store that has no transactions of its own, such as one that lives inside a transaction,
//! leaves out the rules that begin one:
//!
//! ```
//! # async fn run_in_transaction(_: motorpool::contract::Rule) {}
//! motorpool::contract_tests!(in_transaction, run_in_transaction, without transactions);
//! # fn main() {}
//! ```
//!
//! Without the macro, [`RULES`] is the list:
//!
//! ```
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! use motorpool::MemoryStore;
//! use motorpool::contract::RULES;
//!
//! for rule in RULES.iter().filter(|rule| rule.name.starts_with("rename")) {
//!     rule.run(&MemoryStore::new()).await;
//! }
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a rule is a test: it panics when the store breaks it"
)]
#![allow(missing_docs, reason = "the name of a rule says what must hold")]

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::store::Store;

/// Asserts that a result is an error of this form, and shows what it is instead.
macro_rules! assert_refused {
    ($result:expr, $error:pat $(if $guard:expr)?) => {
        match $result {
            Err($error) $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}", stringify!($error $(if $guard)?)),
        }
    };
}

pub mod buy;
pub mod change;
pub mod failures;
mod given;
pub mod ids;
#[macro_use]
mod list;
pub mod many;
pub mod owned_by;
pub mod pages;
pub mod register;
pub mod streams;
pub mod text;
pub mod transactions;

/// The form of every rule.
type Run = for<'a> fn(&'a dyn Store) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// One rule of the contract.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Rule {
    /// What must hold, as the name of the function.
    pub name: &'static str,
    /// The rule calls [`Store::begin`].
    pub needs_transactions: bool,
    /// The rule makes calls that overlap: on a store with one connection some of these rules
    /// would wait for ever, and the races would prove nothing.
    pub needs_connections: bool,
    run: Run,
}

impl Rule {
    /// For the list of rules.
    #[doc(hidden)]
    pub const fn new(
        name: &'static str,
        needs_transactions: bool,
        needs_connections: bool,
        run: Run,
    ) -> Self {
        Rule {
            name,
            needs_transactions,
            needs_connections,
            run,
        }
    }

    /// Runs the rule on a store that is empty and that nobody else uses.
    ///
    /// # Panics
    /// When the store breaks the rule.
    pub async fn run(&self, store: &dyn Store) {
        (self.run)(store).await;
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// All rules.
pub const RULES: &[Rule] = crate::__motorpool_rules!([crate::__motorpool_rule_slice]());

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::RULES;

    #[test]
    fn no_two_rules_have_one_name() {
        let names: BTreeSet<_> = RULES.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), RULES.len());
    }

    // A rule that is written and not listed would never run.
    #[test]
    fn every_rule_is_listed() {
        let files = [
            include_str!("buy.rs"),
            include_str!("change.rs"),
            include_str!("failures.rs"),
            include_str!("ids.rs"),
            include_str!("many.rs"),
            include_str!("owned_by.rs"),
            include_str!("pages.rs"),
            include_str!("register.rs"),
            include_str!("streams.rs"),
            include_str!("text.rs"),
            include_str!("transactions.rs"),
        ];
        let written = files.iter().flat_map(|file| file.lines());
        let written = written.filter_map(|line| line.strip_prefix("pub async fn "));
        let written = written.filter_map(|line| line.split('(').next());
        let written: BTreeSet<_> = written.collect();
        let listed: BTreeSet<_> = RULES.iter().map(|rule| rule.name).collect();
        assert_eq!(written, listed);
    }
}
