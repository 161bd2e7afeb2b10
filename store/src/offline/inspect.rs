//! What lies in a store's directory, without any key.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::Progress;
use super::disk::ReadOnly;
use super::opening::{self, Opening};
use super::walk::{End, walk};
use crate::anchor::Anchor;
use crate::disk::{Disk, DiskFile};
use crate::error::{Code, Error, Result};
use crate::format::{
    self, Digest, FRAMES_AT, FileId, FileKind, Frame, FrameKind, Header, Link, OpenFile, record,
};
use crate::keyring::Encryption;
use crate::layout::{self, Epoch, Name};
use crate::options::Strategy;
use crate::survey::nothing_behind;

/// What lies in a directory.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Inspection {
    /// Somebody has the store open, so what is told here may have changed while it was read.
    pub live: bool,
    /// The store's id: 32 hex digits.
    pub store: Option<String>,
    /// The line of history of its newest file, else of the last owner: 16 hex digits.
    pub lineage: Option<String>,
    /// `snapshot` or `ledger`, by its newest log file.
    pub strategy: Option<&'static str>,
    /// The number of the last owner's claim; 0 if there was none.
    pub epoch: u64,
    /// Where a ledger ends that nobody has open and that an open would take: to be kept elsewhere.
    /// Its revision is the lowest that it can be, since the rest is encrypted.
    pub anchor: Option<Anchor>,
    /// The last owner acknowledged before it synced.
    pub interval: bool,
    /// A write or sync failed under the last owner, and the next rewrites everything.
    pub suspect: bool,
    /// Claims, in order.
    pub claims: Vec<Claim>,
    /// Images and logs, in the order of their names.
    pub files: Vec<FileReport>,
    /// What else lies there: temporary files, and what is not the store's.
    pub others: Vec<String>,
    /// What an open would do, as far as that is known without a key.
    pub open: Opening,
}

/// An owner's claim.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Claim {
    /// Its number.
    pub epoch: u64,
    /// False if its content does not verify: the owner died before it wrote it, or it is damaged.
    pub written: bool,
}

/// What a file is for the next open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// The image that is loaded.
    Image,
    /// A log that is replayed.
    Log,
    /// From before the image that is loaded: history, or superfluous.
    Past,
    /// Written by an owner that another had overtaken; does not count.
    Overtaken,
    /// A log that nothing leads to.
    Stray,
    /// Of no value: never begun.
    Unbegun,
    /// Its header does not verify.
    Unknown,
}

/// One image or log.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes of header, key slots and frames that verify.
    pub used: u64,
    /// Frames that verify, the closing one not counted.
    pub frames: u64,
    /// The last frame that verifies; 0: none.
    pub last_sequence: u64,
    /// Where the next file took over: what stands behind does not count.
    pub next_at: Option<u64>,
    /// Files that name a place in it that is not in its chain.
    pub disputed_by: Vec<String>,
    /// What it is for the next open.
    pub role: Role,
    /// Its header, if that verifies.
    pub header: Option<HeaderReport>,
    /// The key that wraps its data key.
    pub key_id: Option<String>,
    /// One of its two key slots is damaged; the other is used.
    pub damaged_slot: bool,
    /// How it ends.
    pub end: End,
}

/// What a header says.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HeaderReport {
    /// `image`, `journal`, `ledger` or `backup`.
    pub kind: &'static str,
    /// 32 hex digits.
    pub store: String,
    /// 16 hex digits.
    pub lineage: String,
    /// 32 hex digits.
    pub file: String,
    /// Of the owner that made it.
    pub epoch: u64,
    /// Images: the revision that it shows. Logs: the lowest that it may hold.
    pub first_revision: u64,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// `none`, `AES-128-GCM`, `AES-192-GCM` or `AES-256-GCM`.
    pub cipher: &'static str,
    /// `none`, `zstd`, `gzip` or `snappy`.
    pub compression: &'static str,
    /// Where the log before it ended, or where it goes on behind an image.
    pub link: Option<LinkReport>,
}

/// A place in a log.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LinkReport {
    /// The log's id.
    pub file: String,
    /// The sequence of the frame before the place.
    pub sequence: u64,
}

/// Looks at a store's directory: every file, read from end to end, and what an open would do. Needs
/// no key and modifies nothing, not even by making `LOCK`.
///
/// Damage is told and is no error. `io` if the directory cannot be read, `unsupported-version` if
/// a newer version wrote it.
pub fn inspect(dir: &Path, progress: Progress<'_>) -> Result<Inspection> {
    look(&ReadOnly::look(dir)?, None, progress)
}

