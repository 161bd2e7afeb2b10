//! Which backups have expired, and which are to be verified: pure functions of what there is.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{Timestamp, civil::Date, tz::TimeZone};

use crate::backup::{Retention, Verify};
use crate::codex_backup::{CodexBackup, kept_by, phase};

/// Records of failed backups that stay: they hold no data, but say what went wrong.
const FAILED: usize = 3;

/// What keeps each backup of one store, as [`kept_by`] names it, the latest first: where nothing does, it has expired. Those that are
/// being taken or deleted are not among them. Whatever the rules say, the latest that is whole and the latest that was verified stay, and so does what
/// is `used`, which says by what.
pub fn kept<'a>(
    backups: impl IntoIterator<Item = &'a CodexBackup>,
    keep: &Retention,
    used: &[(&'static str, &BTreeSet<String>)],
) -> Vec<(&'a str, Vec<&'static str>)> {
    let mut all: Vec<Seen<'a>> = backups.into_iter().filter_map(Seen::of).collect();
    // The latest first; equal times by name, so that every look decides the same.
    all.sort_by(|a, b| (b.at, b.name).cmp(&(a.at, a.name)));
    let mut kept: BTreeMap<&str, Vec<&'static str>> = BTreeMap::new();
    let usable: Vec<&Seen<'_>> = all.iter().filter(|seen| seen.usable).collect();
    let count = |n: Option<u32>| n.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    for backup in usable.iter().take(count(keep.keep_last)) {
        kept.entry(backup.name).or_default().push(kept_by::LAST);
    }
    for (rule, most, period) in [
        (
            kept_by::HOURLY,
            keep.keep_hourly,
            hour as fn(Timestamp) -> Period,
        ),
        (kept_by::DAILY, keep.keep_daily, day),
        (kept_by::WEEKLY, keep.keep_weekly, week),
        (kept_by::MONTHLY, keep.keep_monthly, month),
    ] {
        let mut seen = BTreeSet::new();
        for backup in &usable {
            let period = period(backup.at);
            if seen.len() < count(most) && seen.insert(period) {
                kept.entry(backup.name).or_default().push(rule);
            }
        }
    }
    // Said where no rule keeps it: what is said changes with few runs only.
    let latest = |is: fn(&Seen<'_>) -> bool| all.iter().find(|seen| is(seen));
    for (why, found) in [
        (kept_by::LATEST, latest(|seen| seen.whole)),
        (kept_by::LATEST_VERIFIED, latest(|seen| seen.verified)),
    ] {
        if let Some(seen) = found {
            kept.entry(seen.name).or_insert_with(|| vec![why]);
        }
    }
    for failed in all.iter().filter(|seen| !seen.usable).take(FAILED) {
        kept.entry(failed.name).or_default().push(kept_by::FAILED);
    }
    for &(why, names) in used {
        for seen in all.iter().filter(|seen| names.contains(seen.name)) {
            kept.entry(seen.name).or_default().push(why);
        }
    }
    let by = |seen: &Seen<'a>| (seen.name, kept.remove(seen.name).unwrap_or_default());
    all.iter().map(by).collect()
}

/// The backups of one store that have expired, by name.
#[cfg(test)]
fn expired<'a>(
    backups: impl IntoIterator<Item = &'a CodexBackup>,
    keep: &Retention,
    used: &BTreeSet<String>,
) -> Vec<String> {
    let all = kept(backups, keep, &[(kept_by::RESTORE, used)]);
    let gone = all.into_iter().filter(|(_, by)| by.is_empty());
    gone.map(|(name, _)| name.to_owned()).collect()
}

/// A backup of one line of history: the time from which on it can be used, in milliseconds since 1970, its name, and whether it counts.
type Base<'a> = (u64, &'a str, bool);

