//! Calls with more items than go into one statement: still all or nothing and in the order given.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/relay.rs"]
mod relay;
mod support;
mod watch;

use std::time::Duration;

use futures_util::future::join;
use motorpool::{
    Car, CommitOutcome, Error, NewCar, NewUser, PgStore, PurchaseKey, Result, Store, TxOptions,
    UserId,
};
use relay::{Cut, Point, Relay};
use support::with_database;
use uuid::Uuid;
use watch::Watch;

/// The most items that one statement takes.
const AT_ONCE: usize = 100_000;

/// Three statements.
const MANY: usize = 2 * AT_ONCE + 10_000;

/// Two, the second of which has one item.
const TWO: usize = AT_ONCE + 1;

async fn connect(url: &str) -> PgStore {
    let builder = PgStore::builder(url).unwrap();
    let limit = Duration::from_secs(300);
    builder.call_timeout(limit).build().await.unwrap()
}

async fn owner(store: &PgStore) -> UserId {
    let new = NewUser::new("Anna").unwrap();
    store.users().register(&new).await.unwrap().into_user().id
}

fn car(model: usize, owner: UserId) -> NewCar {
    NewCar::new(format!("m{model}"), owner).unwrap()
}

fn cars(count: usize, owner: UserId) -> Vec<NewCar> {
    (0..count).map(|model| car(model, owner)).collect()
}

fn key(number: u128) -> PurchaseKey {
    PurchaseKey::new(Uuid::from_u128(number))
}

