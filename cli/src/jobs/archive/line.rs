//! One member: asks it for what is new, stores that, and goes on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use codexstore::Kind;
use codexstore::archive::verify_chain;
use codexstore_api::archive::PiecePath;
use codexstore_api::bodies::{ArchivePosition, PieceTold};
use codexstore_api::client::{ArchiveAfter, Archived, Piece};
use codexstore_api::encoding::hex;
use codexstore_api::{Client, Error};
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource as _, ResourceExt as _};
use sha2::{Digest as _, Sha256};
use tokio_util::io::SyncIoBridge;

use super::super::destination::{AtDestination, Destination};
use super::super::{member, stored};
use super::shelf::Reach;
use super::{Archive, now_ms};

/// How long a member may need for an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest pause after something failed.
const LONGEST: Duration = Duration::from_mins(1);

/// What a member says where it has no store open, so that nothing is written to it.
const CLOSED: [&str; 3] = ["starting", "closed", "locked"];

/// A member.
pub struct Member {
    archive: Arc<Archive>,
    pod: Pod,
    name: String,
    uid: String,
    client: Option<Client>,
    at: Option<At>,
}

/// How far it is archived.
#[derive(Debug, Clone, PartialEq, Eq)]
struct At {
    lineage: String,
    revision: u64,
}

/// What comes next.
enum Next {
    /// There is more at once.
    More,
    /// Nothing for now.
    Wait,
}

impl Member {
    /// The member in this pod.
    pub fn new(archive: Arc<Archive>, pod: Pod) -> Member {
        Member {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            archive,
            pod,
            client: None,
            at: None,
        }
    }

    /// For as long as nobody ends it.
    pub async fn run(mut self) {
        let interval = self.archive.policy.interval_seconds().unsigned_abs();
        let interval = Duration::from_secs(interval);
        let mut pause = interval;
        let mut said = String::new();
        loop {
            match self.step().await {
                Ok(Next::More) => pause = interval,
                Ok(Next::Wait) => {
                    pause = interval;
                    said.clear();
                    tokio::time::sleep(interval).await;
                }
                Err(error) => {
                    // What is wrong with one connection is not with the next.
                    self.client = None;
                    let why = format!("{error:#}");
                    let lineage = self.at.as_ref().map(|at| at.lineage.as_str());
                    let destination = error.is::<AtDestination>();
                    let book = &self.archive.book;
                    book.stuck(&self.name, lineage, &why, destination);
                    if said != why {
                        eprintln!("{}: {why}", self.name);
                        said = why;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST.max(interval));
                }
            }
        }
    }

    /// One piece at most.
    async fn step(&mut self) -> Result<Next> {
        // What was written before this is in the answer.
        let asked = now_ms();
        let position = match self.ask(None).await {
            Ok(Archived::UpToDate(position)) => position,
            Ok(_) => return Err(anyhow!("the member answers with what it was not asked for")),
            Err(error) if CLOSED.iter().any(|code| error.is(code)) => {
                // Nothing is written to it now; what was before, nobody knows.
                self.client = None;
                return Ok(Next::Wait);
            }
            Err(error) => return Err(explained(error)),
        };
        let at = match self.at.take() {
            Some(at) if at.lineage == position.lineage => at,
            _ => self.enter(&position).await?,
        };
        let (lineage, revision) = (at.lineage.clone(), at.revision);
        self.at = Some(at);
        if revision == position.revision {
            self.archive.book.current(&self.name, &lineage, asked);
            return Ok(Next::Wait);
        }
        if revision > position.revision {
            return Err(put_back(revision, &position));
        }
        // Only who has something holds a place, and not who does not answer.
        let archive = Arc::clone(&self.archive);
        let _permit = archive.permits.acquire().await?;
        let after = ArchiveAfter {
            lineage: &lineage,
            revision,
        };
        match self.ask(Some(&after)).await {
            Ok(Archived::Piece(piece)) => self.store(piece, &lineage, revision).await,
            Ok(Archived::UpToDate(_)) => Ok(Next::Wait),
            Ok(Archived::LineageChanged(position)) => {
                self.at = Some(self.enter(&position).await?);
                Ok(Next::More)
            }
            Ok(Archived::PastGone(position)) => {
                self.skip(&position, revision).await;
                Ok(Next::More)
            }
            Ok(Archived::Behind(position)) => Err(put_back(revision, &position)),
            Err(busy) if busy.is("overloaded") => Ok(Next::Wait),
            Err(error) => Err(explained(error)),
        }
    }