/// The strategy of the store in a directory, by the headers of its files; `None` if it holds no log.
pub fn strategy(dir: &Path) -> Result<Option<Strategy>> {
    Ok(opening::strategy(&There::list(
        &ReadOnly::look(dir)?,
        None,
    )?))
}

/// [`inspect`], with keys if there are any: then every frame is opened and its payload read.
pub(crate) fn look(
    disk: &ReadOnly,
    encryption: Option<&Encryption>,
    progress: Progress<'_>,
) -> Result<Inspection> {
    let mut there = There::list(disk, encryption)?;
    let total = there.files.iter().map(|file| file.bytes).sum();
    let marks = there.marks();
    let mut done = 0;
    for file in &mut there.files {
        let base = done;
        file.read(&marks, &mut |at| progress(base + at, total))?;
        done += file.bytes;
        progress(done, total);
    }
    Ok(opening::judge(there, disk.live()))
}

/// What was found, before it is judged.
pub(crate) struct There {
    pub claims: BTreeMap<u64, Option<Epoch>>,
    pub suspect: bool,
    /// A restore was not finished.
    pub restoring: bool,
    pub files: Vec<Found>,
    pub others: Vec<String>,
}

/// One file of them.
pub(crate) struct Found {
    pub name: String,
    pub named: Name,
    pub bytes: u64,
    pub header: Option<Header>,
    pub key_id: Option<String>,
    pub damaged_slot: bool,
    pub walked: Walked,
    open: Option<(OpenFile, Arc<dyn DiskFile>)>,
}

/// What reading it told.
pub(crate) struct Walked {
    pub end: End,
    pub used: u64,
    pub frames: u64,
    /// The last sequence that verifies, and the chain's hash behind it.
    pub last: u64,
    pub chain: Digest,
    pub handed_over: bool,
    /// Who names a place in it that is not in its chain.
    pub strangers: Vec<String>,
}

/// Places that headers name: by file and sequence, the chain hash and who names it.
type Marks = BTreeMap<(FileId, u64), Vec<(Digest, String)>>;

impl There {
    fn list(disk: &ReadOnly, encryption: Option<&Encryption>) -> Result<There> {
        let mut there = There {
            claims: BTreeMap::new(),
            suspect: false,
            restoring: false,
            files: Vec::new(),
            others: Vec::new(),
        };
        let mut names = disk
            .list()
            .map_err(|e| Error::io("list the store's directory", e))?;
        names.sort();
        for name in names {
            match layout::parse(&name) {
                Name::Suspect => there.suspect = true,
                Name::Restoring => there.restoring = true,
                Name::Epoch(number) => {
                    let read = match Epoch::read(disk, number) {
                        // The owner has just replaced it.
                        Err(e) if disk.live() && e.is(Code::Locked) => continue,
                        read => read?,
                    };
                    there.claims.insert(number, read);
                }
                Name::Temporary => there.others.push(name),
                kind => match Found::find(disk, &name, kind, encryption) {
                    Ok(Some(file)) => there.files.push(file),
                    Ok(None) if name == crate::disk::LOCK => {}
                    Ok(None) => there.others.push(name),
                    Err(e) if disk.live() && e.is(Code::Locked) => {}
                    Err(e) => return Err(e),
                },
            }
        }
        Ok(there)
    }

    fn marks(&self) -> Marks {
        let mut marks = Marks::new();
        for file in &self.files {
            let Some(header) = &file.header else { continue };
            let link = header.link;
            if link != Link::default() {
                marks
                    .entry((link.file, link.sequence))
                    .or_default()
                    .push((link.chain, file.name.clone()));
            }
        }
        marks
    }
}

