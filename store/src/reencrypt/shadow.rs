//! The log sealed anew while it is written: what the background does, in steps.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Code, Error, Kind, Result};
use crate::feed::Durable;
use crate::format::{Digest, FRAMES_AT, FileId, Header, Link, Reader, Step, Tail};
use crate::image::WriteImage;
use crate::index::View;
use crate::journal::LogFile;
use crate::keyring::KeyId;
use crate::layout::{self, remove_if_there};
use crate::log::Bounded;
use crate::migrate::reseal::{Copied, Opened, Writer, copy, differs, open_file, successor};
use crate::recovery::FileSource;
use crate::seat::Seat;
use crate::stats::Wrapped;

/// Bytes of a step: a store that is being closed waits for no more.
const STEP: u64 = 1 << 20;

/// Bytes of a slice, behind which journals are prepared, if one is due.
const SLICE: u64 = 8 << 20;

/// The log sealed anew, as far as it is.
pub(crate) struct Shadow {
    /// What there is to be sealed.
    log: Durable,
    /// Files that are done, oldest first.
    sealed: Vec<LogFile>,
    copying: Option<Copying>,
    /// The file that is being begun.
    begun: Option<String>,
    /// Where the next file goes on.
    link: Link,
    /// The old file that was sealed last, and the place behind which the next one follows.
    behind: Option<Link>,
    image: ImageOf,
    /// The next file's number.
    pub number: u64,
    left: u64,
    done: u64,
}

/// The image that goes with the shadow.
enum ImageOf {
    None,
    /// Of this view, once the shadow is where it was taken.
    Wanted(Arc<View>),
    Writing(Box<NewImage>),
    Checking(Box<NewImage>, Box<Reader<FileSource>>),
    Ready(Box<NewImage>),
}

/// An image that has yet to get its name.
pub(crate) struct NewImage {
    pub task: WriteImage,
    /// The log file that goes on behind it.
    pub file: FileId,
    /// Bytes of frames before that place.
    pub covered: u64,
}

/// One file while it is sealed anew.
struct Copying {
    from: String,
    reader: Reader<Bounded>,
    bound: Arc<AtomicU64>,
    /// Sequence of the old file's last frame, once that is known.
    end: Option<u64>,
    out: Writer,
    /// Reads back what was written.
    check: Reader<Bounded>,
    written: Arc<AtomicU64>,
    /// Sums of the payloads that were not read back yet.
    sums: VecDeque<Digest>,
    new: LogFile,
}

/// The whole of it, with the last file still open.
pub(crate) struct NewLog {
    pub sealed: Vec<LogFile>,
    pub last: LogFile,
    pub out: Writer,
    pub image: NewImage,
    pub number: u64,
}

/// True if an error ends the re-encryption, and the store goes on as if it had not been.
pub(crate) fn is_harmless(error: &Error) -> bool {
    error.is(Code::DiskFull)
        || matches!(
            error.kind(),
            Kind::Integrity | Kind::Encryption | Kind::Internal
        )
}

impl Shadow {
    /// Nothing is sealed yet.
    pub fn new(log: Durable) -> Shadow {
        Shadow {
            log,
            sealed: Vec::new(),
            copying: None,
            begun: None,
            link: Link::default(),
            behind: None,
            image: ImageOf::None,
            number: 0,
            left: 0,
            done: 0,
        }
    }

    /// One more slice: the log is this long now, and files made get numbers from `number` on.
    pub fn go_on(&mut self, log: Durable, number: u64) {
        // The image is of the place where the log ended when it was asked for.
        if !matches!(self.image, ImageOf::Wanted(_)) {
            self.log = log;
        }
        self.number = number;
        self.left = SLICE;
    }

    /// Has an image written of what the log holds, which is shown in `view`.
    pub fn want_image(&mut self, view: Arc<View>) {
        self.image = ImageOf::Wanted(view);
    }

    /// True if the image is written and was read back.
    pub fn has_image(&self) -> bool {
        matches!(self.image, ImageOf::Ready(_))
    }

    /// Bytes of the present log file that are missing; `None` if more is.
    pub fn missing(&self, present: &LogFile, end: u64) -> Option<u64> {
        let copying = self.copying.as_ref()?;
        let same = copying.reader.link().file == present.file;
        same.then(|| end.saturating_sub(copying.reader.offset()))
    }

    /// Bytes sealed and read back.
    pub fn done(&self) -> u64 {
        self.done + self.image_written()
    }

