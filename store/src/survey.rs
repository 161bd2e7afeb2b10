//! What is in the directory: names, headers and key slots, read without modifying anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::{Disk, DiskFile};
use crate::error::{Code, Error, Result};
use crate::format::{self, FRAMES_AT, FileKind, OpenFile};
use crate::keyring::Encryption;
use crate::layout::{self, Epoch, Name};
use crate::options::Strategy;
use crate::stats::Finding;
use crate::succession::Succession;

/// A file whose beginning is verified.
pub(crate) struct Found {
    pub number: u64,
    pub name: String,
    pub len: u64,
    pub open: OpenFile,
}

/// What is in the directory, with all keys checked and nothing modified.
pub(crate) struct Survey {
    /// The last owner that said who it was.
    pub epoch: Option<Epoch>,
    /// The numbers of all claims.
    pub claims: BTreeSet<u64>,
    pub images: BTreeMap<u64, Found>,
    /// Journals and segments of a ledger.
    pub logs: Vec<Found>,
    pub garbage: Vec<String>,
    /// Log files without a header: never begun, and so of no value.
    pub unbegun: Vec<String>,
    pub highest: u64,
    pub suspect: bool,
}

impl Survey {
    /// Reads names, headers and key slots.
    pub fn take(disk: &dyn Disk, encryption: &Encryption) -> Result<Survey> {
        let mut survey = Survey {
            epoch: None,
            claims: BTreeSet::new(),
            images: BTreeMap::new(),
            logs: Vec::new(),
            garbage: Vec::new(),
            unbegun: Vec::new(),
            highest: 0,
            suspect: false,
        };
        let mut names = disk
            .list()
            .map_err(|e| Error::io("list the store's directory", e))?;
        if names.iter().any(|name| name == layout::RESTORING) {
            return Err(layout::unfinished());
        }
        names.sort();
        let succession = Succession::find(disk, &names)?;
        for name in names {
            if succession.replaced(&name) {
                survey.note(&name);
                survey.garbage.push(name);
                continue;
            }
            match layout::parse(&name) {
                Name::Image(revision) => {
                    let found = find(disk, revision, name, FileKind::Image, encryption)?;
                    survey.images.extend(found.map(|found| (revision, found)));
                }
                Name::Log(kind, number) => {
                    survey.note(&name);
                    match find(disk, number, name.clone(), kind, encryption)? {
                        Some(found) => survey.logs.push(found),
                        None => survey.unbegun.push(name),
                    }
                }
                Name::Next(kind, number) if succession.succeeds(&name) => {
                    survey.note(&name);
                    match find(disk, number, name.clone(), kind, encryption)? {
                        Some(found) => survey.logs.push(found),
                        None => return Err(Error::corrupt(format!("{name}: no header"))),
                    }
                }
                Name::Temporary | Name::Next(..) => survey.garbage.push(name),
                Name::Suspect => survey.suspect = true,
                Name::Epoch(number) => {
                    survey.claims.insert(number);
                    // In the order of their numbers: the last one counts.
                    survey.epoch = Epoch::read(disk, number)?.or(survey.epoch);
                }
                Name::Restoring | Name::Other => {}
            }
        }
        survey.check_owner()?;
        Ok(survey)
    }

    /// Takes note of a log file's number.
    fn note(&mut self, name: &str) {
        if let Name::Log(_, number) | Name::Next(_, number) = layout::parse(name) {
            self.highest = self.highest.max(number);
        }
    }

    /// The strategy of a store that holds anything: that of its newest log file.
    pub fn strategy(&self) -> Option<Strategy> {
        let newest = self
            .logs
            .iter()
            .max_by_key(|found| (found.open.header.epoch, found.number))?;
        Some(match newest.open.header.kind {
            FileKind::Ledger => Strategy::Ledger,
            _ => Strategy::Snapshot,
        })
    }

