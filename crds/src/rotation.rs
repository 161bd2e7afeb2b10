//! `encryption.keys.managed.rotation`: when a store gets a new key, and what becomes of old ones.

use std::str::FromStr as _;

use croner::Cron;
use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::overdue;

/// Rotation of a managed key.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.schedule) || !has(self.timeZone)").message("timeZone is for `schedule`: add `schedule: \"0 3 1 * *\"` or drop timeZone"))]
pub struct RotationPolicy {
    /// When the store gets a new key by itself, in the form of a CronJob's schedule: `0 3 1 * *` is the first of each month.
    /// Times that passed while the operator was away are made up for by one. Without it only a CodexKeyRotation that
    /// somebody creates rotates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub schedule: Option<String>,

    /// Time zone of the schedule, such as `Europe/Berlin`; by default UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,

    /// `true` rotates no more by the schedule.
    #[serde(default)]
    pub suspend: bool,

    /// How long a rotation waits for running members, before it is given up: hours, minutes and seconds, by default 1h. Once the new key is
    /// current it counts from where one of them last got further. With `reason: Compromise` it goes on without them instead.
    #[serde(default = "crate::backup::one_hour")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("self != '' && duration(self) >= duration('30s') && duration(self) <= duration('168h')").message("rotation.deadline is between 30s and 168h: write for example 1h"))]
    pub deadline: String,

    /// What members do with a new key, where the CodexKeyRotation does not say it. `Rewrap` (the default): they wrap the data keys of their
    /// files with it. `Reencrypt`: they also write all that they hold anew, under fresh data keys, beside requests.
    #[serde(default)]
    pub mode: Mode,

    /// What becomes of keys that are not current any more. `Never` (the default): they stay in the keyring. `Unneeded`: one that
    /// no file of a member, no claim that is not mounted, no CodexBackup, no backup that stayed when its CodexBackup was deleted and no
    /// piece of the continuous archive needs is deleted. Copies elsewhere (volume snapshots, files that somebody copied) are not known to
    /// the operator: whoever has such must keep the keyring too.
    #[serde(default)]
    pub retire: Retire,
}

impl Default for RotationPolicy {
    fn default() -> Self {
        Self {
            schedule: None,
            time_zone: None,
            suspend: false,
            deadline: crate::backup::one_hour(),
            mode: Mode::default(),
            retire: Retire::default(),
        }
    }
}

/// What members do with a new key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// The data keys of all files are wrapped with it.
    #[default]
    Rewrap,
    /// All is written anew, under fresh data keys.
    Reencrypt,
}

/// See [`RotationPolicy::retire`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Retire {
    /// Old keys stay.
    #[default]
    Never,
    /// Old keys that nothing needs are deleted.
    Unneeded,
}

impl RotationPolicy {
    /// The deadline in seconds.
    pub fn deadline_seconds(&self) -> i64 {
        crate::backup::seconds(&self.deadline)
    }

    /// Since when there should have been another rotation, in seconds since 1970: the last one that was completed, or the first look at
    /// this schedule, is longer ago than two periods and the deadline. None while all is well.
    pub fn overdue(&self, since: Timestamp, now: Timestamp) -> Option<i64> {
        let schedule = self.schedule.as_deref().filter(|_| !self.suspend)?;
        let period = overdue::period_of(schedule, self.time_zone.as_deref(), now)?;
        let due = since.as_second() + 2 * period + self.deadline_seconds();
        (due < now.as_second()).then_some(due)
    }

