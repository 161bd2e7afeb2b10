use codexstore_crds::archive::Line;
use codexstore_crds::codex_backup::BackupMember;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

use super::super::source::Source;
use super::*;

const ONE: &str = "00000000000000aa";
const TWO: &str = "00000000000000bb";

/// A backup of web-0 that shows `revision`, taken at `second` and stored a second later.
fn backup(name: &str, lineage: &str, revision: i64, second: i64) -> Source {
    let member = BackupMember {
        pod: "web-0".to_owned(),
        stored: true,
        lineage: Some(lineage.to_owned()),
        revision: Some(revision),
        taken_at: Some(MicroTime(Timestamp::from_second(second).unwrap())),
        ..BackupMember::default()
    };
    Source {
        backup: name.to_owned(),
        directory: format!("shop/orders/{name}"),
        stored_at: second + 1,
        members: vec![member],
    }
}

fn piece(lineage: &str, from: u64, to: u64, second: u64) -> PiecePath {
    PiecePath {
        lineage: lineage.to_owned(),
        epoch: 1,
        name: PieceName {
            from,
            to,
            last_ms: second * 1000,
            key_id: None,
        },
    }
}

fn record(lines: &[(&str, u64, u64)]) -> Record {
    let line = |(lineage, revision, until): &(&str, u64, u64)| Line {
        pod: "web-0".to_owned(),
        lineage: (*lineage).to_owned(),
        revision: *revision,
        until_ms: Some(until * 1000),
        ..Line::default()
    };
    Record {
        lines: lines.iter().map(line).collect(),
        ..Record::default()
    }
}

fn past<'a>(pieces: &'a [PiecePath], record: Option<&'a Record>) -> Past<'a> {
    Past {
        pod: "web-0",
        pieces,
        record,
    }
}

fn chosen(sources: &[Source]) -> Vec<Chosen<'_>> {
    sources.iter().map(|s| (s, &s.members[0])).collect()
}

/// The backup, and where each piece ends; or why not.
fn told(plan: Result<Plan<'_>, String>) -> Result<(String, Vec<u64>), String> {
    let plan = plan?;
    let ends = plan.pieces.iter().map(|piece| piece.name.to).collect();
    Ok((plan.base.0.backup.clone(), ends))
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "it is compared with what was told"
)]
fn good(name: &str, ends: &[u64]) -> Result<(String, Vec<u64>), String> {
    Ok((name.to_owned(), ends.to_vec()))
}

#[track_caller]
fn refused(told: Result<(String, Vec<u64>), String>, words: &[&str]) {
    let why = told.unwrap_err();
    for word in words {
        assert!(why.contains(word), "{word:?} is not in {why:?}");
    }
}

#[test]
fn the_latest_is_the_backup_and_all_that_follows() {
    let sources = [backup("b", ONE, 10, 100)];
    let latest = |pieces: &[PiecePath], record: Option<&Record>| {
        told(past(pieces, record).latest(chosen(&sources)[0]))
    };
    assert_eq!(latest(&[], None), good("b", &[]));
    let all = [
        piece(ONE, 20, 30, 130),
        piece(ONE, 0, 12, 101),
        piece(ONE, 12, 20, 120),
    ];
    assert_eq!(latest(&all, None), good("b", &[12, 20, 30]));
    // It is not taken for all if it is known that there was more.
    let known = record(&[(ONE, 30, 140)]);
    assert_eq!(latest(&all, Some(&known)), good("b", &[12, 20, 30]));
    let more = record(&[(ONE, 31, 140)]);
    refused(
        latest(&all, Some(&more)),
        &["revision 31", "reaches revision 30", "pointInTime"],
    );
    refused(latest(&all[..2], None), &["gap", "12", "20", "pointInTime"]);
    refused(latest(&[], Some(&more)), &["files are missing"]);
}

#[test]
fn another_line_of_history_that_was_later_is_not_passed_over() {
    let first = [backup("b", ONE, 10, 100)];
    let one = piece(ONE, 10, 20, 150);
    let two = piece(TWO, 5, 6, 160);
    let latest = |sources: &[Source], pieces: &[PiecePath], record: Option<&Record>| {
        told(past(pieces, record).latest(chosen(sources)[0]))
    };
    let both = [one, two];
    refused(
        latest(&first, &both, None),
        &["another line of history", TWO, "backupRef"],
    );
    let seen = record(&[(ONE, 20, 155), (TWO, 5, 170)]);
    refused(
        latest(&first, &both[..1], Some(&seen)),
        &["another line of history", TWO],
    );
    // A backup of that line, or a later one of this line, takes all with it.
    let second = [backup("c", TWO, 5, 158)];
    assert_eq!(latest(&second, &both, None), good("c", &[6]));
    let seen = record(&[(ONE, 20, 150), (TWO, 6, 170)]);
    assert_eq!(latest(&second, &both, Some(&seen)), good("c", &[6]));
    let later = [backup("d", ONE, 20, 161)];
    assert_eq!(latest(&later, &both, None), good("d", &[]));
}