    /// Refuses to open a store with another strategy than its own.
    pub fn check_strategy(&self, wanted: Strategy) -> Result<()> {
        match self.strategy() {
            Some(found) if found != wanted => Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "the store's strategy is {}, not {}: convert it first",
                    found.as_str(),
                    wanted.as_str()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Bytes of all images and log files.
    pub fn bytes(&self) -> u64 {
        self.images
            .values()
            .chain(&self.logs)
            .map(|found| found.len)
            .sum()
    }

    /// Files that opened with the one key slot that is good.
    pub fn damaged_slots(&self) -> Vec<Finding> {
        self.images
            .values()
            .chain(&self.logs)
            .filter(|found| found.open.damaged_slot)
            .map(|found| Finding::DamagedKeySlot {
                file: found.name.clone(),
            })
            .collect()
    }

    /// True if no file holds anything.
    fn is_empty(&self) -> bool {
        self.images.is_empty() && self.logs.is_empty()
    }

    /// The highest claim; 0 if there is none.
    pub fn highest_claim(&self) -> u64 {
        self.claims.last().copied().unwrap_or(0)
    }

    fn check_owner(&self) -> Result<()> {
        let Some(epoch) = self.epoch else {
            if self.is_empty() {
                return Ok(());
            }
            return Err(Error::corrupt(
                "epoch: no such file verifies, but there are data files",
            ));
        };
        if epoch.journal > 0 && self.is_empty() {
            return Err(Error::corrupt(
                "the store was in use, but all of its images and log files are missing",
            ));
        }
        for found in self.images.values().chain(&self.logs) {
            let header = &found.open.header;
            if header.store != epoch.store {
                return Err(Error::corrupt(format!("{}: of another store", found.name)));
            }
            if header.epoch > self.highest_claim() {
                return Err(Error::corrupt(format!(
                    "{}: of epoch {}, but the store is only at {}",
                    found.name,
                    header.epoch,
                    self.highest_claim()
                )));
            }
        }
        Ok(())
    }
}

/// Reads a file's beginning. `None`: a log file that was never begun, for nothing is behind a
/// header that was not yet synced.
fn find(
    disk: &dyn Disk,
    number: u64,
    name: String,
    kind: FileKind,
    encryption: &Encryption,
) -> Result<Option<Found>> {
    let io = |e| Error::io(format!("read {name}"), e);
    let file = disk.open(&name).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => layout::gone(&name),
        _ => io(e),
    })?;
    let len = file.len().map_err(io)?;
    let mut prefix = vec![0; usize::try_from(len.min(FRAMES_AT)).unwrap_or_default()];
    file.read_at(0, &mut prefix).map_err(io)?;
    let open = match format::open(&prefix, encryption) {
        Ok(open) if open.header.kind == kind => open,
        Ok(_) => {
            return Err(Error::corrupt(format!(
                "{name}: not the kind of file it is named"
            )));
        }
        Err(error) => {
            let unbegun = !kind.must_close()
                && error.is(Code::Corrupt)
                && nothing_behind(&*file, len).map_err(io)?;
            if unbegun {
                return Ok(None);
            }
            return Err(error.context(name));
        }
    };
    Ok(Some(Found {
        number,
        name,
        len,
        open,
    }))
}

