//! libpq's variables, and password files.

use std::collections::HashMap;
use std::fs;

use super::super::resolve::LOCAL;
use super::*;

fn from_env(variables: &[(&str, &str)]) -> Result<Target> {
    let variables: HashMap<_, _> = variables.iter().copied().collect();
    Target::from_env(|name| variables.get(name).map(OsString::from))
}

#[test]
fn every_variable_is_read() {
    let target = from_env(&[
        ("PGHOST", "a,b"),
        ("PGHOSTADDR", "10.0.0.1,"),
        ("PGPORT", "1,2"),
        ("PGDATABASE", "d"),
        ("PGUSER", "u"),
        ("PGPASSWORD", "p"),
        ("PGOPTIONS", "-c x=y"),
        ("PGAPPNAME", "n"),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", "system"),
        ("PGSSLCERT", "c"),
        ("PGSSLKEY", "k"),
        ("PGSSLNEGOTIATION", "direct"),
        ("PGCHANNELBINDING", "require"),
        ("PGCONNECT_TIMEOUT", "4"),
        ("PGTARGETSESSIONATTRS", "standby"),
        ("PGLOADBALANCEHOSTS", "random"),
        ("PGSSLMINPROTOCOLVERSION", "TLSv1.3"),
        ("PGCLIENTENCODING", "UTF8"),
    ]);
    assert_eq!(
        say(&target.expect("a target")),
        "u:p@a:1(10.0.0.1),b:2/d options=-c x=y name=n connect=4s binding=Require session=Standby \
         balance=true tls=Some(VerifyFull) root=system cert=c key=k negotiation=Direct at least=V1_3"
    );
}

#[test]
fn an_empty_environment_is_this_machine_and_an_empty_variable_is_none() {
    let local = format!("@{LOCAL}:5432/");
    assert_eq!(say(&from_env(&[]).expect("a target")), local);
    let empty = [("PGHOST", ""), ("PGSSLMODE", ""), ("PGPORT", "")];
    assert_eq!(say(&from_env(&empty).expect("a target")), local);
}

#[test]
fn what_is_wrong_with_a_variable_is_said_by_its_name() {
    for (name, value) in [
        ("PGSSLMODE", "canary"),
        ("PGPORT", "canary"),
        ("PGHOST", "can ary"),
        ("PGHOSTADDR", "canary"),
        ("PGCONNECT_TIMEOUT", "canary"),
        ("PGTARGETSESSIONATTRS", "canary"),
        ("PGSERVICE", "canary"),
        ("PGREQUIREAUTH", "canary"),
        ("PGSSLCRL", "canary"),
        ("PGGSSENCMODE", "require"),
    ] {
        let said = reason(from_env(&[(name, value)]));
        assert!(
            said.starts_with(&format!("in the environment, `{name}` ")),
            "{said}"
        );
        assert!(!said.contains(value), "{said}");
    }
}

/// What each host's password is.
fn passwords(target: &Target) -> Vec<Option<String>> {
    let text = |password: &[u8]| String::from_utf8(password.to_vec()).expect("text");
    let endpoints = target.endpoints().iter();
    endpoints
        .map(|endpoint| endpoint.password.as_deref().map(text))
        .collect()
}

fn password_file(content: &str, mode: u32) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), content).expect("written");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).expect("a mode");
    }
    file
}

#[test]
fn each_host_has_its_own_password_in_the_file() {
    let file = password_file(
        "a:1:d:u:first\nb:2:d:u:second\nlocalhost:3:u:u:socket\n10.0.0.1:*:*:*:addr\n",
        0o600,
    );
    let path = file.path().to_str().expect("text");
    let file = ("PGPASSFILE", path);

    let target = from_env(&[
        file,
        ("PGHOST", "a,b,c"),
        ("PGPORT", "1,2,3"),
        ("PGUSER", "u"),
        ("PGDATABASE", "d"),
    ]);
    let some = |text: &str| Some(text.to_owned());
    let target = target.expect("a target");
    assert_eq!(passwords(&target), [some("first"), some("second"), None]);
    let sent: Vec<_> = target.configs();
    assert_eq!(sent[1].get_password(), Some(b"second".as_slice()));
    assert_eq!(sent[2].get_password(), None);

    // The user runs the process, the database has its name, the host is this machine.
    let target = from_env(&[file, ("PGPORT", "3"), ("LOGNAME", "u"), ("USER", "")]);
    assert_eq!(passwords(&target.expect("a target")), [some("socket")]);
    let target = from_env(&[file, ("PGHOSTADDR", "10.0.0.1")]);
    assert_eq!(passwords(&target.expect("a target")), [some("addr")]);
    // A password that is given needs no file.
    let target = from_env(&[file, ("PGHOSTADDR", "10.0.0.1"), ("PGPASSWORD", "own")]);
    assert_eq!(passwords(&target.expect("a target")), [some("own")]);
    // A text reads the file that it names, and no other.
    let named = format!("hostaddr=10.0.0.1 passfile='{path}'");
    assert_eq!(passwords(&parse(&named).expect("a target")), [some("addr")]);
    let env = |name: &str| (name == "PGPASSFILE").then(|| path.into());
    let target = Target::parse("hostaddr=10.0.0.1", env);
    assert_eq!(passwords(&target.expect("a target")), [None]);
}

#[cfg(unix)]
#[test]
fn a_password_file_that_others_can_open_is_not_used() {
    for (mode, used) in [
        (0o600, true),
        (0o400, true),
        (0o640, false),
        (0o604, false),
        (0o620, false),
    ] {
        let file = password_file("*:*:*:*:p", mode);
        let url = format!("host=h passfile='{}'", file.path().display());
        let found = passwords(&parse(&url).expect("a target"));
        assert_eq!(found, [used.then(|| "p".to_owned())], "{mode:o}");
    }
}

#[test]
fn a_password_file_that_is_not_there_is_no_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("text");
    for path in [path, &format!("{path}/none")] {
        let target = parse(&format!("host=h passfile='{path}'"));
        assert_eq!(passwords(&target.expect("a target")), [None]);
    }
}

#[cfg(unix)]
#[test]
fn the_file_in_the_home_directory_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = password_file("h:5432:u:u:home", 0o600);
    fs::copy(file.path(), folder.path().join(".pgpass")).expect("copied");
    let home = folder.path().to_str().expect("text");
    let target = from_env(&[("HOME", home), ("PGHOST", "h"), ("PGUSER", "u")]);
    assert_eq!(passwords(&target.expect("a target")), [Some("home".into())]);
}
