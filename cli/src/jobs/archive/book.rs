//! The record of an archive, as it is kept in memory and written into its `ConfigMap`.
//!
//! **It never names fewer keys than what is stored needs**: a key is on it before the first piece that needs it is stored, and goes
//! off it after a walk that found no such piece ([`Keys`]). **It never takes the place of what it has not read.**

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use codexstore_api::bodies::PieceTold;
use codexstore_crds::archive::{Elsewhere, Line, Record};
use codexstore_crds::names;
use codexstore_crds::status::bounded;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::super::cluster::Cluster;
use super::super::stored;
use super::keys::Keys;
use super::shelf::{Reach, Shelf};

/// Lines of history that the record has room for.
const LINES: usize = 1000;

/// The record.
pub struct Book {
    store: String,
    location: String,
    pages: Mutex<Pages>,
    /// Held while it is written, so that an older state does not take a newer one's place.
    pen: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Pages {
    record: Record,
    keys: Keys,
    /// The keys that the record names as it is written.
    written_keys: Vec<String>,
    /// Version of the `ConfigMap` that was read or written last; none before it was read.
    version: Option<String>,
    written: Option<Instant>,
    noted: bool,
    /// Since when the destination fails.
    failing: Option<Instant>,
}

impl Pages {
    fn line(&mut self, pod: &str, lineage: &str) -> &mut Line {
        let lines = &mut self.record.lines;
        let found = lines
            .iter()
            .position(|line| line.pod == pod && line.lineage == lineage);
        let at = found.unwrap_or_else(|| {
            lines.push(Line {
                pod: pod.to_owned(),
                lineage: lineage.to_owned(),
                heard_ms: Some(super::now_ms()),
                ..Line::default()
            });
            lines.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found, or pushed just now")]
        &mut lines[at]
    }
}

impl Book {
    /// For the archive of a store at a place.
    pub fn new(store: &str, location: &str) -> Book {
        Book {
            store: store.to_owned(),
            location: location.to_owned(),
            pages: Mutex::default(),
            pen: tokio::sync::Mutex::default(),
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what an earlier archiver wrote. Members are where they were, until they or their pods say otherwise.
    pub async fn read(&self, cluster: &Cluster) -> Result<()> {
        let found = cluster.record(&self.store).await?;
        let found = found.ok_or_else(|| {
            anyhow!(
                "there is no ConfigMap {}: the operator makes it",
                names::archive_record(&self.store)
            )
        })?;
        self.take(&found)
    }

    fn take(&self, found: &ConfigMap) -> Result<()> {
        let mut record = stored::record(found)?.unwrap_or_default();
        record.moved(&self.location);
        let mut pages = self.pages();
        pages.version.clone_from(&found.metadata.resource_version);
        pages.written_keys = record.key_ids.clone().unwrap_or_default();
        pages.keys.read(record.key_ids.as_deref());
        pages.record = record;
        Ok(())
    }

    /// A walk through what is stored begins, of which [`Book::walked`] is to be told.
    pub fn walk(&self) -> u64 {
        self.pages().keys.begin()
    }

    /// What is stored, or left of it, needs these keys.
    pub fn walked(&self, walk: u64, keys: BTreeSet<String>) {
        let mut pages = self.pages();
        pages.keys.end(walk, keys);
        pages.noted = true;
    }

    /// Takes what is stored.
    pub fn begin(&self, walk: u64, stored: &Shelf) {
        self.walked(walk, stored.keys.keys().cloned().collect());
        let mut pages = self.pages();
        for line in &mut pages.record.lines {
            line.pieces = 0;
        }
        for ((pod, lineage), count) in &stored.lines {
            let line = pages.line(pod, lineage);
            line.pieces = count.pieces;
            line.revision = line.revision.max(count.to);
            line.last_ms = line.last_ms.max(Some(count.last_ms));
        }
        pages.record.message = None;
        pages.failing = None;
    }

    /// Nothing can be done at all.
    pub fn failed(&self, why: &str) {
        let mut pages = self.pages();
        pages.record.message = Some(bounded(why));
        pages.noted = true;
    }

    /// A member is in this line of history, of which so much is stored: behind `since` nothing is missing, up to `revision`.
    pub fn enter(
        &self,
        pod: &str,
        lineage: &str,
        revision: u64,
        since: u64,
        stored: Option<Reach>,
    ) {
        let mut pages = self.pages();
        pages.failing = None;
        for line in &mut pages.record.lines {
            line.live &= line.pod != pod;
        }
        let line = pages.line(pod, lineage);
        line.live = true;
        line.revision = revision;
        line.since = since;
        line.message = None;
        if let Some(reach) = stored {
            line.pieces = reach.pieces;
            line.last_ms = line.last_ms.max(Some(reach.last_ms));
        }
        pages.noted = true;
    }

    /// All that the member wrote up to this time is archived.
    pub fn current(&self, pod: &str, lineage: &str, ms: u64) {
        let mut pages = self.pages();
        let line = pages.line(pod, lineage);
        line.until_ms = line.until_ms.max(Some(ms));
        let healed = line.message.take().is_some();
        pages.noted |= healed;
    }

    /// A piece is stored.
    pub fn stored(&self, pod: &str, told: &PieceTold) {
        let mut pages = self.pages();
        pages.failing = None;
        let line = pages.line(pod, &told.lineage);
        line.revision = told.to;
        line.last_ms = Some(told.last_ms);
        // Another one of the same millisecond may follow.
        line.until_ms = line.until_ms.max(Some(told.last_ms.saturating_sub(1)));
        line.pieces += 1;
        let healed = line.message.take().is_some();
        pages.noted |= healed;
    }

    /// It does not go on for a member, by the destination's fault or not. Where its line of history is not known, the latest of its
    /// pod says so.
    pub fn stuck(&self, pod: &str, lineage: Option<&str>, why: &str, destination: bool) {
        let mut pages = self.pages();
        if destination {
            pages.failing.get_or_insert_with(Instant::now);
        }
        let latest = pages.record.lines.iter().filter(|line| line.pod == pod);
        let latest = latest.max_by_key(|line| line.until_ms.max(line.last_ms));
        let lineage = lineage.map(str::to_owned);
        let lineage = lineage.or_else(|| latest.map(|line| line.lineage.clone()));
        let line = pages.line(pod, &lineage.unwrap_or_default());
        let why = Some(bounded(why));
        let news = line.message != why || !line.live;
        line.message = why;
        // It runs, and is not archived: that counts.
        line.live = true;
        pages.noted |= news;
    }

    /// Pods that are gone are not behind.
    pub fn left(&self, here: impl Fn(&str) -> bool) {
        let mut pages = self.pages();
        let mut news = false;
        for line in &mut pages.record.lines {
            if line.live && !here(&line.pod) {
                line.live = false;
                line.message = None;
                news = true;
            }
        }
        // One that never said in which line it is.
        pages
            .record
            .lines
            .retain(|line| line.live || !line.lineage.is_empty());
        pages.noted |= news;
    }

    /// Pods that are archived and have no backup that this follows; what is known of that is noted. One that does not go on is not
    /// helped by a backup.
    pub fn without_base(&self, has: impl Fn(&Line) -> bool) -> Vec<String> {
        let mut pages = self.pages();
        let (mut news, mut waits) = (false, Vec::new());
        for line in &mut pages.record.lines {
            let based = has(line);
            news |= based != line.based;
            line.based = based;
            // One that never said where it is has no line.
            let goes_on = line.live && line.message.is_none();
            if goes_on && !based && !line.lineage.is_empty() {
                waits.push(line.pod.clone());
            }
        }
        pages.noted |= news;
        waits
    }

    /// The lines of history in which members are.
    pub fn live(&self) -> Vec<Line> {
        let pages = self.pages();
        let lines = pages.record.lines.iter().filter(|line| line.live);
        lines.cloned().collect()
    }

    /// Whether the record names the key of a piece that is about to be stored. If it did not it does now, and the piece is to be asked
    /// for again: before that, somebody may have seen that nothing needs the key, and deleted it.
    pub async fn reserve(&self, cluster: &Cluster, key_id: Option<&str>) -> Result<bool> {
        let Some(key_id) = key_id else {
            return Ok(true);
        };
        let written = {
            let mut pages = self.pages();
            pages.keys.name(key_id);
            pages.written_keys.iter().any(|id| id == key_id)
        };
        if !written {
            self.write(cluster).await?;
        }
        Ok(written)
    }

    /// A piece is deleted.
    pub fn deleted(&self, pod: &str, lineage: &str) {
        let mut pages = self.pages();
        let line = pages.line(pod, lineage);
        line.pieces = line.pieces.saturating_sub(1);
        pages.noted = true;
    }

    /// Forgets lines of history of which nothing is left, backups (`known`) included, and that ended before `cut`, in milliseconds
    /// since 1970.
    pub fn forget(&self, cut: u64, known: impl Fn(&Line) -> bool) {
        let mut pages = self.pages();
        pages.record.lines.retain(|line| {
            let last = line.seen_ms().unwrap_or_default();
            line.live || line.pieces > 0 || last >= cut || known(line)
        });
    }

    /// Whether the destination has failed for so long.
    pub fn is_stuck_for(&self, time: Duration) -> bool {
        let mut pages = self.pages();
        let lines = &pages.record.lines;
        if !lines.iter().any(|line| line.live && line.message.is_some()) {
            pages.failing = None;
        }
        pages.failing.is_some_and(|at| at.elapsed() > time)
    }

    /// Whether it is time to write: something is of note, or nothing was written for long.
    pub fn is_due(&self, noted: Duration, heartbeat: Duration) -> bool {
        let pages = self.pages();
        pages.written.is_none_or(|at| {
            let since = at.elapsed();
            since >= heartbeat || (pages.noted && since >= noted)
        })
    }

    /// Writes it. An error if what it would take the place of was not read, or cannot be.
    pub async fn write(&self, cluster: &Cluster) -> Result<()> {
        let _pen = self.pen.lock().await;
        let written = self.write_now(cluster).await;
        if written.is_err() {
            self.pages().noted = true;
        }
        written
    }

    async fn write_now(&self, cluster: &Cluster) -> Result<()> {
        for _ in 0..3 {
            let (record, version) = self.page();
            let store = &self.store;
            let version = version.ok_or_else(|| {
                let name = names::archive_record(store);
                anyhow!("the ConfigMap {name} was not read, so it is not written")
            })?;
            let written = cluster.write_record(store, &version, &record);
            if let Some(version) = written.await? {
                let mut pages = self.pages();
                pages.version = Some(version);
                pages.written_keys = record.key_ids.unwrap_or_default();
                pages.written = Some(Instant::now());
                return Ok(());
            }
            // Another archiver wrote it, or somebody made it anew: what it names is needed too.
            let found = cluster.record(store).await?;
            let found = found
                .ok_or_else(|| anyhow!("the ConfigMap {} is gone", names::archive_record(store)))?;
            self.join(&found)?;
        }
        Err(anyhow!(
            "somebody else writes the ConfigMap {} all the time",
            names::archive_record(&self.store)
        ))
    }

    /// What is to be written now.
    fn page(&self) -> (Record, Option<String>) {
        let mut pages = self.pages();
        pages.noted = false;
        pages.record.written_at = Timestamp::now().as_second();
        let ids = pages.keys.ids();
        // From here on those that go are to be written down again before they are used.
        let stays = |id: &String| ids.as_ref().is_some_and(|ids| ids.contains(id));
        pages.written_keys.retain(stays);
        pages.record.key_ids = ids;
        let lines = &mut pages.record.lines;
        lines.sort_by(|a, b| (&a.pod, &a.lineage).cmp(&(&b.pod, &b.lineage)));
        let mut record = pages.record.clone();
        if record.lines.len() > LINES {
            let last = |line: &Line| (line.live, line.until_ms.max(line.last_ms));
            record
                .lines
                .sort_by_key(|line| std::cmp::Reverse(last(line)));
            record.lines.truncate(LINES);
        }
        (record, pages.version.clone())
    }

    /// Takes the keys that another one wrote down.
    fn join(&self, found: &ConfigMap) -> Result<()> {
        let theirs = stored::record(found)?.unwrap_or_default();
        let mut pages = self.pages();
        pages.version.clone_from(&found.metadata.resource_version);
        let named = theirs.key_ids.as_deref().unwrap_or_default();
        pages.written_keys.retain(|id| named.contains(id));
        let mut all = theirs.elsewhere;
        // One that was made anew is of no place.
        if !theirs.location.is_empty() {
            all.push(Elsewhere {
                location: theirs.location,
                key_ids: theirs.key_ids,
            });
        }
        for other in all {
            if other.location == pages.record.location {
                for id in other.key_ids.iter().flatten() {
                    pages.keys.name(id);
                }
            } else {
                pages.record.leave(other);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