/// True if a file has only zeros behind its header.
pub(crate) fn nothing_behind(file: &dyn DiskFile, len: u64) -> std::io::Result<bool> {
    let mut at = FRAMES_AT;
    let (mut chunk, zeros) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    while at < len {
        let take = usize::try_from(len - at)
            .unwrap_or(usize::MAX)
            .min(chunk.len());
        let part = chunk.get_mut(..take).unwrap_or_default();
        file.read_at(at, part)?;
        if zeros.get(..take) != Some(part) {
            return Ok(false);
        }
        at += take as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::OsRandom;
    use crate::disk::OsDisk;
    use crate::format::{FileId, FileSpec, Lineage, Link, PAGE, StoreId};
    use crate::layout::{image, log, temporary};

    const JOURNAL: FileKind = FileKind::Journal;

    /// A file without frames, of a store and an owner, which names a log file (0: none).
    fn file(disk: &OsDisk, name: &str, kind: FileKind, (store, epoch): (u8, u64), link: u8) {
        let spec = FileSpec {
            kind,
            store: StoreId([store; 16]),
            lineage: Lineage(1),
            file: FileId([7; 16]),
            epoch,
            first_revision: 1,
            link: Link {
                file: FileId([link; 16]),
                ..Link::default()
            },
            compression: crate::Compression::None,
            key_size: crate::KeySize::Aes256,
            created_ms: 0,
        };
        let made = format::create(&spec, &Encryption::None, &OsRandom).unwrap();
        disk.create(name)
            .unwrap()
            .write_at(0, &made.prefix)
            .unwrap();
    }

    fn owner(disk: &OsDisk, epoch: u64, journal: u64) {
        let owner = Epoch {
            epoch,
            store: StoreId([1; 16]),
            lineage: Lineage(1),
            journal,
            interval: false,
        };
        owner.publish(disk).unwrap();
    }

    fn surveyed(make: impl FnOnce(&OsDisk)) -> Result<Survey> {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        make(&disk);
        Survey::take(&disk, &Encryption::None)
    }

    #[test]
    fn files_that_are_not_of_one_store_and_its_owners_are_damage() {
        type Make = fn(&OsDisk);
        let good: Make = |disk| {
            owner(disk, 1, 1);
            file(disk, &log(JOURNAL, 1), JOURNAL, (1, 1), 0);
        };
        assert_eq!(surveyed(good).unwrap().logs.len(), 1);
        let bad: [(Make, &str); 6] = [
            (
                |disk| file(disk, &log(JOURNAL, 1), JOURNAL, (1, 1), 0),
                "no such file verifies, but there are data files",
            ),
            (
                |disk| owner(disk, 1, 1),
                "all of its images and log files are missing",
            ),
            (
                |disk| {
                    owner(disk, 1, 1);
                    file(disk, &log(JOURNAL, 1), JOURNAL, (2, 1), 0);
                },
                "of another store",
            ),
            (
                |disk| {
                    owner(disk, 1, 1);
                    file(disk, &log(JOURNAL, 1), JOURNAL, (1, 2), 0);
                },
                "of epoch 2, but the store is only at 1",
            ),
            (
                |disk| {
                    owner(disk, 1, 1);
                    file(disk, &log(JOURNAL, 1), FileKind::Ledger, (1, 1), 0);
                },
                "not the kind of file it is named",
            ),
            // The log of a migration, of which nothing but the header is good.
            (
                |disk| {
                    owner(disk, 1, 1);
                    file(disk, &image(1), FileKind::Image, (1, 1), 7);
                    let name = temporary(&log(JOURNAL, 2));
                    file(disk, &name, JOURNAL, (1, 1), 0);
                    let slot = disk.open(&name).unwrap();
                    slot.write_at(PAGE as u64, &[1]).unwrap();
                },
                "no header",
            ),
        ];
        for (make, what) in bad {
            let error = surveyed(make).err().expect(what);
            assert!(error.is(Code::Corrupt), "{error:?}");
            assert!(error.message().contains(what), "{error:?}, not {what}");
        }
    }

    #[test]
    fn an_owner_needs_a_number_that_is_higher_than_all_before() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        owner(&disk, u64::MAX, 0);
        let env = crate::Env::system();
        let taken = crate::open::take_over(&disk, &env, &Encryption::None, false, |_| Ok(()));
        let error = taken.err().unwrap();
        assert!(error.is(Code::Corrupt), "{error:?}");
        assert!(
            error.message().contains("no higher one is left"),
            "{error:?}"
        );
    }
}
