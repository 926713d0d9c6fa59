//! A fault meets the operation that it names, and no other.

use futures_util::TryStreamExt;
use motorpool::testing::{self, Operation};
use motorpool::{CarId, NewCar, PageRequest, Role, Store, TxOptions, UserId};

use crate::{Memory, ada, named, store};

/// Every call once, and those of them that failed.
async fn every_call(store: &Memory) -> Vec<Operation> {
    use Operation::*;
    let (user, car) = (UserId::new(1), CarId::new(1));
    let (users, cars) = (store.users(), store.cars());
    let (page, cars_page) = (PageRequest::first(9), PageRequest::first(9));
    let new = NewCar::new("Golf", user).unwrap();
    let answers = [
        (Register, users.register(&named("Bob")).await.err()),
        (RegisterMany, users.register_many(&[]).await.err()),
        (GetUser, users.get(user).await.err()),
        (GetUsers, users.get_many(&[]).await.err()),
        (GetByUsername, users.get_by_username("").await.err()),
        (ListUsers, users.list(page.unwrap()).await.err()),
        (
            StreamUsers,
            users.stream().try_collect::<Vec<_>>().await.err(),
        ),
        (SetRole, users.set_role(user, Role::Student).await.err()),
        (Rename, users.rename(user, "Cy").await.err()),
        (DeleteUser, users.delete(UserId::new(9)).await.err()),
        (CountUsers, users.count().await.err()),
        (Buy, cars.buy(&new).await.err()),
        (BuyMany, cars.buy_many(&[new]).await.err()),
        (GetCar, cars.get(car).await.err()),
        (OwnedBy, cars.owned_by(user).await.err()),
        (OwnedByMany, cars.owned_by_many(&[]).await.err()),
        (
            ListOwnedBy,
            cars.list_owned_by(user, cars_page.unwrap()).await.err(),
        ),
        (
            StreamCars,
            cars.stream().try_collect::<Vec<_>>().await.err(),
        ),
        (
            Transfer,
            cars.transfer(CarId::new(1), user, user).await.err(),
        ),
        (DeleteCar, cars.delete(CarId::new(9)).await.err()),
        (CountCars, cars.count().await.err()),
    ];
    let mut failed: Vec<_> = answers
        .into_iter()
        .filter_map(|(operation, error)| error.map(|_| operation))
        .collect();
    match store.begin(TxOptions::new()).await {
        Ok(tx) => failed.extend(tx.commit().await.err().map(|_| Commit)),
        Err(_) => failed.push(Begin),
    }
    if let Ok(tx) = store.begin(TxOptions::new()).await {
        failed.extend(tx.rollback().await.err().map(|_| Rollback));
    }
    failed
}

#[tokio::test]
async fn every_operation_goes_by_its_name() {
    use Operation::*;
    let all = [
        Register,
        RegisterMany,
        GetUser,
        GetUsers,
        GetByUsername,
        ListUsers,
        StreamUsers,
        SetRole,
        Rename,
        DeleteUser,
        CountUsers,
        Buy,
        BuyMany,
        GetCar,
        OwnedBy,
        OwnedByMany,
        ListOwnedBy,
        StreamCars,
        Transfer,
        DeleteCar,
        CountCars,
        Begin,
        Commit,
        Rollback,
    ];
    for lost in [false, true] {
        for operation in all {
            let store = store();
            let owner = ada(&store).await.id;
            let golf = NewCar::new("Golf", owner).unwrap();
            store.store().cars().buy(&golf).await.unwrap();
            match lost {
                false => store.fail(operation, 1, testing::refused),
                true => store.lose_answer(operation, 1, testing::timeout),
            };
            assert_eq!(every_call(&store).await, [operation], "lost: {lost}");
            let calls = if operation == Begin { 24 } else { 25 };
            assert_eq!(store.calls(Any), calls, "{operation:?}");
            let once = if operation == Begin { 2 } else { 1 };
            assert_eq!(store.calls(operation), once, "{operation:?}");
        }
    }
}
