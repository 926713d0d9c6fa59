//! What a relay sees of its clients.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

#[derive(Default)]
pub struct Seen {
    /// The types of the client's messages, one text for each time that it had waited for an
    /// answer before it sent.
    flights: Mutex<Vec<String>>,
    /// The length of the client's longest message.
    longest: AtomicUsize,
    /// How many statements were parsed with a name, and without one.
    named: AtomicUsize,
    unnamed: AtomicUsize,
    /// Whether there was an answer since the last message.
    answered: AtomicBool,
}

impl Seen {
    /// A client's message.
    pub fn message(&self, message: &[u8]) {
        self.note(message.first());
        self.count(message);
        self.longest.fetch_max(message.len(), SeqCst);
    }

    /// Something came from the server.
    pub fn answer(&self) {
        self.answered.store(true, SeqCst);
    }

    /// What the clients have sent since the last time.
    pub fn flights(&self) -> Vec<String> {
        std::mem::take(&mut *self.flights.lock().unwrap())
    }

    /// The length of the longest message since the last time.
    pub fn longest(&self) -> usize {
        self.longest.swap(0, SeqCst)
    }

    /// How many statements were parsed with a name, and without one.
    pub fn parsed(&self) -> (usize, usize) {
        (self.named.load(SeqCst), self.unnamed.load(SeqCst))
    }

    /// Behind the type and the length of Parse stands the name.
    fn count(&self, message: &[u8]) {
        match (message.first(), message.get(5)) {
            (Some(b'P'), Some(0)) => self.unnamed.fetch_add(1, SeqCst),
            (Some(b'P'), _) => self.named.fetch_add(1, SeqCst),
            _ => 0,
        };
    }

    fn note(&self, kind: Option<&u8>) {
        // What comes before the first message with a type begins with a length.
        let Some(kind) = kind.filter(|kind| kind.is_ascii_alphabetic()) else {
            return;
        };
        let mut flights = self.flights.lock().unwrap();
        if self.answered.swap(false, SeqCst) || flights.is_empty() {
            flights.push(String::new());
        }
        flights.last_mut().unwrap().push((*kind).into());
    }
}

/// The messages of a client.
#[derive(Default)]
pub struct Messages {
    bytes: Vec<u8>,
    /// From the startup message on, each one begins with its type.
    started: bool,
}

impl Messages {
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next one that is there as a whole.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        let start = usize::from(self.started);
        let length = u32::from_be_bytes(*self.bytes.get(start..)?.first_chunk()?);
        let end = start + length as usize;
        if self.bytes.len() < end {
            return None;
        }
        let rest = self.bytes.split_off(end);
        let message = std::mem::replace(&mut self.bytes, rest);
        // Anything but the startup message itself: to cancel, for TLS, for GSS.
        let code = message
            .get(4..8)
            .map(|code| u16::from_be_bytes([code[0], code[1]]));
        if !self.started && code != Some(1234) {
            self.started = true;
        }
        Some(message)
    }
}
