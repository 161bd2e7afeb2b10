//! `spec.backup`: when backups are taken, where they go and how long they stay.
#![expect(
    clippy::struct_field_names,
    reason = "of retention: names that people know"
)]

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::archive::Continuous;
pub use crate::destination::{Azure, Destination, Gcs, LocalRef, S3, ServerSideEncryption};

/// Backups of a store's members.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.schedule) || !has(self.timeZone)").message("timeZone is for `schedule`: add `schedule: \"*/15 * * * *\"` or drop timeZone"))]
pub struct BackupPolicy {
    /// When a backup is taken by itself, as a CronJob's schedule: `*/15 * * * *` is every quarter of an hour. Without it
    /// only a CodexBackup that somebody creates takes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub schedule: Option<String>,

    /// Time zone of the schedule, such as `Europe/Berlin`; by default that of the cluster's controller manager.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,

    /// `true` takes no backups by the schedule; those that exist stay.
    #[serde(default)]
    pub suspend: bool,

    /// Longest time for one backup of all members: hours, minutes and seconds, by default 1h.
    #[serde(default = "one_hour")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("self != '' && duration(self) >= duration('30s') && duration(self) <= duration('168h')").message("backup.deadline is between 30s and 168h: write for example 1h"))]
    pub deadline: String,

    /// Where backups are kept: exactly one of `claim`, `s3`, `gcs` and `azure`.
    pub destination: Destination,

    /// Stores what members write all the time, between backups: a member whose volume is gone loses seconds, and any time within
    /// `keep` can be restored. `continuous: {}` takes the defaults. Needs `volume.claim`, since it takes lasting members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuous: Option<Continuous>,

    /// How long backups are kept; by default the last 7.
    #[serde(default)]
    pub retention: Retention,

    /// Annotations of the service account that Jobs run as, by which cloud platforms give it an identity: without a Secret, that is
    /// what they show to the destination. For example `eks.amazonaws.com/role-arn`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new("self.all(key, key.size() <= 317 && self[key].size() <= 2048)").message("an annotation's key has at most 317 characters, its value 2048"))]
    pub service_account_annotations: BTreeMap<String, String>,

    /// Which backups are opened with the key, apart from the Job that took them, and compared with what the members said:
    /// `Always` each one (the default), `Weekly` the first of a week (Monday to Sunday, UTC), `Never` none.
    #[serde(default)]
    pub verify: Verify,
}

/// The default of a deadline.
pub(crate) fn one_hour() -> String {
    "1h".to_owned()
}

impl BackupPolicy {
    /// The deadline in seconds.
    pub fn deadline_seconds(&self) -> i64 {
        seconds(&self.deadline)
    }
}

/// Hours, minutes and seconds, such as `1h30m`, in seconds. The schema has checked the form.
pub(crate) fn seconds(text: &str) -> i64 {
    let mut seconds: i64 = 0;
    let mut number: i64 = 0;
    for c in text.chars() {
        let unit = match c {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            digit => {
                let digit = i64::from(digit.to_digit(10).unwrap_or_default());
                number = number.saturating_mul(10).saturating_add(digit);
                continue;
            }
        };
        seconds = seconds.saturating_add(number.saturating_mul(unit));
        number = 0;
    }
    seconds
}

/// What becomes of members whose volume is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestorePolicy {
    /// `IfEmpty`: a member whose claim holds no store gets its latest backup before it serves, and begins empty only if the
    /// destination was read and has none. `Never` (the default): it begins empty.
    #[serde(default)]
    pub on_start: OnStart,
}

/// See [`RestorePolicy::on_start`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnStart {
    /// It begins empty.
    #[default]
    Never,
    /// It waits for its backup.
    IfEmpty,
}

/// How long backups are kept: what any of the rules keeps. Of a period (an hour, a day, …, in UTC) the latest backup counts, and
/// periods without one do not. Whatever they say, the latest that is whole and the latest that was verified stay.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.keepLast) || has(self.keepHourly) || has(self.keepDaily) || has(self.keepWeekly) || has(self.keepMonthly)").message("retention says nothing: give it `keepLast: 7`, `keepDaily: 7` or others, or leave it out to keep the last 7"))]
pub struct Retention {
    /// So many of the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_last: Option<u32>,
    /// One for each of so many hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_hourly: Option<u32>,
    /// One for each of so many days.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_daily: Option<u32>,
    /// One for each of so many weeks, which begin on Monday.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_weekly: Option<u32>,
    /// One for each of so many months.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_monthly: Option<u32>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep_last: Some(7),
            keep_hourly: None,
            keep_daily: None,
            keep_weekly: None,
            keep_monthly: None,
        }
    }
}

/// See [`BackupPolicy::verify`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Verify {
    /// Each backup.
    #[default]
    Always,
    /// The first of each week.
    Weekly,
    /// None.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_in_seconds() {
        let of = |text: &str| {
            BackupPolicy {
                deadline: text.to_owned(),
                ..BackupPolicy::default()
            }
            .deadline_seconds()
        };
        assert_eq!(
            (of("1h"), of("1h2m3s"), of("90s"), of("")),
            (3600, 3723, 90, 0)
        );
    }
}
