//! Who may unwrap the data keys: key slots written anew, and nothing else.
//!
//! A rewrap is what a rotation of keys needs, and a change of a passphrase: it takes two small
//! writes for each file, however large the store is. Both slots of a file end under the new key,
//! one behind the other, so that a crash leaves one that is good, the old key opens nothing any
//! more, and either slot may be damaged later. Whoever copied files and had the old key keeps what
//! he has: after a key was seen by someone, [`crate::migrate_encryption`] is the way.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, OsDisk};
use crate::engine::Engine;
use crate::env::Env;
use crate::error::{Code, Error, Kind, Result};
use crate::format::{self, FRAMES_AT, PAGE};
use crate::keyring::{Encryption, KeyId};
use crate::layout::{self, Name};
use crate::past::removing;
use crate::seat::Seat;
use crate::shared::answer;
use crate::store::Store;
use crate::succession::Succession;
use crate::survey::{Survey, nothing_behind};
use crate::task::{Running, Work};

/// What a rewrap did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Rewrapped {
    /// Files whose data key the new key wraps now.
    pub files: u64,
    /// Key slots written for that; 0 if nothing was left to do.
    pub slots: u64,
}

/// Checks that `keys` open every file of the store in `dir`, which is not open, and says how many
/// there are. Their content is not read, and nothing is modified. Fails with `not-found` if there is
/// no store, `locked` if it is open, a kind of Encryption if the keys are not the right ones.
pub fn check_keys(dir: &Path, keys: &Encryption) -> Result<u64> {
    let survey = Survey::take(&OsDisk::open_there(dir)?, &keys.for_store())?;
    let files = survey.images.len() + survey.logs.len();
    if files == 0 {
        return Err(layout::no_store());
    }
    Ok(files as u64)
}

/// Ids of the keys that wrap the files of the store in `dir`, which is not open. No key is needed for that, and nothing is
/// modified. Fails with `locked` if it is open, `corrupt` if a file's header does not verify.
pub fn needed_keys(dir: &Path) -> Result<BTreeSet<KeyId>> {
    let disk = OsDisk::open_there(dir)?;
    let mut needed = BTreeSet::new();
    for name in data_files(&disk)? {
        if let Some(file) = SlotFile::open(&disk, &name)? {
            needed.extend(format::open_without_key(&file.prefix)?.key_id);
        }
    }
    Ok(needed)
}

