//! Who is at the other end of a connection: the server itself, or somebody in between who hands its
//! clients from one connection of the server to another.

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_postgres::{CancelToken, Client};

use super::cancel::{InClear, KeptOpen};

/// Stands before the number of the process in a request to cancel.
const CANCEL: [u8; 4] = 80_877_102_u32.to_be_bytes();

/// More than a request to cancel takes, whose key has at most 256 bytes.
const ROOM: usize = 512;

/// Whether the other end is this process of the server. A pooler gives its clients numbers of its
/// own, by which it tells who wants a statement cancelled.
pub(super) async fn is(client: &Client, process: Option<i32>) -> bool {
    process.is_some() && announced(&client.cancel_token()).await == process
}

/// The number of the process that the other end gave when the connection was made. The driver
/// keeps it to itself and puts it into requests to cancel, so it is made to write one, to nobody.
async fn announced(token: &CancelToken) -> Option<i32> {
    let (mut near, mut far) = duplex(ROOM);
    // Yes, in case that it asks for TLS first.
    far.write_all(b"S").await.ok()?;
    let written = token.cancel_query_raw(KeptOpen(&mut near), InClear).await;
    drop(near);
    let mut request = Vec::new();
    far.read_to_end(&mut request).await.ok()?;
    written.ok()?;
    let code = request.windows(CANCEL.len()).position(|it| it == CANCEL)?;
    let process = request.get(code + CANCEL.len()..)?.first_chunk()?;
    Some(i32::from_be_bytes(*process))
}
