//! Uses the crate as it is published: makes the tables, registers a user and buys a car.

#[path = "../../crate/tests/support/server/mod.rs"]
mod server;

use std::error::Error;

use motorpool::{NewCar, NewUser, PgStore, Store};
use server::{Options, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::start(Options::default())?;
    let store = PgStore::connect(&server.url("postgres")).await?;
    let applied = store.migrate().await?.applied().len();
    assert!(applied > 0, "the package holds no migration");

    let ada = store.users().register(&NewUser::new("Ada")?).await?;
    let ada = ada.into_user();
    let golf = store.cars().buy(&NewCar::new("Golf", ada.id)?).await?;
    assert_eq!(store.cars().owned_by(ada.id).await?, [golf.clone()]);
    println!("{applied} migrations; {ada} owns a {golf}");

    store.close().await;
    server.stop();
    Ok(())
}
