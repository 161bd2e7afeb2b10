//! How far the schedule of a store's backups is, and whether they keep up with it.

use std::str::FromStr as _;

use croner::Cron;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{Timestamp, tz::TimeZone};

use crate::backup::{BackupPolicy, Verify};
use crate::codex_backup::{CodexBackup, phase};
use crate::names;
use crate::status::BackupSchedule;
use crate::store::CodexStore;

/// How many coming times of a schedule are looked at: a week of workdays, and a weekend.
const TIMES: usize = 8;

/// Longest of the pauses that a schedule has next, in seconds. None without one, or where it never comes again.
pub fn period(policy: &BackupPolicy, now: Timestamp) -> Option<i64> {
    period_of(
        policy.schedule.as_deref()?,
        policy.time_zone.as_deref(),
        now,
    )
}

/// The same of a schedule in a time zone, by default UTC.
pub(crate) fn period_of(schedule: &str, zone: Option<&str>, now: Timestamp) -> Option<i64> {
    times(schedule, zone, now, TIMES)
        .windows(2)
        .filter_map(|pair| Some(pair.get(1)? - pair.first()?))
        .max()
}

/// The next `most` times of a schedule in a time zone, by default UTC, in seconds since 1970. None where it is none, or never comes again.
fn times(schedule: &str, zone: Option<&str>, now: Timestamp, most: usize) -> Vec<i64> {
    let Ok(cron) = Cron::from_str(schedule) else {
        return Vec::new();
    };
    let zone = zone.map(TimeZone::get);
    let zone = zone.and_then(Result::ok).unwrap_or(TimeZone::UTC);
    cron.iter_after(now.to_zoned(zone))
        .take(most)
        .map(|time| time.timestamp().as_second())
        .collect()
}

/// How far a schedule is. None without one.
pub fn schedule<'a>(
    policy: &BackupPolicy,
    backups: impl IntoIterator<Item = &'a CodexBackup>,
    now: Timestamp,
) -> Option<BackupSchedule> {
    let schedule = policy.schedule.as_deref()?;
    let jobs = backups.into_iter().filter_map(|backup| {
        let labels = backup.metadata.labels.as_ref()?;
        let job = labels.get(names::JOB_LABEL)?;
        time_of(&backup.spec.store_ref.name, job)
    });
    let next = || times(schedule, policy.time_zone.as_deref(), now, 1).pop();
    let next = (!policy.suspend).then(next).flatten();
    let next = next.and_then(|second| Timestamp::from_second(second).ok());
    Some(BackupSchedule {
        last_time: jobs.max().map(Time),
        next_time: next.map(Time),
    })
}

/// The time that a store's CronJob made a Job for: behind the CronJob's name it has the minutes since 1970. None of one that somebody made.
fn time_of(store: &str, job: &str) -> Option<Timestamp> {
    let minutes = job.strip_prefix(&names::backup_cron_job(store))?;
    let minutes: i64 = minutes.strip_prefix('-')?.parse().ok()?;
    Timestamp::from_second(minutes.checked_mul(60)?).ok()
}

