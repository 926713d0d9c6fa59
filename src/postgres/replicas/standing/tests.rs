//! What was learned of a replica, and when it counts no more.

use super::*;

fn look(standing: &Standing, lsn: u64, server: i64, anew: bool) {
    answered(standing, standing.get(), lsn, server, anew);
}

fn answered(standing: &Standing, before: State, lsn: u64, server: i64, anew: bool) {
    standing.found(&Found {
        replayed: Mark { timeline: 1, lsn },
        server,
        out: None,
        lag: None,
        anew,
        before,
    });
}

fn standing() -> Standing {
    let standing = Standing::new(0);
    look(&standing, 10, 7, true);
    standing
}

fn has(standing: &Standing, lsn: u64) -> bool {
    standing.has(Mark { timeline: 1, lsn }).is_some()
}

#[test]
fn what_was_seen_holds_for_older_places() {
    let standing = standing();
    assert!(has(&standing, 10) && !has(&standing, 11));
    standing.saw(12);
    standing.saw(11);
    assert!(has(&standing, 12));
    let elsewhere = Mark {
        timeline: 2,
        lsn: 1,
    };
    assert_eq!(standing.has(elsewhere), None);
    assert_eq!(standing.admits(Some(2)), None);
    assert_eq!(standing.admits(None), Some(0));
    standing.leave(OutOfRotation::Promoted, None);
    assert!(!has(&standing, 1));
    assert_eq!(standing.admits(None), None);
}

#[test]
fn what_nobody_looks_at_any_more_is_not_relied_on() {
    let standing = standing();
    assert_eq!(standing.admits(None), Some(0));
    let before = Instant::now().checked_sub(OUTDATED);
    standing.state().at = before;
    assert!(standing.admits(None).is_none() && !has(&standing, 1));
    assert_eq!(standing.get().out(), Some(OutOfRotation::Unreachable));
    look(&standing, 10, 7, false);
    assert!(standing.admits(None).is_some() && has(&standing, 10));
}

#[test]
fn a_server_that_began_anew_is_asked_again() {
    let standing = standing();
    let epoch = standing.epoch();
    standing.met(7, 11);
    assert_eq!(standing.epoch(), epoch);
    standing.met(7, 4);
    assert!(standing.epoch() > epoch);
    assert!(has(&standing, 4) && !has(&standing, 5));
}

#[test]
fn of_several_servers_nothing_is_known_in_advance() {
    let standing = standing();
    let epoch = standing.epoch();
    standing.met(8, 100);
    assert!(standing.epoch() > epoch);
    standing.saw(100);
    look(&standing, 100, 7, false);
    assert!(!has(&standing, 1));
    assert_eq!(standing.admits(Some(1)), Some(0));
    // The connection of the looks broke: it was a restart, and this is the server now.
    look(&standing, 20, 8, true);
    assert!(has(&standing, 20));
}

// Connections through a pooler outlive the server that they lead to.
#[test]
fn a_server_that_is_another_one_on_the_same_connection_is_asked_again() {
    let standing = standing();
    let epoch = standing.epoch();
    look(&standing, 12, 8, false);
    assert!(standing.epoch() > epoch && standing.is_several());
    assert!(!has(&standing, 1));
}

#[test]
fn a_server_that_is_behind_where_it_was_is_asked_again() {
    let standing = standing();
    let epoch = standing.epoch();
    look(&standing, 5, 7, false);
    assert!(standing.epoch() > epoch);
    assert!(has(&standing, 5) && !has(&standing, 6));
    // Somebody heard of a later place while the look was under way.
    let (before, epoch) = (standing.get(), standing.epoch());
    standing.saw(8);
    answered(&standing, before, 7, 7, false);
    assert_eq!(standing.epoch(), epoch);
    assert!(has(&standing, 8));
}
