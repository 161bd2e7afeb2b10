//! Names in the directory, and the files `epoch-N`.
//!
//! ```text
//! LOCK             locked while the store is open
//! epoch-N          the claim of the Nth owner: see Epoch
//! image-R          all live entries at revision R
//! journal-N        batches; N only orders names, the headers say what follows what
//! ledger-N         the same in a ledger, where it is kept for ever
//! *.tmp            being written; of no value (but a log's, where a migration was cut: crate::succession)
//! suspect          a write or sync failed: do not trust what the page cache shows
//! restoring        a backup is being restored; there is no store yet
//! ```

use crate::disk::{Disk, read_all};
use crate::error::{Code, Error, Result};
use crate::format::{FileKind, Lineage, StoreId};

/// Name of the mark that a failed write or sync leaves.
pub(crate) const SUSPECT: &str = "suspect";

/// Name of the mark that a restore leaves until it is complete.
pub(crate) const RESTORING: &str = "restoring";

const TMP: &str = ".tmp";
const EPOCH_MAGIC: &[u8; 8] = b"CXSEPOCH";
const EPOCH_LEN: usize = 64;
const INTERVAL: u16 = 1;

/// Name of the image of a revision.
pub(crate) fn image(revision: u64) -> String {
    format!("image-{revision:020}")
}

/// Name of an owner's claim.
pub(crate) fn epoch(number: u64) -> String {
    format!("epoch-{number:020}")
}

/// Name of a log file.
pub(crate) fn log(kind: FileKind, number: u64) -> String {
    match kind {
        FileKind::Ledger => format!("ledger-{number:020}"),
        _ => format!("journal-{number:020}"),
    }
}

/// Name under which a file is written until it is whole.
pub(crate) fn temporary(name: &str) -> String {
    format!("{name}{TMP}")
}

/// The name of a file that is written under this one.
pub(crate) fn final_name(temporary: &str) -> Option<&str> {
    temporary.strip_suffix(TMP)
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Image(u64),
    Log(FileKind, u64),
    Epoch(u64),
    Temporary,
    /// A log file of a migration: see [`crate::migrate`].
    Next(FileKind, u64),
    Suspect,
    Restoring,
    Other,
}

/// Reads a name.
pub(crate) fn parse(name: &str) -> Name {
    let number = |text: &str| match text.parse() {
        Ok(number) if text.len() == 20 => Some(number),
        _ => None,
    };
    if name == SUSPECT {
        return Name::Suspect;
    }
    if name == RESTORING {
        return Name::Restoring;
    }
    if let Some(number) = name.strip_prefix("image-").and_then(number) {
        return Name::Image(number);
    }
    if let Some(number) = name.strip_prefix("journal-").and_then(number) {
        return Name::Log(FileKind::Journal, number);
    }
    if let Some(number) = name.strip_prefix("ledger-").and_then(number) {
        return Name::Log(FileKind::Ledger, number);
    }
    if let Some(number) = name.strip_prefix("epoch-").and_then(number) {
        return Name::Epoch(number);
    }
    match name.strip_suffix(TMP).map(parse) {
        Some(Name::Image(_) | Name::Epoch(_)) => Name::Temporary,
        Some(Name::Log(kind, number)) => Name::Next(kind, number),
        _ => Name::Other,
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove_if_there(disk: &dyn Disk, name: &str) -> Result<()> {
    match disk.remove(name) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {name}"), e))
        }
        _ => Ok(()),
    }
}

/// Who owns the store: the content of `epoch-N`, which nobody but owner N ever makes or writes. The
/// highest number in the directory is the owner's; a file that does not verify is the claim of one
/// that died before it wrote it, and only its number counts. See decision 7.
///
/// 64 bytes: magic (8), version (2), flags (2: bit 0 set for `interval`), zero
/// (4), epoch (8), store id (16), lineage at the time (8), journal (8), zero (4), CRC-32C of all
/// before (4); little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_field_names)] // the number is what the file is named after
pub(crate) struct Epoch {
    /// Counts owners.
    pub epoch: u64,
    /// The store's id.
    pub store: StoreId,
    /// The line of history when the owner opened the store.
    pub lineage: Lineage,
    /// Number of the log file that the owner began with, once that is durable; 0 before the first. It is
    /// there until an image takes its place, so that a store whose last files are missing is not
    /// taken for a shorter one. What follows it is known by the hand-over: see [`crate::fold`].
    pub journal: u64,
    /// The owner acknowledges before it syncs.
    pub interval: bool,
}