/// The backups without which a continuous archive does not go back to `cut`, by name: of each line of history of a member that
/// went on after that, the latest from before it, if possible one that counts where backups are verified like that, or else the first.
/// `over` says of a pod and a line whether it ended before; where it does not know, a later backup of another line from before says so.
pub fn followed<'a>(
    backups: impl IntoIterator<Item = &'a CodexBackup>,
    cut: Timestamp,
    verify: Verify,
    over: impl Fn(&str, &str) -> Option<bool>,
) -> BTreeSet<String> {
    let cut = u64::try_from(cut.as_millisecond()).unwrap_or_default();
    let mut pods: BTreeMap<&str, BTreeMap<&str, Vec<Base<'_>>>> = BTreeMap::new();
    for backup in backups {
        let (Some(seen), Some(status)) = (Seen::of(backup), &backup.status) else {
            continue;
        };
        if !seen.usable || status.verified() == Some(false) {
            continue;
        }
        let ended = status.completed_at.as_ref().map_or(seen.at, |at| at.0);
        let counts = status.counts(verify);
        for member in status.members.iter().filter(|member| member.stored) {
            let lineage = member.lineage.as_deref().unwrap_or_default();
            let lines = pods.entry(&member.pod).or_default();
            let from = member.from_ms(ended.as_second());
            let line = lines.entry(lineage).or_default();
            line.push((from, seen.name, counts));
        }
    }
    let mut needed = BTreeSet::new();
    for (pod, lines) in &pods {
        for (lineage, line) in lines {
            let left = || {
                let last = line.iter().map(|(at, ..)| *at).max();
                let others = lines.iter().filter(|(other, _)| *other != lineage);
                let mut others = others.flat_map(|(_, line)| line);
                others.any(|(at, ..)| *at <= cut && Some(*at) > last)
            };
            if !over(pod, lineage).unwrap_or_else(left) {
                needed.extend(base(line, cut).map(str::to_owned));
            }
        }
    }
    needed
}

/// The backup of a line with which it can be gone back to `cut`, or else as far as there is one.
fn base<'a>(line: &[Base<'a>], cut: u64) -> Option<&'a str> {
    let before = || line.iter().filter(|(at, ..)| *at <= cut);
    let counts = before().filter(|(.., counts)| *counts).max();
    let base = counts.or_else(|| before().max());
    base.or_else(|| line.iter().min()).map(|(_, name, _)| *name)
}

/// A period: its date, and its hour where that counts.
type Period = (Date, i8);

fn date(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

fn hour(at: Timestamp) -> Period {
    (date(at), at.to_zoned(TimeZone::UTC).hour())
}

fn day(at: Timestamp) -> Period {
    (date(at), 0)
}

fn week(at: Timestamp) -> Period {
    let date = date(at);
    let since = date.weekday().to_monday_zero_offset();
    let monday = date.checked_sub(k8s_openapi::jiff::Span::new().days(since));
    (monday.unwrap_or(date), 0)
}

/// Whether a backup that is stored and was not opened yet is to be: each, or the first of a week that none of was.
pub fn to_be_verified<'a>(
    backup: &CodexBackup,
    others: impl IntoIterator<Item = &'a CodexBackup>,
    verify: Verify,
) -> bool {
    match verify {
        Verify::Always => true,
        Verify::Never => false,
        Verify::Weekly => {
            let Some(seen) = Seen::of(backup) else {
                return false;
            };
            let store = &backup.spec.store_ref;
            let others = others.into_iter().filter(|b| b.spec.store_ref == *store);
            let mut verified = others.filter_map(Seen::of).filter(|other| other.verified);
            !verified.any(|other| week(other.at) == week(seen.at))
        }
    }
}

fn month(at: Timestamp) -> Period {
    (date(at).first_of_month(), 0)
}

/// What counts of a backup.
struct Seen<'a> {
    name: &'a str,
    at: Timestamp,
    usable: bool,
    whole: bool,
    verified: bool,
}