/// What was bought, in the order given and with ids that rise in it.
fn assert_bought(new: &[NewCar], bought: &[Car]) {
    assert_eq!(bought.len(), new.len());
    assert!(bought.is_sorted_by(|a, b| a.id < b.id));
    assert!(new.iter().zip(bought).all(|(new, car)| new.describes(car)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_cars_are_bought_in_order_by_messages_of_bounded_size() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let store = connect(&relay.url()).await;
        let watch = Watch::new(&database).await;
        let owner = owner(&store).await;
        let new = cars(MANY, owner);

        relay.longest();
        store.cars().buy_many(&new[..AT_ONCE]).await.unwrap();
        let one = relay.longest();
        relay.flights();
        let bought = store.cars().buy_many(&new).await.unwrap();
        assert_bought(&new, &bought);
        let longest = relay.longest();
        // The models of the later items are a digit longer.
        assert!(longest <= one + 2 * AT_ONCE, "{longest} after {one}");
        let flights = relay.flights();
        let sent = |kind| flights.concat().matches(kind).count();
        // BEGIN and COMMIT; three statements, and once the questions for the transaction's id and
        // for the time between two crashes.
        assert_eq!((sent("Q"), sent("B")), (2, 3 + 2), "{flights:?}");

        let tx = store.begin(TxOptions::new()).await.unwrap();
        let again = tx.cars().buy_many(&new).await.unwrap();
        assert_bought(&new, &again);
        assert!(again[0].id > bought[MANY - 1].id);
        assert_eq!(
            tx.cars().count().await.unwrap(),
            (AT_ONCE + 2 * MANY) as u64
        );
        tx.commit().await.unwrap();
        assert!(relay.longest() <= longest);
        let stored = watch.number("SELECT count(*) FROM cars").await;
        assert_eq!(stored, (AT_ONCE + 2 * MANY) as i64);
        watch.settled().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_item_in_the_last_statement_stores_nothing() {
    with_database(async |database| {
        let store = connect(&database.url).await;
        let owner = owner(&store).await;
        let nobody = UserId::new(owner.get() + 1000);
        let held = car(7, owner).key(key(7));
        store.cars().buy(&held).await.unwrap();
        let mut unknown = cars(TWO, owner);
        unknown[AT_ONCE] = car(0, nobody);
        let mut reused = cars(TWO, owner);
        reused[AT_ONCE] = car(8, owner).key(key(7));
        // Of two bad ones the first counts, though its statement stores nothing by itself.
        let mut both = cars(TWO, owner);
        both[5] = car(0, nobody);
        both[6] = car(0, owner).key(key(1));
        both[AT_ONCE] = car(1, owner).key(key(1));

        let check = |answers: [Result<Vec<Car>>; 3]| {
            let [unknown, reused, both] = answers.map(Result::unwrap_err);
            let named = matches!(
                unknown,
                Error::UnknownOwner { owner, index: Some(AT_ONCE) } if owner == nobody
            );
            assert!(named, "{unknown:?}");
            let named = matches!(
                reused,
                Error::PurchaseKeyReused {
                    index: Some(AT_ONCE)
                }
            );
            assert!(named, "{reused:?}");
            let named = matches!(both, Error::UnknownOwner { index: Some(5), .. });
            assert!(named, "{both:?}");
        };
        let all = store.cars();
        check([
            all.buy_many(&unknown).await,
            all.buy_many(&reused).await,
            all.buy_many(&both).await,
        ]);
        assert_eq!(all.count().await.unwrap(), 1);

        // In a transaction that goes on, also for those who use it at the same time.
        let tx = store.begin(TxOptions::new()).await.unwrap();
        tx.cars().buy(&car(1, owner)).await.unwrap();
        let bert = NewUser::new("Bert").unwrap();
        let (refused, meanwhile) =
            join(tx.cars().buy_many(&unknown), tx.users().register(&bert)).await;
        assert!(meanwhile.unwrap().is_created());
        check([
            refused,
            tx.cars().buy_many(&reused).await,
            tx.cars().buy_many(&both).await,
        ]);
        assert_eq!(tx.cars().count().await.unwrap(), 2);
        tx.commit().await.unwrap();
        assert_eq!(all.count().await.unwrap(), 2);
        assert_eq!(store.users().count().await.unwrap(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_comes_again_in_a_later_statement_buys_one_car() {
    with_database(async |database| {
        let store = connect(&database.url).await;
        let owner = owner(&store).await;
        let mut new = cars(MANY, owner);
        // The second statement has no key.
        for place in [3, AT_ONCE - 1, MANY - 2, MANY - 1] {
            new[place] = car(place, owner).key(key(1 + place as u128));
        }
        new[MANY - 1] = new[3].clone();
        let bought = store.cars().buy_many(&new).await.unwrap();
        assert_bought(&new[..MANY - 1], &bought[..MANY - 1]);
        assert_eq!(bought[MANY - 1], bought[3]);
        assert_eq!(store.cars().count().await.unwrap(), MANY as u64 - 1);
        let keyed = [3, AT_ONCE - 1, MANY - 2].map(|place| new[place].clone());
        let again = store.cars().buy_many(&keyed).await.unwrap();
        assert_eq!(
            again,
            [3, AT_ONCE - 1, MANY - 2].map(|place| bought[place].clone())
        );

        new[MANY - 1] = car(9, owner).key(key(4));
        let refused = store.cars().buy_many(&new).await.unwrap_err();
        let place = MANY - 1;
        let named = matches!(refused, Error::PurchaseKeyReused { index: Some(at) } if at == place);
        assert!(named, "{refused:?}");
        assert_eq!(store.cars().count().await.unwrap(), MANY as u64 - 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_users_are_registered_in_order_and_a_repeated_name_once() {
    with_database(async |database| {
        let store = connect(&database.url).await;
        let anna = owner(&store).await;
        let new = |name: String| NewUser::new(name).unwrap();
        let mut all: Vec<_> = (0..MANY).map(|n| new(format!("u{}", MANY - n))).collect();
        all[MANY - 2] = new("Anna".into());
        all[MANY - 1] = all[1].clone();
        for inside in [true, false] {
            let answers = match inside {
                true => {
                    let tx = store.begin(TxOptions::new()).await.unwrap();
                    let answers = tx.users().register_many(&all).await.unwrap();
                    assert_eq!(tx.users().count().await.unwrap(), MANY as u64 - 1);
                    tx.rollback().await.unwrap();
                    answers
                }
                false => store.users().register_many(&all).await.unwrap(),
            };
            let (created, rest) = answers.split_at(MANY - 2);
            assert!(created.iter().all(|answer| answer.is_created()));
            assert!(created.is_sorted_by(|a, b| a.user().id < b.user().id));
            let names = created.iter().map(|answer| answer.user().username.as_str());
            assert!(names.eq(all[..MANY - 2].iter().map(NewUser::username)));
            assert!(rest.iter().all(|answer| !answer.is_created()));
            assert_eq!(rest[0].user().id, anna);
            assert_eq!(rest[1].user(), created[1].user());
        }
        assert_eq!(store.users().count().await.unwrap(), MANY as u64 - 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_dropped_halfway_stores_nothing() {
    with_database(async |database| {
        let store = connect(&database.url).await;
        let watch = Watch::new(&database).await;
        let owner = owner(&store).await;
        let new = cars(MANY, owner);
        // The sequence tells how far it is, whatever becomes of the transaction.
        let halfway = format!("SELECT (last_value > {AT_ONCE})::int::bigint FROM cars_id_seq");
        for inside in [false, true] {
            watch.run("ALTER SEQUENCE cars_id_seq RESTART").await;
            let tx = store.begin(TxOptions::new()).await.unwrap();
            let repository = if inside { tx.cars() } else { store.cars() };
            tokio::select! {
                bought = repository.buy_many(&new) => panic!("{:?}", bought.map(|all| all.len())),
                () = watch.until(&halfway, 1) => {}
            }
            let ended = tx.commit().await;
            let undone = matches!(ended, Err(Error::RolledBack(_)));
            assert_eq!(undone, inside, "{ended:?}");
            watch.settled().await;
            assert_eq!(watch.number("SELECT count(*) FROM cars").await, 0);
        }
        assert_eq!(store.status().idle, store.status().size);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_commit_can_be_asked_about() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let store = connect(&relay.url()).await;
        let new = cars(TWO, owner(&store).await);
        let mut stored = 0;
        for (at, outcome) in [
            (Point::Before, CommitOutcome::RolledBack),
            (Point::Answer(0), CommitOutcome::Committed),
        ] {
            relay.cut_next(Cut { at, abrupt: true });
            let lost = store.cars().buy_many(&new).await.map(|all| all.len());
            let Err(Error::CommitUnknown { token }) = lost else {
                panic!("{at:?}: {lost:?}");
            };
            let found = loop {
                match store.commit_outcome(&token).await.unwrap() {
                    CommitOutcome::InProgress => tokio::task::yield_now().await,
                    found => break found,
                }
            };
            assert_eq!(found, outcome, "{at:?}");
            stored += if outcome == CommitOutcome::Committed {
                TWO
            } else {
                0
            };
            assert_eq!(store.cars().count().await.unwrap(), stored as u64);
        }
    })
    .await;
}

/// Each has in its first statement the key that the other one has in its second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_calls_that_get_in_each_others_way_one_is_made_again() {
    with_database(async |database| {
        let store = connect(&database.url).await;
        let watch = Watch::new(&database).await;
        let owner = owner(&store).await;
        let keyed = [1, 2].map(|number| car(number, owner).key(key(number as u128)));
        let [mut one, mut other] = [cars(TWO, owner), cars(TWO, owner)];
        (one[0], one[AT_ONCE]) = (keyed[0].clone(), keyed[1].clone());
        (other[0], other[AT_ONCE]) = (keyed[1].clone(), keyed[0].clone());
        // On a connection of its own: inside a transaction the server's view of the others stands
        // still.
        let gate = Watch::new(&database).await;
        gate.run("BEGIN; LOCK TABLE cars IN SHARE MODE").await;
        let go = async {
            watch.waiting(2).await;
            gate.run("COMMIT").await;
        };
        let calls = join(store.cars().buy_many(&one), store.cars().buy_many(&other));
        let ((first, second), ()) = join(calls, go).await;
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first[0], second[AT_ONCE]);
        assert_eq!(first[AT_ONCE], second[0]);
        let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        watch.until(deadlocks, 1).await;
        let stored = watch.number("SELECT count(*) FROM cars").await;
        assert_eq!(stored as usize, 2 * (AT_ONCE - 1) + 2);
    })
    .await;
}

/// The first two statements that insert users give way once the gate 1 is open, and all others wait
/// for the gate 2.
const GATES: &str = "CREATE SEQUENCE tries;
    CREATE FUNCTION gates() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('tries') <= 2 THEN
                PERFORM pg_advisory_xact_lock_shared(1);
                RAISE 'make way' USING ERRCODE = '40001';
            END IF;
            PERFORM pg_advisory_xact_lock_shared(2);
            RETURN NULL;
        END $$;
    CREATE TRIGGER gates BEFORE INSERT ON users FOR EACH STATEMENT EXECUTE FUNCTION gates()";

const AT_A_GATE: &str = "SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_have_given_way_are_made_again_one_at_a_time() {
    with_database(async |database| {
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        let store = connect(&database.url).await;
        let call = |names: [&str; 2]| {
            let new = names.map(|name| NewUser::new(name).unwrap());
            let store = store.clone();
            tokio::spawn(async move { store.users().register_many(&new).await })
        };
        holder.run(GATES).await;
        holder
            .run("SELECT pg_advisory_lock(1), pg_advisory_lock(2)")
            .await;
        let two = [call(["Bert", "Anna"]), call(["Anna", "Bert"])];
        look.until(AT_A_GATE, 2).await;
        holder.run("SELECT pg_advisory_unlock(1)").await;
        let tries = "SELECT last_value FROM tries";
        look.until(tries, 3).await;
        look.until(AT_A_GATE, 1).await;
        // One that has not given way waits for nobody.
        let third = call(["Carl", "Dora"]);
        look.until(AT_A_GATE, 2).await;
        // And the other one is still not among them.
        assert_eq!(look.number(tries).await, 4);
        holder.run("SELECT pg_advisory_unlock(2)").await;
        let mut created = 0;
        for call in two {
            let answers = call.await.unwrap().unwrap();
            created += answers.iter().filter(|one| one.is_created()).count();
        }
        assert_eq!(created, 2);
        assert!(third.await.unwrap().unwrap()[0].is_created());
        assert_eq!(look.number(tries).await, 5);
        assert_eq!(store.users().count().await.unwrap(), 4);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_turn_until_the_time_is_over_has_stored_nothing() {
    with_database(async |database| {
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        let patient = connect(&database.url).await;
        let hasty = patient.with_call_timeout(Duration::from_secs(2));
        let call = |store: PgStore, name: &str| {
            let new = [NewUser::new(name).unwrap()];
            tokio::spawn(async move { store.users().register_many(&new).await })
        };
        holder.run(GATES).await;
        holder
            .run("SELECT pg_advisory_lock(1), pg_advisory_lock(2)")
            .await;
        let first = call(patient.clone(), "Bert");
        look.until(AT_A_GATE, 1).await;
        holder
            .run("SELECT setval('tries', 1), pg_advisory_unlock(1)")
            .await;
        // It has its turn, and gives way again.
        look.until("SELECT last_value FROM tries", 3).await;
        look.until(AT_A_GATE, 1).await;
        holder.run("SELECT setval('tries', 1)").await;
        let second = call(hasty, "Anna").await.unwrap();
        let second = second.expect_err("its turn does not come");
        assert!(matches!(&second, Error::Conflict(_)), "{second:?}");
        assert!(second.is_retryable());
        assert_eq!(patient.status().discarded, Default::default());
        holder.run("SELECT pg_advisory_unlock(2)").await;
        assert!(first.await.unwrap().unwrap()[0].is_created());
        assert_eq!(patient.users().count().await.unwrap(), 1);
    })
    .await;
}