    async fn ask(&mut self, after: Option<&ArchiveAfter<'_>>) -> Result<Archived, Error> {
        if self.client.is_none() {
            let connected = (self.archive.dial)(self.pod.clone()).await;
            let client = connected.map_err(|why| Error::new("unreachable", format!("{why:#}")))?;
            self.client = Some(client.timeout(ANSWER));
        }
        let client = self.client.as_ref();
        let client = client.ok_or_else(|| Error::new("internal", "there is no connection"))?;
        client.archive(&self.uid, after).await
    }

    /// Goes on with a line of history where what is stored of it ends, or else with the backup that there is of it, or now.
    async fn enter(&self, position: &ArchivePosition) -> Result<At> {
        let archive = &self.archive;
        let lineage = &position.lineage;
        let (destination, directory) = (&archive.destination, &archive.directory);
        let stored = Reach::read(destination, directory, &self.name, lineage).await;
        let stored = stored.context("look for what is archived already");
        let stored = stored.context(AtDestination)?;
        let base = archive.bases.newest(&self.name, lineage);
        let base = base.filter(|base| (position.first..=position.revision).contains(base));
        let fresh = base.unwrap_or(position.revision);
        let (revision, since) = stored.map_or((fresh, fresh), |reach| (reach.to, reach.since));
        archive
            .book
            .enter(&self.name, lineage, revision, since, stored);
        eprintln!(
            "{}: in the line of history {lineage}, archived up to revision {revision}",
            self.name
        );
        Ok(At {
            lineage: lineage.clone(),
            revision,
        })
    }

    /// What follows is gone: it is said, and what there is goes on.
    async fn skip(&mut self, position: &ArchivePosition, revision: u64) {
        let first = position.first.max(revision);
        let lineage = &position.lineage;
        self.archive
            .book
            .enter(&self.name, lineage, first, first, None);
        let note = format!(
            "{}: the revisions behind {revision} up to {first} were gone before they were archived; a backup from after them is asked for",
            self.name
        );
        eprintln!("{note}");
        let about = [self.archive.store.object_ref(&())];
        self.archive
            .cluster
            .event(&about, "Archive", false, "ArchiveGap", &note)
            .await;
        self.at = Some(At {
            lineage: lineage.clone(),
            revision: first,
        });
    }

    /// Stores a piece, reads it back, and goes on behind it.
    async fn store(&mut self, piece: Piece, lineage: &str, revision: u64) -> Result<Next> {
        let archive = &self.archive;
        let told = piece.told;
        check(&told, &piece.bytes, lineage, revision)?;
        let key_id = told.key_id.as_deref();
        if !archive.book.reserve(&archive.cluster, key_id).await? {
            return Ok(Next::More);
        }
        let path = stored::path(&archive.directory, &self.name, &PiecePath::of(&told));
        let put = put(&archive.destination, &path, piece.bytes, &told).await;
        match put.context(AtDestination)? {
            Put::Done => {}
            Put::Another => {
                // Another archiver was faster, whose piece is sealed with another key. It is gone on from as after a start.
                self.at = None;
                return Ok(Next::More);
            }
            Put::Damaged => {
                eprintln!("{path}: it was there already, and damaged: it is stored anew");
                return Ok(Next::More);
            }
        }
        archive.book.stored(&self.name, &told);
        self.at = Some(At {
            lineage: told.lineage,
            revision: told.to,
        });
        Ok(if told.more { Next::More } else { Next::Wait })
    }
}

