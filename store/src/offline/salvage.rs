//! Salvage: what can be proven of a damaged store, written to a new one.

use std::fs::{self, File};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::Progress;
use super::disk::ReadOnly;
use super::glean::{Gap, Gleaned, glean};
use super::inspect::look;
use super::lines::Lines;
use super::merge::Merge;
use super::settle::settle;
use crate::disk::{Disk, DiskFile};
use crate::entry::Entry;
use crate::error::{Code, Error, Kind, Result};
use crate::format::record::MAX_VALUE;
use crate::format::{self, FRAMES_AT, FileKind, Frame, Header, Link, StoreId};
use crate::keyring::Encryption;
use crate::layout::{self, Epoch, Name};
use crate::options::{Options, Strategy};
use crate::survey::nothing_behind;

/// What was salvaged, and what was not.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Salvage {
    /// The new store was written. Not where nothing could be proven.
    pub written: bool,
    /// The highest revision that was found.
    pub revision: u64,
    /// Entries in the new store.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Of the entries, those that come from behind a gap: each is as it was written, but something
    /// before it is missing.
    pub behind_gap: u64,
    /// Frames that were proven.
    pub frames: u64,
    /// What could not be proven.
    pub lost: Vec<Lost>,
    /// Frames that are damaged around their content, which is whole: nothing is lost with them.
    pub mended: Vec<Lost>,
    /// Writes that never ended, which an open would drop too: nobody was told that they had.
    pub torn: Vec<Lost>,
    /// Why the old store does not open, as far as that shows without a key.
    pub refusals: Vec<String>,
}

impl Salvage {
    /// Nothing is missing: what is damaged is so only around its content, and no file is gone.
    pub fn is_complete(&self) -> bool {
        let told = |refusal: &String| {
            let mut mended = self.mended.iter();
            mended.any(|mended| refusal.starts_with(&mended.file))
        };
        self.lost.is_empty() && self.refusals.iter().all(told)
    }
}

/// A stretch of a file of which nothing could be proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Lost {
    /// The file.
    pub file: String,
    /// Where the stretch begins.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
    /// The first frame that is lost; 0: the whole file.
    pub sequence: u64,
    /// The last frame that is lost, where a later one tells.
    pub until: Option<u64>,
    /// The last revision that the file proves before it.
    pub after_revision: Option<u64>,
    /// The first revision that the file proves behind it.
    pub before_revision: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl Lost {
    fn of(file: &str, gap: Gap) -> Lost {
        Lost {
            file: file.to_owned(),
            offset: gap.offset,
            bytes: gap.bytes,
            sequence: gap.sequence,
            until: gap.until,
            after_revision: None,
            before_revision: None,
            what: gap.what,
        }
    }
}

/// A file of the damaged store.
struct Piece {
    name: String,
    number: u64,
    bytes: u64,
    file: Arc<dyn DiskFile>,
    prefix: Vec<u8>,
    header: Header,
}

/// Writes what can be proven of the store in `dir`, which nobody has open and which is not
/// modified, to a new store `into`, and tells what could not. `options.encryption` opens the old
/// store and encrypts the new one; the new one has the strategy of the old, and its present only.
///
/// Of each key, the newest state that is proven counts: what an image or a log frame says that
/// verifies, and with encryption authenticates, in its file, at its place. Frames behind a damaged
/// one count as well, unless `strict`, which stops at the first gap. What a gap held is not known,
/// so entries from before it may be older than they were, or deleted since.
///
/// Errors: `locked` if somebody has the store open, a kind of Encryption if no file opens with the
/// keys, `invalid-argument` if `into` is there and not empty, or within `dir`.
pub fn salvage(
    dir: &Path,
    into: &Path,
    options: &Options,
    strict: bool,
    progress: Progress<'_>,
) -> Result<Salvage> {
    let disk = ReadOnly::hold(dir)?;
    let partial = check_target(dir, into)?;
    let Proven {
        mut report,
        entries,
        strategy,
    } = prove(&disk, &options.encryption, strict, progress)?;
    if entries.is_empty() && !report.lost.is_empty() {
        return Ok(report);
    }
    let mut fresh = options.clone();
    fresh.encryption = options.encryption.for_store();
    fresh.max_value = MAX_VALUE;
    fresh.strategy = strategy;
    settle(&partial, fresh, entries.into_iter().map(|(entry, _)| entry))?;
    place(&partial, into)?;
    report.written = true;
    Ok(report)
}