/// Wraps the data keys of the store in `dir`, which is not open, with what `new` wraps new files
/// with: the keyring's current key, or the key of a passphrase, for which a new salt is drawn. `old`
/// opens the files that `new` does not open yet; it may be the same keyring. `progress` is told how
/// many files of how many are done.
///
/// Nothing is written before all keys are checked; then each file in turn. After a crash some files are
/// under the old key and some under the new one: the same call finishes it. Fails with `not-found`
/// if there is no store, `locked` if it is open, a kind of Encryption if a file opens with neither.
pub fn rewrap(
    dir: &Path,
    old: &Encryption,
    new: &Encryption,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rewrapped> {
    rewrap_on(
        &OsDisk::open_there(dir)?,
        &Env::system(),
        old,
        new,
        progress,
    )
}

/// The same on a disk and in an environment of the caller's.
pub(crate) fn rewrap_on(
    disk: &dyn Disk,
    env: &Env,
    old: &Encryption,
    new: &Encryption,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rewrapped> {
    if [old, new].iter().any(|e| matches!(e, Encryption::None)) {
        return Err(Error::new(
            Code::InvalidArgument,
            "a store that is not encrypted has no keys to wrap: use migrate-encryption",
        ));
    }
    let (old, new) = (old.for_store(), new.for_rewrap());
    let names = data_files(disk)?;
    if names.is_empty() {
        return Err(layout::no_store());
    }
    // Those that are done first: a passphrase goes on with the salt that they have.
    let mut files = Vec::new();
    for name in &names {
        if let Some(slots) = SlotFile::open(disk, name)? {
            slots.check(&old, &new)?;
            files.push(slots);
        }
    }
    let total = files.len() as u64;
    let mut done = Rewrapped::default();
    for file in &mut files {
        done.slots += file.rewrap(env, &old, &new)?;
        done.files += 1;
        progress(done.files, total);
    }
    for name in &names {
        if let Some(file) = SlotFile::open(disk, name)? {
            file.verify(&new)?;
        }
    }
    Ok(done)
}

/// Names of the files that hold data.
fn data_files(disk: &dyn Disk) -> Result<Vec<String>> {
    let mut names = disk
        .list()
        .map_err(|e| Error::io("list the store's directory", e))?;
    names.sort();
    let succession = Succession::find(disk, &names)?;
    names.retain(|name| match layout::parse(name) {
        Name::Image(_) | Name::Log(..) => !succession.replaced(name),
        Name::Next(..) => succession.succeeds(name),
        _ => false,
    });
    Ok(names)
}

/// A file with its header and key slots.
struct SlotFile {
    name: String,
    file: Arc<dyn DiskFile>,
    prefix: Vec<u8>,
}

impl SlotFile {
    /// `None`: it is gone, or was never begun.
    fn open(disk: &dyn Disk, name: &str) -> Result<Option<SlotFile>> {
        let io = |e| Error::io(format!("read {name}"), e);
        let file = match disk.open(name) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(io)?,
        };
        let len = file.len().map_err(io)?;
        let mut prefix = vec![0; usize::try_from(len.min(FRAMES_AT)).unwrap_or_default()];
        file.read_at(0, &mut prefix).map_err(io)?;
        let log = !matches!(layout::parse(name), Name::Image(_));
        match format::open_without_key(&prefix) {
            Err(error) if error.is(Code::Corrupt) => {
                if log && nothing_behind(&*file, len).map_err(io)? {
                    return Ok(None);
                }
                Err(error.context(name))
            }
            Err(error) => Err(error.context(name)),
            Ok(_) => Ok(Some(SlotFile {
                name: name.to_owned(),
                file,
                prefix,
            })),
        }
    }

    /// An error if neither opens it.
    fn check(&self, old: &Encryption, new: &Encryption) -> Result<()> {
        match format::open(&self.prefix, new) {
            Err(error) if error.kind() == Kind::Encryption => {
                format::open(&self.prefix, old).map_err(|e| e.context(&self.name))?;
            }
            result => {
                result.map_err(|e| e.context(&self.name))?;
            }
        }
        Ok(())
    }

    /// Writes the slots that are not as they should be, one behind the other. How many.
    fn rewrap(&mut self, env: &Env, old: &Encryption, new: &Encryption) -> Result<u64> {
        let mut written = 0;
        let next = |prefix: &[u8]| format::rewrap_to(prefix, old, new, true, &*env.random);
        while let Some((offset, page)) = next(&self.prefix).map_err(|e| e.context(&self.name))? {
            let io = |e| Error::io(format!("write a key slot of {}", self.name), e);
            self.file.write_at(offset, &page).map_err(io)?;
            self.file.sync().map_err(io)?;
            let at = usize::try_from(offset).unwrap_or_default();
            if let Some(slot) = self.prefix.get_mut(at..at + PAGE) {
                slot.copy_from_slice(&page);
            }
            written += 1;
        }
        Ok(written)
    }

    /// Checks that the new key opens what is there.
    fn verify(&self, new: &Encryption) -> Result<()> {
        let open = format::open(&self.prefix, new).map_err(|e| e.context(&self.name))?;
        if open.damaged_slot {
            return Err(Error::corrupt(format!(
                "{}: a key slot does not read back as it was written",
                self.name
            )));
        }
        Ok(())
    }
}

/// The rewrap of a running store, in steps, beside its commits: one file each.
pub(crate) struct RewrapFiles {
    names: Vec<String>,
    encryption: Encryption,
    done: Rewrapped,
    /// The files and the key that wraps them now.
    keys: Vec<(String, Option<KeyId>)>,
}

/// What came of it.
pub(crate) struct NewKeys {
    pub done: Rewrapped,
    pub keys: Vec<(String, Option<KeyId>)>,
}

impl RewrapFiles {
    /// A rewrap of files that have begun; one that is removed meanwhile is passed over.
    pub fn new(names: Vec<String>, encryption: Encryption) -> RewrapFiles {
        RewrapFiles {
            names,
            encryption,
            done: Rewrapped::default(),
            keys: Vec::new(),
        }
    }

    /// One file; something when all are done.
    pub fn step(&mut self, seat: &Seat) -> Result<Option<NewKeys>> {
        let Some(name) = self.names.pop() else {
            return Ok(Some(NewKeys {
                done: self.done,
                keys: std::mem::take(&mut self.keys),
            }));
        };
        let Some(mut file) = SlotFile::open(&*seat.disk, &name)? else {
            return Ok(None);
        };
        seat.check_epoch()?;
        let written = file.rewrap(&seat.env, &self.encryption, &self.encryption)?;
        self.done.slots += written;
        seat.count_wraps(written);
        if let Some(file) = SlotFile::open(&*seat.disk, &name)? {
            file.verify(&self.encryption)?;
            let open = format::open(&file.prefix, &self.encryption)?;
            self.done.files += 1;
            self.keys.push((name, open.key_id));
        }
        Ok(None)
    }
}

impl Engine {
    /// Begins a rewrap if someone waits for one. No image is written meanwhile, which would be under the
    /// key of before; files begun from now on are under the new one.
    pub(crate) fn rewrap_if_asked(&mut self) {
        let waiting = std::mem::take(&mut *self.shared.rewraps.lock());
        if waiting.is_empty() {
            return;
        }
        self.rewrap_waiters = waiting;
        self.start_rewrap();
    }

    /// Begins a rewrap of the files that there are.
    pub(crate) fn start_rewrap(&mut self) {
        let image = self.image.iter().map(|image| &image.name);
        let present = self.journal.iter().map(|journal| &journal.name);
        let ended = self.ended().map(|file| &file.name);
        let names = ended.chain(image).chain(present).cloned().collect();
        let encryption = self.seat.encryption.lock().clone();
        self.running = Some(Running::Rewrap);
        let work = Work::Rewrap(RewrapFiles::new(names, encryption));
        self.background.start(removing(Vec::new(), work));
    }

    /// Takes note of the keys that wrap the files now, and answers who waits.
    pub(crate) fn rewrapped(&mut self, new: &NewKeys) {
        let ended = self.past.iter_mut().chain(&mut self.older);
        let ended = ended.map(|file| (&file.name, &mut file.key_id));
        let image = self.image.iter_mut();
        let image = image.map(|image| (&image.name, &mut image.key_id));
        let present = self.journal.iter_mut();
        let present = present.map(|journal| (&journal.name, &mut journal.key_id));
        for (name, key_id) in ended.chain(image).chain(present) {
            let found = new.keys.iter().find(|(of, _)| of == name);
            if let Some((_, now)) = found {
                key_id.clone_from(now);
            }
        }
        self.report_log();
        answer(std::mem::take(&mut self.rewrap_waiters), &Ok(new.done));
        self.reencrypted();
    }
}

impl Store {
    /// Wraps the data keys of the store's present files with the key that wraps new ones: what
    /// makes the other keys of the keyring superfluous, behind [`Store::reload_keyring`]. Runs beside
    /// the commits, behind a fold that is under way, and waits until it is done and verified; what a fold
    /// removes meanwhile is passed over. Then [`Store::reload_keyring`] accepts a keyring without the
    /// old keys. Fails with `closed` if the store is closed before. An error of the disk poisons the
    /// store, as any does.
    pub fn rewrap(&self) -> Result<Rewrapped> {
        let shared = self.shared();
        if matches!(*shared.seat.encryption.lock(), Encryption::None) {
            return Err(Error::new(
                Code::EncryptionMismatch,
                "the store is not encrypted: there are no keys to wrap",
            ));
        }
        self.ask(&shared.rewraps, "the rewrap")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    #[test]
    fn a_key_slot_that_does_not_read_back_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(Encryption::Keyring(crate::tests::keyring("k", 1)));
        let store = Store::open(dir.path(), options.clone()).unwrap();
        store.set(b"k", b"v").unwrap();
        store.close().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        let names = data_files(&disk).unwrap();
        let mut file = SlotFile::open(&disk, &names[0]).unwrap().unwrap();
        file.verify(&options.encryption).unwrap();
        // The second slot.
        file.prefix[2 * PAGE] = 1;
        let error = file.verify(&options.encryption).unwrap_err();
        assert!(error.is(Code::Corrupt), "{error:?}");
        assert!(error.message().contains("does not read back"), "{error:?}");
        assert!(error.message().starts_with(&names[0]), "{error:?}");
    }

    #[test]
    fn a_file_that_was_never_begun_is_passed_over_and_one_that_is_damaged_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let of = |byte| Encryption::Keyring(crate::tests::keyring("k", byte));
        let store = Store::open(dir.path(), Options::new(of(1))).unwrap();
        store.set(b"k", b"v").unwrap();
        store.close().unwrap();
        let ids = |dir| needed_keys(dir).map(|keys| keys.len());
        let files = check_keys(dir.path(), &of(1)).unwrap();
        let log = dir.path().join(layout::log(format::FileKind::Journal, 99));
        std::fs::write(&log, vec![0; 3 * PAGE]).unwrap();
        assert_eq!(ids(dir.path()).unwrap(), 1);
        let done = rewrap(dir.path(), &of(1), &of(2), &mut |_, _| {}).unwrap();
        assert_eq!(done.files, files);
        // Damaged, and in a version that is not known.
        let mut page = vec![1; 4 * PAGE];
        std::fs::write(&log, &page).unwrap();
        let error = ids(dir.path()).unwrap_err();
        assert!(error.is(Code::Corrupt), "{error:?}");
        page.fill(0);
        page[..10].copy_from_slice(b"CODEXSTR\x02\0");
        let sum = crate::crypto::sha256(&[&page[..PAGE - 32]]);
        page[PAGE - 32..PAGE].copy_from_slice(&sum);
        std::fs::write(&log, &page).unwrap();
        let error = ids(dir.path()).unwrap_err();
        assert!(error.is(Code::UnsupportedVersion), "{error:?}");
        let disk = OsDisk::open(dir.path()).unwrap();
        assert!(SlotFile::open(&disk, "gone").unwrap().is_none());
    }

    #[test]
    fn without_encryption_there_is_nothing_to_rewrap() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Options::new(Encryption::None)).unwrap();
        let error = store.rewrap().unwrap_err();
        assert!(error.is(Code::EncryptionMismatch), "{error:?}");
    }
}
