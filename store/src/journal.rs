//! Journals: files of batches, zero-filled to their full size before the first frame, so that a
//! commit changes no file size and its sync writes nothing but the frame.

use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::format::{
    FRAMES_AT, FileId, FileKind, FrameKind, Link, PAGE, SECTOR, Sealer, frame_len,
};
use crate::keyring::KeyId;
use crate::layout::{self, Name};
use crate::migrate::reseal::Writer;
use crate::seat::Seat;

/// Zeros written at once: few enough that the allocator does not keep much of an idle store.
const CHUNK: usize = 256 << 10;

/// A log file that is not written to any more.
#[derive(Debug, Clone)]
pub(crate) struct LogFile {
    pub name: String,
    /// Its length on disk.
    pub len: u64,
    /// Bytes of frames in it that the image does not hold.
    pub used: u64,
    pub key_id: Option<KeyId>,
    pub file: FileId,
    /// The lowest revision that may be in it.
    pub first_revision: u64,
    /// When it was begun, by the store's clock.
    pub created_ms: u64,
    /// Sequence of the last frame that counts: where the log went on in the next file.
    pub end: u64,
}

/// A file of zeros that is durable, with its name: the next journal.
pub(crate) struct Spare {
    pub name: String,
    pub number: u64,
    pub file: Arc<dyn DiskFile>,
    pub size: u64,
}

/// Makes a [`Spare`] in steps: zeros, synced; then its name, synced.
pub(crate) struct Prepare {
    name: String,
    number: u64,
    size: u64,
    file: Option<Arc<dyn DiskFile>>,
    at: u64,
}

impl Prepare {
    /// A log file of `size` bytes.
    pub fn new(kind: FileKind, number: u64, size: u64) -> Prepare {
        Prepare {
            name: layout::log(kind, number),
            number,
            size,
            file: None,
            at: 0,
        }
    }

    /// One step: some zeros, or the syncs at the end. A full disk leaves no file behind.
    pub fn step(&mut self, disk: &dyn Disk) -> Result<Option<Spare>> {
        let result = self.advance(disk);
        let full = result.as_ref().is_err_and(|e| e.is(crate::Code::DiskFull));
        if full && self.file.take().is_some() {
            layout::remove_if_there(disk, &self.name)?;
        }
        result
    }

    /// Removes what was made. Only that: the name may be a successor's by now otherwise.
    pub fn give_up(&mut self, disk: &dyn Disk) {
        if self.file.take().is_some() {
            let _harmless = disk.remove(&self.name);
        }
    }

    fn advance(&mut self, disk: &dyn Disk) -> Result<Option<Spare>> {
        let doing = |what: &'static str| {
            let name = self.name.clone();
            move |e| Error::io(format!("{what} {name}"), e)
        };
        let file = if let Some(file) = &self.file {
            file.clone()
        } else {
            let file = disk.create(&self.name).map_err(doing("create"))?;
            self.file.insert(file).clone()
        };
        if self.at < self.size {
            let len = (self.size - self.at).min(CHUNK as u64);
            let zeros = vec![0; usize::try_from(len).unwrap_or(CHUNK)];
            file.write_at(self.at, &zeros).map_err(doing("fill"))?;
            self.at += len;
            return Ok(None);
        }
        file.sync().map_err(doing("sync"))?;
        disk.sync_dir().map_err(doing("sync the directory of"))?;
        Ok(Some(Spare {
            name: self.name.clone(),
            number: self.number,
            file,
            size: self.size,
        }))
    }
}

/// The journal that is written to.
pub(crate) struct Journal {
    pub name: String,
    pub number: u64,
    pub key_id: Option<KeyId>,
    pub size: u64,
    pub first_revision: u64,
    pub created_ms: u64,
    file: Arc<dyn DiskFile>,
    /// Most frames; it is left at half of them.
    max_frames: u64,
    sealer: Sealer,
    frame: Vec<u8>,
}

