//! Who is at the other end of a connection: the server itself, or somebody in between who hands its
//! clients from one connection of the server to another.

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_postgres::{CancelToken, Client};

use super::cancel::{InClear, KeptOpen};

/// Whether the other end is this process of the server. A pooler gives its clients numbers of its
/// own, by which it tells who wants a statement cancelled.
pub(super) async fn is(client: &Client, process: Option<i32>) -> bool {
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
