//! Uses the crate as it is published: makes the tables, registers a user and buys a car.

#[path = "../../crate/tests/support/server/mod.rs"]
mod server;

use std::error::Error;

use motorpool::{NewCar, NewUser, PgStore, Store};
use server::{Options, Server};

/// Of the two migrations of version 0.1.0 of the crate.
const CHECKSUMS: &str = "5958194119911770777 9013392788605721322";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::start(Options::default())?;
    let store = PgStore::connect(&server.url("postgres")).await?;
    let applied = store.migrate().await?.applied().len();
    assert!(applied > 0, "the package holds no migration");

    // The host's versions of 64 bits change nothing of what stands in the history.
    let client = store.pool().get().await?;
    let history = "SELECT string_agg(checksum, ' ' ORDER BY version) FROM motorpool_schema_history";
    let checksums: String = client.query_one(history, &[]).await?.try_get(0)?;
    assert_eq!(checksums, CHECKSUMS);
    drop(client);

    let ada = store.users().register(&NewUser::new("Ada")?).await?;
    let ada = ada.into_user();
    let golf = store.cars().buy(&NewCar::new("Golf", ada.id)?).await?;
    assert_eq!(store.cars().owned_by(ada.id).await?, [golf.clone()]);
    println!("{applied} migrations; {ada} owns a {golf}");

    store.close().await;
    server.stop();
    Ok(())
}