/// Since when there should be a newer backup, in seconds since 1970: the last good one (verified where that is asked for; the
/// store's creation where there is none) is older than two periods and the time that one may take. None while all is well.
pub fn overdue<'a>(
    store: &CodexStore,
    backups: impl IntoIterator<Item = &'a CodexBackup>,
    now: Timestamp,
) -> Option<i64> {
    let policy = store
        .spec
        .backup
        .as_ref()
        .filter(|policy| !policy.suspend)?;
    let period = period(policy, now)?;
    let created = store.metadata.creation_timestamp.as_ref()?.0.as_second();
    let good = backups.into_iter().filter_map(|backup| {
        let status = backup.status.as_ref()?;
        let whole = status.phase.as_deref() == Some(phase::SUCCEEDED);
        let good = whole
            && match policy.verify {
                Verify::Always => status.verified() == Some(true),
                Verify::Weekly | Verify::Never => status.verified() != Some(false),
            };
        good.then_some(status.completed_at.as_ref()?.0.as_second())
    });
    let last = good.max().unwrap_or(created);
    let due = last + 2 * period + policy.deadline_seconds();
    (due < now.as_second()).then_some(due)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codex_backup::{CodexBackupSpec, CodexBackupStatus};

    fn store(schedule: &str) -> CodexStore {
        let spec = format!(
            "{{backup: {{schedule: '{schedule}', deadline: 5m, verify: Never, destination: {{claim: b}}}}}}"
        );
        let mut store = CodexStore::new("orders", serde_yaml::from_str(&spec).unwrap());
        store.metadata.creation_timestamp =
            serde_json::from_value("2026-11-25T00:00:00Z".into()).unwrap();
        store
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn backup(completed: &str) -> CodexBackup {
        let mut backup = CodexBackup::new("b", CodexBackupSpec::default());
        backup.status = Some(CodexBackupStatus {
            phase: Some(phase::SUCCEEDED.to_owned()),
            completed_at: serde_json::from_value(completed.into()).unwrap(),
            ..CodexBackupStatus::default()
        });
        backup
    }

    #[test]
    fn a_period_is_the_longest_pause_that_comes() {
        let of = |schedule: &str| {
            let policy = store(schedule).spec.backup.unwrap();
            period(&policy, at("2026-11-25T10:07:00Z"))
        };
        assert_eq!(of("*/15 * * * *"), Some(900));
        assert_eq!(of("@daily"), Some(86_400));
        assert_eq!(of("0 9 * * 1-5"), Some(3 * 86_400), "over a weekend");
        assert_eq!(of("not a schedule"), None);
        let mut policy = store("0 3 * * *").spec.backup.unwrap();
        policy.time_zone = Some("Nowhere/Town".to_owned());
        assert_eq!(period(&policy, at("2026-11-25T10:07:00Z")), Some(86_400));
    }

    #[test]
    fn the_last_and_the_next_time_are_those_of_the_schedule() {
        let of_job = |job: Option<&str>| {
            let mut backup = backup("2026-11-25T10:09:30Z");
            backup.spec.store_ref.name = "orders".to_owned();
            let labels = job.map(|job| (names::JOB_LABEL.to_owned(), job.to_owned()));
            backup.metadata.labels = Some(labels.into_iter().collect());
            backup
        };
        // 2026-11-25T10:00:00Z and a quarter of an hour before, and one that somebody made.
        let all = [
            of_job(Some("cxs-orders-backup-29926680")),
            of_job(Some("cxs-orders-backup-29926665")),
            of_job(Some("cxs-orders-backup-now")),
            of_job(Some("by-hand-29999999")),
            of_job(None),
        ];
        let mut policy = store("*/15 * * * *").spec.backup.unwrap();
        let said = |policy: &BackupPolicy, all: &[CodexBackup]| {
            let said = schedule(policy, all, at("2026-11-25T10:07:00Z"))?;
            let text = |time: Option<Time>| time.map(|time| time.0.to_string());
            Some((text(said.last_time), text(said.next_time)))
        };
        let time = |text: &str| Some(text.to_owned());
        let (last, next) = (time("2026-11-25T10:00:00Z"), time("2026-11-25T10:15:00Z"));
        assert_eq!(said(&policy, &all), Some((last.clone(), next.clone())));
        assert_eq!(said(&policy, &all[2..]), Some((None, next)));
        policy.suspend = true;
        assert_eq!(said(&policy, &all), Some((last.clone(), None)));
        policy.suspend = false;
        policy.schedule = Some("0 3 * * *".to_owned());
        policy.time_zone = Some("Europe/Berlin".to_owned());
        assert_eq!(
            said(&policy, &all),
            Some((last, time("2026-11-26T02:00:00Z")))
        );
        policy.schedule = None;
        assert_eq!(said(&policy, &all), None);
    }

    #[test]
    fn two_periods_without_a_good_one_are_too_many() {
        let store = store("*/15 * * * *");
        let late = |backups: &[CodexBackup], now: &str| overdue(&store, backups, at(now)).is_some();
        assert!(!late(&[], "2026-11-25T00:34:00Z"));
        assert!(late(&[], "2026-11-25T00:36:00Z"), "never backed up");
        assert!(!late(
            &[backup("2026-11-25T00:15:30Z")],
            "2026-11-25T00:36:00Z"
        ));
        assert!(late(
            &[backup("2026-11-25T00:15:30Z")],
            "2026-11-25T00:51:00Z"
        ));
        let mut failed = backup("2026-11-25T00:45:00Z");
        failed.status.as_mut().unwrap().phase = Some(phase::FAILED.to_owned());
        assert!(late(&[failed], "2026-11-25T00:46:00Z"));
        // One that should be verified and is not does not count.
        let mut strict = store.clone();
        strict.spec.backup.as_mut().unwrap().verify = Verify::Always;
        assert!(
            overdue(
                &strict,
                &[backup("2026-11-25T00:45:00Z")],
                at("2026-11-25T00:46:00Z")
            )
            .is_some()
        );
        let mut paused = store.clone();
        paused.spec.backup.as_mut().unwrap().suspend = true;
        assert_eq!(overdue(&paused, &[], at("2026-11-26T00:00:00Z")), None);
    }
}
