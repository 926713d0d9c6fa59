//! Who is at the other end of a connection: the server itself, or somebody in between who hands its
//! clients from one connection of the server to another. Of the server itself its era is noted, as
//! the connection does not outlive that.

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_postgres::{CancelToken, Client};

use super::cancel::{InClear, KeptOpen};
use super::era::{self, ERA, Era};
use super::lease::Lease;
use crate::error::{Error, Result};

impl Lease {
    /// The era of the server in which the connection was made, if the server tells. One round trip
    /// for each connection, not for each transaction.
    pub(super) async fn era(&mut self) -> Result<era::Known> {
        match self.note.era() {
            Some(era) => Ok(era),
            // In a box, because it is rare.
            None => Box::pin(self.ask_era()).await,
        }
    }

    async fn ask_era(&mut self) -> Result<era::Known> {
        let nothing = era::Known::nothing();
        let era = match self.query(&ERA, &[]).await {
            Ok(rows) => {
                let row = rows.first();
                let process = row.and_then(|row| row.try_get(2).ok());
                match self.client() {
                    Some(client) if !is(client, process).await => era::Known::WithTransaction,
                    _ => row
                        .and_then(|row| Era::from_row(row, 0).ok())
                        .map_or(nothing, era::Known::WithConnection),
                }
            }
            // What the server does not have or does not tell it is not asked again (classes 42 and
            // 0A). Anything else may go well the next time.
            Err(Error::Database(failure)) => {
                let class = failure.sqlstate().and_then(|state| state.get(..2));
                if !matches!(class, Some("42" | "0A")) {
                    return Ok(nothing);
                }
                nothing
            }
            Err(error) => return Err(error),
        };
        self.note.set_era(era);
        Ok(era)
    }
}

/// Whether the other end is this process of the server. A pooler gives its clients numbers of its
/// own, by which it tells who wants a statement cancelled.
async fn is(client: &Client, process: Option<i32>) -> bool {
    process.is_some() && announced(&client.cancel_token()).await == process
}

/// The number of the process that the other end gave when the connection was made. The driver
/// keeps it to itself and puts it into requests to cancel, so it is made to write one, to nobody.
async fn announced(token: &CancelToken) -> Option<i32> {
    let (mut near, mut far) = duplex(64);
    // Yes, in case that it asks for TLS first.
    far.write_all(b"S").await.ok()?;
    let written = token.cancel_query_raw(KeptOpen(&mut near), InClear).await;
    drop(near);
    let mut request = Vec::new();
    far.read_to_end(&mut request).await.ok()?;
    written.ok()?;
    // The process and the key are its last words.
    let process = request
        .len()
        .checked_sub(8)
        .and_then(|at| request.get(at..at + 4))?;
    Some(i32::from_be_bytes(process.try_into().ok()?))
}