impl Journal {
    /// Turns a spare into a journal that goes on at `link` with `first_revision`: writes its
    /// header and syncs it, before any frame, so that a torn header means that there is none.
    pub fn begin(seat: &Seat, spare: Spare, link: Link, first_revision: u64) -> Result<Journal> {
        let made = seat.create(seat.options.strategy.log(), first_revision, link)?;
        let io = |what: &'static str| {
            let name = spare.name.clone();
            move |e| Error::io(format!("{what} the header of {name}"), e)
        };
        spare.file.write_at(0, &made.prefix).map_err(io("write"))?;
        spare.file.sync().map_err(io("sync"))?;
        Ok(Journal {
            name: spare.name,
            number: spare.number,
            first_revision,
            created_ms: made.header.created_ms,
            key_id: made.key_id,
            size: spare.size,
            max_frames: seat.options.max_frames,
            file: spare.file,
            sealer: made.sealer,
            frame: Vec::new(),
        })
    }

    /// A log file that was sealed anew, up to its last frame: the log goes on behind it. It has no room.
    pub fn adopt(seat: &Seat, file: LogFile, out: Writer, number: u64) -> Journal {
        Journal {
            number: match layout::final_name(&file.name).map(layout::parse) {
                Some(Name::Log(_, number)) => number,
                _ => number,
            },
            name: file.name,
            key_id: file.key_id,
            size: out.sealer.offset(),
            first_revision: file.first_revision,
            created_ms: file.created_ms,
            max_frames: seat.options.max_frames,
            file: out.file,
            sealer: out.sealer,
            frame: Vec::new(),
        }
    }

    /// What readers of the log need to know of it.
    pub fn describe(&self) -> LogFile {
        LogFile {
            name: self.name.clone(),
            len: self.size,
            used: self.used(),
            key_id: self.key_id.clone(),
            file: self.link().file,
            first_revision: self.first_revision,
            created_ms: self.created_ms,
            end: u64::MAX,
        }
    }

    /// Frames in it: messages under its data key.
    pub fn messages(&self) -> u64 {
        self.sealer.link().sequence
    }

    /// Bytes left for frames; one sector is kept for the closing frame.
    pub fn room(&self) -> u64 {
        if self.sealer.exhausted() || self.messages() >= self.max_frames / 2 {
            return 0;
        }
        self.size
            .saturating_sub(self.sealer.offset() + SECTOR as u64)
    }

    /// Bytes of frames in it.
    pub fn used(&self) -> u64 {
        self.sealer.offset() - FRAMES_AT
    }

    /// Where the next frame belongs, and the link there.
    pub fn end(&self) -> (u64, Link) {
        (self.sealer.offset(), self.sealer.link())
    }

    /// Right behind the last frame.
    pub fn link(&self) -> Link {
        self.sealer.link()
    }

    /// Seals a payload as a frame; [`Journal::write`] puts it on disk. What fails here has changed
    /// nothing on disk.
    pub fn seal(&mut self, seat: &Seat, payload: &[u8]) -> Result<u64> {
        self.frame.clear();
        let sealed = self.sealer.seal(
            FrameKind::Batches,
            payload,
            &*seat.env.random,
            &mut self.frame,
        )?;
        Ok(sealed.offset)
    }

    /// Writes the sealed frame where it belongs.
    pub fn write(&mut self, offset: u64) -> Result<()> {
        self.file
            .write_at(offset, &self.frame)
            .map_err(|e| Error::io(format!("write {} at {offset}", self.name), e))?;
        // A rare large frame does not keep its memory for ever.
        if self.frame.capacity() > CHUNK {
            self.frame = Vec::new();
        }
        Ok(())
    }

    /// Makes it durable.
    pub fn sync(&self) -> Result<()> {
        self.file
            .sync()
            .map_err(|e| Error::io(format!("sync {}", self.name), e))
    }

    /// Ends it with an empty frame, behind the place that the next journal names: whoever finds
    /// this one last knows that the next one is missing. That one is durable by now. Then cuts what
    /// was filled ahead, for the file may be kept for long; the cut need not be durable.
    pub fn hand_over(mut self, seat: &Seat, used: u64) -> Result<LogFile> {
        let end = self.link();
        let offset = self.seal(seat, &[])?;
        self.write(offset)?;
        self.sync()?;
        let len = self.sealer.offset();
        self.file
            .truncate(len)
            .map_err(|e| Error::io(format!("cut {}", self.name), e))?;
        Ok(LogFile {
            len,
            used,
            end: end.sequence,
            ..self.describe()
        })
    }

    /// Ends it with a closing frame and syncs, then cuts what was filled ahead, so that the next
    /// open reads live data only. The cut need not be durable.
    pub fn close(self, seat: &Seat) -> Result<()> {
        let name = self.name;
        let mut frame = Vec::new();
        let (sealed, _) = self.sealer.close(&*seat.env.random, &mut frame)?;
        let failed = |e| Error::io(format!("close {name}"), e);
        self.file.write_at(sealed.offset, &frame).map_err(failed)?;
        self.file.sync().map_err(failed)?;
        let end = sealed.offset + frame.len() as u64;
        self.file.truncate(end).map_err(failed)
    }
}

/// Size of a journal that has room for a payload of `payload` bytes.
pub(crate) fn size_for(payload: usize) -> u64 {
    (FRAMES_AT + frame_len(payload) + SECTOR as u64).next_multiple_of(PAGE as u64)
}