/// What is proven, before it is written anywhere.
pub(crate) struct Proven {
    pub report: Salvage,
    /// Each with whether it stands behind a gap.
    pub entries: Vec<(Entry, bool)>,
    pub strategy: Strategy,
}

/// Reads the damaged store.
pub(crate) fn prove(
    disk: &ReadOnly,
    encryption: &Encryption,
    strict: bool,
    progress: Progress<'_>,
) -> Result<Proven> {
    let found = look(disk, None, &mut |_, _| {})?;
    let mut report = Salvage {
        refusals: found.open.refusals,
        ..Salvage::default()
    };
    let pieces = pieces(disk, &mut report)?;
    let mut work = Work {
        encryption,
        merge: Merge::default(),
        total: pieces.iter().map(|piece| piece.bytes).sum(),
        done: 0,
        refused: None,
        opened: false,
        progress,
        out: report,
    };
    if strict {
        work.strictly(&pieces)?;
    } else {
        work.all(&pieces)?;
    }
    if let Some(error) = work.refused.filter(|_| !work.opened) {
        return Err(error);
    }
    let mut report = work.out;
    report.revision = work.merge.revision;
    let entries = work.merge.finish();
    report.entries = entries.len() as u64;
    report.behind_gap = entries.iter().filter(|(_, behind)| *behind).count() as u64;
    let size = |entry: &Entry| (entry.key().len() + entry.value().len()) as u64;
    report.bytes = entries.iter().map(|(entry, _)| size(entry)).sum();
    Ok(Proven {
        report,
        entries,
        strategy: match found.strategy {
            Some("ledger") => Strategy::Ledger,
            _ => Strategy::Snapshot,
        },
    })
}

/// The directory that is written first, if `into` can be made.
fn check_target(dir: &Path, into: &Path) -> Result<PathBuf> {
    let refuse = |what: &str| {
        Err(Error::new(
            Code::InvalidArgument,
            format!("{} {what}", into.display()),
        ))
    };
    match fs::read_dir(into) {
        Ok(mut files) => {
            if files.next().is_some() {
                return refuse("is there and not empty");
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io(format!("look at {}", into.display()), e)),
    }
    let Some(name) = into.file_name() else {
        return refuse("is no name for a new directory");
    };
    let parent = match into.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let io = |path: &Path, e| Error::io(format!("look at {}", path.display()), e);
    let parent = fs::canonicalize(parent).map_err(|e| io(parent, e))?;
    let dir = fs::canonicalize(dir).map_err(|e| io(dir, e))?;
    if parent.starts_with(&dir) {
        return refuse("is within the store that is salvaged");
    }
    let mut partial = name.to_owned();
    partial.push(".partial");
    let partial = parent.join(partial);
    if partial.exists() {
        return Err(Error::new(
            Code::InvalidArgument,
            format!(
                "{} is there, left by an attempt that was cut: remove it first",
                partial.display()
            ),
        ));
    }
    Ok(partial)
}

/// Gives the finished store its name, durably.
fn place(partial: &Path, into: &Path) -> Result<()> {
    let io = |e| {
        Error::io(
            format!("rename {} to {}", partial.display(), into.display()),
            e,
        )
    };
    fs::rename(partial, into).map_err(io)?;
    let parent = partial.parent().unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(io)
}

/// All images and logs whose headers verify, by name; the others are lost.
fn pieces(disk: &ReadOnly, out: &mut Salvage) -> Result<Vec<Piece>> {
    let mut names = disk
        .list()
        .map_err(|e| Error::io("list the store's directory", e))?;
    names.sort();
    let mut pieces = Vec::new();
    let mut store: Option<StoreId> = None;
    for name in names {
        let io = |e| Error::io(format!("read {name}"), e);
        let (kind, number) = match layout::parse(&name) {
            Name::Image(number) => (FileKind::Image, number),
            Name::Log(kind, number) => (kind, number),
            Name::Epoch(number) => {
                store = Epoch::read(disk, number)?
                    .map(|claim| claim.store)
                    .or(store);
                continue;
            }
            _ => continue,
        };
        let file = disk.open(&name).map_err(io)?;
        let bytes = file.len().map_err(io)?;
        let mut prefix = vec![0; usize::try_from(bytes.min(FRAMES_AT)).unwrap_or_default()];
        file.read_at(0, &mut prefix).map_err(io)?;
        match format::open_without_key(&prefix) {
            Ok(open) if open.header.kind != kind => {
                out.lost
                    .push(whole(&name, bytes, "not the kind of file it is named"));
            }
            Ok(open) => pieces.push(Piece {
                name,
                number,
                bytes,
                file,
                prefix,
                header: open.header,
            }),
            Err(error) => {
                let unbegun = !kind.must_close() && error.is(Code::Corrupt);
                if !unbegun || !nothing_behind(&*file, bytes).map_err(io)? {
                    out.lost.push(whole(&name, bytes, error.message()));
                }
            }
        }
    }
    // Without a claim, the store is the one that most files are of.
    let count = |id: StoreId| pieces.iter().filter(|p| p.header.store == id).count();
    let store = store.or_else(|| {
        pieces
            .iter()
            .map(|piece| piece.header.store)
            .max_by_key(|id| count(*id))
    });
    pieces.retain(|piece| {
        let ours = Some(piece.header.store) == store;
        if !ours {
            out.lost
                .push(whole(&piece.name, piece.bytes, "of another store"));
        }
        ours
    });
    Ok(pieces)
}

fn whole(name: &str, bytes: u64, what: &str) -> Lost {
    let gap = Gap {
        offset: 0,
        bytes,
        sequence: 0,
        until: None,
        what: what.to_owned(),
    };
    Lost::of(name, gap)
}

struct Work<'a> {
    encryption: &'a Encryption,
    merge: Merge,
    total: u64,
    done: u64,
    /// The first file whose key is not there or not right.
    refused: Option<Error>,
    opened: bool,
    progress: Progress<'a>,
    out: Salvage,
}

