//! What holds of retention whatever backups there are, against a second implementation that is written from the documentation.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;

use croner::Cron;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use proptest::prelude::*;

use super::expired;
use crate::backup::Retention;
use crate::codex_backup::{CodexBackup, CodexBackupSpec, CodexBackupStatus, condition, phase};

/// A backup as a test describes it.
#[derive(Clone, Debug)]
struct Made {
    name: String,
    at: i64,
    phase: &'static str,
    verified: Option<bool>,
    deleting: bool,
}

impl Made {
    fn resource(&self) -> CodexBackup {
        let mut backup = CodexBackup::new(&self.name, CodexBackupSpec::default());
        let time = Time(Timestamp::from_second(self.at).unwrap());
        backup.metadata.deletion_timestamp = self.deleting.then(|| time.clone());
        let verified = self.verified.map(|yes| Condition {
            type_: condition::VERIFIED.to_owned(),
            status: if yes { "True" } else { "False" }.to_owned(),
            reason: String::new(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: time.clone(),
        });
        backup.status = Some(CodexBackupStatus {
            phase: Some(self.phase.to_owned()),
            started_at: Some(time),
            conditions: verified.into_iter().collect(),
            ..CodexBackupStatus::default()
        });
        backup
    }

    fn ended(&self) -> bool {
        self.usable() || self.phase == phase::FAILED
    }

    fn usable(&self) -> bool {
        [phase::SUCCEEDED, phase::PARTIALLY_FAILED].contains(&self.phase)
    }

    /// The period that it is in, as a calendar names it.
    fn period(&self, form: &str) -> String {
        let at = Timestamp::from_second(self.at).unwrap();
        at.to_zoned(TimeZone::UTC).strftime(form).to_string()
    }
}

/// The hour, the day, the week (which begins on Monday) and the month.
const PERIODS: [&str; 4] = ["%F %H", "%F", "%G week %V", "%Y-%m"];

fn rules(keep: &Retention) -> [Option<u32>; 4] {
    [
        keep.keep_hourly,
        keep.keep_daily,
        keep.keep_weekly,
        keep.keep_monthly,
    ]
}

/// What stays, by the documentation: of each rule the latest of each of the latest periods, and what no rule takes.
fn stays<'a>(all: &'a [Made], keep: &Retention, used: &BTreeSet<String>) -> BTreeSet<&'a str> {
    let mut sorted: Vec<_> = all.iter().filter(|b| b.ended() && !b.deleting).collect();
    sorted.sort_by_key(|b| (b.at, &b.name));
    let usable: Vec<_> = sorted.iter().copied().filter(|b| b.usable()).collect();
    let mut stays = BTreeSet::new();
    let last = |n: Option<u32>| n.unwrap_or(0) as usize;
    stays.extend(usable.iter().rev().take(last(keep.keep_last)));
    for (most, form) in rules(keep).into_iter().zip(PERIODS) {
        // Later ones take the place of earlier ones of their period; a calendar's names sort as time goes.
        let of_periods: BTreeMap<_, _> = usable.iter().map(|b| (b.period(form), *b)).collect();
        stays.extend(of_periods.values().rev().take(last(most)));
    }
    stays.extend(usable.iter().rev().find(|b| b.phase == phase::SUCCEEDED));
    stays.extend(usable.iter().rev().find(|b| b.verified == Some(true)));
    stays.extend(sorted.iter().rev().filter(|b| !b.usable()).take(3));
    let untouched = all
        .iter()
        .filter(|b| !b.ended() || b.deleting || used.contains(&b.name));
    stays.extend(untouched);
    stays.into_iter().map(|b| b.name.as_str()).collect()
}

