//! Calls that wait go out together: which of them in how many statements, and each gets its own
//! answer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod queue;
#[path = "support/relay.rs"]
mod relay;
mod support;
mod watch;

use std::collections::BTreeSet;

use deadpool_postgres::{Manager, Pool};
use futures_util::future::join_all;
use motorpool::{
    Batched, CarId, Error, NewCar, NewUser, PgStore, Registration, Result, Role, Store, User,
    UserId,
};
use queue::{
    CALLS, Call, Queue, buy, by_name, car, connect, get, golf, good, key, name, owned_by, register,
};
use relay::Relay;
use support::server::{Options, Server};
use support::with_database;
use tokio::task::block_in_place;
use tokio_postgres::NoTls;
use watch::Watch;

/// What went out together meanwhile: statements and calls.
struct Count(PgStore, Batched);

impl Count {
    fn new(store: &PgStore) -> Count {
        Count(store.clone(), store.status().batched)
    }

    fn taken(&mut self) -> (u64, u64) {
        let now = self.0.status().batched;
        let before = std::mem::replace(&mut self.1, now);
        (now.statements - before.statements, now.calls - before.calls)
    }
}

/// How many statements the server was sent since the last time.
fn executed(relay: &Relay) -> usize {
    let flights = relay.flights().concat();
    flights.matches('E').count()
}

