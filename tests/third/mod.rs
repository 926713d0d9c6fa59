//! A store in one file, by the public interface alone: what it takes to write one.
//!
//! A transaction works on a copy of the rows; its next write or its commit gives way if another one
//! was committed since. Every write copies all rows, and every commit writes the file anew and
//! keeps the thread for it: right for an example, and for a garage with some dozen cars.

mod repos;
mod rows;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use motorpool::store::Transaction;
use motorpool::{
    CarRepo, Error, Failure, IsolationLevel, Result, Store, Tx, TxOptions, UnavailableReason,
    UserRepo,
};

use rows::Rows;

pub struct FileStore(Session);

/// The store itself, where each call is a transaction of its own, or one transaction.
struct Session {
    file: Arc<Mutex<Committed>>,
    tx: Option<Mutex<Work>>,
}

/// What the file holds.
struct Committed {
    path: PathBuf,
    rows: Arc<Rows>,
}

/// The state of a transaction.
#[derive(Default)]
struct Work {
    options: TxOptions,
    /// The committed rows that it sees, or has copied.
    base: Option<Arc<Rows>>,
    /// Its copy, from its first change on.
    copy: Option<Arc<Rows>>,
    /// The copy at each open savepoint.
    saved: Vec<(u32, Option<Arc<Rows>>)>,
    savepoints: u32,
    failed: Option<Failure>,
    gave_way: bool,
    ended: bool,
}

