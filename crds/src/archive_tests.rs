//! What a record of an archive comes to, and which keys it needs.

use super::*;

fn line(pod: &str, until: u64) -> Line {
    Line {
        pod: pod.to_owned(),
        lineage: "0123456789abcdef".to_owned(),
        live: true,
        revision: 7,
        based: true,
        last_ms: Some(until * 1000 - 500),
        until_ms: Some(until * 1000),
        pieces: 3,
        ..Line::default()
    }
}

fn record(written_at: i64, lines: Vec<Line>) -> Record {
    Record {
        location: "pvc/backups:/shop/orders/_archive".to_owned(),
        written_at,
        key_ids: Some(vec!["k1".to_owned()]),
        lines,
        ..Record::default()
    }
}

fn said(record: &Record, now: i64) -> (Option<bool>, &'static str, i64, bool) {
    let judged = judge(record, &Continuous::default(), 900, now);
    let (value, reason, _) = judged.condition;
    (value, reason, judged.behind, judged.overdue)
}

#[test]
fn the_defaults_and_the_bound_follow_the_interval() {
    let of = |interval: &str| Continuous {
        interval: interval.to_owned(),
        ..Continuous::default()
    };
    let default = Continuous::default();
    assert_eq!(
        (default.interval_seconds(), default.keep_seconds()),
        (5, 604_800)
    );
    assert_eq!((of("5s").bound(), of("1m").bound()), (300, 600));
}

#[test]
fn the_member_that_is_furthest_behind_counts() {
    let two = record(1000, vec![line("web-0", 998), line("web-1", 990)]);
    assert_eq!(said(&two, 1020), (Some(true), "Current", 10, false));
    // A line that a member left, or whose pod is gone, is not behind.
    let mut left = line("web-2", 500);
    left.live = false;
    let with = record(1000, vec![line("web-0", 998), left]);
    assert_eq!(said(&with, 1000), (Some(true), "Current", 2, false));
    let status = judge(&with, &Continuous::default(), 900, 1000).status;
    assert_eq!((status.members.len(), status.pieces), (1, Some(6)));
    assert_eq!(status.key_ids, ["k1"]);
    assert_eq!(
        said(&record(1000, vec![]), 1000),
        (Some(true), "Current", 0, false)
    );
}

#[test]
fn what_is_silent_behind_or_cannot_be_restored_is_not_current() {
    let mut one = record(1000, vec![line("web-0", 998)]);
    assert_eq!(said(&one, 1090).1, "Current");
    assert_eq!(said(&one, 1091), (Some(false), "ArchiverSilent", 93, false));
    assert_eq!(said(&one, 1299), (Some(false), "ArchiverSilent", 301, true));
    one.lines[0].until_ms = Some(600_000);
    one.lines[0].message = Some("no answer".to_owned());
    let judged = judge(&one, &Continuous::default(), 900, 1001);
    assert_eq!(said(&one, 1001), (Some(false), "Behind", 400, true));
    assert!(judged.condition.2.contains("web-0: no answer"));
    one.lines[0] = line("web-0", 1000);
    one.lines[0].based = false;
    assert_eq!(
        said(&one, 1001),
        (Some(false), "WaitingForBackup", 0, false)
    );
    one.lines[0].based = true;
    one.lines[0].until_ms = None;
    one.lines[0].heard_ms = Some(990_000);
    assert_eq!(said(&one, 1001), (Some(true), "Current", 10, false));
    let unreachable = |one: &Record, now| judge(one, &Continuous::default(), 900, now).unreachable;
    assert!(!unreachable(&one, 1001));
    one.message = Some("no bucket".to_owned());
    assert_eq!(said(&one, 1001).1, "DestinationFailed");
    // Also where it is being started anew, and says nothing meanwhile.
    assert_eq!(said(&one, 1200).1, "ArchiverSilent");
    assert!(unreachable(&one, 1001) && unreachable(&one, 1200));
}

#[test]
fn one_that_never_began_is_behind_since_it_was_asked_for() {
    let none = Record::default();
    assert_eq!(said(&none, 910), (None, "Starting", 10, false));
    assert_eq!(said(&none, 991), (Some(false), "ArchiverSilent", 91, false));
    assert_eq!(
        said(&none, 1201),
        (Some(false), "ArchiverSilent", 301, true)
    );
}

