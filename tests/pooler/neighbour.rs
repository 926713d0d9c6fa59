//! A second process with a store on the same database, behind the same pooler: the test program
//! itself, told by its environment. It makes every kind of call that leaves nothing in the tables
//! and takes no id, so that whoever has the database for its own does not notice.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use motorpool::{
    CarId, CommitToken, Error, IsolationLevel, NewCar, PageRequest, PgStore, PurchaseKey, Result,
    Role, StatementMode, Store, StoreExt, TxOptions, UserId,
};
use uuid::Uuid;

const URL: &str = "MOTORPOOL_NEIGHBOUR";
const NAMED: &str = "MOTORPOOL_NEIGHBOUR_NAMED";

/// A user and a car that nobody has.
const NOBODY: UserId = UserId::new(i64::MAX);
const NOTHING: CarId = CarId::new(i64::MAX);

/// The process. Every test program that includes this has a test `neighbour` that calls
/// [`be_one`].
pub struct Neighbour {
    process: Child,
    input: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Neighbour {
    /// Starts it and waits until it has made each of its calls once. The error is the SQLSTATE that
    /// it ended with.
    pub fn start(url: &str, mode: StatementMode) -> std::result::Result<Neighbour, String> {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "neighbour", "--nocapture"]);
        command.env(URL, url);
        if mode == StatementMode::Prepared {
            command.env(NAMED, "1");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut neighbour = Neighbour {
            input: process.stdin.take(),
            lines: BufReader::new(process.stdout.take().unwrap()),
            process,
        };
        match neighbour.says().as_str() {
            "ready" => Ok(neighbour),
            other => Err(other.into()),
        }
    }

    /// Lets it finish what it is at, and gives how often it has made all its calls.
    pub fn end(mut self) -> u32 {
        self.input = None;
        let said = self.says();
        let rounds = said.parse();
        rounds.unwrap_or_else(|_| panic!("the other process: {said}"))
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return "ended without a word".into();
            }
            // The test harness may have begun the line.
            if let Some((_, words)) = line.split_once("neighbour says ") {
                return words.trim_end().into();
            }
        }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the other process does. Returns at once in any other.
pub async fn be_one() {
    let Ok(url) = env::var(URL) else {
        return;
    };
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        told.store(true, SeqCst);
    });
    let says = |words: &str| println!("neighbour says {words}");
    match work(&url, &over, || says("ready")).await {
        Ok(rounds) => says(&rounds.to_string()),
        Err(error) => says(error.sqlstate().unwrap_or(&format!("{error:?}"))),
    }
}

async fn work(url: &str, over: &AtomicBool, ready: impl Fn()) -> Result<u32> {
    let mut builder = super::builder(url).max_connections(3);
    if env::var_os(NAMED).is_some() {
        builder = builder.statement_mode(StatementMode::Prepared);
    }
    let store = builder.build().await?;
    let mut rounds = 0;
    while !over.load(SeqCst) {
        round(&store).await?;
        rounds += 1;
        if rounds == 1 {
            ready();
        }
    }
    store.close().await;
    Ok(rounds)
}

async fn round(store: &PgStore) -> Result<()> {
    calls(store).await?;
    // Enough at once to go together.
    let gets = (0..8).map(|_| store.users().get_by_username("nobody"));
    assert!(try_join_all(gets).await?.iter().all(Option::is_none));
    store.ping().await?;
    store.commit_outcome(&CommitToken::new(3, 0)).await?;
    use IsolationLevel::{ReadCommitted, RepeatableRead, Serializable};
    for level in [ReadCommitted, RepeatableRead, Serializable] {
        let options = TxOptions::new().isolation(level);
        let tx = store.begin(options.clone()).await?;
        calls(&crate::support::inside::Inside(tx.clone())).await?;
        tx.savepoint(|tx| async move { tx.users().count().await })
            .await?;
        tx.commit().await?;
        let tx = store.begin(options.read_only(true)).await?;
        tx.cars().count().await?;
        tx.rollback().await?;
    }
    let dropped = store.begin(TxOptions::new()).await?;
    dropped.users().count().await?;
    drop(dropped);
    store
        .transaction(|tx| async move { tx.users().count().await })
        .await?;
    Ok(())
}

/// Every method of both repositories but those that store something for certain.
pub async fn calls(store: &dyn Store) -> Result<()> {
    let (users, cars) = (store.users(), store.cars());
    assert_eq!(users.get(NOBODY).await?, None);
    assert_eq!(users.get_many(&[NOBODY]).await?, []);
    assert_eq!(users.get_by_username("nobody").await?, None);
    users.list(PageRequest::first(2)?).await?;
    users.stream().try_collect::<Vec<_>>().await?;
    users.count().await?;
    let refused = users.set_role(NOBODY, Role::Student).await;
    expect(refused, |e| matches!(e, Error::UserNotFound { .. }))?;
    let refused = users.rename(NOBODY, "nobody").await;
    expect(refused, |e| matches!(e, Error::UserNotFound { .. }))?;
    assert!(!users.delete(NOBODY).await?);
    let new = NewCar::new("none", NOBODY)?;
    let keyed = new.clone().key(PurchaseKey::from(Uuid::from_u128(
        0x6e65_6967_6862_6f75_7200,
    )));
    let unknown = |e: &Error| matches!(e, Error::UnknownOwner { .. });
    expect(cars.buy(&new).await, unknown)?;
    expect(cars.buy(&keyed).await, unknown)?;
    expect(cars.buy_many(&[new.clone(), new]).await, unknown)?;
    expect(cars.buy_many(&[keyed]).await, unknown)?;
    assert_eq!(cars.get(NOTHING).await?, None);
    assert_eq!(cars.owned_by(NOBODY).await?, []);
    assert!(cars.owned_by_many(&[NOBODY]).await?[&NOBODY].is_empty());
    let page = cars.list_owned_by(NOBODY, PageRequest::first(2)?).await?;
    assert_eq!(page.items, []);
    cars.stream().try_collect::<Vec<_>>().await?;
    let refused = cars.transfer(NOTHING, NOBODY, NOBODY).await;
    expect(refused, |e| matches!(e, Error::CarNotFound { .. }))?;
    assert!(!cars.delete(NOTHING).await?);
    cars.count().await.map(drop)
}

/// The refusal that is meant is fine, another error is not.
fn expect<T>(result: Result<T>, meant: impl Fn(&Error) -> bool) -> Result<()> {
    match result {
        Err(error) if meant(&error) => Ok(()),
        other => other.map(|_| panic!("it was not refused")),
    }
}
