//! How a commit ended whose answer was lost.
//!
//! `pg_xact_status` knows it, with one trap: a crash can lose the end of the log, and with it the
//! fact that a number was ever given to a transaction. The number is then given to another one,
//! whose end says nothing about ours. So a token holds the era of its server, which changes with
//! every crash, and after a crash a commit counts as ours only if the number is older than the
//! crash: the checkpoint at the end of recovery has noted which number came next. A standby that is
//! promoted gives numbers out again as well; the token holds the timeline for that.

use std::pin::pin;
use std::sync::Arc;

use tokio_postgres::types::Type;

use super::PgStore;
use super::era::{ERA, Era};
use super::error;
use super::executor::Executor;
use super::observe::Operation;
use super::row;
use super::statement::Statement;
use crate::error::{CommitOutcome, CommitToken, Error, Result};

// A server in recovery has perhaps not come to the end of the transaction yet.
const STATUS: Statement = Statement::read(
    "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_xact_status($1::text::xid8) END",
)
.takes(&[Type::TEXT]);

// Whether the number is older than the crash, if the last checkpoint is still the one at the end of
// recovery: no transaction ran then, so the position that it would be replayed from is its own.
// The same is true of an orderly stop, but this process of the server has recovered after its
// start: a crash resets all statistics at one moment, somebody who resets them one after the other
// (all kinds in one call since version 17, the log's last). And it is true of a standby that was
// promoted a moment ago, but that has begun a new timeline since. And whether the commit is older
// than the crash, if the server notes such times.
const BEFORE_THE_CRASH: Statement = Statement::read(
    "WITH crash AS (SELECT stats_reset AS at FROM pg_stat_archiver)
    SELECT CASE WHEN redo_lsn = checkpoint_lsn AND crash.at >= pg_postmaster_start_time()
            AND current_setting('wal_level') <> 'minimal'
            AND crash.at = (SELECT stats_reset FROM pg_stat_bgwriter)
            AND crash.at = (SELECT stats_reset FROM pg_stat_wal)
            AND lpad(to_hex(timeline_id), 8, '0')
                = lower(left(pg_walfile_name(pg_current_wal_lsn()), 8))
        THEN $1::text::numeric < split_part(next_xid, ':', 1)::numeric * 4294967296
            + split_part(next_xid, ':', 2)::numeric
    END, CASE WHEN current_setting('track_commit_timestamp') = 'on'
        THEN pg_xact_commit_timestamp($1::text::xid8::xid) < crash.at
    END
    FROM pg_control_checkpoint(), crash",
)
.takes(&[Type::TEXT]);

impl PgStore {
    /// How a commit ended that gave [`CommitUnknown`](crate::Error::CommitUnknown). Two round
    /// trips, after a crash three.
    ///
    /// The server remembers it for as long as it keeps the status of old transactions (hundreds of
    /// millions of them), also through a restart. A crash is another matter: numbers of transactions
    /// that were lost in it are given out again. The answer is right until the server's next
    /// checkpoint after it (`checkpoint_timeout`, 5 minutes by default), and with
    /// `track_commit_timestamp = on` a commit from before the crash is known for longer; what may be
    /// another transaction's commit is [`Unknown`](CommitOutcome::Unknown), and so is every commit on
    /// a standby, also one that was promoted after it, and after `pg_stat_reset_shared('archiver')`. Two
    /// crashes between the commit and the question cannot be told from one, so ask as soon as the
    /// server is back.
    ///
    /// ```no_run
    /// # async fn example(store: motorpool::PgStore) -> motorpool::Result<()> {
    /// use motorpool::{CommitOutcome, Error, NewUser, Store, TxOptions};
    ///
    /// let tx = store.begin(TxOptions::new()).await?;
    /// tx.users().register(&NewUser::new("Ada")?).await?;
    /// if let Err(Error::CommitUnknown { token }) = tx.commit().await {
    ///     match store.commit_outcome(&token).await? {
    ///         CommitOutcome::Committed => println!("it is stored"),
    ///         CommitOutcome::RolledBack => println!("nothing of it is stored"),
    ///         other => println!("ask again, or look: {other:?}"),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the connection: as long as the server cannot be reached, nobody knows.
    pub async fn commit_outcome(&self, token: &CommitToken) -> Result<CommitOutcome> {
        let executor = Executor::Pool(Arc::clone(&self.shared));
        let outcome = pin!(outcome(&executor, token));
        executor.call(Operation::CommitOutcome, outcome).await
    }
}

async fn outcome(executor: &Executor, token: &CommitToken) -> Result<CommitOutcome> {
    let era = match executor.query_one(&ERA, &[]).await {
        Ok(row) => Era::from_row(&row, 0).map_err(|error| error::from_driver(error, false))?,
        // A server that does not tell may have crashed.
        Err(Error::Database(_)) => Era::default(),
        Err(error) => return Err(error),
    };
    let same_era = era.crash != 0 && era.crash == token.era();
    let same_timeline = era.timeline != 0 && era.timeline == token.timeline();
    // A server that others have taken the place of knows nothing of what was done there.
    if era.timeline != 0 && era.timeline < token.timeline() {
        return Ok(CommitOutcome::Unknown);
    }
    // A copy of the server that was promoted may have its statistics as well.
    let same_server = same_era && (same_timeline || era.timeline == 0 || token.timeline() == 0);
    let number = token.transaction().to_string();
    let row = match executor.query_one(&STATUS, &[&number]).await {
        // A number that the server has not given out: one that was lost, or never its own.
        Err(Error::Database(failure)) if failure.sqlstate() == Some("22023") => {
            return Ok(match same_era || token.era() == 0 || era.timeline == 0 {
                true => CommitOutcome::Unknown,
                false => CommitOutcome::RolledBack,
            });
        }
        row => row?,
    };
    match row::computed::<Option<&str>>(&row, 0)? {
        Some("aborted") => Ok(CommitOutcome::RolledBack),
        Some("in progress") if same_server => Ok(CommitOutcome::InProgress),
        Some("committed") if same_server => Ok(CommitOutcome::Committed),
        // After a crash another transaction would have the number; but statistics are thrown away at
        // other times too.
        Some("committed") if same_timeline => match after_a_crash(executor, &number).await? {
            // What the era of the token was, nobody knows.
            CommitOutcome::RolledBack if era.crash == 0 || token.era() == 0 => {
                Ok(CommitOutcome::Unknown)
            }
            outcome => Ok(outcome),
        },
        _ => Ok(CommitOutcome::Unknown),
    }
}

async fn after_a_crash(executor: &Executor, number: &str) -> Result<CommitOutcome> {
    let row = match executor.query_one(&BEFORE_THE_CRASH, &[&number]).await {
        Err(Error::Database(_)) => return Ok(CommitOutcome::Unknown),
        row => row?,
    };
    let by_number: Option<bool> = row::computed(&row, 0)?;
    let by_time: Option<bool> = row::computed(&row, 1)?;
    Ok(match (by_number, by_time) {
        (Some(true), _) | (None, Some(true)) => CommitOutcome::Committed,
        (Some(false), _) => CommitOutcome::RolledBack,
        // What is younger than the crash may be another transaction's commit, or ours, on a standby
        // that was made before it and has been promoted.
        (None, _) => CommitOutcome::Unknown,
    })
}