#[test]
fn one_that_is_asked_for_again_is_being_started_whatever_an_earlier_one_wrote() {
    let mut earlier = record(500, vec![line("web-0", 498)]);
    assert_eq!(said(&earlier, 910), (None, "Starting", 10, false));
    let status = judge(&earlier, &Continuous::default(), 900, 910).status;
    assert_eq!(status.members, [], "nobody has looked yet which run");
    assert_eq!(
        said(&earlier, 991),
        (Some(false), "ArchiverSilent", 91, false)
    );
    earlier.written_at = 920;
    assert_eq!(said(&earlier, 921).1, "Behind", "what it says counts");
}

#[test]
fn keys_of_an_archive_that_was_left_are_still_needed() {
    assert!(Record::default().needs("k1"), "nobody has looked yet");
    let mut moving = record(1, vec![line("web-0", 1)]);
    assert!(moving.needs("k1") && !moving.needs("k2"));
    moving.moved("s3://b/shop/orders/_archive");
    assert!(moving.needs("k2"), "nobody has looked there yet");
    moving.key_ids = Some(vec!["k2".to_owned()]);
    assert!(moving.needs("k1") && moving.needs("k2") && !moving.needs("k3"));
    assert_eq!((moving.lines.len(), moving.elsewhere.len()), (0, 1));
    moving.moved("pvc/backups:/shop/orders/_archive");
    assert_eq!(moving.key_ids.as_deref(), Some(&["k1".to_owned()][..]));
    assert_eq!(moving.elsewhere.len(), 1);
    assert!(moving.needs("k1") && moving.needs("k2") && !moving.needs("k3"));
}

#[test]
fn an_archive_that_was_left_before_it_was_listed_may_need_any_key() {
    let mut moving = record(1, Vec::new());
    moving.key_ids = None;
    moving.moved("s3://b");
    moving.key_ids = Some(vec!["k2".to_owned()]);
    assert!(moving.needs("k9"));
    assert_eq!(moving.unlisted(), Some("pvc/backups:/shop/orders/_archive"));
    let text = serde_json::to_string(&moving).unwrap();
    assert_eq!(Record::parse(&text).as_ref(), Some(&moving));
    moving.moved("pvc/backups:/shop/orders/_archive");
    assert_eq!((&moving.key_ids, moving.elsewhere.len()), (&None, 1));
    moving.key_ids = Some(Vec::new());
    assert!(moving.needs("k2") && !moving.needs("k9"));
    // One that needs no key is nothing to keep in mind.
    moving.moved("s3://b");
    assert_eq!((moving.elsewhere.len(), moving.unlisted()), (0, None));
}

#[test]
fn what_is_known_of_another_archive_is_never_made_less() {
    let of = |ids: Option<&[&str]>| Elsewhere {
        location: "s3://b".to_owned(),
        key_ids: ids.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect()),
    };
    let mut one = record(1, Vec::new());
    one.leave(of(Some(&["k3", "k2"])));
    one.leave(of(Some(&["k2", "k4"])));
    assert_eq!(one.elsewhere, [of(Some(&["k2", "k3", "k4"]))]);
    one.leave(of(None));
    assert_eq!(one.elsewhere, [of(None)]);
    one.leave(of(Some(&["k2"])));
    assert!(one.needs("k9"), "nobody has listed it");
}

#[test]
fn when_a_line_was_heard_of_counts_where_nothing_else_is_known() {
    let mut one = line("web-0", 10);
    one.heard_ms = Some(99_000);
    assert_eq!(one.seen_ms(), Some(10_000));
    one.until_ms = None;
    assert_eq!(one.seen_ms(), Some(9500));
    one.last_ms = None;
    assert_eq!(one.seen_ms(), Some(99_000));
}

#[test]
fn a_record_is_read_back_also_one_of_another_version() {
    let one = record(5, vec![line("web-0", 1)]);
    let text = serde_json::to_string(&one).unwrap();
    assert_eq!(Record::parse(&text), Some(one));
    assert_eq!(Record::parse("{\"later\": 1}"), Some(Record::default()));
    assert_eq!(Record::parse("{"), None);
}
