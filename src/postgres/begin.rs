//! What is sent to begin a transaction.

use std::borrow::Cow;

use super::connect::millis;
use super::shared::Shared;
use crate::store::{IsolationLevel, TxOptions};

/// Behind what begins a transaction: by this a write sees that it went well. It ends with the
/// transaction.
pub(super) const BEGUN: &str = "; SET LOCAL motorpool.begun = 'on'";

/// What begins a transaction, and the limit of its statements where the connection was not told:
/// it ends with the transaction, whoever has the connection then.
pub(super) fn message(shared: &Shared, options: &TxOptions) -> Cow<'static, str> {
    let begin = begin(options);
    match shared.limits.own_pool {
        Some(limits) if limits.each_transaction => {
            let limit = millis(limits.statement);
            format!("{begin}; SET LOCAL statement_timeout = {limit}").into()
        }
        _ => begin.into(),
    }
}

fn begin(options: &TxOptions) -> &'static str {
    use IsolationLevel::{ReadCommitted, RepeatableRead, Serializable};
    match (options.isolation_level(), options.is_read_only()) {
        (ReadCommitted, false) => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
        (ReadCommitted, true) => "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
        (RepeatableRead, false) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE",
        (RepeatableRead, true) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        (Serializable, false) => "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE",
        (Serializable, true) if options.is_deferrable() => {
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"
        }
        (Serializable, true) => "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
    }
}