#[tokio::test]
async fn those_who_wait_go_out_in_one_statement() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let store = connect(&relay.url(), 1, 256).await;
        let mut count = Count::new(&store);
        let mut check = |what: &str| {
            assert_eq!(count.taken(), (1, CALLS as u64), "{what}");
            assert_eq!(executed(&relay), 1, "{what}");
        };
        executed(&relay);

        let call = |number| register(&store, name(number));
        let users = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
        check("register");
        let users: Vec<User> = users.into_iter().map(Registration::into_user).collect();
        for (number, user) in users.iter().enumerate() {
            assert_eq!(user.username, name(number));
        }
        let ids: Vec<UserId> = users.iter().map(|user| user.id).collect();

        let call = |number: usize| get(&store, ids[number]);
        let found = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
        check("get");
        assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), users);

        let call = |number: usize| by_name(&store, name(CALLS - 1 - number));
        let found = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
        check("get_by_username");
        assert_eq!(found.into_iter().rev().flatten().collect::<Vec<_>>(), users);

        // Without keys and with; some owners more than once.
        let new =
            |number: usize| NewCar::new(format!("model {number}"), ids[number * 7 % 50]).unwrap();
        let call = |number: usize| buy(&store, new(number));
        let mut cars = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
        check("buy");
        let keyed = |number: usize| {
            let number = CALLS + number;
            buy(&store, new(number).key(key(number as u128 ^ 0b1010)))
        };
        cars.extend(good(
            Queue::form(&store, 1, CALLS, keyed).await.answers().await,
        ));
        check("buy with a key");
        for (number, car) in cars.iter().enumerate() {
            assert_eq!(car.model, format!("model {number}"));
            assert_eq!(car.owner_id, ids[number * 7 % 50]);
        }
        let look = database.client().await;
        let stored = look
            .query("SELECT id, model FROM cars ORDER BY id", &[])
            .await;
        let mut told: Vec<_> = cars.iter().map(|car| (car.id, car.model.clone())).collect();
        told.sort();
        let stored = stored.unwrap();
        let stored = stored
            .iter()
            .map(|row| (CarId::new(row.get(0)), row.get(1)));
        assert_eq!(stored.collect::<Vec<_>>(), told);

        let call = |number: usize| car(&store, cars[number * 2].id);
        let found = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
        check("car");
        let wanted = cars.iter().step_by(2).cloned().map(Some);
        assert_eq!(found, wanted.collect::<Vec<_>>());

        let call = |number: usize| owned_by(&store, ids[number]);
        let found = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
        check("owned_by");
        for (owner, found) in ids.iter().zip(found) {
            let mut owned: Vec<_> = cars.iter().filter(|car| car.owner_id == *owner).collect();
            owned.sort_by_key(|car| car.id);
            assert_eq!(found.iter().collect::<Vec<_>>(), owned);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_64_callers_ask_for_is_sent_once() {
    let options = Options {
        settings: vec![("log_statement".into(), "all".into())],
        ..Options::default()
    };
    let server = block_in_place(|| Server::start(options)).unwrap();
    let store = connect(&server.url("postgres"), 1, 256).await;
    store.migrate().await.unwrap();

    let call = |_| register(&store, "Anna".into());
    let answers = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
    let created = answers.iter().filter(|one| one.is_created()).count();
    assert_eq!(created, 1);
    let ids: BTreeSet<_> = answers.iter().map(|one| one.user().id).collect();
    assert_eq!(ids.len(), 1);
    let anna = answers[0].user().clone();

    let call = |_| get(&store, anna.id);
    let answers = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
    assert_eq!(answers, vec![Some(anna.clone()); CALLS]);
    let call = |_| by_name(&store, "Zoe".into());
    let answers = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
    assert_eq!(answers, vec![None; CALLS]);
    let call = |_| buy(&store, golf(anna.id).key(key(0xabc)));
    let answers = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
    let bought = answers[0].clone();
    assert_eq!(answers, vec![bought.clone(); CALLS]);
    let call = |_| car(&store, CarId::new(77_777));
    let answers = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
    assert_eq!(answers, vec![None; CALLS]);
    let call = |_| owned_by(&store, anna.id);
    let answers = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
    assert_eq!(answers, vec![vec![bought]; CALLS]);

    store.close().await;
    let log = std::fs::read_to_string(server.log_path()).unwrap();
    let times = |text: &str| log.matches(text).count();
    assert_eq!(times("$1 = '{Anna}'"), 1, "{log}");
    assert_eq!(times(&format!("$1 = '{{{}}}'", anna.id)), 2, "{log}");
    assert_eq!(times("$1 = '{Zoe}'"), 1, "{log}");
    assert_eq!(times("-000000000abc}'"), 1, "{log}");
    assert_eq!(times("$1 = '{77777}'"), 1, "{log}");
}

#[tokio::test]
async fn no_batch_is_larger_than_its_cap() {
    with_database(async |database| {
        let relay = Relay::start(&database.url).await;
        let store = connect(&relay.url(), 1, 2).await;
        executed(&relay);
        let mut count = Count::new(&store);
        let call = |number| register(&store, name(number));
        let users = good(Queue::form(&store, 1, 11, call).await.answers().await);
        assert_eq!(users.len(), 11);
        assert_eq!((count.taken(), executed(&relay)), ((6, 11), 6));
        let call = |number: usize| get(&store, UserId::new(number as i64));
        good(Queue::form(&store, 1, 10, call).await.answers().await);
        assert_eq!((count.taken(), executed(&relay)), ((5, 10), 5));

        // 0 counts as 1, for both.
        let store = connect(&relay.url(), 0, 0).await;
        executed(&relay);
        let call = |number: usize| get(&store, UserId::new(number as i64));
        good(Queue::form(&store, 1, 5, call).await.answers().await);
        assert_eq!(
            (store.status().batched.statements, executed(&relay)),
            (5, 5)
        );
    })
    .await;
}

#[tokio::test]
async fn any_number_of_lanes_can_be_asked_for() {
    with_database(async |database| {
        let store = connect(&database.url, usize::MAX, usize::MAX).await;
        assert_eq!(store.users().get(UserId::new(1)).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn look_ups_have_all_lanes_and_writes_half_of_them() {
    with_database(async |database| {
        let store = connect(&database.url, 4, 256).await;
        // It looks itself how many calls wait for a connection, and how many for a lane.
        let queue = Queue::form(&store, 4, 8, |id| get(&store, UserId::new(id as i64))).await;
        assert!(good(queue.answers().await).iter().all(Option::is_none));
        let queue = Queue::form(&store, 2, 8, |number| register(&store, name(number))).await;
        assert_eq!(good(queue.answers().await).len(), 8);
        let store = connect(&database.url, 1, 256).await;
        let queue = Queue::form(&store, 1, 8, |number| register(&store, name(number))).await;
        assert_eq!(good(queue.answers().await).len(), 8);
    })
    .await;
}

/// The server counts, at the start of each statement, how many are at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_statements_of_a_kind_are_under_way_than_lanes() {
    with_database(async |database| {
        let look = Watch::new(&database).await;
        look.run(
            "CREATE TABLE seen (number bigint);
             CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_sleep(0.005);
                 INSERT INTO seen SELECT count(*) FROM pg_stat_activity
                     WHERE application_name = 'motorpool' AND state = 'active'
                     AND datname = current_database();
                 RETURN NULL;
             END $$;
             CREATE TRIGGER look BEFORE INSERT ON users FOR EACH STATEMENT EXECUTE FUNCTION look()",
        )
        .await;
        // Two of them for writes.
        let store = connect(&database.url, 4, 4).await;
        let tasks = (0..32).map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0..10 {
                    let created = register(&store, name(task * 10 + number)).await.unwrap();
                    assert!(created.is_created());
                }
            })
        });
        for task in join_all(tasks).await {
            task.unwrap();
        }
        assert!(look.number("SELECT max(number) FROM seen").await >= 2);
        let statements = look.number("SELECT count(*) FROM seen").await;
        // On a busy machine a statement may take so long that its lane counts as stuck.
        let more = look
            .number("SELECT count(*) FROM seen WHERE number > 2")
            .await;
        assert!(more * 10 < statements, "{more} of {statements}");
        let batched = store.status().batched;
        let alone = 320 - batched.calls;
        assert_eq!(statements as u64, batched.statements + alone);
        assert!(batched.calls > 200, "{batched:?}");
    })
    .await;
}

