//! Each kind of fault, outside transactions.

use futures_util::{FutureExt, StreamExt};
use motorpool::testing::{self, Operation};
use motorpool::{CarId, Error, NewCar, Store, TxOptions, UserId};
use tokio::task::JoinSet;

use crate::{is_timeout, named, soon, store, stored};

#[tokio::test]
async fn the_nth_call_fails_and_is_not_made() {
    let store = store();
    store.fail(Operation::Register, 2, testing::timeout);
    for (name, fails) in [("Ada", false), ("Bob", true), ("Cy", false)] {
        store.users().count().await.unwrap();
        let answer = store.users().register(&named(name)).await;
        assert_eq!(is_timeout(answer), fails, "{name}");
    }
    assert_eq!(stored(&store).await, 2);
    // It counts from here.
    store.fail(Operation::Any, 2, testing::timeout);
    store.users().count().await.unwrap();
    assert!(is_timeout(store.cars().count().await));
    assert_eq!(store.calls(Operation::Register), 3);
    assert_eq!(store.calls(Operation::CountUsers), 4);
    assert_eq!(store.calls(Operation::Any), 8);
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_was_made() {
    let store = store();
    store.lose_answer(Operation::Register, 1, testing::connection_lost);
    let lost = store.users().register(&named("Ada")).await;
    assert!(matches!(lost, Err(Error::Unavailable { .. })), "{lost:?}");
    assert_eq!(stored(&store).await, 1);
    let again = store.users().register(&named("Ada")).await.unwrap();
    assert!(!again.is_created());
    // Whatever the answer was.
    store.lose_answer(Operation::Buy, 1, testing::timeout);
    let orphan = NewCar::new("Golf", UserId::new(99)).unwrap();
    assert!(is_timeout(store.cars().buy(&orphan).await));
    let refused = store.cars().buy(&orphan).await;
    assert!(matches!(refused, Err(Error::UnknownOwner { .. })));
}

#[tokio::test]
async fn of_several_faults_at_one_call_the_others_wait_for_the_next() {
    let store = store();
    let second = store.fail(Operation::CountUsers, 2, testing::timeout);
    let any = store.fail(Operation::Any, 1, testing::refused);
    let also = store.fail(Operation::CountUsers, 1, testing::timeout);
    store.fail_all(Operation::CountUsers, testing::pool_exhausted);
    let refused = store.users().count().await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })));
    let struck = [&second, &any, &also].map(|fault| fault.has_struck());
    assert_eq!(struck, [false, true, false]);
    assert!(is_timeout(store.users().count().await));
    assert!(second.has_struck() && !also.has_struck());
    assert!(is_timeout(store.users().count().await));
    let exhausted = store.users().count().await;
    assert!(matches!(exhausted, Err(Error::PoolExhausted { .. })));
    assert_eq!(store.cars().count().await.unwrap(), 0);

    let in_order = [1, 2, 3].map(|number| {
        let error = move || Error::CarNotFound {
            id: CarId::new(number),
        };
        store.fail(Operation::CountCars, 1, error);
        number
    });
    for number in in_order {
        let failed = store.cars().count().await;
        assert!(matches!(failed, Err(Error::CarNotFound { id }) if id.get() == number));
    }
}

#[tokio::test]
async fn an_outage_lasts_until_it_is_healed() {
    let store = store();
    store.fail_all(Operation::Any, testing::refused);
    let never = store.fail(Operation::CountCars, 10, testing::timeout);
    for _ in 0..3 {
        assert!(store.users().register(&named("Ada")).await.is_err());
        assert!(store.begin(TxOptions::new()).await.is_err());
    }
    store.heal();
    assert_eq!(stored(&store).await, 0);
    assert!(store.users().register(&named("Ada")).await.is_ok());
    for _ in 0..10 {
        assert!(store.cars().count().await.is_ok());
    }
    assert!(!never.has_struck());
    assert_eq!(store.calls(Operation::Any), 17);
}

#[tokio::test]
async fn a_call_that_hangs_and_is_dropped_is_never_made() {
    let store = store();
    let fault = store.hang(Operation::Register, 1);
    let new = named("Ada");
    let mut call = store.users().register(&new);
    assert!((&mut call).now_or_never().is_none());
    soon(fault.reached()).await;
    drop(call);
    assert_eq!(stored(&store).await, 0);
    assert!(store.users().register(&new).await.unwrap().is_created());
    assert_eq!(store.calls(Operation::Register), 2);
}

