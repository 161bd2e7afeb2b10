//! A disk in memory that can crash while threads use it.
//!
//! What is not synced may be lost, a sector at a time; names made, changed or removed since the last `sync_dir` are kept up to
//! some point. After the crash every call fails, and [`CrashDisk::after`] is what a next opener finds. Syncs take a while, so
//! that writes gather behind them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use codexstore::{Disk, DiskFile};
use parking_lot::Mutex;

const SECTOR: usize = 512;

type Names = BTreeMap<String, Arc<Mutex<Content>>>;

#[derive(Default)]
struct Content {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// What differs: ranges since the last sync, and whether the length does.
    dirty: Vec<(usize, usize)>,
}

impl Content {
    fn sync(&mut self) {
        let len = self.current.len();
        self.durable.resize(len, 0);
        for (from, to) in self.dirty.drain(..) {
            let to = to.min(len);
            if from < to {
                self.durable[from..to].copy_from_slice(&self.current[from..to]);
            }
        }
    }

    /// What is there after a crash.
    fn crashed(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut left = self.durable.clone();
        if random.bool() {
            left.resize(self.current.len(), 0);
        }
        for (from, to) in &self.dirty {
            for sector in from / SECTOR..to.div_ceil(SECTOR) {
                let at = sector * SECTOR;
                let end = (at + SECTOR).min(left.len()).min(self.current.len());
                if at < end && random.bool() {
                    left[at..end].copy_from_slice(&self.current[at..end]);
                }
            }
        }
        left
    }
}

#[derive(Default)]
struct State {
    names: Names,
    durable: Names,
    /// The names after each call that changed them since the last `sync_dir`.
    pending: Vec<Names>,
}

struct Inner {
    state: Mutex<State>,
    crashed: AtomicBool,
    /// Syncs do nothing: a disk that lies, to see the checker find it out.
    lies: bool,
}

/// The disk.
#[derive(Clone)]
pub struct CrashDisk(Arc<Inner>);

impl Default for CrashDisk {
    fn default() -> CrashDisk {
        CrashDisk::new(false)
    }
}

impl CrashDisk {
    /// An empty disk; if it `lies`, its syncs do nothing.
    pub fn new(lies: bool) -> CrashDisk {
        CrashDisk(Arc::new(Inner {
            state: Mutex::default(),
            crashed: AtomicBool::new(false),
            lies,
        }))
    }

    /// From now on every call fails.
    pub fn crash(&self) {
        // With the lock, so that no call is half done.
        let _state = self.0.state.lock();
        self.0.crashed.store(true, Ordering::SeqCst);
    }

    /// What the crash left.
    #[must_use]
    pub fn after(&self, random: &mut fastrand::Rng) -> CrashDisk {
        let state = self.0.state.lock();
        let kept = random.usize(..=state.pending.len());
        let names = kept
            .checked_sub(1)
            .map_or(&state.durable, |at| &state.pending[at]);
        let mut files: Vec<(*const Mutex<Content>, Arc<Mutex<Content>>)> = Vec::new();
        let mut left = Names::new();
        for (name, content) in names {
            // Two names of one file stay so.
            let at = Arc::as_ptr(content);
            let file = files
                .iter()
                .find(|(known, _)| *known == at)
                .map(|(_, file)| file.clone());
            let file = file.unwrap_or_else(|| {
                let bytes = content.lock().crashed(random);
                let content = Content {
                    durable: bytes.clone(),
                    current: bytes,
                    dirty: Vec::new(),
                };
                Arc::new(Mutex::new(content))
            });
            files.push((at, file.clone()));
            left.insert(name.clone(), file);
        }
        let next = CrashDisk::new(self.0.lies);
        {
            let mut state = next.0.state.lock();
            state.durable.clone_from(&left);
            state.names = left;
        }
        next
    }

    fn live(&self) -> io::Result<()> {
        if self.0.crashed.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is gone"));
        }
        Ok(())
    }

    fn names<T>(&self, change: impl FnOnce(&mut Names) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.0.state.lock();
        self.live()?;
        let done = change(&mut state.names)?;
        let names = state.names.clone();
        state.pending.push(names);
        Ok(done)
    }

    fn file(&self, content: Arc<Mutex<Content>>) -> Arc<dyn DiskFile> {
        Arc::new(CrashFile {
            disk: self.clone(),
            content,
        })
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for CrashDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.0.state.lock();
        self.live()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.names(|names| {
            if names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Ok(names.entry(name.to_string()).or_default().clone())
        })?;
        Ok(self.file(content))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.0.state.lock();
        self.live()?;
        let content = state.names.get(name).ok_or_else(missing)?;
        Ok(self.file(content.clone()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.names(|names| {
            let content = names.remove(from).ok_or_else(missing)?;
            names.insert(to.to_string(), content);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.names(|names| names.remove(name).map(drop).ok_or_else(missing))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.0.state.lock();
        self.live()?;
        if !self.0.lies {
            state.durable = state.names.clone();
            state.pending.clear();
        }
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn tighten(&self) -> io::Result<()> {
        Ok(())
    }
}

struct CrashFile {
    disk: CrashDisk,
    content: Arc<Mutex<Content>>,
}

impl CrashFile {
    /// Works on the content; the disk cannot crash meanwhile.
    fn with<T>(&self, work: impl FnOnce(&mut Content) -> io::Result<T>) -> io::Result<T> {
        let _state = self.disk.0.state.lock();
        self.disk.live()?;
        work(&mut self.content.lock())
    }
}

fn place(offset: u64, len: usize) -> io::Result<(usize, usize)> {
    let from = usize::try_from(offset).map_err(io::Error::other)?;
    Ok((from, from + len))
}

impl DiskFile for CrashFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|content| Ok(content.current.len() as u64))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (from, to) = place(offset, buf.len())?;
        self.with(|content| {
            let bytes = content
                .current
                .get(from..to)
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            buf.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (from, to) = place(offset, data.len())?;
        self.with(|content| {
            if content.current.len() < to {
                content.current.resize(to, 0);
            }
            content.current[from..to].copy_from_slice(data);
            content.dirty.push((from, to));
            Ok(())
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let (len, _) = place(len, 0)?;
        self.with(|content| {
            content.current.truncate(len);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        std::thread::sleep(Duration::from_micros(fastrand::u64(..150)));
        self.with(|content| {
            if !self.disk.0.lies {
                content.sync();
            }
            Ok(())
        })
    }
}