#[test]
fn a_line_that_was_heard_of_late_is_as_late_as_what_is_known_of_it() {
    let sources = [backup("c", TWO, 5, 158)];
    let latest = |record: &Record| told(past(&[], Some(record)).latest(chosen(&sources)[0]));
    // An archiver that lost its record heard of the first line long after it was left.
    let mut heard = record(&[(ONE, 20, 150), (TWO, 5, 159)]);
    heard.lines[0].heard_ms = Some(900_000);
    assert_eq!(latest(&heard), good("c", &[]));
    heard.lines[0].until_ms = None;
    refused(latest(&heard), &["another line of history", ONE]);
    // A member that never said where it is may be the one that waits for this restore.
    heard.lines[0].lineage.clear();
    assert_eq!(latest(&heard), good("c", &[]));
}

#[test]
fn a_member_that_was_archived_does_not_begin_empty() {
    let pieces = [piece(ONE, 0, 1, 5)];
    assert_eq!(past(&[], None).check_none(), Ok(()));
    let nothing = record(&[(ONE, 0, 5)]);
    assert_eq!(past(&[], Some(&nothing)).check_none(), Ok(()));
    assert!(past(&pieces, None).check_none().is_err());
    let written = record(&[(ONE, 3, 5)]);
    assert!(past(&[], Some(&written)).check_none().is_err());
}

#[test]
fn a_time_is_reached_from_the_backup_before_it_if_nothing_is_missing() {
    let sources = [backup("late", ONE, 20, 120), backup("early", ONE, 10, 100)];
    let pieces = [
        piece(ONE, 10, 15, 110),
        piece(ONE, 15, 20, 119),
        piece(ONE, 20, 30, 130),
    ];
    let at = |pieces: &[PiecePath], record: Option<&Record>, second: u64| {
        told(past(pieces, record).at_time(&chosen(&sources), second * 1000))
    };
    assert_eq!(at(&pieces, None, 112), good("early", &[15, 20]));
    assert_eq!(at(&pieces, None, 125), good("late", &[30]));
    // The backup shows that nothing was written after the last piece.
    assert_eq!(at(&pieces[..2], None, 119), good("early", &[15, 20]));
    // Nothing shows that the archive went on to there, but the record.
    refused(
        at(&pieces, None, 130),
        &["not known", "1970-01-01T00:02:10Z (revision 30)"],
    );
    let known = record(&[(ONE, 30, 140)]);
    assert_eq!(at(&pieces, Some(&known), 140), good("late", &[30]));
    refused(at(&pieces, Some(&known), 141), &["not known"]);
    let more = record(&[(ONE, 31, 140)]);
    refused(at(&pieces, Some(&more), 140), &["not known"]);
    refused(
        at(&pieces, None, 99),
        &["no backup from before it", "00:01:40Z (revision 10)"],
    );
    // Of what is missing, and in the middle.
    refused(
        at(&pieces[1..2], None, 112),
        &["between the revisions 10 and 15"],
    );
    assert_eq!(
        told(past(&[], None).at_time(&[], 5)).unwrap_err(),
        "web-0 cannot be restored to 1970-01-01T00:00:00.005Z: there is no backup from before it. There is no backup of it"
    );
}

#[test]
fn a_time_in_another_line_of_history_is_not_taken_from_this_one() {
    // Restored at 150, and the next backup was at 200.
    let sources = [backup("a", ONE, 10, 100), backup("b", TWO, 7, 200)];
    let pieces = [
        piece(ONE, 10, 20, 140),
        piece(TWO, 5, 6, 160),
        piece(TWO, 7, 8, 210),
    ];
    let at = |second: u64| told(past(&pieces, None).at_time(&chosen(&sources), second * 1000));
    assert_eq!(at(130), good("a", &[20]));
    refused(at(170), &["not known"]);
    assert_eq!(at(205), good("b", &[8]));
    let windows = at(170).unwrap_err();
    assert!(
        windows.contains("00:01:40Z (revision 10) to 1970-01-01T00:02:20Z (revision 20)"),
        "{windows}"
    );
    assert!(
        windows.contains("00:03:20Z (revision 7) to 1970-01-01T00:03:30Z (revision 8)"),
        "{windows}"
    );
}

#[test]
fn a_revision_is_one_of_one_line_of_history() {
    let sources = [
        backup("a", ONE, 10, 100),
        backup("b", ONE, 20, 120),
        backup("c", TWO, 50, 200),
    ];
    let pieces = [
        piece(ONE, 10, 15, 110),
        piece(ONE, 15, 20, 119),
        piece(ONE, 20, 60, 130),
        piece(TWO, 50, 55, 210),
    ];
    let at = |revision: u64| told(past(&pieces, None).at_revision(&chosen(&sources), revision));
    assert_eq!(at(10), good("a", &[]));
    assert_eq!(at(16), good("a", &[15, 20]));
    assert_eq!(at(20), good("b", &[]));
    assert_eq!(at(30), good("b", &[60]));
    assert_eq!(at(58), good("b", &[60]));
    refused(
        at(52),
        &["more than one line of history", "pointInTime.time"],
    );
    refused(at(9), &["revision 9", "What can be had"]);
    refused(at(61), &["revision 61", "(revision 60)"]);
}

