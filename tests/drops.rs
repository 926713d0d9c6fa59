//! Every call, outside a transaction and in one, dropped at every poll: nothing of it runs on, no
//! transaction stays open, no place in the pool is lost, and the tables hold what was told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "support/busy.rs"]
mod busy;
mod calls;
mod polls;
mod support;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use busy::Busy;
use calls::{CALLS, Call, Effect, Rows, Run, Tag, Told};
use deadpool_postgres::{PoolError, TimeoutType, Timeouts};
use futures_util::future::join_all;
use motorpool::{Error, PgStore, Store, Tx, TxOptions, UserId};
use polls::{Ended, Plan, Work, polled};
use support::inside::Inside;
use support::{Database, with_database};
use tokio_postgres::Client;
use watch::Watch;

const CONNECTIONS: usize = 3;

/// The bounds that a dropped call has to keep.
const NEXT_CALL: Duration = Duration::from_millis(250);
const QUIET: Duration = Duration::from_secs(1);

/// So long a call that has nothing to wait for may take.
const PATIENCE: Duration = Duration::from_secs(20);

const LOCK: &str =
    "BEGIN; LOCK TABLE users, cars, motorpool_schema_history IN ACCESS EXCLUSIVE MODE";

/// What the pool has when the call begins.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Empty,
    /// A connection that has prepared nothing yet.
    Fresh,
    /// One that has made the call before.
    Warm,
}

struct Record {
    tag: Tag,
    effect: Effect,
    told: Told,
    /// A user stored before the call in the same transaction, and whether that was committed.
    first: bool,
}

#[derive(Debug, Default)]
struct Tally {
    drops: usize,
    in_transaction: usize,
    before_any_poll: usize,
    while_it_waited: usize,
    done: usize,
    either_stored: usize,
    either_not: usize,
    slowest_next_call: Duration,
    longest_unrest: Duration,
}

/// The calls of one kind, on a store of their own.
struct Batch<'a> {
    store: PgStore,
    call: &'a Call,
    inside: bool,
    slow: bool,
    /// Every call that can waits for its lane first.
    busy: bool,
    state: State,
    url: String,
    owners: [UserId; 2],
    /// Makes the rows that calls need, and holds the locks of a slow server.
    client: &'a Client,
    look: &'a Watch,
    records: Vec<Record>,
    tally: &'a mut Tally,
}