    /// The last time that the schedule had between `since` and `now`, in seconds since 1970; none if there was none. The error
    /// says what is wrong with the schedule.
    pub fn due(&self, since: Timestamp, now: Timestamp) -> Result<Option<i64>, String> {
        let Some(schedule) = self.schedule.as_deref().filter(|_| !self.suspend) else {
            return Ok(None);
        };
        let cron = Cron::from_str(schedule)
            .map_err(|why| format!("rotation.schedule `{schedule}` is no schedule: {why}"))?;
        let zone = self.time_zone.as_deref().unwrap_or("UTC");
        let zone = TimeZone::get(zone).map_err(|_| {
            format!("rotation.timeZone {zone} is not known: write one such as Europe/Berlin")
        })?;
        // The error is that the schedule never had a time.
        let last = cron.find_previous_occurrence(&now.to_zoned(zone), true);
        let last = last.ok().map(|time| time.timestamp());
        Ok(last.filter(|last| *last > since).map(Timestamp::as_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn the_last_time_that_has_passed_is_due() {
        let mut policy = RotationPolicy {
            schedule: Some("0 3 1 * *".to_owned()),
            ..RotationPolicy::default()
        };
        let due = |policy: &RotationPolicy, since, now| {
            let due = policy.due(at(since), at(now)).unwrap();
            due.map(|s| Timestamp::from_second(s).unwrap().to_string())
        };
        let (created, later) = ("2026-01-15T00:00:00Z", "2026-04-02T00:00:00Z");
        assert_eq!(due(&policy, created, "2026-02-01T02:59:59Z"), None);
        let first = due(&policy, created, "2026-02-01T03:00:00Z");
        assert_eq!(first.as_deref(), Some("2026-02-01T03:00:00Z"));
        // Three have passed: one makes up for them.
        let last = due(&policy, created, later);
        assert_eq!(last.as_deref(), Some("2026-04-01T03:00:00Z"));
        assert_eq!(due(&policy, "2026-04-01T03:00:00Z", later), None);
        // Also where very many have passed.
        let often = RotationPolicy {
            schedule: Some("* * * * *".to_owned()),
            ..RotationPolicy::default()
        };
        let last = due(&often, created, later);
        assert_eq!(last.as_deref(), Some("2026-04-02T00:00:00Z"));
        policy.time_zone = Some("Asia/Tokyo".to_owned());
        let tokyo = due(&policy, created, "2026-02-01T00:00:00Z");
        assert_eq!(tokyo.as_deref(), Some("2026-01-31T18:00:00Z"));
        policy.suspend = true;
        assert_eq!(due(&policy, created, later), None);
    }

    #[test]
    fn two_periods_and_the_deadline_may_pass() {
        let mut policy = RotationPolicy {
            schedule: Some("0 3 * * *".to_owned()),
            deadline: "30m".to_owned(),
            ..RotationPolicy::default()
        };
        let late = |policy: &RotationPolicy, now| {
            let since = policy.overdue(at("2026-11-10T03:00:00Z"), at(now))?;
            Some(Timestamp::from_second(since).unwrap().to_string())
        };
        assert_eq!(late(&policy, "2026-11-12T03:30:00Z"), None);
        let due = Some("2026-11-12T03:30:00Z".to_owned());
        assert_eq!(late(&policy, "2026-11-12T03:30:01Z"), due);
        policy.suspend = true;
        assert_eq!(late(&policy, "2026-11-20T00:00:00Z"), None, "as asked for");
        policy.suspend = false;
        policy.schedule = None;
        assert_eq!(late(&policy, "2026-11-20T00:00:00Z"), None, "none is due");
    }

    #[test]
    fn what_is_no_schedule_and_no_zone_is_said() {
        let with = |schedule: &str, zone: &str| {
            let policy = RotationPolicy {
                schedule: Some(schedule.to_owned()),
                time_zone: Some(zone.to_owned()),
                ..RotationPolicy::default()
            };
            policy.due(at("2026-01-01T00:00:00Z"), at("2026-02-01T00:00:00Z"))
        };
        assert!(with("monthly", "UTC").unwrap_err().contains("`monthly`"));
        assert!(
            with("@daily", "Nowhere/Town")
                .unwrap_err()
                .contains("Nowhere/Town")
        );
        assert!(with("@daily", "Europe/Berlin").unwrap().is_some());
    }
}