/// Small numbers that repeat for a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// A history in which revision N was written at second 10 N, pieces of it, some of them lost, and backups of it.
fn history(random: &mut Random) -> (Vec<PiecePath>, Vec<Source>, u64) {
    let end = 5 + random.below(60);
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < end {
        let to = (at + 1 + random.below(6)).min(end);
        if random.below(8) > 0 {
            pieces.push(piece(ONE, at, to, 10 * to));
        }
        // Overlaps come from an archiver that began anew.
        at = if random.below(5) == 0 {
            at + (to - at) / 2
        } else {
            to
        };
        if at == 0 {
            at = to;
        }
    }
    let backups = 1 + random.below(3);
    let sources = (0..backups).map(|n| {
        let revision = i64::try_from(random.below(end + 1)).unwrap();
        backup(&format!("b{n}"), ONE, revision, 10 * revision + 5)
    });
    let sources = sources.collect();
    (pieces, sources, end)
}

/// That a plan holds everything from its backup on up to there, and nothing is left out between.
fn check(plan: &Plan<'_>, wanted: u64) {
    let mut reaches = u64::try_from(plan.base.1.revision.unwrap()).unwrap();
    assert!(reaches <= wanted, "the backup is not from before it");
    for stored in &plan.pieces {
        assert!(stored.name.from <= reaches, "a gap");
        assert!(stored.name.to > reaches, "one that brings nothing");
        reaches = stored.name.to;
    }
    assert!(reaches >= wanted, "{reaches} is not all up to {wanted}");
}

#[test]
fn whatever_is_planned_is_whole_and_what_is_pruned_is_not_missed() {
    let (mut planned, mut refused, mut pruned) = (0, 0, 0);
    for seed in 0..3000 {
        let mut random = Random(seed);
        let (pieces, sources, end) = history(&mut random);
        let bases = chosen(&sources);
        let all = past(&pieces, None);
        for revision in 0..=end {
            match all.at_revision(&bases, revision) {
                Ok(plan) => {
                    check(&plan, revision);
                    planned += 1;
                }
                Err(_) => refused += 1,
            }
            // Between two writes: the first of them is there.
            if let Ok(plan) = all.at_time(&bases, (10 * revision + 7) * 1000) {
                check(&plan, revision);
                assert_eq!(plan.until, Until::Time((10 * revision + 7) * 1000));
            }
        }
        let newest = *bases.iter().max_by_key(|base| base.1.revision).unwrap();
        let before = told(all.latest(newest));
        let cut = random.below(10 * end + 10) * 1000;
        let left: Vec<_> = sources.iter().map(of).collect();
        let kept = pieces.iter().filter(|s| !expired(&s.name, &left, cut));
        let kept: Vec<_> = kept.cloned().collect();
        let after = past(&kept, None);
        assert_eq!(
            told(after.latest(newest)),
            before,
            "seed {seed}: the latest needs none of them"
        );
        pruned += pieces.len() - kept.len();
        // A time that is not older than `cut` can be restored as before.
        for revision in (cut / 10_000 + 1)..=end {
            let time = (10 * revision + 7) * 1000;
            let before = all.at_time(&bases, time).is_ok();
            assert!(
                !before || after.at_time(&bases, time).is_ok(),
                "seed {seed}"
            );
        }
    }
    assert!(
        planned > 20_000 && refused > 1000 && pruned > 5000,
        "{planned} {refused} {pruned}"
    );
}

fn of(source: &Source) -> Left {
    let base = Base::of((source, &source.members[0]));
    Left {
        revision: base.revision,
        taken: base.from,
        good: true,
    }
}

#[test]
fn only_what_is_old_and_not_needed_any_more_expires() {
    let old = |to: u64, last_ms: u64| PieceName {
        last_ms,
        ..piece(ONE, to - 1, to, 0).name
    };
    let base = |revision, taken, good| Left {
        revision,
        taken,
        good,
    };
    let left = [base(2, 20, true), base(10, 95, true), base(20, 150, true)];
    assert!(expired(&old(10, 90), &left, 100));
    assert!(
        !expired(&old(11, 99), &left, 100),
        "a time after it begins with an earlier backup"
    );
    assert!(expired(&old(11, 99), &left, 150));
    assert!(
        !expired(&old(21, 99), &left, 200),
        "it follows the latest backup"
    );
    assert!(!expired(&old(10, 100), &left, 100), "it is not old enough");
    assert!(
        expired(&old(2, 99), &left[2..], 100),
        "no backup is left that it follows"
    );
    assert!(
        expired(&old(30, 99), &[], 100),
        "no backup of its line is left"
    );
    let broken = [base(2, 20, true), base(10, 95, false)];
    assert!(
        !expired(&old(10, 90), &broken, 100),
        "the later backup is not verified"
    );
}