    /// Bytes of its image on disk.
    pub fn image_written(&self) -> u64 {
        match &self.image {
            ImageOf::None | ImageOf::Wanted(_) => 0,
            ImageOf::Writing(new) | ImageOf::Checking(new, ..) | ImageOf::Ready(new) => {
                new.task.written()
            }
        }
    }

    /// Bytes of its log files on disk.
    pub fn written(&self) -> u64 {
        let copying = self.copying.as_ref();
        let sealed: u64 = self.sealed.iter().map(|file| file.len).sum();
        sealed + copying.map_or(0, |copying| copying.out.sealer.offset())
    }

    /// The keys that wrap its files, and what each wraps.
    pub fn keys(&self) -> BTreeMap<KeyId, Wrapped> {
        let copying = self.copying.iter();
        let copying = copying.map(|c| (c.new.key_id.as_ref(), c.out.sealer.offset()));
        let sealed = self.sealed.iter();
        let sealed = sealed.map(|file| (file.key_id.as_ref(), file.len));
        let image = match &self.image {
            ImageOf::Writing(new) | ImageOf::Checking(new, ..) | ImageOf::Ready(new) => {
                new.task.key_id()
            }
            ImageOf::None | ImageOf::Wanted(_) => None,
        };
        Wrapped::by_key(sealed.chain(copying).chain([(image, self.image_written())]))
    }

    /// Its files.
    pub fn names(&self) -> Vec<String> {
        let copying = self.copying.iter().map(|copying| &copying.new.name);
        let sealed = self.sealed.iter().map(|file| &file.name);
        let mut names: Vec<String> = sealed.chain(copying).chain(&self.begun).cloned().collect();
        if let ImageOf::Writing(new) | ImageOf::Checking(new, ..) | ImageOf::Ready(new) =
            &self.image
        {
            names.push(new.task.temporary());
        }
        names
    }

    /// One step. True when the slice is over, or nothing is missing. What ends it without harm leaves no file behind.
    pub fn step(&mut self, seat: &Seat) -> Result<bool> {
        let result = self.advance(seat);
        self.or_clean(seat, result)
    }

    fn or_clean<T>(&self, seat: &Seat, result: Result<T>) -> Result<T> {
        if result.as_ref().is_err_and(is_harmless) {
            seat.check_epoch()?;
            for name in self.names() {
                remove_if_there(&*seat.disk, &name)?;
            }
        }
        result
    }

    /// Seals what is missing, and makes all of it durable.
    pub fn catch_up(&mut self, seat: &Seat) -> Result<()> {
        while !self.is_level() {
            self.left = SLICE;
            self.step(seat)?;
        }
        let synced = match &self.copying {
            Some(copying) => copying.out.sync(),
            None => Ok(()),
        };
        self.or_clean(seat, synced)
    }

    /// Takes it apart, if it is whole.
    pub fn finish(self) -> Result<NewLog> {
        match (self.copying, self.image) {
            (Some(copying), ImageOf::Ready(image)) => Ok(NewLog {
                sealed: self.sealed,
                last: copying.new,
                out: copying.out,
                image: *image,
                number: self.number,
            }),
            _ => Err(Error::internal("a re-encryption that ends before its end")),
        }
    }