impl Epoch {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(EPOCH_LEN);
        let flags = if self.interval { INTERVAL } else { 0 };
        out.extend_from_slice(EPOCH_MAGIC);
        out.extend_from_slice(&crate::format::VERSION.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&self.lineage.0.to_le_bytes());
        out.extend_from_slice(&self.journal.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Epoch> {
        let damaged = || Error::corrupt("epoch: the file does not verify");
        let field = |from: usize, to: usize| bytes.get(from..to).ok_or_else(damaged);
        let number = |from: usize| -> Result<u64> {
            let bytes = field(from, from + 8)?.try_into().map_err(|_| damaged())?;
            Ok(u64::from_le_bytes(bytes))
        };
        let short = |from: usize| -> Result<u16> {
            let bytes = field(from, from + 2)?.try_into().map_err(|_| damaged())?;
            Ok(u16::from_le_bytes(bytes))
        };
        let crc = crc32c::crc32c(field(0, 60)?).to_le_bytes();
        if bytes.len() != EPOCH_LEN || field(0, 8)? != EPOCH_MAGIC || field(60, 64)? != crc {
            return Err(damaged());
        }
        if short(8)? != crate::format::VERSION {
            return Err(Error::new(
                Code::UnsupportedVersion,
                format!("epoch: format version {} is not known", short(8)?),
            ));
        }
        let flags = short(10)?;
        Ok(Epoch {
            epoch: number(16)?,
            store: StoreId(field(24, 40)?.try_into().map_err(|_| damaged())?),
            lineage: Lineage(number(40)?),
            journal: number(48)?,
            interval: flags & INTERVAL != 0,
        })
    }

    /// Reads the claim of that number. `None`: it does not verify.
    pub fn read(disk: &dyn Disk, number: u64) -> Result<Option<Epoch>> {
        let name = epoch(number);
        let bytes = read_all(disk, &name, EPOCH_LEN as u64).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => gone(&name),
            _ => Error::io(format!("read {name}"), e),
        })?;
        match Epoch::decode(&bytes) {
            Ok(found) => Ok(Some(found).filter(|found| found.epoch == number)),
            Err(error) if error.is(Code::Corrupt) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the owner's own file, durably. A crash leaves the old one or this one.
    pub fn publish(&self, disk: &dyn Disk) -> Result<()> {
        let to = epoch(self.epoch);
        let name = temporary(&to);
        let doing = |what: &'static str| {
            let to = to.clone();
            move |e| Error::io(format!("{what} {to}"), e)
        };
        remove_if_there(disk, &name)?;
        let file = disk.create(&name).map_err(doing("create"))?;
        file.write_at(0, &self.encode()).map_err(doing("write"))?;
        file.sync().map_err(doing("sync"))?;
        disk.rename(&name, &to).map_err(doing("rename"))?;
        // Never `disk-full`, which says that nothing has happened.
        disk.sync_dir().map_err(|e| {
            Error::new(Code::Io, format!("sync the directory of {to}: {e}")).with_source(e)
        })
    }
}

/// There is nothing of a store.
pub(crate) fn no_store() -> Error {
    Error::new(Code::NotFound, "there is no store in this directory")
}

/// A file that was listed and has gone since: an owner that no lock keeps away is at work.
pub(crate) fn gone(name: &str) -> Error {
    Error::new(
        Code::Locked,
        format!("{name} was removed while the store was opened: another owner is at work"),
    )
}

/// The error for a directory that holds an unfinished restore.
pub(crate) fn unfinished() -> Error {
    Error::new(
        Code::RestoreUnfinished,
        "a restore into this directory was not finished: run it again, or empty the directory",
    )
}

/// Claims the store, durably: from now on every owner of a lower number is fenced. Fails with
/// `locked` if another opener claims the same number.
pub(crate) fn claim(disk: &dyn Disk, number: u64) -> Result<()> {
    let name = epoch(number);
    match disk.create(&name) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::new(
                Code::Locked,
                format!("another owner is opening the store: it has made {name}"),
            ));
        }
        result => result.map_err(|e| Error::io(format!("create {name}"), e))?,
    };
    disk.sync_dir().map_err(|e| {
        Error::new(Code::Io, format!("sync the directory of {name}: {e}")).with_source(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        assert_eq!(parse(&image(7)), Name::Image(7));
        for kind in [FileKind::Journal, FileKind::Ledger] {
            assert_eq!(parse(&log(kind, u64::MAX)), Name::Log(kind, u64::MAX));
        }
        assert_eq!(parse(&temporary(&image(7))), Name::Temporary);
        assert_eq!(parse(&epoch(7)), Name::Epoch(7));
        assert_eq!(parse(&temporary(&epoch(7))), Name::Temporary);
        let next = temporary(&log(FileKind::Ledger, 7));
        assert_eq!(parse(&next), Name::Next(FileKind::Ledger, 7));
        assert_eq!(final_name(&next), Some(&*log(FileKind::Ledger, 7)));
        for other in [
            "LOCK",
            "epoch",
            "image-7",
            "lost+found",
            "journal-",
            "notes.tmp",
        ] {
            assert_eq!(parse(other), Name::Other, "{other}");
        }
    }

    #[test]
    fn every_changed_byte_of_the_epoch_file_is_noticed() {
        let epoch = Epoch {
            epoch: 3,
            store: StoreId([7; 16]),
            lineage: Lineage(9),
            journal: 5,
            interval: false,
        };
        let bytes = epoch.encode();
        assert_eq!(Epoch::decode(&bytes).unwrap(), epoch);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Epoch::decode(&bad).is_err(), "byte {at}");
            assert!(Epoch::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_claim_is_of_one_owner_and_in_a_format_that_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let disk = crate::disk::OsDisk::open(dir.path()).unwrap();
        assert!(Epoch::read(&disk, 3).unwrap_err().is(Code::Locked), "gone");
        claim(&disk, 3).unwrap();
        assert!(claim(&disk, 3).unwrap_err().is(Code::Locked), "twice");
        assert_eq!(Epoch::read(&disk, 3).unwrap(), None, "it says nothing yet");
        let mut epoch = Epoch {
            epoch: 3,
            store: StoreId([7; 16]),
            lineage: Lineage(9),
            journal: 5,
            interval: true,
        };
        epoch.publish(&disk).unwrap();
        assert_eq!(Epoch::read(&disk, 3).unwrap(), Some(epoch));
        // Of another owner, and of another version.
        let file = disk.open(&super::epoch(3)).unwrap();
        epoch.epoch = 4;
        let mut bytes = epoch.encode();
        file.write_at(0, &bytes).unwrap();
        assert_eq!(Epoch::read(&disk, 3).unwrap(), None);
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        file.write_at(0, &bytes).unwrap();
        let error = Epoch::read(&disk, 3).unwrap_err();
        assert!(error.is(Code::UnsupportedVersion), "{error:?}");
    }
}
