//! What a store has noted about each of its connections: the statements that are prepared on it,
//! and the era of the server in which it was made, if no pooler is between them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use deadpool_postgres::{Object, ObjectId, StatementCache};

use super::era;

/// The notes of all connections of one store.
#[derive(Default)]
pub(super) struct Notes {
    by_connection: RwLock<HashMap<ObjectId, Entry>>,
}

struct Entry {
    note: Arc<Note>,
    /// Gone when the connection is.
    connection: Weak<StatementCache>,
}

impl Notes {
    /// What is noted about this connection.
    pub(super) fn of(&self, connection: &Object) -> Arc<Note> {
        let id = Object::id(connection);
        let known = self.by_connection.read();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.get(&id) {
            return Arc::clone(&entry.note);
        }
        drop(known);
        let mut all = self.by_connection.write();
        let all = all
            .as_deref_mut()
            .unwrap_or_else(|poisoned| poisoned.get_mut());
        all.retain(|_, entry| entry.connection.strong_count() > 0);
        let entry = all.entry(id).or_insert_with(|| Entry {
            note: Arc::default(),
            connection: Arc::downgrade(&connection.statement_cache),
        });
        Arc::clone(&entry.note)
    }
}

/// Notes of one connection. It does not outlive a crash of the server, nor do its statements
/// outlive the connection.
#[derive(Default)]
pub(super) struct Note(Mutex<Known>);

#[derive(Default)]
struct Known {
    era: Option<era::Scope>,
    // A list, because most texts differ in their lengths already: finding one costs less than its
    // hash would.
    prepared: Vec<(&'static str, tokio_postgres::Statement)>,
}

impl Note {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn era(&self) -> Option<era::Scope> {
        self.known().era
    }

    pub(super) fn set_era(&self, era: era::Scope) {
        self.known().era = Some(era);
    }

    /// The prepared form of this text.
    pub(super) fn prepared(&self, sql: &'static str) -> Option<tokio_postgres::Statement> {
        let known = self.known();
        let found = known.prepared.iter().find(|(text, _)| *text == sql);
        found.map(|(_, statement)| statement.clone())
    }

    pub(super) fn keep(&self, sql: &'static str, statement: &tokio_postgres::Statement) {
        self.known().prepared.push((sql, statement.clone()));
    }

    /// The prepared form of this text is of no more use.
    pub(super) fn forget(&self, sql: &'static str) {
        self.known().prepared.retain(|(text, _)| *text != sql);
    }
}
