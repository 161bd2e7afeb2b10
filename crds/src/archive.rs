//! `spec.backup.continuous`, and what is known of a store's archive.
//!
//! The archiver writes a [`Record`] into a `ConfigMap`; the operator makes the status of it with [`judge`], and never deletes a key
//! that the record names.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup::seconds;
use crate::status::{MAX_KEYS, MAX_MEMBERS, bounded};

/// How often the archiver writes its record where nothing else has happened, in seconds.
pub const HEARTBEAT: i64 = 30;
/// For how long an archiver that writes nothing is taken to do its work, in seconds.
const SILENCE: i64 = 3 * HEARTBEAT;
/// Being behind by this many intervals, and by this many seconds, is too much.
const TOO_MANY: i64 = 10;
const TOO_LONG: i64 = 300;

/// What is archived between backups, and for how long.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Continuous {
    /// How often members are asked for what is new, from 1s to 1h: about as much is lost with a volume, or somewhat more. By
    /// default 5s. Each time that something is new one file is stored of each member.
    #[serde(default = "five_seconds")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("self != '' && duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("backup.continuous.interval is between 1s and 1h: write for example 5s"))]
    pub interval: String,

    /// How far back any time can be restored: hours, minutes and seconds, at least 1h. By default 168h, a week. What follows the
    /// latest backup stays, however old it is; a backup is taken when the latest is older than this.
    #[serde(default = "a_week")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    #[x_kube(validation = Rule::new("self != '' && duration(self) >= duration('1h')").message("backup.continuous.keep is at least 1h: write for example 168h"))]
    pub keep: String,
}

fn five_seconds() -> String {
    "5s".to_owned()
}

fn a_week() -> String {
    "168h".to_owned()
}

impl Default for Continuous {
    fn default() -> Self {
        Self {
            interval: five_seconds(),
            keep: a_week(),
        }
    }
}

impl Continuous {
    /// The interval in seconds.
    pub fn interval_seconds(&self) -> i64 {
        seconds(&self.interval)
    }

    /// How long pieces are kept, in seconds.
    pub fn keep_seconds(&self) -> i64 {
        seconds(&self.keep)
    }

    /// By how many seconds the archive may be behind before that is a fault.
    pub fn bound(&self) -> i64 {
        (TOO_MANY * self.interval_seconds()).max(TOO_LONG)
    }
}

/// What the archiver knows, as it writes it down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Where the archive is, for people; it names the destination.
    pub location: String,
    /// When this was written: seconds since 1970.
    pub written_at: i64,
    /// The keys that what is stored there needs, sorted; never fewer. None until the destination was listed once.
    pub key_ids: Option<Vec<String>>,
    /// The keys that archives at earlier destinations need, of which nobody has said that they are gone.
    pub elsewhere: Vec<Elsewhere>,
    /// The lines of history of members.
    pub lines: Vec<Line>,
    /// What is wrong with all of it.
    pub message: Option<String>,
}

/// The archive at a destination that the store left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Elsewhere {
    /// Where it is.
    pub location: String,
    /// The keys that it needs, sorted. None where nobody has listed it.
    pub key_ids: Option<Vec<String>>,
}

/// A line of history of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Line {
    /// Name of the pod.
    pub pod: String,
    /// The line: 16 hexadecimal digits.
    pub lineage: String,
    /// Whether the pod runs and is in this line.
    pub live: bool,
    /// Everything up to this revision is archived, from `since` on.
    pub revision: u64,
    /// Behind this revision there is no gap.
    pub since: u64,
    /// Whether there is a backup that what is archived follows: without it none of it can be restored.
    pub based: bool,
    /// When the last batch that is archived was committed: milliseconds since 1970.
    pub last_ms: Option<u64>,
    /// Everything up to this time is known to be archived: milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// When it was first heard of: milliseconds since 1970. As long as nothing is known of it, it is behind since then.
    pub heard_ms: Option<u64>,
    /// Pieces that are stored.
    pub pieces: u64,
    /// Why it does not go on.
    pub message: Option<String>,
}

impl Line {
    /// When it was last known to be there: milliseconds since 1970. When it was first heard of says that only where nothing else does.
    pub fn seen_ms(&self) -> Option<u64> {
        self.until_ms.max(self.last_ms).or(self.heard_ms)
    }
}