/// What became of a piece that was to be stored.
enum Put {
    /// It is.
    Done,
    /// Another one is there, and good.
    Another,
    /// Another one was there, was not good, and is deleted.
    Damaged,
}

/// Stores a piece, and reads it back.
async fn put(destination: &Destination, path: &str, piece: Bytes, told: &PieceTold) -> Result<Put> {
    let new = destination.put_new(path, piece).await?;
    let (bytes, sha256) = member::sum(destination, path).await?;
    if (bytes, sha256.as_str()) == (told.bytes, told.sha256.as_str()) {
        return Ok(Put::Done);
    }
    if !new && is_whole(destination, path, told).await? {
        return Ok(Put::Another);
    }
    destination.delete(path).await?;
    if !new {
        return Ok(Put::Damaged);
    }
    Err(anyhow!(
        "what was read back is not what was written: {bytes} of {} bytes, SHA-256 {sha256}",
        told.bytes
    ))
}

/// Whether the piece that is stored there is whole, and has what was told of. One that cannot be read now is an error.
async fn is_whole(destination: &Destination, path: &str, told: &PieceTold) -> Result<bool> {
    let file = destination.read(path).await?;
    let read = tokio::task::spawn_blocking(|| verify_chain(SyncIoBridge::new(file)));
    match read.await.with_context(|| format!("read {path}"))? {
        Ok(found) => Ok((found.lineage.to_string(), found.from, found.to)
            == (told.lineage.clone(), told.from, told.to)),
        Err(error) if error.kind() == Kind::Integrity => Ok(false),
        Err(error) => Err(error).with_context(|| format!("read {path}")),
    }
}

/// What arrived must be what the member told of, and what it was asked for.
fn check(told: &PieceTold, bytes: &[u8], lineage: &str, revision: u64) -> Result<()> {
    let sha256 = hex(&Sha256::digest(bytes));
    if (bytes.len() as u64, &sha256) != (told.bytes, &told.sha256) {
        return Err(anyhow!(
            "{} bytes arrived that are not what the member told of",
            bytes.len()
        ));
    }
    if told.lineage != lineage || told.from != revision || told.to <= told.from {
        return Err(anyhow!(
            "the member answers with the revisions {} to {} of the line {}, and was asked for what follows {revision} in {lineage}",
            told.from,
            told.to,
            told.lineage
        ));
    }
    Ok(())
}

fn put_back(revision: u64, position: &ArchivePosition) -> anyhow::Error {
    anyhow!(
        "its volume was put back: it is at revision {}, and archived up to {revision}. It is not archived on in this line of history: give it \
         one of its own with a CodexRestore",
        position.revision
    )
}

fn explained(error: Error) -> anyhow::Error {
    if error.is("no-such-route") {
        return anyhow!(
            "its sidecar is of an earlier version, which cannot be archived: delete its pod"
        );
    }
    error.into()
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod steps;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_what_was_told_and_asked_for() {
        let bytes = b"piece";
        let told = PieceTold {
            lineage: "aa".into(),
            from: 3,
            to: 5,
            bytes: 5,
            sha256: hex(&Sha256::digest(bytes)),
            ..PieceTold::default()
        };
        check(&told, bytes, "aa", 3).unwrap();
        let why = |told: &PieceTold, bytes: &[u8], lineage: &str, revision: u64| {
            check(told, bytes, lineage, revision)
                .unwrap_err()
                .to_string()
        };
        assert!(why(&told, b"pieces", "aa", 3).contains("not what the member told of"));
        assert!(why(&told, b"peace", "aa", 3).contains("not what the member told of"));
        assert!(why(&told, bytes, "bb", 3).contains("in bb"));
        assert!(why(&told, bytes, "aa", 2).contains("follows 2"));
        let empty = PieceTold {
            to: 3,
            ..told.clone()
        };
        assert!(why(&empty, bytes, "aa", 3).contains("3 to 3"));
    }
}
