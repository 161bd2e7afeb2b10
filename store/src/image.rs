//! Images: all live entries at one revision, written beside the store's work and then put in
//! place by one rename.

use std::sync::Arc;

use crate::backup::Root;
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::format::{Digest, FileKind, FrameKind, Link, Sealer};
use crate::gather::{FRAME, Gather};
use crate::index::View;
use crate::keyring::KeyId;
use crate::layout;
use crate::seat::Seat;

/// Bytes after which what was written is synced, so that the sync at the end, and the log's syncs
/// meanwhile, do not wait for a long queue of writes.
pub(crate) const SYNC_EVERY: u64 = 4 << 20;

/// An image on disk.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub name: String,
    pub len: u64,
    pub key_id: Option<KeyId>,
}

/// Writes an image in steps. What a crash leaves at each point: a temporary file, which the next
/// open removes; or the image in place, and files that it makes superfluous, which the next open
/// removes too.
pub(crate) struct WriteImage {
    view: Arc<View>,
    link: Link,
    /// What the image makes superfluous.
    garbage: Vec<String>,
    name: String,
    key_id: Option<KeyId>,
    gather: Gather,
    /// Over the entries.
    root: Option<Root>,
    frame: Vec<u8>,
    synced: u64,
    stage: Stage,
}

enum Stage {
    Create,
    Entries(Arc<dyn DiskFile>, Box<Sealer>),
    /// Whole, with this length, and this place behind its closing frame.
    Place(Arc<dyn DiskFile>, u64, Link),
    Remove(Image),
}

impl WriteImage {
    /// An image of `view`, behind which the log goes on at `link`. Then `garbage` is removed.
    pub fn new(view: Arc<View>, link: Link, garbage: Vec<String>) -> WriteImage {
        WriteImage {
            name: layout::image(view.revision),
            view,
            link,
            garbage,
            key_id: None,
            gather: Gather::default(),
            root: None,
            frame: Vec::new(),
            synced: 0,
            stage: Stage::Create,
        }
    }

    /// One that is summed while it is written.
    pub fn summed(mut self) -> WriteImage {
        self.root = Some(Root::new());
        self
    }

    /// The root of the entries written, once, if they were summed.
    pub fn root(&mut self) -> Option<Digest> {
        self.root.take().map(Root::finish)
    }

    /// The place behind the closing frame, once it is whole: what who reads it back must come to.
    pub fn end(&self) -> Option<Link> {
        match &self.stage {
            Stage::Place(.., end) => Some(*end),
            Stage::Create | Stage::Entries(..) | Stage::Remove(_) => None,
        }
    }

    /// The key that wraps its data key, once it is begun.
    pub fn key_id(&self) -> Option<&KeyId> {
        self.key_id.as_ref()
    }

    /// The name that it is written under.
    pub fn temporary(&self) -> String {
        layout::temporary(&self.name)
    }

    /// Makes durable what was written, so that little is left for the step that gives it its name.
    pub fn sync(&self) -> Result<()> {
        match &self.stage {
            Stage::Entries(file, _) | Stage::Place(file, ..) => {
                let synced = file.sync();
                synced.map_err(|e| Error::io(format!("sync {}", self.temporary()), e))
            }
            Stage::Create | Stage::Remove(_) => Ok(()),
        }
    }

    /// Most bytes that the image takes.
    pub fn estimate(&self) -> u64 {
        estimate(self.view.index.image_bytes())
    }

    /// True if the next step gives it its name.
    pub fn is_whole(&self) -> bool {
        matches!(self.stage, Stage::Place(..))
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        match &self.stage {
            Stage::Entries(_, sealer) => sealer.offset(),
            Stage::Create => 0,
            Stage::Place(_, len, _) => *len,
            Stage::Remove(image) => image.len,
        }
    }

    /// One step. A full disk leaves no file behind.
    pub fn step(&mut self, seat: &Seat) -> Result<Option<Image>> {
        let result = self.advance(seat);
        let placed = matches!(self.stage, Stage::Remove(_));
        if result.as_ref().is_err_and(|e| e.is(crate::Code::DiskFull)) && !placed {
            layout::remove_if_there(&*seat.disk, &layout::temporary(&self.name))?;
        }
        result
    }

    fn advance(&mut self, seat: &Seat) -> Result<Option<Image>> {
        let temporary = layout::temporary(&self.name);
        let doing = |what: &'static str| {
            let name = temporary.clone();
            move |e| Error::io(format!("{what} {name}"), e)
        };
        match std::mem::replace(&mut self.stage, Stage::Create) {
            Stage::Create => {
                let made = seat.create(FileKind::Image, self.view.revision, self.link)?;
                self.key_id = made.key_id;
                let file = seat.disk.create(&temporary).map_err(doing("create"))?;
                file.write_at(0, &made.prefix).map_err(doing("write"))?;
                self.stage = Stage::Entries(file, Box::new(made.sealer));
            }
            Stage::Entries(file, mut sealer) => {
                let payload = self.gather.next(&self.view.index)?;
                if let Some(root) = &mut self.root {
                    root.add(payload);
                }
                self.frame.clear();
                if payload.is_empty() {
                    let (end, link) = sealer.close(&*seat.env.random, &mut self.frame)?;
                    file.write_at(end.offset, &self.frame)
                        .map_err(doing("write"))?;
                    self.stage = Stage::Place(file, end.offset + end.len as u64, link);
                } else {
                    let placed = sealer.seal(
                        FrameKind::Entries,
                        payload,
                        &*seat.env.random,
                        &mut self.frame,
                    )?;
                    file.write_at(placed.offset, &self.frame)
                        .map_err(doing("write"))?;
                    if placed.offset - self.synced >= SYNC_EVERY {
                        file.sync().map_err(doing("sync"))?;
                        self.synced = placed.offset;
                    }
                    self.stage = Stage::Entries(file, sealer);
                }
            }
            Stage::Place(file, len, _) => {
                file.sync().map_err(doing("sync"))?;
                seat.check_epoch()?;
                seat.disk
                    .rename(&temporary, &self.name)
                    .map_err(doing("rename"))?;
                seat.disk
                    .sync_dir()
                    .map_err(doing("sync the directory of"))?;
                self.stage = Stage::Remove(Image {
                    name: self.name.clone(),
                    len,
                    key_id: self.key_id.clone(),
                });
            }
            Stage::Remove(image) => {
                let Some(name) = self.garbage.pop() else {
                    return Ok(Some(image));
                };
                self.stage = Stage::Remove(image);
                seat.check_epoch()?;
                seat.disk
                    .remove(&name)
                    .map_err(|e| Error::io(format!("remove {name}"), e))?;
            }
        }
        Ok(None)
    }
}

/// Most bytes that an image takes whose payloads take `payloads` bytes.
pub(crate) fn estimate(payloads: u64) -> u64 {
    // A frame adds less than a kilobyte and is rounded up to a sector.
    let frames = payloads / FRAME as u64 + 2;
    crate::format::FRAMES_AT + payloads + frames * 1024
}
