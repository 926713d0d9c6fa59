//! What is sent: a fixed text and its parameters.

use std::error::Error;
use std::fmt;

// `BytesMut` is part of the trait's signatures, and this is the path by which the driver's own
// macros name it.
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

/// A statement of this crate. There is a fixed number of them, so the prepared statements of a
/// connection are bounded.
pub(super) struct Statement {
    /// The text, never built from input.
    pub(super) sql: &'static str,
    /// Whether it can change rows.
    pub(super) writes: bool,
    /// Whether a concurrent transaction can make a constraint refuse it although the statement
    /// looked first. Inside a transaction it runs in a savepoint, so that the refusal leaves the
    /// transaction usable.
    pub(super) refusable: bool,
    /// The text to begin a transaction with, if there is one. Behind its other columns it gives the
    /// transaction's number. It fails where [`BEGUN`](super::begin::BEGUN) did not run before it in the
    /// same transaction, so it need not wait for the answer to that.
    pub(super) first: Option<&'static str>,
    /// The types of its parameters, as the server itself would find them.
    pub(super) types: &'static [Type],
}

impl Statement {
    pub(super) const fn read(sql: &'static str) -> Self {
        Statement {
            sql,
            writes: false,
            refusable: false,
            first: None,
            types: &[],
        }
    }

    pub(super) const fn write(sql: &'static str) -> Self {
        Statement {
            sql,
            writes: true,
            refusable: false,
            first: None,
            types: &[],
        }
    }

    pub(super) const fn refusable_write(sql: &'static str) -> Self {
        Statement {
            sql,
            writes: true,
            refusable: true,
            first: None,
            types: &[],
        }
    }

    /// The text to begin a transaction with. It takes the same parameters.
    pub(super) const fn first(self, sql: &'static str) -> Self {
        Statement {
            first: Some(sql),
            ..self
        }
    }

    /// Says of which types its parameters are.
    pub(super) const fn takes(self, types: &'static [Type]) -> Self {
        Statement { types, ..self }
    }
}

/// Parameters, in the order of their numbers.
pub(super) type Params<'a> = [&'a (dyn ToSql + Sync)];

/// A parameter whose value stays out of logs: the driver writes the `Debug` form of all parameters
/// to its log at level debug.
pub(super) struct Bound<'a>(pub(super) &'a (dyn ToSql + Sync));

impl fmt::Debug for Bound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

type Encoded = Result<IsNull, Box<dyn Error + Sync + Send>>;

impl ToSql for Bound<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Encoded {
        self.0.to_sql_checked(ty, out)
    }

    // The value inside checks its type when it is encoded.
    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Encoded {
        self.0.to_sql_checked(ty, out)
    }

    fn encode_format(&self, ty: &Type) -> Format {
        self.0.encode_format(ty)
    }
}

#[cfg(test)]
mod tests {
    use crate::postgres::cars::{BUY, BUY_WITH_KEY};
    use crate::postgres::users::REGISTER;

    #[test]
    fn a_first_write_differs_by_what_it_looks_for_and_what_it_tells() {
        for statement in [REGISTER, BUY, BUY_WITH_KEY] {
            let words = |sql: &str| sql.split_whitespace().collect::<Vec<_>>().join(" ");
            let mut first = words(statement.first.unwrap());
            for (part, times) in [
                (" AND current_setting('motorpool.begun')::boolean", 1),
                (", pg_current_xact_id_if_assigned()::text::bigint", 1),
                (", NULL::bigint", statement.sql.matches("UNION ALL").count()),
            ] {
                assert_eq!(first.matches(part).count(), times, "{part}: {first}");
                first = first.replace(part, "");
            }
            assert_eq!(first, words(statement.sql));
        }
    }
}
