//! A user whose password costs nothing to check. Without optimisation the usual 4096 rounds take
//! a good part of a second where many connections are made at once, and that is not what is to be
//! measured.

#![allow(unreachable_pub, reason = "each test program uses a part of it")]

use tokio_postgres::NoTls;

/// One round; the password is the name.
const CREATE: &str = "CREATE ROLE quick SUPERUSER LOGIN PASSWORD \
    'SCRAM-SHA-256$1:bW90b3Jwb29sLXRlc3QhIQ==\
    $ZLfRx6rIvEwuoiwODG8TGGD5Gu0nUkSTd1e3zbIJaJ0=:OT63K4p9B1WlT44CGlCmwDXhRzRrKKCDPGae7F5yuS0='";

/// Makes the user on a server of the test's own, and gives its URL for the same database.
pub async fn user(url: &str) -> String {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(CREATE).await.unwrap();
    let (_, rest) = url.split_once('@').unwrap();
    format!("postgresql://quick:quick@{rest}")
}