impl FileStore {
    /// For one process at a time.
    pub fn open(path: &Path) -> Result<FileStore> {
        let rows = match fs::read(path) {
            Ok(json) => serde_json::from_slice(&json).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Rows::default()),
            Err(error) => Err(error),
        };
        let path = std::path::absolute(path).map_err(unavailable)?;
        let rows = Arc::new(rows.map_err(unavailable)?);
        let file = Arc::new(Mutex::new(Committed { path, rows }));
        Ok(FileStore(Session { file, tx: None }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(error: io::Error) -> Error {
    let (reason, source) = (UnavailableReason::Other, Some(error.into()));
    Error::Unavailable { reason, source }
}

impl Committed {
    fn commit(&mut self, rows: Arc<Rows>) -> Result<()> {
        self.write(&rows).map_err(unavailable)?;
        self.rows = rows;
        // From here on it has happened, if the machine stays up.
        let folder = self.path.parent().unwrap_or(&self.path);
        let kept = File::open(folder).and_then(|folder| folder.sync_all());
        kept.map_err(|error| Error::Unavailable {
            reason: UnavailableReason::ConnectionLost,
            source: Some(error.into()),
        })
    }

    /// The old file is there until the new one is whole.
    fn write(&self, rows: &Rows) -> io::Result<()> {
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(rows)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

impl Work {
    /// How many savepoints are around this one, if it is open.
    fn outside(&self, savepoint: u32) -> Result<usize> {
        let place = self.saved.iter().position(|(open, _)| *open == savepoint);
        place
            .filter(|_| !self.ended)
            .ok_or(Error::TransactionClosed)
    }

    /// Why no statement can be run, if none can. Savepoints beyond this many were dropped.
    fn check(&mut self, finished: usize) -> Result<()> {
        if self.saved.len() > finished && self.failed.is_none() {
            self.failed = Some(Failure::new("a savepoint in it was dropped unfinished"));
        }
        match &self.failed {
            _ if self.ended => Err(Error::TransactionClosed),
            Some(first) => Err(Error::RolledBack(first.clone())),
            None => Ok(()),
        }
    }

    /// What a statement sees.
    fn view(&mut self, committed: &Arc<Rows>) -> Result<Arc<Rows>> {
        self.check(usize::MAX)?;
        self.gave_way = false;
        let by_statement = self.options.isolation_level() == IsolationLevel::ReadCommitted;
        if by_statement && self.copy.is_none() {
            self.base = None;
        }
        let base = self.base.get_or_insert_with(|| Arc::clone(committed));
        Ok(Arc::clone(self.copy.as_ref().unwrap_or(base)))
    }

    /// Others have committed nothing since.
    fn check_base(&mut self, committed: &Arc<Rows>) -> Result<()> {
        let base = self.base.as_ref();
        if base.is_none_or(|base| Arc::ptr_eq(base, committed)) {
            return Ok(());
        }
        self.gave_way = true;
        let failure = Failure::new("another transaction was committed first");
        Err(self.fail(Error::Conflict(failure.with_sqlstate("40001"))))
    }

    fn fail(&mut self, error: Error) -> Error {
        self.failed = Some(Failure::of(&error));
        error
    }
}

impl Session {
    fn read<T>(&self, read: impl FnOnce(&Rows) -> T) -> Result<T> {
        let mut rows = Arc::clone(&lock(&self.file).rows);
        if let Some(tx) = &self.tx {
            rows = lock(tx).view(&rows)?;
        }
        Ok(read(&rows))
    }

    /// What fails has changed only a copy, which is thrown away.
    fn write<T>(&self, write: impl FnOnce(&mut Rows) -> Result<T>) -> Result<T> {
        let Some(tx) = &self.tx else {
            let file = &mut *lock(&self.file);
            let mut rows = Rows::clone(&file.rows);
            let answer = write(&mut rows)?;
            if rows != *file.rows {
                file.commit(Arc::new(rows))?;
            }
            return Ok(answer);
        };
        let (work, committed) = (&mut *lock(tx), Arc::clone(&lock(&self.file).rows));
        let seen = work.view(&committed)?;
        if work.options.is_read_only() {
            let failure = Failure::new("cannot write in a read-only transaction");
            return Err(work.fail(Error::Database(failure.with_sqlstate("25006"))));
        }
        work.check_base(&committed)?;
        let mut rows = Rows::clone(&seen);
        let answer = write(&mut rows)?;
        if rows != *seen {
            work.copy = Some(Arc::new(rows));
        }
        Ok(answer)
    }

    fn work(&self) -> Result<MutexGuard<'_, Work>> {
        self.tx.as_ref().map(lock).ok_or(Error::TransactionClosed)
    }
}

#[async_trait]
impl Store for FileStore {
    fn users(&self) -> &dyn UserRepo {
        &self.0
    }

    fn cars(&self) -> &dyn CarRepo {
        &self.0
    }

    async fn begin(&self, options: TxOptions) -> Result<Tx> {
        let work = Work {
            options,
            ..Work::default()
        };
        let (file, tx) = (Arc::clone(&self.0.file), Some(Mutex::new(work)));
        Ok(Tx::new(Session { file, tx }))
    }
}

#[async_trait]
impl Transaction for Session {
    fn users(&self) -> &dyn UserRepo {
        self
    }

    fn cars(&self) -> &dyn CarRepo {
        self
    }

    async fn commit(&self) -> Result<()> {
        let work = &mut *self.work()?;
        let sound = work.check(0);
        work.ended = true;
        sound?;
        let Some(rows) = work.copy.take() else {
            return Ok(());
        };
        let file = &mut *lock(&self.file);
        work.check_base(&file.rows)?;
        work.gave_way = false;
        file.commit(rows)
    }

    async fn rollback(&self) -> Result<()> {
        let ended = std::mem::replace(&mut self.work()?.ended, true);
        if ended {
            Err(Error::TransactionClosed)
        } else {
            Ok(())
        }
    }

    async fn savepoint(&self) -> Result<u32> {
        let work = &mut *self.work()?;
        work.check(usize::MAX)?;
        work.savepoints += 1;
        work.saved.push((work.savepoints, work.copy.clone()));
        Ok(work.savepoints)
    }

    async fn release(&self, savepoint: u32) -> Result<()> {
        let work = &mut *self.work()?;
        let outside = work.outside(savepoint)?;
        work.check(outside + 1)?;
        work.saved.truncate(outside);
        Ok(())
    }

    async fn rollback_to(&self, savepoint: u32) -> Result<()> {
        let work = &mut *self.work()?;
        let outside = work.outside(savepoint)?;
        let saved = work.saved.drain(outside..).next();
        (work.failed, work.copy) = (None, saved.and_then(|(_, copy)| copy));
        Ok(())
    }

    fn gave_way(&self) -> bool {
        self.work().is_ok_and(|work| work.gave_way)
    }
}