impl Found {
    /// Reads a file's beginning. `None`: not a file of a store, by name and content.
    fn find(
        disk: &ReadOnly,
        name: &str,
        named: Name,
        encryption: Option<&Encryption>,
    ) -> Result<Option<Found>> {
        let io = |e| Error::io(format!("read {name}"), e);
        let file = match disk.open(name) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(layout::gone(name)),
            Err(_) if named == Name::Other => return Ok(None),
            Err(e) => return Err(io(e)),
        };
        let bytes = file.len().map_err(io)?;
        let mut prefix = vec![0; usize::try_from(bytes.min(FRAMES_AT)).unwrap_or_default()];
        match file.read_at(0, &mut prefix) {
            // A directory, for example.
            Err(_) if named == Name::Other => return Ok(None),
            read => read.map_err(io)?,
        }
        let mut found = Found {
            name: name.to_owned(),
            named,
            bytes,
            header: None,
            key_id: None,
            damaged_slot: false,
            walked: Walked {
                end: End::Unbegun,
                used: 0,
                frames: 0,
                last: 0,
                chain: Digest::default(),
                handed_over: false,
                strangers: Vec::new(),
            },
            open: None,
        };
        let open = match encryption {
            Some(encryption) => format::open(&prefix, encryption),
            None => format::open_without_key(&prefix),
        };
        match open {
            Ok(open) => {
                found.header = Some(open.header.clone());
                found.key_id = open.key_id.as_ref().map(ToString::to_string);
                found.damaged_slot = open.damaged_slot;
                found.open = Some((open, file));
            }
            Err(error) if error.is(Code::Corrupt) => {
                if named == Name::Other {
                    return Ok(None);
                }
                let image = matches!(named, Name::Image(_));
                if image || !nothing_behind(&*file, bytes).map_err(io)? {
                    found.walked.end = End::Damaged {
                        offset: 0,
                        sequence: 0,
                        what: error.message().to_owned(),
                    };
                }
            }
            Err(error) => return Err(error.context(name)),
        }
        Ok(Some(found))
    }

    /// Reads its frames.
    fn read(&mut self, marks: &Marks, at: &mut dyn FnMut(u64)) -> Result<()> {
        let (Some(header), Some((open, file))) = (&self.header, self.open.take()) else {
            return Ok(());
        };
        let id = header.file;
        let mut strangers = Vec::new();
        let mut check = |sequence: u64, chain: &Digest| {
            let named = marks.get(&(id, sequence)).into_iter().flatten();
            strangers.extend(
                named
                    .filter(|(wanted, _)| wanted != chain)
                    .map(|(_, by)| by.clone()),
            );
        };
        check(0, &header.hash());
        let walk = walk(open, file, |frame| {
            check(frame.sequence, &frame.chain);
            at(frame.offset + frame.len);
            parse(frame)
        })
        .map_err(|e| e.context(&self.name))?;
        // A closing frame has a place behind it as well.
        if walk.end == End::Closed {
            check(walk.link.sequence, &walk.link.chain);
        }
        self.walked = Walked {
            end: walk.end,
            used: walk.offset,
            frames: walk.frames,
            last: walk.link.sequence,
            chain: walk.link.chain,
            handed_over: walk.handed_over,
            strangers,
        };
        if self.key_id.is_none() && header.cipher != format::Cipher::None {
            self.walked.end = End::Damaged {
                offset: format::PAGE as u64,
                sequence: 0,
                what: "neither key slot is good, so the data key is lost".to_owned(),
            };
        }
        Ok(())
    }

    /// True for an image.
    pub fn is_image(&self) -> bool {
        match &self.header {
            Some(header) => header.kind == FileKind::Image,
            None => matches!(self.named, Name::Image(_)),
        }
    }

    /// The number of a log file; what is no log file has none.
    pub fn number(&self) -> u64 {
        match self.named {
            Name::Log(_, number) => number,
            _ => 0,
        }
    }

    pub fn report(self, role: Role, next_at: Option<u64>) -> FileReport {
        FileReport {
            name: self.name,
            bytes: self.bytes,
            used: self.walked.used,
            frames: self.walked.frames,
            last_sequence: self.walked.last,
            next_at,
            disputed_by: self.walked.strangers,
            role,
            header: self.header.as_ref().map(HeaderReport::of),
            key_id: self.key_id,
            damaged_slot: self.damaged_slot,
            end: self.walked.end,
        }
    }
}

/// Whether a payload that is open says something.
fn parse(frame: &Frame<'_>) -> Result<()> {
    match frame.kind {
        FrameKind::Batches => record::batches(frame.payload).try_for_each(|batch| batch.map(drop)),
        FrameKind::Entries => record::entries(frame.payload).try_for_each(|entry| entry.map(drop)),
        FrameKind::Summary | FrameKind::Close => Ok(()),
    }
}

impl HeaderReport {
    fn of(header: &Header) -> HeaderReport {
        HeaderReport {
            kind: header.kind.as_str(),
            store: header.store.to_string(),
            lineage: header.lineage.to_string(),
            file: header.file.to_string(),
            epoch: header.epoch,
            first_revision: header.first_revision,
            created_ms: header.created_ms,
            cipher: header.cipher.as_str(),
            compression: header.compression.as_str(),
            link: (header.link != Link::default()).then(|| LinkReport {
                file: header.link.file.to_string(),
                sequence: header.link.sequence,
            }),
        }
    }
}
