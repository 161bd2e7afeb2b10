//! One file sealed anew: the same payloads in other frames.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::backup::Root;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::format::{
    self, Digest, FRAMES_AT, FileId, FileKind, FileSpec, FrameKind, Link, NewFile, OpenFile,
    Reader, Sealer, Step, Tail,
};
use crate::keyring::Encryption;
use crate::recovery::{FileSource, reopen};
use crate::seat::Seat;

/// Bytes after which what was written is synced.
const SYNC_EVERY: u64 = 4 << 20;

/// A file and its beginning.
pub(super) struct Opened {
    name: String,
    file: Arc<dyn DiskFile>,
    pub open: OpenFile,
}

/// Opens a file with the keys given.
pub(super) fn open_file(disk: &dyn Disk, name: &str, encryption: &Encryption) -> Result<Opened> {
    let file = reopen(disk, name)?;
    let mut prefix = vec![0; usize::try_from(FRAMES_AT).unwrap_or_default()];
    file.read_at(0, &mut prefix)
        .map_err(|e| Error::io(format!("read {name}"), e))?;
    let open = format::open(&prefix, encryption).map_err(|e| e.context(name))?;
    let name = name.to_owned();
    Ok(Opened { name, file, open })
}

/// A log file that was sealed anew.
pub(super) struct Resealed {
    name: String,
    /// Where the next one goes on.
    pub link: Link,
    /// Over the payloads.
    sum: Digest,
}

/// What takes the frames of one new file.
struct Writer<'a> {
    seat: &'a Seat,
    name: &'a str,
    file: Arc<dyn DiskFile>,
    sealer: Sealer,
    frame: Vec<u8>,
    synced: u64,
}

impl<'a> Writer<'a> {
    fn begin(seat: &'a Seat, name: &'a str, made: NewFile) -> Result<Writer<'a>> {
        let file = seat
            .disk
            .create(name)
            .map_err(|e| Error::io(format!("create {name}"), e))?;
        let writer = Writer {
            seat,
            name,
            file,
            sealer: made.sealer,
            frame: Vec::new(),
            synced: 0,
        };
        writer.write(0, &made.prefix)?;
        Ok(writer)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_at(at, bytes)
            .map_err(|e| Error::io(format!("write {}", self.name), e))
    }

    fn sync(&self) -> Result<()> {
        self.file
            .sync()
            .map_err(|e| Error::io(format!("sync {}", self.name), e))
    }

    fn seal(&mut self, kind: FrameKind, payload: &[u8]) -> Result<()> {
        self.frame.clear();
        let random = &*self.seat.env.random;
        let sealed = self.sealer.seal(kind, payload, random, &mut self.frame)?;
        self.write(sealed.offset, &self.frame)?;
        if sealed.offset - self.synced >= SYNC_EVERY {
            self.sync()?;
            self.synced = sealed.offset;
        }
        Ok(())
    }

    /// Ends the file in order; the place behind its closing frame.
    fn close(self) -> Result<Link> {
        let mut frame = Vec::new();
        let random = &*self.seat.env.random;
        let (file, name) = (self.file, self.name);
        let (sealed, link) = self.sealer.close(random, &mut frame)?;
        file.write_at(sealed.offset, &frame)
            .and_then(|()| file.sync())
            .map_err(|e| Error::io(format!("close {name}"), e))?;
        Ok(link)
    }

    /// Ends the file as one that another follows; the place before the mark that says so.
    fn hand_over(mut self) -> Result<Link> {
        let link = self.sealer.link();
        self.seal(FrameKind::Batches, &[])?;
        self.sync()?;
        Ok(link)
    }
}

/// Seals a log file anew, up to `end` and behind `link`, as `name`. Its lineage, revision and time
/// stay.
pub(super) fn reseal(
    seat: &Seat,
    old: Opened,
    end: Link,
    link: Link,
    name: &str,
    tell: &mut dyn FnMut(u64),
) -> Result<Resealed> {
    let header = &old.open.header;
    let spec = FileSpec {
        kind: header.kind,
        store: seat.store,
        lineage: header.lineage,
        file: FileId::random(&*seat.env.random)?,
        epoch: seat.epoch,
        first_revision: header.first_revision,
        link,
        compression: seat.options.compression,
        key_size: seat.options.key_size,
        created_ms: header.created_ms,
    };
    let made = format::create(&spec, &seat.encryption.lock(), &*seat.env.random)?;
    let mut out = Writer::begin(seat, name, made)?;
    let mut sum = Sha256::new();
    let mut reader = Reader::new(old.open, FileSource { file: old.file });
    let wrong = |what: &str| Error::corrupt(format!("{}: {what}", old.name));
    let link = loop {
        let here = reader.link();
        if here.sequence == end.sequence {
            if here != end {
                return Err(wrong("not the chain that the next log file names"));
            }
            break out.hand_over()?;
        }
        match reader.step().map_err(|e| e.context(&old.name))? {
            Step::Frame(frame) => {
                add(&mut sum, frame.payload);
                out.seal(frame.kind, frame.payload)?;
                tell(frame.len);
                continue;
            }
            Step::End(Tail::Closed(_)) => {}
            Step::End(_) => {
                return Err(wrong("ends before the place that the next log file names"));
            }
        }
        if reader.link() != end {
            return Err(wrong(
                "closed before the place that the next log file names",
            ));
        }
        break out.close()?;
    };
    Ok(Resealed {
        name: name.to_owned(),
        link,
        sum: sum.finalize().into(),
    })
}

/// An empty log file that was closed in order, and its beginning: the log goes on behind it.
pub(super) fn begin_log(seat: &Seat, first_revision: u64, link: Link, name: &str) -> Result<Link> {
    let made = seat.create(seat.options.strategy.log(), first_revision, link)?;
    let out = Writer::begin(seat, name, made)?;
    let begins = out.sealer.link();
    out.close()?;
    Ok(begins)
}

impl Resealed {
    /// Reads the file back.
    pub fn verify(&self, seat: &Seat) -> Result<()> {
        let new = seat.encryption.lock().clone();
        let Opened { file, open, .. } = open_file(&*seat.disk, &self.name, &new)?;
        let mut reader = Reader::new(open, FileSource { file });
        let mut sum = Sha256::new();
        while reader.link().sequence < self.link.sequence {
            match reader.step().map_err(|e| e.context(&self.name))? {
                Step::Frame(frame) => add(&mut sum, frame.payload),
                Step::End(_) => break,
            }
        }
        if reader.link() == self.link && sum.finalize()[..] == self.sum {
            return Ok(());
        }
        Err(Error::internal(format!(
            "{} does not read back as it was written",
            self.name
        )))
    }
}

fn add(sum: &mut Sha256, payload: &[u8]) {
    sum.update((payload.len() as u64).to_le_bytes());
    sum.update(payload);
}

/// The root of the entries of an image.
pub(super) fn read_image(disk: &dyn Disk, name: &str, new: &Encryption) -> Result<Digest> {
    let Opened { file, open, .. } = open_file(disk, name, new)?;
    if open.header.kind != FileKind::Image {
        return Err(Error::corrupt(format!("{name}: no image")));
    }
    let mut reader = Reader::new(open, FileSource { file });
    let mut root = Root::new();
    loop {
        match reader.step().map_err(|e| e.context(name))? {
            Step::Frame(frame) => root.add(frame.payload),
            Step::End(_) => return Ok(root.finish()),
        }
    }
}
