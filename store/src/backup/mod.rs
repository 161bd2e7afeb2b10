//! Backups: a store's content at one revision, as a stream of bytes; and back.
//!
//! A backup is one file of kind backup, in the format of all files of a store: encrypted with a
//! data key of its own, chained, and ended by a closing frame, so that a cut is noticed. It is
//! written from a point in time while writes go on ([`crate::Store::backup`]), into whatever takes
//! bytes, or into a directory of which the last few are kept ([`crate::Store::backup_to`]). With
//! the key, [`verify`] opens all of it; without, [`verify_chain`] still notices every change that
//! was not made on purpose. [`restore`] makes a store of it, in a directory that has none.
//! [`hand_over`] has another keyring open it. [`crate::archive`] has what was committed since.
//!
//! ```
//! use codexstore::{Encryption, Key, KeyId, Keyring, Options, Store, backup};
//!
//! # fn main() -> codexstore::Result<()> {
//! # let (dir, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
//! # let (dir, new) = (dir.path(), new.path());
//! let keyring = Keyring::single(KeyId::new("2026-11")?, Key::new(&[7; 32])?);
//! let options = Options::new(Encryption::Keyring(keyring));
//! let store = Store::open(dir, options.clone())?;
//! store.set(b"user/ada", b"Lovelace")?;
//!
//! let mut stream = Vec::new();
//! let written = store.backup(&mut stream)?;
//! assert_eq!(backup::verify(&stream[..], &options.encryption)?, written);
//!
//! let restored = backup::restore(new, &stream[..], &options)?;
//! assert_eq!(restored.backup.contents, written.contents);
//! let store = Store::open(new, options)?;
//! assert_eq!(store.get(b"user/ada")?.expect("restored").value(), b"Lovelace");
//! // Old preconditions and etags match nothing here.
//! assert_ne!(store.lineage(), written.envelope.lineage.0);
//! # Ok(())
//! # }
//! ```

mod hand_over;
mod info;
mod local;
mod make;
mod read;
mod restore;
mod take;
mod write;

use std::io::Write;
use std::path::{Path, PathBuf};

pub use hand_over::{HEAD, hand_over};
pub(crate) use info::Root;
pub use info::{BackupInfo, Contents, Envelope};
pub use local::{LocalBackup, list, rotate};
pub use read::{verify, verify_chain};
pub(crate) use restore::restore_all;
pub use restore::{ArchiveRestored, Restored, restore, restore_as_it_was, restore_on};
pub use write::BackupOptions;

use crate::disk::OsDisk;
use crate::error::Result;
use crate::store::Store;

#[cfg(test)]
pub(crate) use {
    local::write_to,
    write::{hold, write},
};

impl Store {
    /// Writes a backup of the present to `out`, a ledger's with all of its history, while writes go
    /// on, and says what it wrote. Holds
    /// little more memory than the entries that are replaced meanwhile. What was written is a
    /// backup only if this succeeds.
    ///
    /// Fails with `deadline` after 30 minutes: see [`Store::backup_with`]; with `memory-full` if a
    /// write needs the memory of what was replaced, for writes go first; with `fenced` if another
    /// owner has taken the store over; with `past-gone` if a ledger's retention takes history that
    /// was still to come; with an Io error if `out` does.
    pub fn backup(&self, out: &mut impl Write) -> Result<BackupInfo> {
        self.backup_with(out, &BackupOptions::default())
    }

    /// [`Store::backup`] with settings.
    pub fn backup_with(&self, out: &mut impl Write, options: &BackupOptions) -> Result<BackupInfo> {
        write::write(self.shared(), options, out)
    }

    /// Writes a backup into a file of its own in `dir`, which is made if it does not exist, and
    /// then removes all but the last [`BackupOptions::keep`] backups of this store. The file
    /// appears when it is whole and durable; its name sorts by store, time and revision. Many
    /// threads and processes may do this at the same time.
    pub fn backup_to(&self, dir: &Path, options: &BackupOptions) -> Result<(PathBuf, BackupInfo)> {
        let disk = OsDisk::unlocked(dir)?;
        let (name, info) = local::write_to(self.shared(), &disk, options)
            .map_err(|error| error.context(dir.display()))?;
        Ok((dir.join(name), info))
    }

    /// The present content as one number: the revision, and the same SHA-256 over all entries that
    /// a backup of that revision says ([`Contents::root`]). Reads everything.
    pub fn content(&self) -> Result<(u64, crate::format::Digest)> {
        write::content(self.shared())
    }
}