impl Work<'_> {
    /// Everything that can be proven.
    fn all(&mut self, pieces: &[Piece]) -> Result<()> {
        let logs: Vec<&Header> = logs(pieces).map(|piece| &piece.header).collect();
        let lines = Lines::of(&logs);
        for piece in pieces.iter().filter(|piece| is_image(piece)) {
            self.image(piece, false)?;
        }
        for (at, piece) in logs_of(pieces) {
            if !lines.overtaken(at) {
                self.log(piece, lines.cut(piece.header.file), false)?;
            }
        }
        Ok(())
    }

    /// The newest image that is whole, and the logs behind it up to the first gap.
    fn strictly(&mut self, pieces: &[Piece]) -> Result<()> {
        let mut images: Vec<&Piece> = pieces.iter().filter(|piece| is_image(piece)).collect();
        images.sort_by_key(|piece| std::cmp::Reverse(piece.header.first_revision));
        let mut start = None;
        for piece in images {
            self.merge = Merge::default();
            if self.image(piece, true)? {
                start = Some(piece.header.link);
                break;
            }
            self.merge = Merge::default();
        }
        let headers: Vec<&Header> = logs(pieces).map(|piece| &piece.header).collect();
        let lines = Lines::of(&headers);
        let first = headers.iter().position(|log| match start {
            Some(link) => log.file == link.file,
            None => log.link == Link::default(),
        });
        let Some(first) = first else { return Ok(()) };
        let line = lines.from(first);
        let mut whole = true;
        for at in line {
            let Some((_, piece)) = logs_of(pieces).find(|(place, _)| *place == at) else {
                continue;
            };
            if whole {
                whole = self.log(piece, lines.cut(piece.header.file), true)?;
            } else {
                let what = "not taken: it stands behind a gap";
                self.out
                    .lost
                    .push(self::whole(&piece.name, piece.bytes, what));
            }
        }
        Ok(())
    }

    /// True if the image is whole.
    fn image(&mut self, piece: &Piece, strict: bool) -> Result<bool> {
        let revision = piece.header.first_revision;
        let mut merge = std::mem::take(&mut self.merge);
        let mut before: Option<(u64, Bound<Vec<u8>>)> = Some((0, Bound::Unbounded));
        let read = self.read(piece, None, strict, |frame, gaps| {
            let after = before
                .take()
                .filter(|(sequence, _)| sequence + 1 == frame.sequence)
                .map(|(_, bound)| bound);
            let last = merge.entries(revision, frame.payload, gaps > 0, after)?;
            before = last.map(|key| (frame.sequence, Bound::Excluded(key)));
            Ok(None)
        });
        // Behind the last entry, if nothing is missing before the closing frame.
        if let Ok(Some(read)) = &read
            && let Some((sequence, bound)) = before
            && read.ended
            && sequence + 1 == read.last
        {
            merge.cover(revision, (bound, Bound::Unbounded));
        }
        merge.revision = merge.revision.max(revision);
        self.merge = merge;
        Ok(read?.is_some_and(|read| read.ended && read.gaps.is_empty()))
    }

    /// True if the log has no gap.
    fn log(&mut self, piece: &Piece, cut: Option<Link>, strict: bool) -> Result<bool> {
        let mut merge = std::mem::take(&mut self.merge);
        let mut stranger = false;
        let read = self.read(piece, cut.map(|cut| cut.sequence), strict, |frame, gaps| {
            let names = cut.filter(|cut| cut.sequence == frame.sequence);
            if names.is_some_and(|cut| cut.chain != frame.chain) {
                stranger = true;
                return Ok(None);
            }
            merge.batches(frame.payload, gaps > 0)
        });
        self.merge = merge;
        let read = read?;
        if stranger {
            let what = "its last frame is not the one that the next file names: not taken";
            self.out.lost.push(whole(&piece.name, 0, what));
        }
        let short = match (&read, cut) {
            (Some(read), Some(cut)) => read.gaps.is_empty() && read.last < cut.sequence,
            _ => false,
        };
        if let (Some(read), Some(cut)) = (&read, cut)
            && short
        {
            self.out.lost.push(Lost {
                sequence: read.last + 1,
                until: Some(cut.sequence),
                ..whole(
                    &piece.name,
                    0,
                    "the file ends before the next one took over",
                )
            });
        }
        Ok(!stranger && !short && read.is_some_and(|read| read.gaps.is_empty()))
    }

    /// Reads a file and notes what is lost of it. `None`: all of it, for want of its key.
    fn read(
        &mut self,
        piece: &Piece,
        cut: Option<u64>,
        strict: bool,
        mut each: impl FnMut(&Frame<'_>, usize) -> Result<Option<(u64, u64)>>,
    ) -> Result<Option<Gleaned>> {
        let base = self.done;
        self.done += piece.bytes;
        let open = match format::open(&piece.prefix, self.encryption) {
            Ok(open) => open,
            Err(error) if matches!(error.kind(), Kind::Encryption | Kind::Integrity) => {
                let lost = whole(&piece.name, piece.bytes, error.message());
                self.out.lost.push(lost);
                if error.kind() == Kind::Encryption {
                    self.refused.get_or_insert(error.context(&piece.name));
                }
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.opened = true;
        let (progress, total) = (&mut self.progress, self.total);
        // Of each gap, the revisions on its sides.
        let mut sides: Vec<(Option<u64>, Option<u64>)> = Vec::new();
        let mut latest = None;
        let file = piece.file.clone();
        let read = glean(open, file, cut, strict, |frame, gaps| {
            progress(base + frame.offset, total);
            let range = each(frame, gaps)?;
            while sides.len() < gaps {
                sides.push((latest, None));
            }
            if let Some((first, last)) = range {
                for side in sides.iter_mut().filter(|side| side.1.is_none()) {
                    side.1 = Some(first);
                }
                latest = Some(last);
            }
            Ok(())
        })
        .map_err(|e| e.context(&piece.name))?;
        sides.resize(read.gaps.len(), (latest, None));
        self.out.frames += read.frames;
        let lost = read.gaps.iter().zip(sides).map(|(gap, side)| Lost {
            after_revision: side.0,
            before_revision: side.1,
            ..Lost::of(&piece.name, gap.clone())
        });
        self.out.lost.extend(lost);
        let mended = read.mended.iter().cloned();
        self.out
            .mended
            .extend(mended.map(|gap| Lost::of(&piece.name, gap)));
        if let Some((offset, bytes)) = read.torn {
            let gap = Gap {
                offset,
                bytes,
                sequence: read.last + 1,
                until: None,
                what: "a write that never ended".to_owned(),
            };
            self.out.torn.push(Lost::of(&piece.name, gap));
        }
        Ok(Some(read))
    }
}

fn is_image(piece: &Piece) -> bool {
    piece.header.kind == FileKind::Image
}

/// Logs in the order of their numbers.
fn logs(pieces: &[Piece]) -> impl Iterator<Item = &Piece> {
    let mut logs: Vec<&Piece> = pieces.iter().filter(|piece| !is_image(piece)).collect();
    logs.sort_by_key(|piece| piece.number);
    logs.into_iter()
}

fn logs_of(pieces: &[Piece]) -> impl Iterator<Item = (usize, &Piece)> {
    logs(pieces).enumerate()
}
