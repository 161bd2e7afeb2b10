//! The backups that pieces follow: which there are, and asking for one where there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use codexstore_crds::archive::Line;
use codexstore_crds::backup::{Destination as Place, LocalRef};
use codexstore_crds::codex_backup::{CodexBackupSpec, CodexBackupStatus, phase};
use codexstore_crds::{CodexBackup, names};
use kube::{Resource as _, ResourceExt as _};
use tokio::time::Instant;

use super::Archive;

/// Seconds between two backups that are asked for: after one that went well, and after one that did not.
const AGAIN: i64 = 60;
const AFTER_A_FAILURE: i64 = 300;

/// What is known of a store's backups.
pub struct Bases {
    place: Place,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Of each pod and line of history the latest: the revision that it shows, and when it was taken, in seconds since 1970.
    newest: BTreeMap<(String, String), (u64, i64)>,
    /// The pods and lines of history of which there is any backup, wherever it is.
    lines: BTreeSet<(String, String)>,
    /// One is being taken.
    going: bool,
    /// When the last one was asked for, in seconds since 1970, and whether it has ended without being what was asked for.
    asked: Option<(i64, bool)>,
    at: Option<Instant>,
}

impl Bases {
    /// Of a store that keeps its backups there.
    pub fn new(place: &Place) -> Bases {
        Bases {
            place: place.clone(),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks which there are.
    pub async fn refresh(&self, archive: &Archive) -> Result<()> {
        let store = archive.store.name_any();
        let backups = archive.cluster.backups_of(&store).await?;
        let mut known = look(&backups, &self.place);
        known.at = Some(Instant::now());
        *self.known() = known;
        Ok(())
    }

    /// Whether it was looked longer ago than this.
    pub fn is_older_than(&self, age: Duration) -> bool {
        self.known().at.is_none_or(|at| at.elapsed() >= age)
    }

    /// The revision that the latest backup of a line of history shows.
    pub fn newest(&self, pod: &str, lineage: &str) -> Option<u64> {
        let line = (pod.to_owned(), lineage.to_owned());
        self.known()
            .newest
            .get(&line)
            .map(|(revision, _)| *revision)
    }

    /// Whether there is a backup that what is archived of a line follows.
    pub fn has(&self, line: &Line) -> bool {
        let newest = self.newest(&line.pod, &line.lineage);
        newest.is_some_and(|revision| revision >= line.since)
    }

    /// Whether there is any backup of a line.
    pub fn knows(&self, line: &Line) -> bool {
        let key = (line.pod.clone(), line.lineage.clone());
        self.known().lines.contains(&key)
    }

    /// Whether the latest backup of a line is from before `cut`, in seconds since 1970, and something was written since.
    pub fn is_old(&self, line: &Line, cut: i64) -> bool {
        let key = (line.pod.clone(), line.lineage.clone());
        let known = self.known();
        let newest = known.newest.get(&key);
        newest.is_some_and(|(revision, at)| *at < cut && line.revision > *revision)
    }

    /// Asks for one, unless one is being taken or was asked for just now.
    pub async fn ask(&self, archive: &Archive, why: &str, now: i64) -> Result<()> {
        if !self.known().may_ask(now) {
            return Ok(());
        }
        let store = archive.store.name_any();
        let backup = wanted(&store, now);
        let made = archive.cluster.make(&backup).await?;
        self.known().asked = Some((now, false));
        self.known().going = true;
        let note = format!("{why}: cxb/{} is asked for", made.name_any());
        eprintln!("{note}");
        let about = [archive.store.object_ref(&())];
        let cluster = &archive.cluster;
        cluster
            .event(&about, "Archive", true, "ArchiveBackupRequested", &note)
            .await;
        Ok(())
    }
}

impl Known {
    fn may_ask(&self, now: i64) -> bool {
        let pause = |failed: bool| if failed { AFTER_A_FAILURE } else { AGAIN };
        let soon = |(at, failed): (i64, bool)| now - at < pause(failed);
        !self.going && !self.asked.is_some_and(soon)
    }
}

/// What the cluster says of a store's backups at a place.
fn look(backups: &[CodexBackup], place: &Place) -> Known {
    let mut known = Known::default();
    for backup in backups {
        let status = backup.status.clone().unwrap_or_default();
        let gone = backup.metadata.deletion_timestamp.is_some();
        known.going |= !status.ended() && !gone;
        let created = backup.metadata.creation_timestamp.as_ref();
        let created = created.map_or(0, |at| at.0.as_second());
        if backup.labels().contains_key(names::ARCHIVE_BASE_LABEL) {
            let whole = status.phase.as_deref() == Some(phase::SUCCEEDED);
            let failed = status.ended() && (!whole || status.verified() == Some(false));
            known.asked = known.asked.max(Some((created, failed)));
        }
        if gone || !status.usable() {
            continue;
        }
        let began = status.started_at.as_ref();
        let began = began.map_or(created, |at| at.0.as_second());
        let base = is_base(&status, place);
        for member in status.members.iter().filter(|member| member.stored) {
            let lineage = member.lineage.clone().unwrap_or_default();
            known.lines.insert((member.pod.clone(), lineage));
            if !base {
                continue;
            }
            let (Some(lineage), Some(revision)) = (&member.lineage, member.revision) else {
                continue;
            };
            let line = (member.pod.clone(), lineage.clone());
            let revision = u64::try_from(revision).unwrap_or_default();
            let newest = known.newest.entry(line).or_insert((revision, began));
            *newest = (*newest).max((revision, began));
        }
    }
    known
}

/// Whether a restore may begin with it.
pub fn is_base(status: &CodexBackupStatus, place: &Place) -> bool {
    let at = status.destination.as_ref().map(|at| at.location(""));
    status.usable() && status.verified() != Some(false) && at == Some(place.location(""))
}

/// A backup that is asked for: one a minute at most, by its name.
fn wanted(store: &str, now: i64) -> CodexBackup {
    let minute = u64::try_from(now / 60).unwrap_or_default();
    let spec = CodexBackupSpec {
        store_ref: LocalRef {
            name: store.to_owned(),
        },
        ..CodexBackupSpec::default()
    };
    let mut backup = CodexBackup::new(&format!("{store}-base-{}", short(minute)), spec);
    backup.metadata.finalizers = Some(vec![names::STORED_FINALIZER.to_owned()]);
    backup.metadata.labels = Some(
        [
            (names::STORE_LABEL.to_owned(), store.to_owned()),
            (names::ARCHIVE_BASE_LABEL.to_owned(), "true".to_owned()),
        ]
        .into(),
    );
    backup
}

/// A number in 36 digits.
fn short(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(number % 36).unwrap_or_default();
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use codexstore_crds::codex_backup::MAX_BACKUP_NAME;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    fn place() -> Place {
        serde_json::from_value(json!({"claim": "backups"})).unwrap()
    }

    fn backup(created: &str, label: bool, status: &Value) -> CodexBackup {
        let mut labels = json!({});
        if label {
            labels[names::ARCHIVE_BASE_LABEL] = json!("true");
        }
        let backup = json!({
            "apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup",
            "metadata": {"name": "b", "creationTimestamp": created, "labels": labels},
            "spec": {"storeRef": {"name": "orders"}}, "status": status,
        });
        serde_json::from_value(backup).unwrap()
    }

    fn good(revision: i64, started: &str) -> Value {
        json!({"phase": "Succeeded", "destination": {"claim": "backups"}, "startedAt": started,
            "members": [{"pod": "web-0", "stored": true, "lineage": "aa", "revision": revision},
                {"pod": "web-1", "stored": false}]})
    }

    #[test]
    fn the_latest_backup_of_a_line_is_what_its_pieces_follow() {
        let (monday, tuesday) = ("2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z");
        let mut elsewhere = good(9, tuesday);
        elsewhere["destination"] = json!({"claim": "others"});
        let mut broken = good(9, tuesday);
        broken["conditions"] = json!([{"type": "Verified", "status": "False", "reason": "", "message": "",
            "lastTransitionTime": tuesday}]);
        let all = [
            backup(monday, false, &good(5, monday)),
            backup(tuesday, false, &good(7, tuesday)),
            backup(tuesday, false, &elsewhere),
            backup(tuesday, false, &broken),
        ];
        let bases = Bases::new(&place());
        *bases.known() = look(&all, &place());
        assert_eq!(bases.newest("web-0", "aa"), Some(7));
        assert_eq!(bases.newest("web-0", "bb"), None);
        assert_eq!(bases.newest("web-1", "aa"), None);
        let line = |since, revision| Line {
            pod: "web-0".into(),
            lineage: "aa".into(),
            since,
            revision,
            ..Line::default()
        };
        assert!(
            bases.has(&line(7, 9)) && !bases.has(&line(8, 9)),
            "a gap behind it"
        );
        let at: Timestamp = tuesday.parse().unwrap();
        assert!(bases.is_old(&line(0, 8), at.as_second() + 1));
        assert!(!bases.is_old(&line(0, 8), at.as_second()));
        assert!(
            !bases.is_old(&line(0, 7), at.as_second() + 1),
            "nothing was written since"
        );
        assert!(bases.known().may_ask(0));
        let of = |pod: &str| Line {
            pod: pod.into(),
            ..line(0, 0)
        };
        assert!(bases.knows(&of("web-0")) && !bases.knows(&of("web-1")));
        *bases.known() = look(&[backup(tuesday, false, &elsewhere)], &place());
        assert!(bases.knows(&of("web-0")) && !bases.has(&of("web-0")));
    }

    #[test]
    fn one_is_asked_for_at_a_time_and_not_again_at_once() {
        let at = "2026-11-23T00:00:00Z";
        let second = at.parse::<Timestamp>().unwrap().as_second();
        let may = |label, status: &Value, later| {
            look(&[backup(at, label, status)], &place()).may_ask(second + later)
        };
        assert!(!may(false, &json!({}), 900), "one has not begun");
        assert!(!may(true, &json!({"phase": "Running"}), 900));
        assert!(
            may(false, &json!({"phase": "Failed"}), 0),
            "somebody else's"
        );
        assert!(!may(true, &good(1, at), 59) && may(true, &good(1, at), 60));
        let mut broken = good(1, at);
        broken["conditions"] = json!([{"type": "Verified", "status": "False", "reason": "", "message": "",
            "lastTransitionTime": at}]);
        let partly = json!({"phase": "PartiallyFailed"});
        for failed in [json!({"phase": "Failed"}), partly, broken] {
            assert!(
                !may(true, &failed, 299) && may(true, &failed, 300),
                "{failed}"
            );
        }
    }

    #[test]
    fn its_name_fits_and_says_the_minute() {
        let longest = "s".repeat(names::MAX_STORE_NAME);
        let (now, later) = (1_795_472_736, 1_795_472_736 + 60);
        let name = wanted(&longest, now).name_any();
        assert!(name.len() <= MAX_BACKUP_NAME, "{name}");
        assert_ne!(name, wanted(&longest, later).name_any());
        assert_eq!(
            (short(0), short(35), short(36)),
            ("0".into(), "z".into(), "10".into())
        );
        let backup = wanted("orders", now);
        assert_eq!(
            backup.labels().get(names::JOB_LABEL),
            None,
            "the operator makes its Job"
        );
        assert_eq!(backup.finalizers(), [names::STORED_FINALIZER]);
    }
}
