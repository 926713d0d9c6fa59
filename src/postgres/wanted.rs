//! How a server is asked whether it is of the kind that is wanted: when a connection is made, and
//! when it is under suspicion.

use super::statement::Statement;
use super::target::SessionAttrs;

/// What a server that is not wanted refuses.
pub(super) fn demand(wanted: SessionAttrs) -> Option<&'static str> {
    match wanted {
        SessionAttrs::Any | SessionAttrs::PreferStandby => None,
        SessionAttrs::ReadWrite => Some(
            "DO $$ BEGIN IF current_setting('transaction_read_only') = 'on' THEN
                RAISE SQLSTATE '25006' USING MESSAGE = 'the server takes no writes';
            END IF; END $$",
        ),
        SessionAttrs::Primary => Some(
            "DO $$ BEGIN IF pg_is_in_recovery() THEN
                RAISE SQLSTATE '25006' USING MESSAGE = 'the server is a standby';
            END IF; END $$",
        ),
        SessionAttrs::ReadOnly => Some(
            "DO $$ BEGIN IF current_setting('transaction_read_only') = 'off' THEN
                RAISE SQLSTATE '55000' USING MESSAGE = 'the server takes writes';
            END IF; END $$",
        ),
        SessionAttrs::Standby => Some(
            "DO $$ BEGIN IF NOT pg_is_in_recovery() THEN
                RAISE SQLSTATE '55000' USING MESSAGE = 'the server is no standby';
            END IF; END $$",
        ),
    }
}

const TAKES_WRITES: Statement =
    Statement::read("SELECT current_setting('transaction_read_only') = 'off'");
const TAKES_NO_WRITES: Statement =
    Statement::read("SELECT current_setting('transaction_read_only') = 'on'");
const IS_PRIMARY: Statement = Statement::read("SELECT NOT pg_is_in_recovery()");
pub(super) const IS_STANDBY: Statement = Statement::read("SELECT pg_is_in_recovery()");
const ANSWERS: Statement = Statement::read("SELECT true");

/// What a connection under suspicion is asked; it stays in the pool if the answer is yes.
/// `refused`: a server has refused a write of this store.
pub(super) fn check(wanted: SessionAttrs, refused: bool) -> &'static Statement {
    match wanted {
        SessionAttrs::ReadWrite => &TAKES_WRITES,
        SessionAttrs::Primary => &IS_PRIMARY,
        SessionAttrs::ReadOnly => &TAKES_NO_WRITES,
        SessionAttrs::Standby => &IS_STANDBY,
        // It was content with this server until it wanted to write.
        SessionAttrs::Any if refused => &TAKES_WRITES,
        SessionAttrs::Any | SessionAttrs::PreferStandby => &ANSWERS,
    }
}