#[tokio::test]
async fn a_purchase_that_is_refused_harms_no_other() {
    with_database(async |database| {
        let store = connect(&database.url, 1, 256).await;
        let anna = register(&store, "Anna".into())
            .await
            .unwrap()
            .into_user()
            .id;
        let used = buy(&store, golf(anna).key(key(1))).await.unwrap();
        let nobody = UserId::new(anna.get() + 1);
        let call = |number: usize| {
            buy(
                &store,
                match number {
                    // One who is not there; a key that was used before, and one that is used for
                    // two things in the same batch.
                    9 | 10 => golf(nobody).key(key(100 + number as u128)),
                    20 => NewCar::new("Polo", anna).unwrap().key(key(1)),
                    21 => golf(anna).key(key(1)),
                    30 => golf(anna).key(key(3)),
                    31 => NewCar::new("Polo", anna).unwrap().key(key(3)),
                    // Its first purchase comes to nothing, so that it is free for the second.
                    40 => golf(nobody).key(key(4)),
                    41 => golf(anna).key(key(4)),
                    _ => golf(anna).key(key(100 + number as u128)),
                },
            )
        };
        let answers = Queue::form(&store, 1, CALLS, call).await.answers().await;
        let mut ids = BTreeSet::from([used.id]);
        for (number, answer) in answers.into_iter().enumerate() {
            match (number, answer) {
                (9 | 10 | 40, Err(Error::UnknownOwner { owner, index: None })) => {
                    assert_eq!(owner, nobody);
                }
                // They go alone at once, so 41 may have been before 40.
                (20 | 31 | 40, Err(Error::PurchaseKeyReused { index: None })) => {}
                (21, Ok(car)) => assert_eq!(car, used),
                (_, Ok(car)) => assert!(ids.insert(car.id), "{number}: {car:?}"),
                (_, Err(error)) => panic!("{number}: {error:?}"),
            }
        }
        assert_eq!(ids.len(), CALLS - 6 + 1);
        let next = buy(&store, golf(anna)).await.unwrap().id.get();
        // No id was used up by those that came to nothing.
        let (first, last) = (ids.first().unwrap().get(), ids.last().unwrap().get());
        assert_eq!(last - first + 1, ids.len() as i64);
        assert_eq!(next, last + 1);
    })
    .await;
}

