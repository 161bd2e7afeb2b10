//! A simulated disk: what is live, what is durable, and the effects between them.
//!
//! Data, length and directory entries are separate effects. A sync makes a file's effects durable,
//! a directory sync the names; a power loss keeps any subset of the rest, a torn write any subset
//! of its sectors.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

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

#[derive(Clone)]
enum Effect {
    Data { offset: usize, data: Vec<u8> },
    Length(usize),
    Cut(usize),
}

#[derive(Clone)]
enum NameEffect {
    Link(String, usize),
    Unlink(String),
    Rename(String, String),
}

#[derive(Clone, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Effect>,
    /// A sync of it failed; a second one would hide that.
    failed: bool,
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
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameEffect>,
    calls: u64,
    /// Calls that change something.
    changes: u64,
    fault: Option<(u64, Fault)>,
    off: bool,
    capacity: Option<usize>,
    /// Syncs that do nothing, by a part of the file's name: to see the tests fail.
    broken: Option<&'static str>,
    resyncs: u64,
    /// Most bytes at once after any write.
    peak: usize,
    /// Something that happens just before a call.
    hook: Option<(u64, Hook)>,
}

type Hook = Box<dyn FnOnce() + Send>;

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
        self.changes += 1;
        self.call()
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

    fn used(&self) -> usize {
        self.names
            .values()
            .map(|inode| self.inodes[*inode].live.len())
            .sum()
    }

    fn apply_names(names: &mut BTreeMap<String, usize>, effect: &NameEffect) {
        match effect {
            NameEffect::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            NameEffect::Unlink(name) => {
                names.remove(name);
            }
            NameEffect::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

impl SimDisk {
    /// A disk with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> SimDisk {
        let disk = SimDisk::default();
        disk.0.lock().capacity = Some(bytes);
        disk
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

    /// True once the power has failed.
    pub fn is_off(&self) -> bool {
        self.0.lock().off
    }

    pub fn set_capacity(&self, bytes: usize) {
        self.0.lock().capacity = Some(bytes);
    }

    pub fn used(&self) -> usize {
        self.0.lock().used()
    }

    /// Most bytes that were on the disk at once, after any write since the last question.
    pub fn take_peak(&self) -> usize {
        let mut state = self.0.lock();
        let peak = state.peak.max(state.used());
        state.peak = 0;
        peak
    }

    /// Times that a file was synced again after its sync had failed.
    pub fn resyncs(&self) -> u64 {
        self.0.lock().resyncs
    }

    /// Makes syncs of some files, or of the directory (`"."`), do nothing.
    pub fn break_sync(&self, part: &'static str) {
        self.0.lock().broken = Some(part);
    }

    /// The live content of a file.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let state = self.0.lock();
        state.inodes[state.names[name]].live.clone()
    }

    /// Changes the live and durable content of a file.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock();
        let inode = state.names[name];
        let inode = &mut state.inodes[inode];
        change(&mut inode.live);
        inode.durable = inode.live.clone();
        inode.pending.clear();
    }

    /// What a new process finds without a power loss: the live state, faults gone.
    pub fn restart(&self) -> SimDisk {
        let state = self.0.lock();
        SimDisk(Arc::new(Mutex::new(State {
            inodes: state.inodes.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            pending_names: state.pending_names.clone(),
            capacity: state.capacity,
            broken: state.broken,
            ..State::default()
        })))
    }

    /// What a machine finds after a power loss.
    pub fn power_loss(&self, keep: Keep) -> SimDisk {
        let state = self.0.lock();
        let mut rng = Rng(match keep {
            Keep::Some(seed) => seed,
            _ => 0,
        });
        let chosen = |rng: &mut Rng| match keep {
            Keep::Nothing => false,
            Keep::Everything => true,
            Keep::Some(_) => rng.below(2) == 0,
        };
        let mut names = state.durable_names.clone();
        for effect in &state.pending_names {
            if chosen(&mut rng) {
                State::apply_names(&mut names, effect);
            }
        }
        let inodes = state
            .inodes
            .iter()
            .map(|inode| {
                let mut bytes = inode.durable.clone();
                let mut length = bytes.len();
                for effect in &inode.pending {
                    match effect {
                        Effect::Length(len) if chosen(&mut rng) => length = length.max(*len),
                        Effect::Cut(len) if chosen(&mut rng) => {
                            bytes.truncate(*len);
                            length = length.min(*len);
                        }
                        Effect::Length(_) | Effect::Cut(_) => {}
                        Effect::Data { offset, data } => {
                            if bytes.len() < offset + data.len() {
                                bytes.resize(offset + data.len(), 0);
                            }
                            // Whole, not at all, or sector by sector.
                            let torn = matches!(keep, Keep::Some(_)) && rng.below(2) == 0;
                            let whole = chosen(&mut rng);
                            for at in (0..data.len()).step_by(SECTOR) {
                                let keep = if torn { rng.below(2) == 0 } else { whole };
                                if keep {
                                    let end = (at + SECTOR).min(data.len());
                                    bytes[offset + at..offset + end]
                                        .copy_from_slice(&data[at..end]);
                                }
                            }
                        }
                    }
                }
                bytes.resize(length, 0);
                Inode {
                    live: bytes.clone(),
                    durable: bytes,
                    ..Inode::default()
                }
            })
            .collect();
        SimDisk(Arc::new(Mutex::new(State {
            inodes,
            names: names.clone(),
            durable_names: names,
            capacity: state.capacity,
            broken: state.broken,
            ..State::default()
        })))
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.pause();
        let mut state = self.0.lock();
        state.call()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.pause();
        let mut state = self.0.lock();
        state.change()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(name.to_owned(), inode);
        state
            .pending_names
            .push(NameEffect::Link(name.to_owned(), inode));
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            inode,
            name: name.to_owned(),
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.pause();
        let mut state = self.0.lock();
        state.call()?;
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            inode,
            name: name.to_owned(),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.pause();
        let mut state = self.0.lock();
        state.change()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        state
            .pending_names
            .push(NameEffect::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.pause();
        let mut state = self.0.lock();
        state.change()?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state
            .pending_names
            .push(NameEffect::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.pause();
        let mut state = self.0.lock();
        state.change()?;
        if state.broken != Some(".") {
            state.durable_names = state.names.clone();
            state.pending_names.clear();
        }
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        let state = self.0.lock();
        Ok(state.capacity.map_or(u64::MAX, |capacity| {
            capacity.saturating_sub(state.used()) as u64
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
        Ok(state.inodes[self.inode].live.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.pause();
        let mut state = self.disk.0.lock();
        state.call()?;
        let offset = usize::try_from(offset).unwrap();
        let from = state.inodes[self.inode]
            .live
            .get(offset..offset + buf.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.pause();
        let mut state = self.disk.0.lock();
        let offset = usize::try_from(offset).unwrap();
        let result = state.change();
        let used = state.used();
        let capacity = state.capacity;
        let inode = &mut state.inodes[self.inode];
        let end = offset + data.len();
        let growth = end.saturating_sub(inode.live.len());
        if result.is_ok() && capacity.is_some_and(|capacity| used + growth > capacity) {
            return Err(enospc());
        }
        if result.is_err() {
            // What a failed write left is not known: say half, in place.
            let half = data.len() / 2;
            if half > 0 && offset + half <= inode.live.len() {
                inode.live[offset..offset + half].copy_from_slice(&data[..half]);
                inode.pending.push(Effect::Data {
                    offset,
                    data: data[..half].to_vec(),
                });
            }
            return result;
        }
        if growth > 0 {
            inode.live.resize(end, 0);
            inode.pending.push(Effect::Length(end));
        }
        inode.live[offset..end].copy_from_slice(data);
        inode.pending.push(Effect::Data {
            offset,
            data: data.to_vec(),
        });
        state.peak = state.peak.max(used + growth);
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.pause();
        let mut state = self.disk.0.lock();
        state.change()?;
        let len = usize::try_from(len).unwrap();
        let inode = &mut state.inodes[self.inode];
        assert!(len <= inode.live.len(), "a cut makes nothing longer");
        inode.live.truncate(len);
        inode.pending.push(Effect::Cut(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.pause();
        let mut state = self.disk.0.lock();
        let result = state.change();
        let off = state.off;
        let broken = state.broken.is_some_and(|part| self.name.contains(part));
        let inode = &mut state.inodes[self.inode];
        let again = inode.failed;
        if result.is_err() && !off {
            // As Linux does it: the pages stay readable, are clean, and may never reach the disk.
            inode.pending.clear();
            inode.failed = true;
        } else if result.is_ok() && !broken {
            for effect in inode.pending.drain(..) {
                match effect {
                    Effect::Length(len) if inode.durable.len() < len => {
                        inode.durable.resize(len, 0);
                    }
                    Effect::Length(_) => {}
                    Effect::Cut(len) => inode.durable.truncate(len),
                    Effect::Data { offset, data } => {
                        let end = offset + data.len();
                        if inode.durable.len() < end {
                            inode.durable.resize(end, 0);
                        }
                        inode.durable[offset..end].copy_from_slice(&data);
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