impl<'a> Seen<'a> {
    fn of(backup: &'a CodexBackup) -> Option<Seen<'a>> {
        let status = backup.status.as_ref().filter(|status| status.ended())?;
        if backup.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let created = backup.metadata.creation_timestamp.as_ref();
        Some(Seen {
            name: backup.metadata.name.as_deref()?,
            at: status.started_at.as_ref().or(created)?.0,
            usable: status.usable(),
            whole: status.phase.as_deref() == Some(phase::SUCCEEDED),
            verified: status.usable() && status.verified() == Some(true),
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::codex_backup::{CodexBackupSpec, CodexBackupStatus, condition};

    fn backup(name: &str, at: &str, state: &str, verified: Option<bool>) -> CodexBackup {
        let mut backup = CodexBackup::new(name, CodexBackupSpec::default());
        let time = Time(at.parse().unwrap());
        let conditions = verified.map(|yes| Condition {
            type_: condition::VERIFIED.to_owned(),
            status: if yes { "True" } else { "False" }.to_owned(),
            reason: String::new(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: time.clone(),
        });
        backup.status = Some(CodexBackupStatus {
            phase: Some(state.to_owned()),
            started_at: Some(time),
            conditions: conditions.into_iter().collect(),
            ..CodexBackupStatus::default()
        });
        backup
    }

    #[test]
    fn one_backup_of_a_week_is_verified() {
        let ok = phase::SUCCEEDED;
        let monday = backup("mon", "2026-11-23T00:00:00Z", ok, Some(true));
        let sunday = backup("sun", "2026-11-22T23:59:59Z", ok, None);
        let tuesday = backup("tue", "2026-11-24T00:00:00Z", ok, None);
        let broken = backup("bad", "2026-11-16T00:00:00Z", ok, Some(false));
        let all = [&monday, &sunday, &tuesday, &broken];
        let due = |backup, verify| to_be_verified(backup, all, verify);
        assert!(!due(&tuesday, Verify::Weekly), "Monday's was");
        assert!(
            due(&sunday, Verify::Weekly),
            "of its week only a broken one was"
        );
        assert!(due(&tuesday, Verify::Always) && !due(&tuesday, Verify::Never));
    }

    fn keep(last: u32) -> Retention {
        Retention {
            keep_last: Some(last),
            ..Retention::default()
        }
    }

    fn names(all: &[CodexBackup], keep: &Retention) -> Vec<String> {
        expired(all, keep, &BTreeSet::new())
    }

    #[test]
    fn the_last_ones_stay_and_running_ones_do_not_count() {
        let all: Vec<_> = (1..=9)
            .map(|n| {
                let state = if n == 9 {
                    phase::RUNNING
                } else {
                    phase::SUCCEEDED
                };
                backup(
                    &format!("b{n}"),
                    &format!("2026-11-0{n}T00:00:00Z"),
                    state,
                    None,
                )
            })
            .collect();
        assert_eq!(names(&all, &keep(3)), ["b5", "b4", "b3", "b2", "b1"]);
        let used = BTreeSet::from(["b4".to_owned()]);
        assert_eq!(expired(&all, &keep(3), &used), ["b5", "b3", "b2", "b1"]);
    }

    #[test]
    fn the_latest_of_each_period_stays() {
        let at = [
            "2026-10-30T10:00:00Z",
            "2026-11-01T10:00:00Z",
            "2026-11-01T23:59:59Z",
            "2026-11-02T00:00:00Z",
            "2026-11-02T00:30:00Z",
            "2026-11-09T00:00:00Z",
        ];
        let all: Vec<_> = at
            .iter()
            .enumerate()
            .map(|(n, at)| backup(&format!("b{n}"), at, phase::SUCCEEDED, None))
            .collect();
        let none = Retention {
            keep_last: None,
            ..Retention::default()
        };
        let daily = Retention {
            keep_daily: Some(3),
            ..none.clone()
        };
        assert_eq!(names(&all, &daily), ["b3", "b1", "b0"]);
        let hourly = Retention {
            keep_hourly: Some(2),
            ..none.clone()
        };
        assert_eq!(names(&all, &hourly), ["b3", "b2", "b1", "b0"]);
        // 1 November 2026 is a Sunday.
        let weekly = Retention {
            keep_weekly: Some(3),
            ..none.clone()
        };
        assert_eq!(names(&all, &weekly), ["b3", "b1", "b0"]);
        let monthly = Retention {
            keep_monthly: Some(2),
            ..none
        };
        assert_eq!(names(&all, &monthly), ["b4", "b3", "b2", "b1"]);
    }

    #[test]
    fn the_last_whole_and_the_last_verified_stay_whatever_the_rules_say() {
        let all = [
            backup(
                "verified",
                "2026-11-01T00:00:00Z",
                phase::SUCCEEDED,
                Some(true),
            ),
            backup(
                "whole",
                "2026-11-02T00:00:00Z",
                phase::SUCCEEDED,
                Some(false),
            ),
            backup(
                "old-part",
                "2026-11-03T00:00:00Z",
                phase::PARTIALLY_FAILED,
                None,
            ),
            backup(
                "part",
                "2026-11-04T00:00:00Z",
                phase::PARTIALLY_FAILED,
                None,
            ),
        ];
        assert_eq!(names(&all, &keep(1)), ["old-part"]);
    }

    #[test]
    fn what_keeps_a_backup_is_said() {
        let ok = phase::SUCCEEDED;
        let all = [
            backup("verified", "2026-10-01T00:00:00Z", ok, Some(true)),
            backup("gone", "2026-10-02T00:00:00Z", ok, None),
            backup("archived", "2026-10-03T00:00:00Z", ok, None),
            backup("sunday", "2026-11-01T00:00:00Z", ok, None),
            backup("monday", "2026-11-02T00:00:00Z", ok, None),
            backup("noon", "2026-11-02T12:00:00Z", ok, None),
            backup("failed", "2026-11-02T13:00:00Z", phase::FAILED, None),
            backup("now", "2026-11-02T14:00:00Z", phase::RUNNING, None),
        ];
        let set = |names: &[&str]| -> BTreeSet<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        let (restored, archived) = (set(&["archived", "noon"]), set(&["archived"]));
        let used = [(kept_by::RESTORE, &restored), (kept_by::ARCHIVE, &archived)];
        let said = |keep: &Retention| -> Vec<String> {
            let all = kept(&all, keep, &used).into_iter();
            all.map(|(name, by)| format!("{name}: {}", by.join(" ")))
                .collect()
        };
        let rules = Retention {
            keep_last: Some(2),
            keep_hourly: Some(1),
            keep_daily: Some(2),
            keep_weekly: Some(2),
            keep_monthly: Some(1),
        };
        assert_eq!(
            said(&rules),
            [
                "failed: failed",
                "noon: keepLast keepHourly keepDaily keepWeekly keepMonthly restore",
                "monday: keepLast",
                "sunday: keepDaily keepWeekly",
                "archived: restore archive",
                "gone: ",
                "verified: latestVerified",
            ]
        );
        let none = Retention {
            keep_last: None,
            ..Retention::default()
        };
        assert_eq!(said(&none)[1], "noon: latest restore");
    }

    #[test]
    fn of_failed_ones_the_last_few_are_told() {
        let all: Vec<_> = (1..=5)
            .map(|n| {
                backup(
                    &format!("f{n}"),
                    &format!("2026-11-0{n}T00:00:00Z"),
                    phase::FAILED,
                    None,
                )
            })
            .collect();
        assert_eq!(names(&all, &keep(1)), ["f2", "f1"]);
    }

    #[test]
    fn over_many_runs_never_more_than_the_rules_and_always_the_last_verified() {
        let rules = Retention {
            keep_last: Some(4),
            keep_daily: Some(3),
            ..Retention::default()
        };
        let mut all: Vec<CodexBackup> = Vec::new();
        for n in 0..500_i64 {
            let at = Timestamp::from_second(1_760_000_000 + n * 3600 * 7).unwrap();
            // Every third is verified, the last hundred are not.
            let verified = (n < 400).then_some(n % 3 == 0);
            all.push(backup(
                &format!("b{n:03}"),
                &at.to_string(),
                phase::SUCCEEDED,
                verified,
            ));
            let gone = names(&all, &rules);
            all.retain(|b| !gone.contains(b.metadata.name.as_ref().unwrap()));
            assert!(all.len() <= 4 + 3 + 1, "{}", all.len());
            assert!(
                all.iter()
                    .any(|b| b.status.as_ref().unwrap().verified() == Some(true))
            );
        }
        assert_eq!(all[0].metadata.name.as_deref(), Some("b399"));
    }

    #[test]
    fn what_an_archive_follows_stays_for_as_long_as_it_goes_back() {
        let of = |name: &str, at: &str, lineage: &str| {
            let mut backup = backup(name, at, phase::SUCCEEDED, None);
            let member = crate::codex_backup::BackupMember {
                pod: "web-0".to_owned(),
                stored: true,
                lineage: Some(lineage.to_owned()),
                ..Default::default()
            };
            backup.status.as_mut().unwrap().members = vec![member];
            backup
        };
        let all = [
            of("a", "2026-11-01T00:00:00Z", "one"),
            of("b", "2026-11-02T00:00:00Z", "one"),
            of("c", "2026-11-04T00:00:00Z", "one"),
            of("d", "2026-11-05T00:00:00Z", "two"),
            of("e", "2026-11-06T00:00:00Z", "two"),
        ];
        let followed = |cut: &str, over: &str| {
            let over = |_: &str, lineage: &str| Some(lineage == over);
            let kept = followed(&all, cut.parse().unwrap(), Verify::Always, over);
            kept.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(followed("2026-11-03T00:00:00Z", ""), "b d");
        assert_eq!(followed("2026-11-05T12:00:00Z", ""), "c d");
        assert_eq!(followed("2026-11-07T00:00:00Z", "one"), "e");
        assert_eq!(followed("2026-10-01T00:00:00Z", ""), "a d");
        let mut broken = all.to_vec();
        let bad = backup("b", "2026-11-02T00:00:00Z", phase::SUCCEEDED, Some(false));
        broken[1].status.as_mut().unwrap().conditions = bad.status.unwrap().conditions;
        let cut = "2026-11-03T00:00:00Z".parse().unwrap();
        let kept = super::followed(&broken, cut, Verify::Always, |_, _| Some(false));
        assert!(kept.contains("a") && !kept.contains("b"));
        // What nobody knows of was left once there is a backup of another line, and not by one that is later than that time.
        let unknown = |cut: &str| {
            let cut = cut.parse().unwrap();
            let kept = super::followed(&all, cut, Verify::Always, |_, _| None);
            kept.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(unknown("2026-11-04T12:00:00Z"), "c d");
        assert_eq!(unknown("2026-11-05T00:00:00Z"), "d");
    }

    #[test]
    fn what_an_archive_follows_is_from_before_that_time_by_the_members_clock_and_verified_if_there_is_one()
     {
        let of = |name: &str, at: &str, taken: &str, verified: Option<bool>| {
            let mut backup = backup(name, at, phase::SUCCEEDED, verified);
            let member = crate::codex_backup::BackupMember {
                pod: "web-0".to_owned(),
                stored: true,
                taken_at: serde_json::from_value(taken.into()).unwrap(),
                ..Default::default()
            };
            backup.status.as_mut().unwrap().members = vec![member];
            backup
        };
        let first = of(
            "a",
            "2026-11-01T00:00:00Z",
            "2026-11-01T00:00:05.000000Z",
            Some(true),
        );
        let second = of(
            "b",
            "2026-11-02T00:00:00Z",
            "2026-11-02T00:00:05.000500Z",
            None,
        );
        let all = [first, second];
        let followed = |cut: &str, verify| {
            let kept = followed(&all, cut.parse().unwrap(), verify, |_, _| Some(false));
            kept.into_iter().collect::<Vec<_>>().join(" ")
        };
        // It was begun before, and read from half a millisecond later on.
        assert_eq!(followed("2026-11-02T00:00:04Z", Verify::Never), "a");
        assert_eq!(followed("2026-11-02T00:00:05Z", Verify::Never), "a");
        assert_eq!(followed("2026-11-02T00:00:05.001Z", Verify::Never), "b");
        assert_eq!(followed("2026-11-02T00:00:05.001Z", Verify::Weekly), "b");
        assert_eq!(followed("2026-11-03T00:00:00Z", Verify::Always), "a");
    }
}

#[cfg(test)]
#[path = "retention_properties.rs"]
mod properties;
