//! One file sealed anew: the same payloads in other frames.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::compress::Compression;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::format::{
    self, Digest, FRAMES_AT, FileId, FileSpec, FrameKind, Header, Inner, Link, NewFile, OpenFile,
    PackedStep, Reader, Sealer, Source, Step, Tail,
};
use crate::keyring::Encryption;
use crate::recovery::{FileSource, reopen};
use crate::seat::Seat;

/// Bytes after which what was written is synced.
const SYNC_EVERY: u64 = 4 << 20;

/// Bytes of a frame from which on its memory is not kept.
const LARGE: usize = 2 << 20;

/// A file and its beginning.
pub(crate) struct Opened {
    name: String,
    pub file: Arc<dyn DiskFile>,
    pub open: OpenFile,
}

/// Opens a file with the keys given.
pub(crate) fn open_file(disk: &dyn Disk, name: &str, encryption: &Encryption) -> Result<Opened> {
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
    /// Over the sums of the payloads.
    sum: Digest,
}

/// What takes the frames of one new file.
pub(crate) struct Writer {
    pub name: String,
    pub file: Arc<dyn DiskFile>,
    pub sealer: Sealer,
    frame: Vec<u8>,
    synced: u64,
}

impl Writer {
    /// Creates the file and writes its beginning.
    pub fn begin(disk: &dyn Disk, name: &str, made: NewFile) -> Result<Writer> {
        let file = disk
            .create(name)
            .map_err(|e| Error::io(format!("create {name}"), e))?;
        let writer = Writer {
            name: name.to_owned(),
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

    /// Makes it durable.
    pub fn sync(&self) -> Result<()> {
        self.file
            .sync()
            .map_err(|e| Error::io(format!("sync {}", self.name), e))
    }

    fn seal(&mut self, seat: &Seat, kind: FrameKind, payload: &[u8]) -> Result<()> {
        self.frame.clear();
        let random = &*seat.env.random;
        let sealed = self.sealer.seal(kind, payload, random, &mut self.frame)?;
        self.put(sealed.offset)
    }

    /// Takes a frame of a file of the same compression.
    pub fn seal_packed(&mut self, seat: &Seat, kind: FrameKind, inner: &Inner<'_>) -> Result<()> {
        self.frame.clear();
        let random = &*seat.env.random;
        let sealed = self
            .sealer
            .seal_packed(kind, inner, random, &mut self.frame)?;
        self.put(sealed.offset)
    }

    /// Writes the frame that was sealed.
    fn put(&mut self, offset: u64) -> Result<()> {
        self.write(offset, &self.frame)?;
        if self.frame.capacity() > LARGE {
            self.frame = Vec::new();
        }
        if offset - self.synced >= SYNC_EVERY {
            self.sync()?;
            self.synced = offset;
        }
        Ok(())
    }

    /// Ends the file in order; the place behind its closing frame.
    pub fn close(self, seat: &Seat) -> Result<Link> {
        let mut frame = Vec::new();
        let random = &*seat.env.random;
        let (file, name) = (self.file, self.name);
        let (sealed, link) = self.sealer.close(random, &mut frame)?;
        file.write_at(sealed.offset, &frame)
            .and_then(|()| file.sync())
            .map_err(|e| Error::io(format!("close {name}"), e))?;
        Ok(link)
    }

    /// Ends the file as one that another follows; the place before the mark that says so.
    pub fn hand_over(&mut self, seat: &Seat) -> Result<Link> {
        let link = self.sealer.link();
        self.seal(seat, FrameKind::Batches, &[])?;
        self.sync()?;
        Ok(link)
    }
}

/// The beginning of a log file that takes the place of the one with this header, behind `link`.
pub(crate) fn successor(
    seat: &Seat,
    header: &Header,
    link: Link,
    compression: Compression,
) -> Result<NewFile> {
    let spec = FileSpec {
        kind: header.kind,
        store: seat.store,
        lineage: header.lineage,
        file: FileId::random(&*seat.env.random)?,
        epoch: seat.epoch,
        first_revision: header.first_revision,
        link,
        compression,
        key_size: seat.options.key_size,
        created_ms: header.created_ms,
    };
    format::create(&spec, &seat.encryption.lock(), &*seat.env.random)
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
    let compression = seat.options.compression;
    let packed = old.open.header.compression == compression;
    let made = successor(seat, &old.open.header, link, compression)?;
    let mut out = Writer::begin(&*seat.disk, name, made)?;
    let mut sum = Sha256::new();
    let mut reader = Reader::new(old.open, FileSource { file: old.file });
    let wrong = |what: &str| Error::corrupt(format!("{}: {what}", old.name));
    let link = loop {
        let here = reader.link();
        if here.sequence == end.sequence {
            if here != end {
                return Err(wrong("not the chain that the next log file names"));
            }
            break out.hand_over(seat)?;
        }
        match copy(seat, &mut reader, &mut out, packed).map_err(|e| e.context(&old.name))? {
            Copied::Frame { len, sum: of } => {
                sum.update(of);
                tell(len);
                continue;
            }
            Copied::End(Tail::Closed(_)) => {}
            Copied::End(_) => {
                return Err(wrong("ends before the place that the next log file names"));
            }
        }
        if reader.link() != end {
            return Err(wrong(
                "closed before the place that the next log file names",
            ));
        }
        break out.close(seat)?;
    };
    Ok(Resealed {
        name: name.to_owned(),
        link,
        sum: sum.finalize().into(),
    })
}

/// What came of a [`copy`].
pub(crate) enum Copied {
    /// A frame of this length in the old file, whose payload has this sum.
    Frame {
        len: u64,
        sum: Digest,
    },
    End(Tail),
}

/// Takes the next frame from one file to the other. `packed`: both have the same compression, so the
/// payload is left as it is. That it has its sum is seen when the new file is read back.
pub(crate) fn copy<S: Source>(
    seat: &Seat,
    from: &mut Reader<S>,
    to: &mut Writer,
    packed: bool,
) -> Result<Copied> {
    if packed {
        return Ok(match from.step_packed()? {
            PackedStep::Frame { kind, inner, len } => {
                to.seal_packed(seat, kind, &inner)?;
                let sum = inner.sum;
                Copied::Frame { len, sum }
            }
            PackedStep::End(tail) => Copied::End(tail),
        });
    }
    Ok(match from.step()? {
        Step::Frame(frame) => {
            to.seal(seat, frame.kind, frame.payload)?;
            let (len, sum) = (frame.len, frame.sum);
            Copied::Frame { len, sum }
        }
        Step::End(tail) => Copied::End(tail),
    })
}

/// An empty log file that was closed in order, and its beginning: the log goes on behind it.
pub(super) fn begin_log(seat: &Seat, first_revision: u64, link: Link, name: &str) -> Result<Link> {
    let made = seat.create(seat.options.strategy.log(), first_revision, link)?;
    let out = Writer::begin(&*seat.disk, name, made)?;
    let begins = out.sealer.link();
    out.close(seat)?;
    Ok(begins)
}

impl Resealed {
    /// Reads the file back: each payload is unpacked, and has the sum of the one that it was.
    pub fn verify(&self, seat: &Seat) -> Result<()> {
        let new = seat.encryption.lock().clone();
        let Opened { file, open, .. } = open_file(&*seat.disk, &self.name, &new)?;
        let mut reader = Reader::new(open, FileSource { file });
        let mut sum = Sha256::new();
        while reader.link().sequence < self.link.sequence {
            match reader.step().map_err(|e| e.context(&self.name))? {
                Step::Frame(frame) => sum.update(frame.sum),
                Step::End(_) => break,
            }
        }
        if reader.link() == self.link && sum.finalize()[..] == self.sum {
            return Ok(());
        }
        Err(differs(&self.name))
    }
}

/// Reads an image back: each payload is unpacked, and has its sum; all that it was closed with is there, in this order.
pub(super) fn verify_image(
    disk: &dyn Disk,
    name: &str,
    new: &Encryption,
    end: Option<Link>,
) -> Result<()> {
    let Opened { file, open, .. } = open_file(disk, name, new)?;
    let mut reader = Reader::new(open, FileSource { file });
    while let Step::Frame(_) = reader.step().map_err(|e| e.context(name))? {}
    if Some(reader.link()) == end {
        return Ok(());
    }
    Err(differs(name))
}

/// A file that is not what was just written.
pub(crate) fn differs(name: &str) -> Error {
    Error::internal(format!("{name} does not read back as it was written"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::{Options, Store};

    #[test]
    fn a_log_is_sealed_anew_up_to_the_place_that_follows_it_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(Encryption::None);
        let store = Store::open(dir.path(), options.clone()).unwrap();
        for n in 0..3 {
            store.set(b"k", &[n]).unwrap();
        }
        let seat = store.shared().seat.clone();
        let names = seat.disk.list().unwrap();
        // The one behind it is prepared, and not begun.
        let name = names.iter().filter(|name| name.starts_with("journal-"));
        let name = name.min();
        let name = name.unwrap().clone();
        let old = || open_file(&*seat.disk, &name, &options.encryption).unwrap();
        // Behind the second frame.
        let mut reader = Reader::new(old().open, FileSource { file: old().file });
        for _ in 0..2 {
            assert!(matches!(reader.step().unwrap(), Step::Frame(_)));
        }
        let place = reader.link();
        let mut tries = 0;
        let mut sealed_to = |end| {
            tries += 1;
            let name = format!("{tries}.tmp");
            reseal(&seat, old(), end, Link::default(), &name, &mut |_| {})
        };
        let mut good = sealed_to(place).unwrap();
        good.verify(&seat).unwrap();
        let chain = Link {
            chain: [1; 32],
            ..place
        };
        let beyond = Link {
            sequence: 99,
            ..place
        };
        for (end, what) in [
            (chain, "not the chain that the next log file names"),
            (beyond, "ends before the place that the next log file names"),
        ] {
            let error = sealed_to(end).err().unwrap();
            assert!(error.is(Code::Corrupt), "{error:?}");
            assert!(error.message().contains(what), "{error:?}");
        }
        store.close().unwrap();
        let error = sealed_to(beyond).err().unwrap();
        assert!(error.is(Code::Corrupt), "{error:?}");
        assert!(
            error.message().contains("closed before the place"),
            "{error:?}"
        );

        // Of other payloads, and of fewer frames than it should have.
        let sum = std::mem::replace(&mut good.sum, [1; 32]);
        let others = good.verify(&seat).unwrap_err();
        good.sum = sum;
        good.link.sequence = 99;
        let fewer = good.verify(&seat).unwrap_err();
        for error in [others, fewer] {
            assert!(error.is(Code::Internal), "{error:?}");
            assert!(error.message().contains("does not read back"), "{error:?}");
        }
        let (disk, keys) = (&*seat.disk, &options.encryption);
        let error = verify_image(disk, &name, keys, None).unwrap_err();
        assert!(error.is(Code::Internal), "{error:?}");
        assert!(error.message().contains("does not read back"), "{error:?}");
    }
}
