//! `key=value key='another value'`.

use std::iter::Peekable;
use std::str::Chars;

use super::keys::{Values, Wrong};

pub(super) fn parse(text: &str) -> Result<Values, Wrong> {
    let mut values = Values::default();
    let mut chars = text.chars().peekable();
    skip_blanks(&mut chars);
    if chars.peek().is_none() {
        return Err(Wrong::Text("is empty"));
    }
    while chars.peek().is_some() {
        let mut key = String::new();
        while let Some(c) = chars.next_if(|&c| c != '=' && !is_blank(c)) {
            key.push(c);
        }
        skip_blanks(&mut chars);
        if chars.next() != Some('=') {
            return Err(Wrong::Text(NO_EQUALS));
        }
        skip_blanks(&mut chars);
        let value = match chars.next_if_eq(&'\'') {
            Some(_) => quoted(&mut chars)?,
            None => plain(&mut chars),
        };
        values.set(key.as_bytes(), value.into_bytes())?;
        skip_blanks(&mut chars);
    }
    Ok(values)
}

const NO_EQUALS: &str = "cannot be read: a key has no `=` after it; a value with a space in it has \
                         to be quoted";

fn quoted(chars: &mut Peekable<Chars<'_>>) -> Result<String, Wrong> {
    let mut value = String::new();
    loop {
        match chars.next() {
            None => return Err(Wrong::Text("has a quote that is not closed")),
            Some('\'') => return Ok(value),
            Some('\\') => value.extend(chars.next()),
            Some(c) => value.push(c),
        }
    }
}

fn plain(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut value = String::new();
    while let Some(c) = chars.next_if(|&c| !is_blank(c)) {
        match c {
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    value
}

fn skip_blanks(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|&c| is_blank(c)).is_some() {}
}

/// As C's `isspace` has it, which knows the vertical tab.
fn is_blank(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\x0b'
}
