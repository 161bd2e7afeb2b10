//! A simulated disk: what is live, what is durable, and the effects between them.
//!
//! Sectors, lengths and directory entries are separate effects. A sync makes a file's effects
//! durable, a directory sync the names; what a power loss keeps of the rest is in
//! [`super::states`].

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::content::{Content, SECTOR, Shared, hash_of, mix};
use super::syncs::{Broken, SyncKind};
use crate::disk::{Disk, DiskFile};

/// A small generator, so that a failure replays from its seed.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// What was done to a file and not synced, in order.
#[derive(Clone)]
pub enum Effect {
    /// A sector, as it was after the write.
    Sector(usize, Shared),
    /// The length, longer or shorter.
    Length(usize),
}

/// What was done to the directory and not synced, in order.
#[derive(Clone)]
pub enum NameEffect {
    Link(String, usize),
    Unlink(String),
    Rename(String, String, usize),
}

impl NameEffect {
    pub fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameEffect::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            NameEffect::Unlink(name) => {
                names.remove(name);
            }
            NameEffect::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

#[derive(Clone, Default)]
pub struct Inode {
    pub live: Content,
    pub durable: Content,
    /// With the number of the call that had the effect.
    pub pending: Vec<(u64, Effect)>,
    /// A sync of it failed; a second one would hide that.
    failed: bool,
}

impl Inode {
    pub fn durable(content: Content) -> Inode {
        Inode {
            live: content.clone(),
            durable: content,
            ..Inode::default()
        }
    }

    fn effect(&mut self, call: u64, effect: Effect) {
        if let Effect::Sector(at, to) = &effect {
            // Only what changes something: zeros over zeros are no effect.
            let before = self
                .pending
                .iter()
                .rev()
                .find_map(|(_, effect)| match effect {
                    Effect::Sector(sector, to) if sector == at => Some(hash_of(to)),
                    _ => None,
                });
            let before = before.unwrap_or_else(|| hash_of(&self.durable.sector(*at)));
            if before == hash_of(to) {
                return;
            }
        }
        self.pending.push((call, effect));
    }

    fn write(&mut self, call: u64, offset: usize, data: &[u8]) {
        let len = self.live.len();
        self.live.write(offset, data);
        if self.live.len() > len {
            self.effect(call, Effect::Length(self.live.len()));
        }
        for at in offset / SECTOR..(offset + data.len()).div_ceil(SECTOR) {
            let to = self.live.sector(at);
            self.effect(call, Effect::Sector(at, to));
        }
    }
}

/// Files and names, live and durable. Copies share what they have in common.
#[derive(Clone, Default)]
pub struct Files {
    pub inodes: Vec<Arc<Inode>>,
    pub names: BTreeMap<String, usize>,
    pub durable_names: BTreeMap<String, usize>,
    pub pending_names: Vec<(u64, NameEffect)>,
}

impl Files {
    fn used(&self) -> usize {
        let inodes = self.names.values();
        inodes.map(|inode| self.inodes[*inode].live.len()).sum()
    }

    fn inode(&mut self, inode: usize) -> &mut Inode {
        Arc::make_mut(&mut self.inodes[inode])
    }
}

/// What a power loss keeps of the effects that were not synced.
#[derive(Debug, Clone, Copy)]
pub enum Keep {
    Nothing,
    Everything,
    Some(u64),
}

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power fails: this and every later call does nothing.
    PowerLoss,
    /// EIO, this time.
    ErrorOnce,
    /// EIO, from now on.
    ErrorForEver,
    /// ENOSPC, this time, at a call that changes something.
    FullOnce,
}

#[derive(Default)]
struct State {
    files: Files,
    calls: u64,
    /// Calls that change something.
    changes: u64,
    /// Bytes that were read.
    read: u64,
    fault: Option<(u64, Fault)>,
    off: bool,
    capacity: Option<usize>,
    /// Syncs that do nothing, to see the tests fail.
    broken: Option<Broken>,
    /// Times that a sync of a kind was left out.
    left_out: u64,
    resyncs: u64,
    /// Most bytes at once after any write.
    peak: usize,
    /// Something that happens just before a call.
    hook: Option<(u64, Hook)>,
    /// Sees the files just before each change.
    watcher: Option<Watcher>,
}

type Hook = Box<dyn FnOnce() + Send>;
type Watcher = Box<dyn FnMut(&Files) + Send>;

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn enospc() -> io::Error {
    io::Error::from_raw_os_error(28)
}

impl State {
    /// Counts a call that changes something.
    fn change(&mut self) -> io::Result<()> {
        if let Some(watcher) = &mut self.watcher {
            watcher(&self.files);
        }
        self.changes += 1;
        let full = self.fault == Some((self.changes, Fault::FullOnce));
        self.call()?;
        if full { Err(enospc()) } else { Ok(()) }
    }

