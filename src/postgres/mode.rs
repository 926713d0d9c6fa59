//! Whether statements have names on the server.

/// How a store sends its statements. Set by
/// [`PgStoreBuilder::statement_mode`](crate::PgStoreBuilder::statement_mode), and for a host's own
/// pool by [`PgStore::with_statement_mode`](crate::PgStore::with_statement_mode).
///
/// A pooler in transaction mode (PgBouncer with `pool_mode = transaction`) gives each transaction
/// whatever connection of the server is free. What one transaction leaves on it, such as a prepared
/// statement, the next one of the same client does not find, and other clients do.
///
/// ```no_run
/// use motorpool::{PgStore, StatementMode};
///
/// # async fn example() -> motorpool::Result<()> {
/// let builder = PgStore::builder("postgresql://app@pooler:6432/garage")?;
/// let store = builder.statement_mode(StatementMode::Unnamed).build().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StatementMode {
    /// Each connection prepares a statement the first time and then calls it by its name. The
    /// default, and the faster one.
    ///
    /// For direct connections, poolers in session mode, and PgBouncer 1.21 or newer in transaction
    /// mode if it has `max_prepared_statements` (say 100; the default from 1.24 on is enough) and
    /// `ignore_startup_parameters = options`. PgBouncer then drops the
    /// [`statement_timeout`](crate::PgStoreBuilder::statement_timeout) that the store asks for.
    #[default]
    Prepared,
    /// No statement has a name, and nothing that the store sets outlives its transaction. For
    /// poolers in transaction mode that know no prepared statements, as PgBouncer before 1.21.
    ///
    /// A call is one round trip here too, but the server parses and plans its statement each time:
    /// look-ups have about two thirds of the throughput.
    ///
    /// The connections of the store's own pool ask for no `statement_timeout` when they start,
    /// which such poolers refuse. Each transaction sets its own in the message that begins it, so
    /// there the server gives up by itself. A call outside transactions ends by its
    /// [`call_timeout`](crate::PgStoreBuilder::call_timeout) alone: the client then asks the pooler
    /// to cancel the statement; in clear only where the URL names sockets beside other hosts. `options` in the URL are sent as they stand, and a
    /// `statement_timeout` in them is left alone.
    ///
    /// [Migrations](crate::migrate()) need a direct connection.
    Unnamed,
}