impl Batch<'_> {
    async fn tag(&self) -> Tag {
        let place = if self.inside { "inside" } else { "outside" };
        let name = format!("{} {place} {}", self.call.name, self.records.len());
        Tag::new(self.client, name, self.owners, &self.url).await
    }

    fn record(&mut self, tag: Tag, told: Told, first: bool) {
        let effect = self.call.effect;
        self.records.push(Record {
            tag,
            effect,
            told,
            first,
        });
    }

    /// Brings the pool into its state.
    async fn prepare(&mut self) {
        match self.state {
            State::Empty => drop(self.store.pool().retain(|_, _| false)),
            State::Fresh => {
                drop(self.store.pool().retain(|_, _| false));
                self.store.ping().await.unwrap();
            }
            State::Warm => {
                let plan = Plan {
                    polls: usize::MAX,
                    at_once: false,
                    patience: PATIENCE,
                };
                let ended = self.make(plan, false).await;
                assert!(matches!(ended, Ended::Done(Ok(()))), "{ended:?}");
            }
        }
    }

    async fn lock(&self, slow: bool) {
        if slow {
            self.client.batch_execute(LOCK).await.unwrap();
        }
    }

    /// Makes the call by the plan, and ends the transaction it is in.
    async fn make(&mut self, plan: Plan, slow: bool) -> Ended {
        let tag = self.tag().await;
        let run = self.call.run;
        let store = self.store.clone();
        if !self.inside && !matches!(run, Run::End(_)) {
            let work: Work = match run {
                Run::Method(run) if self.busy => run(Arc::new(Busy::new(store)), tag.clone()),
                Run::Method(run) => run(Arc::new(store), tag.clone()),
                Run::Store(run, _) => run(store, tag.clone()),
                Run::Inside(_) | Run::End(_) => unreachable!("in a transaction only"),
            };
            self.lock(slow).await;
            let ended = polled(work, plan).await;
            let told = Told::by(&ended);
            self.record(tag, told, false);
            return ended;
        }

        let tx = store.begin(TxOptions::new()).await.unwrap();
        if let Run::End(run) = run {
            tx.users().register(&tag.new_user("new")).await.unwrap();
            let ended = polled(run(tx), plan).await;
            let told = Told::by(&ended);
            self.record(tag, told, false);
            return ended;
        }
        // What is written holds a lock that the other one would wait for.
        if !slow {
            tx.users().register(&tag.new_user("first")).await.unwrap();
        }
        let work = match run {
            Run::Method(run) => run(Arc::new(Inside(tx.clone())), tag.clone()),
            Run::Inside(run) => run(tx.clone(), tag.clone()),
            Run::Store(..) | Run::End(_) => unreachable!("not in a transaction"),
        };
        self.lock(slow).await;
        let ended = polled(work, plan).await;
        let (told, first) = self.end(tx, &ended).await;
        self.record(tag, told, first && !slow);
        ended
    }

    /// Commits the transaction around a call, or drops it: every other time, if the call was
    /// dropped.
    async fn end(&self, tx: Tx, ended: &Ended) -> (Told, bool) {
        let told = Told::by(ended);
        if told != Told::Stored && self.records.len() % 2 == 1 {
            return (Told::NotStored, false);
        }
        match (told, tx.commit().await) {
            (Told::Stored, Ok(())) => (Told::Stored, true),
            (Told::NotStored, Ok(())) => (Told::NotStored, true),
            (Told::Either, Err(Error::RolledBack(_))) => (Told::NotStored, false),
            other => panic!("{}: {other:?} after {ended:?}", self.call.name),
        }
    }

    /// Drops the call at every poll.
    async fn run(&mut self) {
        for at_once in [true, false] {
            let mut polls = usize::from(!at_once);
            loop {
                self.prepare().await;
                let patience = match self.slow {
                    // Some are dropped before the statement has got anywhere.
                    true => {
                        // Making it wait takes as many connections as there can be.
                        let more = if self.busy { 60 } else { 1 };
                        Duration::from_millis(self.records.len() as u64 % 20 + more)
                    }
                    false => PATIENCE,
                };
                let plan = Plan {
                    polls,
                    at_once,
                    patience,
                };
                let ended = self.make(plan, self.slow).await;
                self.count(&ended);
                self.next_call().await;
                if self.slow {
                    // While the tables are still locked.
                    self.quiet().await;
                    self.client.batch_execute("ROLLBACK").await.unwrap();
                }
                match ended {
                    Ended::Dropped { .. } => polls += 1,
                    Ended::Stuck if self.slow => break,
                    Ended::Done(Ok(())) if !self.slow => break,
                    other => panic!("{} by {plan:?}: {other:?}", self.call.name),
                }
                assert!(polls < 1000, "{} does not end", self.call.name);
            }
        }
        self.quiet().await;
    }

    fn count(&mut self, ended: &Ended) {
        let tally = &mut *self.tally;
        match ended {
            Ended::Done(_) => {
                tally.done += 1;
                return;
            }
            Ended::Dropped { polls: 0 } => tally.before_any_poll += 1,
            Ended::Dropped { .. } => {}
            Ended::Stuck => tally.while_it_waited += 1,
        }
        tally.drops += 1;
        tally.in_transaction += usize::from(self.inside);
    }

    /// One that needs no table, so that it can be answered behind locked ones.
    async fn next_call(&mut self) {
        let started = Instant::now();
        self.store.ping().await.unwrap();
        let took = started.elapsed();
        assert!(took <= NEXT_CALL, "{}: {took:?}", self.call.name);
        self.tally.slowest_next_call = self.tally.slowest_next_call.max(took);
    }

    /// Nothing works on, and no transaction is open.
    async fn quiet(&mut self) {
        let started = Instant::now();
        while self.look.busy().await > 0 {
            let took = started.elapsed();
            assert!(took <= QUIET, "{}: still at work", self.call.name);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let took = started.elapsed();
        self.tally.longest_unrest = self.tally.longest_unrest.max(took);
    }

    /// The pool gives all its connections at once, and not one more.
    async fn places(&self) {
        let name = self.call.name;
        let all = (0..CONNECTIONS).map(|_| self.store.begin(TxOptions::new()));
        let all: Vec<_> = join_all(all)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let zero = Some(Duration::ZERO);
        let at_once = Timeouts {
            wait: zero,
            create: None,
            recycle: None,
        };
        let another = self.store.pool().timeout_get(&at_once).await.map(drop);
        assert!(
            matches!(another, Err(PoolError::Timeout(TimeoutType::Wait))),
            "{name}: {another:?}"
        );
        let status = self.store.status();
        assert_eq!(
            (status.max, status.size),
            (CONNECTIONS, CONNECTIONS),
            "{name}"
        );
        assert_eq!((status.idle, status.waiting), (0, 0), "{name}");
        for tx in all {
            tx.rollback().await.unwrap();
        }
        let status = self.store.status();
        assert_eq!((status.idle, status.waiting), (CONNECTIONS, 0), "{name}");
    }

    /// Compares what is stored with what was told.
    async fn rows(&mut self) {
        let mut rows = Rows::read(self.client).await;
        for owner in ["from", "to"] {
            assert!(rows.users.remove(owner).is_some());
        }
        for record in &self.records {
            let (tag, told) = (&record.tag, record.told);
            let first = rows.take_users(tag, &["first"]) == 1;
            assert_eq!(first, record.first, "{tag:?}");
            let stored = rows.take(tag, record.effect);
            match told {
                _ if record.effect == Effect::Nothing => {}
                Told::Stored => assert!(stored, "{tag:?}"),
                Told::NotStored => assert!(!stored, "{tag:?}"),
                Told::Either if stored => self.tally.either_stored += 1,
                Told::Either => self.tally.either_not += 1,
            }
        }
        assert!(rows.users.is_empty() && rows.cars.is_empty(), "{rows:?}");
    }
}