    /// Counts a call, which may fail.
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        if self.off {
            return Err(eio());
        }
        match self.fault {
            Some((at, Fault::PowerLoss)) if self.changes >= at => {
                self.off = true;
                Err(eio())
            }
            Some((at, Fault::ErrorOnce)) if self.calls == at => Err(eio()),
            Some((at, Fault::ErrorForEver)) if self.calls >= at => Err(eio()),
            _ => Ok(()),
        }
    }

    /// True if a sync is one of those that do nothing.
    fn leaves_out(&mut self, name: &str, kind: Option<SyncKind>) -> bool {
        let out = self.broken.is_some_and(|broken| broken.is(name, kind));
        self.left_out += u64::from(out);
        out
    }
}

impl SimDisk {
    /// A disk with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> SimDisk {
        let disk = SimDisk::default();
        disk.0.lock().capacity = Some(bytes);
        disk
    }

    /// A disk of these files, that has the same properties as this one.
    pub fn with_files(&self, files: Files) -> SimDisk {
        let state = self.0.lock();
        SimDisk(Arc::new(Mutex::new(State {
            files,
            capacity: state.capacity,
            broken: state.broken,
            ..State::default()
        })))
    }

    /// The files as they are.
    pub fn files(&self) -> Files {
        self.0.lock().files.clone()
    }

    /// A number that stands for all names and live contents.
    pub fn hash(&self) -> u64 {
        let files = &self.0.lock().files;
        files.names.iter().fold(7, |hash, (name, inode)| {
            let hash = name
                .bytes()
                .fold(hash, |hash, byte| mix(hash, u64::from(byte)));
            files.inodes[*inode].live.hash(hash)
        })
    }

    /// Shows the files to someone just before each call that changes something.
    pub fn watch(&self, watcher: impl FnMut(&Files) + Send + 'static) {
        self.0.lock().watcher = Some(Box::new(watcher));
    }

    /// Arms a fault at a call; a power loss at a call that changes something.
    pub fn arm(&self, call: u64, fault: Fault) {
        self.0.lock().fault = Some((call, fault));
    }

    /// Does something just before a call, while whoever makes the call is paused.
    pub fn pause_at(&self, call: u64, hook: impl FnOnce() + Send + 'static) {
        self.0.lock().hook = Some((call, Box::new(hook)));
    }

    fn pause(&self) {
        let hook = {
            let mut state = self.0.lock();
            let due = state.calls + 1;
            state.hook.take_if(|(at, _)| *at == due)
        };
        if let Some((_, hook)) = hook {
            hook();
        }
    }

    pub fn disarm(&self) {
        self.0.lock().fault = None;
    }

    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    pub fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// Bytes that were read of all files.
    pub fn bytes_read(&self) -> u64 {
        self.0.lock().read
    }

    /// True once the power has failed.
    pub fn is_off(&self) -> bool {
        self.0.lock().off
    }

    pub fn set_capacity(&self, bytes: usize) {
        self.0.lock().capacity = Some(bytes);
    }

    pub fn used(&self) -> usize {
        self.0.lock().files.used()
    }

    /// Most bytes that were on the disk at once, after any write since the last question.
    pub fn take_peak(&self) -> usize {
        let mut state = self.0.lock();
        let peak = state.peak.max(state.files.used());
        state.peak = 0;
        peak
    }

    /// Times that a file was synced again after its sync had failed.
    pub fn resyncs(&self) -> u64 {
        self.0.lock().resyncs
    }

    /// Makes some syncs do nothing.
    pub fn break_sync(&self, which: impl Into<Broken>) {
        self.0.lock().broken = Some(which.into());
    }

    /// Times that such a sync was asked for.
    pub fn left_out(&self) -> u64 {
        self.0.lock().left_out
    }

    /// The live content of a file.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let files = &self.0.lock().files;
        files.inodes[files.names[name]].live.to_vec()
    }

    /// Changes the live and durable content of a file.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let files = &mut self.0.lock().files;
        let inode = files.names[name];
        let mut bytes = files.inodes[inode].live.to_vec();
        change(&mut bytes);
        files.inodes[inode] = Arc::new(Inode::durable(Content::new(&bytes)));
    }

    /// What a new process finds without a power loss: the live state, faults gone.
    pub fn restart(&self) -> SimDisk {
        self.with_files(self.files())
    }

    /// The same where writing back the page cache failed: all can be read, is taken for written,
    /// and is not on disk.
    pub fn restart_unwritten(&self) -> SimDisk {
        let mut files = self.files();
        for inode in &mut files.inodes {
            let pending = &mut Arc::make_mut(inode).pending;
            pending.retain(|(_, effect)| matches!(effect, Effect::Length(_)));
        }
        self.with_files(files)
    }

    /// What a machine finds after a power loss.
    pub fn power_loss(&self, keep: Keep) -> SimDisk {
        self.with_files(super::states::after(&self.files(), keep))
    }

    fn file(&self, name: &str, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            disk: self.clone(),
            inode,
            name: name.to_owned(),
        })
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.pause();
        let mut state = self.0.lock();
        state.call()?;
        Ok(state.files.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.pause();
        let mut state = self.0.lock();
        state.change()?;
        let call = state.calls;
        let files = &mut state.files;
        if files.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = files.inodes.len();
        files.inodes.push(Arc::default());
        files.names.insert(name.to_owned(), inode);
        let effect = NameEffect::Link(name.to_owned(), inode);
        files.pending_names.push((call, effect));
        Ok(self.file(name, inode))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.pause();
        let mut state = self.0.lock();
        state.call()?;
        let inode = state.files.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(name, *inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.pause();
        let mut state = self.0.lock();
        state.change()?;
        let call = state.calls;
        let files = &mut state.files;
        let inode = files.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.names.insert(to.to_owned(), inode);
        let effect = NameEffect::Rename(from.to_owned(), to.to_owned(), inode);
        files.pending_names.push((call, effect));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.pause();
        let mut state = self.0.lock();
        state.change()?;
        let call = state.calls;
        let files = &mut state.files;
        files.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        let effect = NameEffect::Unlink(name.to_owned());
        files.pending_names.push((call, effect));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.pause();
        let mut state = self.0.lock();
        state.change()?;
        let kind = SyncKind::of_directory(&state.files.pending_names);
        if !state.leaves_out(".", kind) {
            let files = &mut state.files;
            files.durable_names = files.names.clone();
            files.pending_names.clear();
        }
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        let state = self.0.lock();
        Ok(state.capacity.map_or(u64::MAX, |capacity| {
            capacity.saturating_sub(state.files.used()) as u64
        }))
    }

    fn tighten(&self) -> io::Result<()> {
        self.pause();
        self.0.lock().call()
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
    name: String,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.disk.pause();
        let mut state = self.disk.0.lock();
        state.call()?;
        Ok(state.files.inodes[self.inode].live.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.pause();
        let mut state = self.disk.0.lock();
        state.call()?;
        state.read += buf.len() as u64;
        let offset = usize::try_from(offset).unwrap();
        if !state.files.inodes[self.inode].live.read(offset, buf) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.pause();
        let mut state = self.disk.0.lock();
        let offset = usize::try_from(offset).unwrap();
        let result = state.change();
        let (used, capacity, call) = (state.files.used(), state.capacity, state.calls);
        let inode = state.files.inode(self.inode);
        let end = offset + data.len();
        let growth = end.saturating_sub(inode.live.len());
        if result.is_ok() && capacity.is_some_and(|capacity| used + growth > capacity) {
            return Err(enospc());
        }
        if result.is_err() {
            // What a failed write left is not known: say half, in place.
            let half = data.len() / 2;
            if half > 0 && offset + half <= inode.live.len() {
                inode.write(call, offset, &data[..half]);
            }
            return result;
        }
        inode.write(call, offset, data);
        state.peak = state.peak.max(used + growth);
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.pause();
        let mut state = self.disk.0.lock();
        state.change()?;
        let call = state.calls;
        let len = usize::try_from(len).unwrap();
        let inode = state.files.inode(self.inode);
        assert!(len <= inode.live.len(), "a cut makes nothing longer");
        inode.live.set_len(len);
        inode.effect(call, Effect::Length(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.pause();
        let mut state = self.disk.0.lock();
        let result = state.change();
        let off = state.off;
        let kind = SyncKind::of_file(&self.name, &state.files.inodes[self.inode]);
        let left_out = state.leaves_out(&self.name, kind);
        let inode = state.files.inode(self.inode);
        let again = inode.failed;
        if result.is_err() && !off {
            // As Linux does it: the pages stay readable, are clean, and may never reach the disk.
            inode.pending.clear();
            inode.failed = true;
        } else if result.is_ok() && !left_out {
            for (_, effect) in inode.pending.drain(..) {
                match effect {
                    Effect::Length(len) => inode.durable.set_len(len),
                    Effect::Sector(at, to) => {
                        // Durable with the length that it needs, also if that got lost before.
                        let len = inode.live.len().min((at + 1) * SECTOR);
                        inode.durable.set_len(inode.durable.len().max(len));
                        inode.durable.put(at, to);
                    }
                }
            }
        }
        if again {
            state.resyncs += 1;
        }
        result
    }
}