impl Elsewhere {
    /// Whether it may need this key. What is not known counts as a need.
    fn needs(&self, key_id: &str) -> bool {
        let ids = self.key_ids.as_ref();
        ids.is_none_or(|ids| ids.iter().any(|id| id == key_id))
    }
}

impl Record {
    /// The record in its `ConfigMap`; none if that holds none that can be read.
    pub fn parse(text: &str) -> Option<Record> {
        serde_json::from_str(text).ok()
    }

    /// What is archived of the line of history in which a member is, as far as the archiver knows.
    pub fn live(&self, pod: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.live && line.pod == pod)
    }

    /// What is archived of one line of history of a pod.
    pub fn line(&self, pod: &str, lineage: &str) -> Option<&Line> {
        self.lines
            .iter()
            .find(|line| line.pod == pod && line.lineage == lineage)
    }

    /// Whether anything in an archive may need this key. What is not known counts as a need.
    pub fn needs(&self, key_id: &str) -> bool {
        let here = self.key_ids.as_ref();
        here.is_none_or(|ids| ids.iter().any(|id| id == key_id))
            || self.elsewhere.iter().any(|other| other.needs(key_id))
    }

    /// Where an archive is of which nobody has said which keys it needs.
    pub fn unlisted(&self) -> Option<&str> {
        let here = self.key_ids.is_none().then_some(&self.location);
        let other = self.elsewhere.iter().find(|other| other.key_ids.is_none());
        here.or(other.map(|other| &other.location))
            .map(String::as_str)
    }

    /// Whether anything in an archive may need any key. Before the archiver has written at all, nothing of it is stored.
    pub fn needs_any(&self) -> bool {
        let here = match &self.key_ids {
            Some(ids) => !ids.is_empty(),
            None => self.written_at > 0,
        };
        let may = |other: &Elsewhere| other.key_ids.as_ref().is_none_or(|ids| !ids.is_empty());
        here || self.elsewhere.iter().any(may)
    }

    /// Goes on at another destination: what is at the one before still needs its keys.
    pub fn moved(&mut self, location: &str) {
        let before = std::mem::replace(&mut self.location, location.to_owned());
        if before == location || before.is_empty() {
            return;
        }
        let left = Elsewhere {
            location: before,
            key_ids: self.key_ids.take(),
        };
        let back = self.elsewhere.iter().position(|e| e.location == location);
        self.key_ids = back.and_then(|at| self.elsewhere.remove(at).key_ids);
        self.leave(left);
        self.lines.clear();
    }

    /// Keeps in mind what an archive at another destination needs, beside what is known of it.
    pub fn leave(&mut self, left: Elsewhere) {
        if left.key_ids.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        let all = &mut self.elsewhere;
        let Some(known) = all.iter_mut().find(|e| e.location == left.location) else {
            all.push(left);
            return;
        };
        let both = known.key_ids.take().zip(left.key_ids);
        known.key_ids = both.map(|(ours, theirs)| {
            let all: BTreeSet<_> = ours.into_iter().chain(theirs).collect();
            all.into_iter().collect()
        });
    }
}

/// The continuous archive of a store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveStatus {
    /// Where it is, for people: a directory of the claim, or a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub location: Option<String>,
    /// By how many seconds the member that is furthest behind is behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_seconds: Option<i64>,
    /// Everything that members wrote up to this time is known to be archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_until: Option<Time>,
    /// Files that are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pieces: Option<i64>,
    /// Ids of the keys that they need, sorted; the last 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 64)))]
    pub key_ids: Vec<String>,
    /// The members that run, sorted by pod; at most 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub members: Vec<ArchivedMember>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// How far a member is archived.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchivedMember {
    /// Name of its pod.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// Its line of history.
    #[schemars(length(max = 32))]
    pub lineage: String,
    /// Everything up to this revision is archived.
    pub revision: i64,
    /// When that revision was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_write_at: Option<Time>,
    /// Everything that it wrote up to this time is known to be archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_until: Option<Time>,
    /// Whether there is a backup that what is archived follows: until then it cannot be restored.
    pub based: bool,
    /// Files of this line of history that are stored.
    pub pieces: i64,
    /// Why it does not go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// What an archive comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// For the status of the store.
    pub status: ArchiveStatus,
    /// By how many seconds it is behind.
    pub behind: i64,
    /// The condition `ArchiveCurrent`: value, reason, message.
    pub condition: (Option<bool>, &'static str, String),
    /// Whether it is further behind than it may be.
    pub overdue: bool,
    /// Whether the archiver has written nothing for too long.
    pub silent: bool,
    /// Whether what it wrote last is that the destination failed.
    pub unreachable: bool,
}