impl PartialEq for Made {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl Eq for Made {}
impl PartialOrd for Made {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Made {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name.cmp(&other.name)
    }
}

fn gone(all: &[Made], keep: &Retention, used: &BTreeSet<String>) -> Vec<String> {
    let resources: Vec<_> = all.iter().map(Made::resource).collect();
    expired(&resources, keep, used)
}

/// Times within two years around the turns of clocks and of a year, some of them equal.
fn time() -> impl Strategy<Value = i64> {
    let near = prop::sample::select(vec![
        "2026-10-25T01:00:00Z",
        "2026-12-31T23:59:59Z",
        "2027-03-28T01:00:00Z",
        "2028-02-29T00:00:00Z",
    ]);
    let near = (near, -7200_i64..7200).prop_map(|(at, off)| {
        let at: Timestamp = at.parse().unwrap();
        at.as_second() + off
    });
    prop_oneof![
        1_790_000_000_i64..1_853_000_000,
        near,
        Just(1_800_000_000_i64)
    ]
}

fn made() -> impl Strategy<Value = Vec<Made>> {
    let state = prop::sample::select(vec![
        phase::SUCCEEDED,
        phase::SUCCEEDED,
        phase::SUCCEEDED,
        phase::PARTIALLY_FAILED,
        phase::FAILED,
        phase::RUNNING,
        phase::PENDING,
    ]);
    let verified = prop::option::of(any::<bool>());
    let one = (time(), state, verified, prop::bool::weighted(0.05));
    prop::collection::vec(one, 0..60).prop_map(|all| {
        let made = all.into_iter().enumerate();
        made.map(|(n, (at, phase, verified, deleting))| Made {
            name: format!("b{n:02}"),
            at,
            phase,
            verified,
            deleting,
        })
        .collect()
    })
}

fn retention() -> impl Strategy<Value = Retention> {
    let rule = || prop::option::of(1_u32..8);
    (rule(), rule(), rule(), rule(), rule()).prop_map(|(last, hourly, daily, weekly, monthly)| {
        Retention {
            keep_last: last,
            keep_hourly: hourly,
            keep_daily: daily,
            keep_weekly: weekly,
            keep_monthly: monthly,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn exactly_what_no_rule_keeps_expires(
        all in made(),
        keep in retention(),
        in_use in prop::collection::btree_set(0_usize..60, 0..4),
    ) {
        let used: BTreeSet<_> = in_use.iter().map(|n| format!("b{n:02}")).collect();
        let gone = gone(&all, &keep, &used);
        let stays = stays(&all, &keep, &used);
        let left: BTreeSet<_> = all.iter().map(|b| b.name.as_str()).filter(|n| !gone.iter().any(|g| g == n)).collect();
        prop_assert_eq!(&left, &stays);

        // Said once more of the two that matter most, in other words.
        let candidates = || all.iter().filter(|b| b.usable() && !b.deleting);
        if let Some(last) = candidates().filter(|b| b.verified == Some(true)).max_by_key(|b| (b.at, &b.name)) {
            prop_assert!(!gone.contains(&last.name), "the last verified one expired");
        }
        prop_assert!(!gone.iter().any(|name| used.contains(name)), "one in use expired");
    }

    #[test]
    fn it_does_not_matter_how_they_are_listed_nor_how_often_they_are_looked_at(
        all in made().prop_shuffle(),
        keep in retention(),
    ) {
        let none = BTreeSet::new();
        let first: BTreeSet<_> = gone(&all, &keep, &none).into_iter().collect();
        let mut reversed = all.clone();
        reversed.reverse();
        let second: BTreeSet<_> = gone(&reversed, &keep, &none).into_iter().collect();
        prop_assert_eq!(&first, &second);
        // What is left stays left: a second look right after deletes nothing.
        let left: Vec<_> = all.into_iter().filter(|b| !first.contains(&b.name)).collect();
        prop_assert_eq!(gone(&left, &keep, &none), Vec::<String>::new());
    }
}

/// Takes a backup at each time of a schedule in a time zone, so many times, and deletes after each what expires. What is left, and all.
fn over_time(
    schedule: &str,
    zone: &str,
    from: &str,
    runs: usize,
    keep: &Retention,
) -> (Vec<Made>, Vec<Made>) {
    let zone = TimeZone::get(zone).unwrap();
    let from: Timestamp = from.parse().unwrap();
    let cron = Cron::from_str(schedule).unwrap();
    let (mut left, mut all) = (Vec::new(), Vec::new());
    let times = cron.iter_after(from.to_zoned(zone)).take(runs);
    for (n, at) in times.enumerate() {
        let made = Made {
            name: format!("b{n:04}"),
            at: at.timestamp().as_second(),
            phase: phase::SUCCEEDED,
            // Every tenth is.
            verified: (n % 10 == 0).then_some(true),
            deleting: false,
        };
        all.push(made.clone());
        left.push(made);
        let gone = gone(&left, keep, &BTreeSet::new());
        left.retain(|b: &Made| !gone.contains(&b.name));
        let verified = left.iter().any(|b| b.verified == Some(true));
        assert!(verified, "run {n} of {schedule} left none that is verified");
    }
    (left, all)
}

#[test]
fn clocks_that_are_turned_cost_no_period() {
    let only = |change: fn(&mut Retention, Option<u32>)| {
        let mut keep = Retention {
            keep_last: None,
            ..Retention::default()
        };
        change(&mut keep, Some(5));
        keep
    };
    let cases: [(&str, Retention, usize, &str); 4] = [
        (
            "30 * * * *",
            only(|k, n| k.keep_hourly = n),
            400,
            PERIODS[0],
        ),
        ("30 0 * * *", only(|k, n| k.keep_daily = n), 50, PERIODS[1]),
        ("30 2 * * 0", only(|k, n| k.keep_weekly = n), 50, PERIODS[2]),
        (
            "15 1 * * *",
            only(|k, n| k.keep_monthly = n),
            500,
            PERIODS[3],
        ),
    ];
    let mut seen = 0;
    for zone in [
        "Europe/London",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
    ] {
        // Before clocks go back, and before they go forward.
        for from in ["2026-10-10T00:00:00Z", "2027-02-25T00:00:00Z"] {
            for (schedule, keep, runs, form) in &cases {
                for runs in [*runs / 2, *runs] {
                    let (left, all) = over_time(schedule, zone, from, runs, keep);
                    let periods = |of: &[Made]| -> BTreeSet<_> {
                        of.iter().map(|b| b.period(form)).collect()
                    };
                    let wanted: Vec<_> = periods(&all).into_iter().rev().take(5).collect();
                    let there = periods(&left);
                    assert!(
                        wanted.iter().all(|p| there.contains(p)),
                        "{schedule} in {zone}: {left:?}"
                    );
                    // One more may be left for having been verified.
                    assert!(left.len() <= 6, "{schedule} in {zone}: {left:?}");
                    seen += 1;
                }
            }
        }
    }
    println!("{seen} schedules over turned clocks");
}
