//! libpq's password file: lines of `host:port:database:user:password`, where `*` matches anything
//! and a backslash takes the next character as it is. The first line that matches counts.

use std::fs;
use std::path::Path;

pub(super) struct PasswordFile(Vec<u8>);

impl PasswordFile {
    /// `None` if there is none, or if others than its owner can read or change it: libpq does not
    /// use such a file either.
    pub(super) fn read(path: &Path) -> Option<PasswordFile> {
        let metadata = fs::metadata(path).ok()?;
        if !metadata.is_file() {
            tracing::warn!("the password file is ignored: it is not a plain file");
            return None;
        }
        if open_to_others(&metadata) {
            tracing::warn!(
                "the password file is ignored: others can read or change it; give it mode 0600"
            );
            return None;
        }
        let content = fs::read(path);
        content
            .inspect_err(|error| {
                tracing::warn!(kind = %error.kind(), "the password file is ignored");
            })
            .map(PasswordFile)
            .ok()
    }

    pub(super) fn find(&self, host: &str, port: u16, dbname: &str, user: &str) -> Option<Vec<u8>> {
        let port = port.to_string();
        let wanted = [host, &port, dbname, user];
        self.0
            .split(|&byte| byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .filter(|line| !line.starts_with(b"#"))
            .find_map(|line| {
                let password = wanted
                    .iter()
                    .try_fold(line, |line, wanted| matches(line, wanted.as_bytes()))?;
                Some(field(password).0)
            })
            .filter(|password| !password.is_empty())
    }
}

#[cfg(unix)]
fn open_to_others(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.mode() & 0o077 != 0
}

#[cfg(not(unix))]
fn open_to_others(_: &fs::Metadata) -> bool {
    false
}

/// The rest of the line, if its first field is the one wanted.
fn matches<'a>(line: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = line.strip_prefix(b"*:") {
        return Some(rest);
    }
    let (field, rest) = field(line);
    rest.filter(|_| field == wanted)
}

/// The first field, and what comes after the colon that ends it.
fn field(line: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let mut field = Vec::new();
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after.split_first()) {
            (b':', _) => return (field, Some(rest)),
            (b'\\', Some((&byte, after))) => {
                field.push(byte);
                rest = after;
            }
            (byte, _) => field.push(byte),
        }
    }
    (field, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(file: &str, host: &str, dbname: &str, user: &str) -> Option<String> {
        let found = PasswordFile(file.into()).find(host, 5432, dbname, user);
        found.map(|found| String::from_utf8(found).expect("text"))
    }

    #[test]
    fn the_first_line_that_matches_counts() {
        let file = "# h:5432:db:u:comment\n\
                    h:5433:db:u:port\n\
                    h:5432:other:u:database\n\
                    h:5432:db:u:first\n\
                    h:5432:db:u:second\n\
                    *:*:*:admin:any\n\
                    *:5432:*:u:late:r\r\n";
        assert_eq!(find(file, "h", "db", "u").as_deref(), Some("first"));
        assert_eq!(find(file, "x", "y", "admin").as_deref(), Some("any"));
        assert_eq!(find(file, "x", "y", "u").as_deref(), Some("late"));
        assert_eq!(find(file, "h", "db", "somebody"), None);
    }

    #[test]
    fn colons_and_backslashes_are_escaped() {
        let file = "\\:\\:1:5432:d\\\\b:u\\:v:p\\:w\\\\\\x\\";
        assert_eq!(find(file, "::1", r"d\b", "u:v").as_deref(), Some(r"p:w\x\"));
        assert_eq!(find("\\*:5432:db:u:p", "h", "db", "u"), None);
        assert_eq!(
            find("\\*:5432:db:u:p", "*", "db", "u").as_deref(),
            Some("p")
        );
    }

    #[test]
    fn a_line_that_is_cut_off_matches_nothing() {
        for file in [
            "",
            "\n\n",
            "h",
            "h:5432:db",
            "h:5432:db:u",
            "h:5432:db:u:",
            "*:*:*:*",
        ] {
            assert_eq!(find(file, "h", "db", "u"), None, "{file:?}");
        }
    }
}
