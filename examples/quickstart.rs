//! A tour of the crate: users, cars, purchases that can be repeated, a transaction.
//!
//! ```sh
//! cargo run --example quickstart
//! ```
//!
//! Uses `DATABASE_URL` if it is set. Run twice on one database, it adds nothing the second time.

mod common;

use motorpool::{Error, NewCar, NewUser, PurchaseKey, Registration, Role, Store, StoreExt, UserId};
use uuid::Uuid;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").ok();
    let opened = common::open(url.as_deref()).await?;
    let result = tour(&opened.store).await;
    opened.close();
    Ok(result?)
}

async fn tour(store: &dyn Store) -> Result<(), Error> {
    println!("\nUsers");
    let ada = register(store, NewUser::new("Ada")?.role(Role::Teacher)).await?;
    let linus = register(store, NewUser::new("Linus")?.role(Role::Student)).await?;
    let grace = register(store, NewUser::new("Grace")?).await?;
    println!("  once more, as a student:");
    register(store, NewUser::new("Ada")?.role(Role::Student)).await?;

    println!("\nCars");
    for (number, (owner, model)) in [(ada, "Golf"), (ada, "2CV"), (linus, "Mini")]
        .into_iter()
        .enumerate()
    {
        let car = store.cars().buy(&purchase(number, model, owner)?).await?;
        println!("  user {owner} bought car {}: {car}", car.id);
    }
    let again = store.cars().buy(&purchase(0, "Golf", ada)?).await?;
    println!(
        "  the first purchase sent again, with its key: still car {}",
        again.id
    );
    match store
        .cars()
        .buy(&NewCar::new("Fiat 500", UserId::new(0))?)
        .await
    {
        Err(error @ Error::UnknownOwner { .. }) => {
            println!("  a car for user 0 is refused: {error}")
        }
        other => println!("  a car for user 0: {other:?}"),
    }

    println!("\nA transaction: Grace buys a car and gives it to user 0");
    let result = store
        .transaction(|tx| async move {
            let car = tx.cars().buy(&NewCar::new("Trabant", grace)?).await?;
            println!("  bought the {car}");
            tx.cars().transfer(car.id, grace, UserId::new(0)).await
        })
        .await;
    match result {
        Err(error @ Error::UnknownOwner { .. }) => println!("  undone, purchase and all: {error}"),
        other => println!("  {other:?}"),
    }

    println!("\nWho owns what");
    let owners = [ada, linus, grace];
    let cars = store.cars().owned_by_many(&owners).await?;
    for user in store.users().get_many(&owners).await? {
        let models: Vec<&str> = cars[&user.id].iter().map(|car| &*car.model).collect();
        match models[..] {
            [] => println!("  {user}: no car"),
            _ => println!("  {user}: {}", models.join(", ")),
        }
    }
    Ok(())
}

/// Registers a user and says what came of it.
async fn register(store: &dyn Store, new: NewUser) -> Result<UserId, Error> {
    let registration = store.users().register(&new).await?;
    match &registration {
        Registration::Created(user) => println!("  {user}: registered as user {}", user.id),
        Registration::Existing(user) => println!("  {user}: is user {} already", user.id),
    }
    Ok(registration.user().id)
}

/// A purchase with a key: however often it is sent, it is one car.
fn purchase(number: usize, model: &str, owner: UserId) -> Result<NewCar, Error> {
    let name = format!("motorpool quickstart {number}");
    let key = PurchaseKey::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()));
    Ok(NewCar::new(model, owner)?.key(key))
}