/// What a record says at `now`, in seconds since 1970; `since` is when the archiver was asked for: what was written before that says
/// nothing of this one. Where it says nothing any more, what it said last counts from then on.
pub fn judge(record: &Record, policy: &Continuous, since: i64, now: i64) -> Judged {
    let at = record.written_at.max(since);
    let silent = now.saturating_sub(at) > SILENCE;
    // What is known of a member is as old as the record.
    let seen = if silent { now } else { at };
    let begun = record.written_at >= since && record.key_ids.is_some();
    let live = record.lines.iter().filter(|line| line.live && begun);
    let live: Vec<&Line> = live.collect();
    let until = |line: &Line| {
        let known = line.until_ms.or(line.heard_ms);
        known.map_or(since, |ms| whole(ms / 1000))
    };
    let furthest = live.iter().map(|line| until(line)).min();
    let behind = match furthest {
        Some(until) => seen.saturating_sub(until),
        None if silent || !begun => now.saturating_sub(at),
        None => 0,
    }
    .max(0);
    let overdue = behind > policy.bound();
    let first = live.iter().find_map(|line| {
        let message = line.message.as_ref()?;
        Some(format!("{}: {message}", line.pod))
    });
    let unbased = live.iter().find(|line| !line.based);
    let condition = if silent {
        let message = format!(
            "the archiver has written nothing for {} s: `kubectl get pods -l {}` shows how it is",
            now.saturating_sub(at),
            crate::names::ARCHIVER_LABEL
        );
        (Some(false), "ArchiverSilent", message)
    } else if let Some(message) = &record.message {
        (Some(false), "DestinationFailed", message.clone())
    } else if !begun {
        let message = "the archiver is being started".to_owned();
        (None, "Starting", message)
    } else if overdue {
        let why = first.clone().map(|why| format!(": {why}"));
        let message = format!(
            "the archive is {behind} s behind{}",
            why.unwrap_or_default()
        );
        (Some(false), "Behind", message)
    } else if let Some(line) = unbased {
        let why = line.message.clone().map(|why| format!(" ({why})"));
        let message = format!(
            "{} is archived, and waits for a backup that this follows{}: until then it cannot be restored from the archive",
            line.pod,
            why.unwrap_or_default()
        );
        (Some(false), "WaitingForBackup", message)
    } else {
        let message = format!("{} members are archived, {behind} s behind", live.len());
        (Some(true), "Current", message)
    };
    Judged {
        status: status(record, &live, behind, furthest, first),
        behind,
        condition,
        overdue,
        silent,
        unreachable: record.message.is_some(),
    }
}

fn status(
    record: &Record,
    live: &[&Line],
    behind: i64,
    furthest: Option<i64>,
    first: Option<String>,
) -> ArchiveStatus {
    let ids: BTreeSet<&String> = record.key_ids.iter().flatten().collect();
    let surplus = ids.len().saturating_sub(MAX_KEYS);
    let time = |ms: u64| Timestamp::from_millisecond(whole(ms)).ok().map(Time);
    let mut members: Vec<_> = live
        .iter()
        .map(|line| ArchivedMember {
            pod: line.pod.clone(),
            lineage: line.lineage.clone(),
            revision: whole(line.revision),
            last_write_at: line.last_ms.and_then(time),
            archived_until: line.until_ms.and_then(time),
            based: line.based,
            pieces: whole(line.pieces),
            message: line.message.as_deref().map(bounded),
        })
        .collect();
    members.sort_by(|a, b| a.pod.cmp(&b.pod));
    members.dedup_by(|a, b| a.pod == b.pod);
    members.truncate(MAX_MEMBERS);
    let pieces = record.lines.iter().map(|line| line.pieces);
    let message = record.message.clone().or(first);
    ArchiveStatus {
        location: (!record.location.is_empty()).then(|| bounded(&record.location)),
        behind_seconds: (!live.is_empty()).then_some(behind),
        archived_until: furthest
            .and_then(|at| Timestamp::from_second(at).ok())
            .map(Time),
        pieces: Some(whole(pieces.sum())),
        key_ids: ids.into_iter().skip(surplus).cloned().collect(),
        members,
        message: message.as_deref().map(bounded),
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