    fn advance(&mut self, seat: &Seat) -> Result<bool> {
        if self.left == 0 {
            return Ok(true);
        }
        if !self.is_level() {
            self.copy_some(seat)?;
            return Ok(false);
        }
        match std::mem::replace(&mut self.image, ImageOf::None) {
            ImageOf::Wanted(view) => self.begin_image(seat, view)?,
            ImageOf::Writing(new) => self.write_image(seat, new)?,
            ImageOf::Checking(new, reader) => self.check_image(new, reader)?,
            other => {
                self.image = other;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// True if nothing is missing of what there is to be sealed.
    fn is_level(&self) -> bool {
        let (Some(copying), Some(present)) = (&self.copying, &self.log.log.present) else {
            return false;
        };
        let link = copying.reader.link();
        link.file == present.file && link == self.log.link
    }

    /// Some frames, which are then read back.
    fn copy_some(&mut self, seat: &Seat) -> Result<()> {
        let Some(copying) = &mut self.copying else {
            return self.begin(seat);
        };
        copying.look(&self.log)?;
        let mut budget = STEP;
        while budget > 0 {
            if copying.end == Some(copying.reader.link().sequence) {
                copying.read_back()?;
                return self.end(seat, false);
            }
            let copied = copy(seat, &mut copying.reader, &mut copying.out, true);
            match copied.map_err(|e| e.context(&copying.from))? {
                Copied::Frame { len, sum } => {
                    copying.sums.push_back(sum);
                    budget = budget.saturating_sub(len);
                    self.left = self.left.saturating_sub(len);
                    self.done += len;
                }
                Copied::End(Tail::Closed(_)) => {
                    copying.read_back()?;
                    return self.end(seat, true);
                }
                Copied::End(_)
                    if copying.end.is_none() && copying.reader.link() == self.log.link =>
                {
                    break;
                }
                Copied::End(_) => {
                    let what = "ends before the place where the log went on";
                    return Err(Error::corrupt(format!("{}: {what}", copying.from)));
                }
            }
        }
        copying.read_back()
    }

    /// Begins with the next file. An owner that was overtaken makes none.
    fn begin(&mut self, seat: &Seat) -> Result<()> {
        seat.check_epoch()?;
        let mut files = self.log.log.files();
        let next = match self.behind {
            Some(last) => files.skip_while(|file| file.file != last.file).nth(1),
            None => files.next(),
        };
        let old =
            next.ok_or_else(|| Error::internal("a log without the file that is written to"))?;
        let encryption = seat.encryption.lock().clone();
        let Opened { file, open, .. } = open_file(&*seat.disk, &old.name, &encryption)?;
        let header: Header = open.header.clone();
        if header.file != old.file || self.behind.is_some_and(|link| header.link != link) {
            return Err(Error::corrupt(format!(
                "{}: does not follow the log file before it",
                old.name
            )));
        }
        let bound = Arc::new(AtomicU64::new(FRAMES_AT));
        let reader = Reader::new(open, Bounded::new(file, bound.clone()));
        let name = layout::temporary(&layout::log(header.kind, self.number));
        remove_if_there(&*seat.disk, &name)?;
        self.begun = Some(name.clone());
        let made = successor(seat, &header, self.link, header.compression)?;
        let new = LogFile {
            name: name.clone(),
            len: FRAMES_AT,
            used: 0,
            key_id: made.key_id.clone(),
            file: made.header.file,
            first_revision: header.first_revision,
            created_ms: header.created_ms,
            end: u64::MAX,
        };
        let out = Writer::begin(&*seat.disk, &name, made)?;
        self.number += 1;
        out.sync()?;
        seat.disk
            .sync_dir()
            .map_err(|e| Error::io(format!("sync the directory of {name}"), e))?;
        let Opened { file, open, .. } = open_file(&*seat.disk, &name, &encryption)?;
        let written = Arc::new(AtomicU64::new(FRAMES_AT));
        self.begun = None;
        self.copying = Some(Copying {
            from: old.name.clone(),
            reader,
            bound,
            end: None,
            out,
            check: Reader::new(open, Bounded::new(file, written.clone())),
            written,
            sums: VecDeque::new(),
            new,
        });
        Ok(())
    }

    /// Ends the file as the old one ended.
    fn end(&mut self, seat: &Seat, closed: bool) -> Result<()> {
        let Some(mut copying) = self.copying.take() else {
            return Err(Error::internal("the end of no file"));
        };
        let old = copying.reader.link();
        // Listed until it is done: what fails here is removed with the others.
        self.sealed.push(copying.new.clone());
        if copying.end.is_none_or(|end| end != old.sequence) {
            return Err(Error::corrupt(format!(
                "{}: closed before the place where the log went on",
                copying.from
            )));
        }
        let file = copying.out.file.clone();
        let link = if closed {
            copying.out.close(seat)?
        } else {
            copying.out.hand_over(seat)?
        };
        let len = file.len();
        let len = len.map_err(|e| Error::io(format!("length of {}", copying.new.name), e))?;
        copying.written.store(len, Ordering::Relaxed);
        copying.check.go_on();
        let reads_back = match copying.check.step()? {
            Step::Frame(frame) => !closed && frame.hands_over,
            Step::End(tail) => closed && matches!(tail, Tail::Closed(_)),
        };
        if !reads_back || (closed && copying.check.link() != link) {
            return Err(differs(&copying.new.name));
        }
        if let Some(file) = self.sealed.last_mut() {
            *file = LogFile {
                len,
                used: len - FRAMES_AT,
                end: link.sequence,
                ..copying.new
            };
        }
        self.link = link;
        self.behind = Some(old);
        Ok(())
    }

    fn begin_image(&mut self, seat: &Seat, view: Arc<View>) -> Result<()> {
        seat.check_epoch()?;
        let Some(copying) = &self.copying else {
            return Err(Error::internal("an image of no log"));
        };
        let link = copying.out.sealer.link();
        self.image = ImageOf::Writing(Box::new(NewImage {
            task: WriteImage::new(view, link, Vec::new()),
            file: link.file,
            covered: copying.out.sealer.offset() - FRAMES_AT,
        }));
        Ok(())
    }

    fn write_image(&mut self, seat: &Seat, mut new: Box<NewImage>) -> Result<()> {
        let before = new.task.written();
        let name = new.task.temporary();
        let mut written = 0;
        while written < STEP && !new.task.is_whole() {
            if let Err(error) = new.task.step(seat) {
                // Removed with the others.
                self.image = ImageOf::Writing(new);
                return Err(error);
            }
            written = new.task.written().saturating_sub(before);
        }
        self.left = self.left.saturating_sub(written.max(1));
        if !new.task.is_whole() {
            self.image = ImageOf::Writing(new);
            return Ok(());
        }
        let synced = new.task.sync();
        let encryption = seat.encryption.lock().clone();
        match synced.and_then(|()| open_file(&*seat.disk, &name, &encryption)) {
            Ok(Opened { file, open, .. }) => {
                let reader = Box::new(Reader::new(open, FileSource { file }));
                self.image = ImageOf::Checking(new, reader);
                Ok(())
            }
            Err(error) => {
                self.image = ImageOf::Writing(new);
                Err(error)
            }
        }
    }

    fn check_image(
        &mut self,
        new: Box<NewImage>,
        mut reader: Box<Reader<FileSource>>,
    ) -> Result<()> {
        let name = new.task.temporary();
        let mut budget = STEP;
        while budget > 0 {
            match reader.step() {
                Ok(Step::Frame(frame)) => {
                    budget = budget.saturating_sub(frame.len);
                    self.left = self.left.saturating_sub(frame.len);
                }
                Ok(Step::End(_)) => {
                    let same = new.task.end() == Some(reader.link());
                    self.image = ImageOf::Ready(new);
                    return if same { Ok(()) } else { Err(differs(&name)) };
                }
                Err(error) => {
                    self.image = ImageOf::Ready(new);
                    return Err(error.context(name));
                }
            }
        }
        self.image = ImageOf::Checking(new, reader);
        Ok(())
    }
}

impl Copying {
    /// Takes notice of how far the old file goes.
    fn look(&mut self, log: &Durable) -> Result<()> {
        let file = self.reader.link().file;
        let present = log.log.present.as_ref();
        let bound = if present.is_some_and(|present| present.file == file) {
            log.offset
        } else {
            let ended = log.log.ended.iter().find(|ended| ended.file == file);
            let ended = ended.ok_or_else(|| {
                Error::internal(format!("{} is not of the log any more", self.from))
            })?;
            self.end = Some(ended.end);
            self.reader.source().len_on_disk()?
        };
        if self.bound.swap(bound, Ordering::Relaxed) != bound {
            self.reader.go_on();
        }
        Ok(())
    }

    /// Reads what was written since, unpacks each payload, and compares.
    fn read_back(&mut self) -> Result<()> {
        let name = &self.new.name;
        self.written
            .store(self.out.sealer.offset(), Ordering::Relaxed);
        self.check.go_on();
        while let Some(sum) = self.sums.pop_front() {
            match self.check.step().map_err(|e| e.context(name))? {
                Step::Frame(frame) if frame.sum == sum => {}
                _ => return Err(differs(name)),
            }
        }
        if self.check.link() == self.out.sealer.link() {
            return Ok(());
        }
        Err(differs(name))
    }
}

/// Gives the shadow's files their names, when what they replace is gone for good.
pub(crate) struct Settle {
    names: Vec<String>,
}

impl Settle {
    /// Of these files.
    pub fn new(names: Vec<String>) -> Settle {
        Settle { names }
    }

    /// One step; true when that is durable.
    pub fn step(&mut self, seat: &Seat) -> Result<bool> {
        seat.check_epoch()?;
        let Some(temporary) = self.names.pop() else {
            let synced = seat.disk.sync_dir();
            synced.map_err(|e| Error::io("sync the directory", e))?;
            return Ok(true);
        };
        if let Some(name) = layout::final_name(&temporary) {
            let renamed = seat.disk.rename(&temporary, name);
            renamed.map_err(|e| Error::io(format!("rename {temporary}"), e))?;
        }
        Ok(false)
    }
}