/// The calls that can go out together.
const BATCHED: [&str; 6] = [
    "get",
    "get_by_username",
    "register",
    "car get",
    "owned_by",
    "buy",
];

/// Every call in every place and state that it can have.
fn batches(slow: bool, busy: bool) -> Vec<(&'static Call, bool, State)> {
    let mut batches = Vec::new();
    for call in CALLS {
        if busy {
            if BATCHED.contains(&call.name) {
                batches.extend([State::Fresh, State::Warm].map(|state| (call, false, state)));
            }
            continue;
        }
        let places: &[bool] = match call.run {
            Run::Method(_) => &[false, true],
            Run::Store(_, uses_tables) if uses_tables || !slow => &[false],
            Run::Inside(_) => &[true],
            Run::End(_) if !slow => &[false],
            Run::Store(..) | Run::End(_) => &[],
        };
        for inside in places {
            let opened = *inside || matches!(call.run, Run::End(_));
            let states: &[State] = match opened {
                true => &[State::Fresh, State::Warm],
                false => &[State::Empty, State::Fresh, State::Warm],
            };
            batches.extend(states.iter().map(|state| (call, *inside, *state)));
        }
    }
    batches
}

async fn drop_everything(database: &Database, slow: bool, busy: bool, at_least: usize) -> Tally {
    let (client, look) = (database.client().await, Watch::new(database).await);
    let mut tally = Tally::default();
    let mut rounds = 0;
    while tally.drops < at_least {
        rounds += 1;
        for (call, inside, state) in batches(slow, busy) {
            if rounds > 1 && tally.drops >= at_least {
                break;
            }
            let sql = "TRUNCATE users, cars; INSERT INTO users (username) VALUES ('from'), ('to')";
            client.batch_execute(sql).await.unwrap();
            let sql = "SELECT id FROM users ORDER BY id";
            let owners = client.query(sql, &[]).await.unwrap();
            let builder = PgStore::builder(&database.url).unwrap();
            let builder = match busy {
                true => builder.batching(busy::tiny()),
                false => builder,
            };
            let store = builder.max_connections(CONNECTIONS).build().await.unwrap();
            let mut batch = Batch {
                store,
                call,
                inside,
                slow,
                busy,
                state,
                url: database.url.clone(),
                owners: [0, 1].map(|index: usize| UserId::new(owners[index].get(0))),
                client: &client,
                look: &look,
                records: Vec::new(),
                tally: &mut tally,
            };
            batch.run().await;
            batch.places().await;
            let together = batch.store.status().batched.calls;
            assert!(!busy || together > 0, "{}: {together}", call.name);
            assert_eq!(batch.store.close().await, 0, "{}", call.name);
            // What was sent but not yet looked at by the server is over then, too.
            look.ended().await;
            batch.rows().await;
        }
    }
    eprintln!("slow: {slow}, busy: {busy}, rounds: {rounds}, {tally:#?}");
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_can_be_dropped_at_every_poll() {
    with_database(async |database| {
        let tally = drop_everything(&database, false, false, 1500).await;
        assert!(tally.drops >= 1500 && tally.in_transaction > 0, "{tally:?}");
    })
    .await;
}

#[tokio::test]
async fn every_call_can_be_dropped_while_the_server_is_slow() {
    with_database(async |database| {
        let tally = drop_everything(&database, true, false, 500).await;
        assert!(tally.drops >= 500 && tally.while_it_waited > 0, "{tally:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_a_batch_can_be_dropped_at_every_poll() {
    with_database(async |database| {
        let tally = drop_everything(&database, false, true, 100).await;
        assert!(tally.drops >= 100, "{tally:?}");
    })
    .await;
}

#[tokio::test]
async fn a_call_in_a_batch_can_be_dropped_while_the_server_is_slow() {
    with_database(async |database| {
        let tally = drop_everything(&database, true, true, 100).await;
        assert!(tally.drops >= 100 && tally.while_it_waited > 0, "{tally:?}");
    })
    .await;
}