#[tokio::test]
async fn a_call_that_hangs_is_made_when_it_is_released() {
    let store = store();
    let fault = store.hang(Operation::Register, 1);
    let (hanging, new) = (store.clone(), named("Ada"));
    let call = tokio::spawn(async move { hanging.users().register(&new).await });
    soon(fault.reached()).await;
    // Others go on.
    assert_eq!(store.users().count().await.unwrap(), 0);
    fault.release();
    assert!(soon(call).await.unwrap().unwrap().is_created());
    // Released before it has come, it does not hang.
    store.hang(Operation::Register, 1).release();
    let answer = store.users().register(&named("Bob")).now_or_never();
    assert!(answer.unwrap().unwrap().is_created());
}

#[tokio::test]
async fn an_answer_that_hangs_is_that_of_a_call_that_was_made() {
    let store = store();
    let fault = store.hang_answer(Operation::Register, 1);
    let new = named("Ada");
    let mut call = store.users().register(&new);
    assert!((&mut call).now_or_never().is_none());
    soon(fault.reached()).await;
    assert_eq!(stored(&store).await, 1);
    fault.release();
    assert!(soon(call).await.unwrap().is_created());

    store.hang_answer(Operation::Register, 1);
    let bob = named("Bob");
    assert!(store.users().register(&bob).now_or_never().is_none());
    assert!(!store.users().register(&bob).await.unwrap().is_created());
}

#[tokio::test]
async fn healing_lets_what_hangs_go_on() {
    let store = store();
    store.hang(Operation::Register, 1);
    store.hang_answer(Operation::Register, 1);
    let new = [named("Ada"), named("Bob")];
    let mut calls = [&new[0], &new[1]].map(|new| store.users().register(new));
    for call in &mut calls {
        assert!(call.now_or_never().is_none());
    }
    assert_eq!(stored(&store).await, 1);
    store.heal();
    for call in calls {
        assert!(soon(call).await.unwrap().is_created());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_calls_at_once_the_nth_fails_and_no_other() {
    let store = store();
    for nth in [1, 10, 64] {
        store.fail(Operation::Register, nth, testing::timeout);
    }
    let mut calls = JoinSet::new();
    for number in 0..64 {
        let store = store.clone();
        calls.spawn(async move { store.users().register(&named(&format!("u{number}"))).await });
    }
    let answers = calls.join_all().await;
    let failed = answers.into_iter().filter(|answer| answer.is_err()).count();
    assert_eq!((failed, stored(&store).await), (3, 61));
    assert_eq!(store.calls(Operation::Register), 64);
}

#[tokio::test]
async fn a_stream_fails_before_its_first_item_or_instead_of_its_end() {
    let store = store();
    for name in ["Ada", "Bob"] {
        store.users().register(&named(name)).await.unwrap();
    }
    let names = async || {
        let items = store
            .users()
            .stream()
            .map(|item| item.ok().map(|user| user.username));
        items.collect::<Vec<_>>().await
    };
    let [ada, bob] = ["Ada", "Bob"].map(|name| Some(name.to_owned()));
    store.fail(Operation::StreamUsers, 1, testing::timeout);
    assert_eq!(names().await, [None]);
    store.lose_answer(Operation::StreamUsers, 1, testing::timeout);
    assert_eq!(names().await, [ada.clone(), bob.clone(), None]);
    assert_eq!(names().await, [ada, bob]);

    store.hang(Operation::StreamUsers, 1);
    store.hang_answer(Operation::StreamUsers, 2);
    // One that is not polled is no call.
    drop(store.users().stream());
    assert!(names().now_or_never().is_none());
    let mut stream = store.users().stream();
    for _ in 0..2 {
        assert!(stream.next().await.unwrap().is_ok());
    }
    assert!(stream.next().now_or_never().is_none());
    store.heal();
    assert!(soon(stream.next()).await.is_none());
    assert!(stream.next().await.is_none());
    assert_eq!(store.calls(Operation::StreamUsers), 5);
}