#[tokio::test]
async fn of_63_who_register_one_name_one_does() {
    with_database(async |database| {
        let store = connect(&database.url, 1, 256).await;
        let call = |number: usize| {
            let store = store.clone();
            let role = if number == 0 {
                Role::Teacher
            } else {
                Role::Student
            };
            let name = if number == 7 { "Bert" } else { "Anna" };
            Box::pin(async move {
                let new = NewUser::new(name)?.role(role);
                store.users().register(&new).await
            }) as Call<Registration>
        };
        let answers = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
        assert!(answers[0].is_created() && answers[7].is_created());
        let anna = answers[0].user();
        assert_eq!(anna.role, Role::Teacher, "the first who came");
        for (number, answer) in answers.iter().enumerate() {
            if ![0, 7].contains(&number) {
                assert_eq!(*answer, Registration::Existing(anna.clone()));
            }
        }
        let bert = answers[7].user().id.get();
        let next = register(&store, "Cora".into()).await.unwrap();
        let ids = BTreeSet::from([anna.id.get(), bert, next.user().id.get()]);
        assert_eq!(ids.last().unwrap() - ids.first().unwrap(), 2, "{ids:?}");
        // Nothing is used up by those who find their names taken.
        let call = |number: usize| register(&store, ["Anna", "Bert"][number % 2].into());
        let again = good(Queue::form(&store, 1, CALLS, call).await.answers().await);
        assert!(again.iter().all(|answer| !answer.is_created()));
        let after = register(&store, "Dora".into()).await.unwrap();
        assert_eq!(after.user().id.get(), ids.last().unwrap() + 1);
    })
    .await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_harms_only_who_asks_for_it() {
    with_database(async |database| {
        let store = connect(&database.url, 1, 256).await;
        let call = |number| register(&store, name(number));
        let users = good(Queue::form(&store, 1, 8, call).await.answers().await);
        let users: Vec<User> = users.into_iter().map(Registration::into_user).collect();
        let look = database.client().await;
        let spoil = "ALTER TABLE users DROP CONSTRAINT role_types; \
            UPDATE users SET role = 'president' WHERE username = 'user 3'";
        look.batch_execute(spoil).await.unwrap();
        let check = |what: &str, answers: Vec<Result<Option<User>>>| {
            for (number, answer) in answers.into_iter().enumerate() {
                match (number, answer) {
                    (
                        3,
                        Err(Error::Decode {
                            table, column, key, ..
                        }),
                    ) => {
                        assert_eq!((table, column), ("users", "role"));
                        assert_eq!(key, Some(users[3].id.get()));
                    }
                    (3, other) => panic!("{what}: {other:?}"),
                    (_, answer) => assert_eq!(answer.unwrap().as_ref(), Some(&users[number])),
                }
            }
        };
        let call = |number: usize| get(&store, users[number].id);
        check("get", Queue::form(&store, 1, 8, call).await.answers().await);
        let call = |number| by_name(&store, name(number));
        check(
            "by name",
            Queue::form(&store, 1, 8, call).await.answers().await,
        );
        let call = |number| register(&store, name(number));
        let answers = Queue::form(&store, 1, 8, call).await.answers().await;
        let existing = |answer: Result<Registration>| answer.map(|one| Some(one.into_user()));
        check("register", answers.into_iter().map(existing).collect());
    })
    .await;
}

#[tokio::test]
async fn on_a_host_s_own_pool_every_call_goes_alone() {
    with_database(async |database| {
        let config = database.url.parse().unwrap();
        let pool = Pool::builder(Manager::new(config, NoTls));
        let store = PgStore::from_pool(pool.max_size(2).build().unwrap());
        let calls = (0..CALLS).map(|number| register(&store, name(number % 4)));
        let answers = good(join_all(calls).await);
        assert_eq!(answers.iter().filter(|one| one.is_created()).count(), 4);
        assert_eq!(store.status().batched, Batched::default());
    })
    .await;
}
