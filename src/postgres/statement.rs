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
    /// The types of its parameters, as the server itself would find them.
    pub(super) types: &'static [Type],
}

impl Statement {
    pub(super) const fn read(sql: &'static str) -> Self {
        Statement {
            sql,
            writes: false,
            refusable: false,
            types: &[],
        }
    }

    pub(super) const fn write(sql: &'static str) -> Self {
        Statement {
            sql,
            writes: true,
            refusable: false,
            types: &[],
        }
    }

    pub(super) const fn refusable_write(sql: &'static str) -> Self {
        Statement {
            sql,
            writes: true,
            refusable: true,
            types: &[],
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
