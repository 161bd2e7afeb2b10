//! A continuous archive: what a store commits, in pieces, so that a restore reaches beyond the last backup.
//!
//! A piece is one file of kind archive, in the format of all files of a store: encrypted with a data key of its own, chained,
//! and ended by a closing frame. It holds every batch behind one revision up to another, with time and actor. Whoever has got
//! everything up to a revision asks for the piece behind it ([`crate::Store::archive`]) and keeps it; no key is needed for
//! that. A store of either strategy makes them: a ledger of all of its history, a snapshot store as far back as its log reaches.
//!
//! A restore takes a backup and the pieces of the same line of history that follow it without a gap, to the last of them, to a
//! revision or to a time: [`restore`]. What overlaps is no harm, for a line of history is the same whoever wrote it down: only
//! what is durable, and was answered, gets into a piece.
//!
//! ```
//! use codexstore::archive::{self, Archived, Until};
//! use codexstore::{Encryption, Options, Store, backup};
//!
//! # fn main() -> codexstore::Result<()> {
//! # let (dir, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
//! # let (dir, new) = (dir.path(), new.path());
//! let options = Options::new(Encryption::None);
//! let store = Store::open(dir, options.clone())?;
//! store.set(b"greeting", b"hello")?;
//! let mut bytes = Vec::new();
//! let backup = store.backup(&mut bytes)?;
//!
//! store.set(b"greeting", b"hello again")?;
//! store.set(b"greeting", b"a mistake")?;
//! let next = store.archive(backup.envelope.lineage, backup.envelope.revision)?;
//! let Archived::Piece(piece) = next else { panic!("there is something new") };
//! assert_eq!((piece.info.envelope.from, piece.info.envelope.to), (1, 3));
//!
//! bytes.extend(&piece.bytes);
//! let restored = archive::restore(new, &bytes[..], Until::Revision(2), &options)?;
//! assert_eq!(restored.archive.expect("with a piece").revision, 2);
//! let store = Store::open(new, options)?;
//! assert_eq!(store.get(b"greeting")?.expect("restored").value(), b"hello again");
//! # Ok(())
//! # }
//! ```

mod info;
mod make;
mod read;

use std::io::Read;
use std::path::Path;

pub use info::{Archived, Piece, PieceContents, PieceEnvelope, PieceInfo, Position};
pub(crate) use read::{Reader, check_kind};
pub use read::{verify, verify_chain};

use crate::backup::{Restored, restore_all};
use crate::disk::{Disk, OsDisk};
use crate::env::Env;
use crate::error::Result;
use crate::format::Lineage;
use crate::options::Options;
use crate::store::Store;

/// How far a restore goes beyond its backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Until {
    /// As far as the pieces go.
    #[default]
    End,
    /// Up to this revision and with it.
    Revision(u64),
    /// Up to the last batch that was committed at this time or before: milliseconds since 1970.
    Time(u64),
}

impl Store {
    /// What was committed behind revision `after` of that line of history, as a piece: as much as is durable, up to about 8 MiB,
    /// or one batch that is larger. The piece is held in memory, as it is made and as it is given.
    ///
    /// Fails with `fenced` if another owner has taken the store over, and with what reading the log fails with.
    pub fn archive(&self, lineage: Lineage, after: u64) -> Result<Archived> {
        make::next(self.shared(), lineage, after)
    }

    /// Where the store is, for those who archive it.
    pub fn archive_position(&self) -> Position {
        make::position(self.shared())
    }
}

/// Makes a store of a backup, and of the pieces whose bytes come right behind it, in `dir`: see [`crate::backup::restore`]. The
/// pieces must be of the same store and line of history, and follow each other without a gap; what the backup or an
/// earlier piece holds is skipped. A ledger gets every batch with its time and actor, a snapshot store a log of them, which its
/// first owner folds: so there must be room for both, backup and pieces.
///
/// `invalid-argument` if the backup is beyond `until` already, if the pieces end before the revision that is wanted, if there is a
/// gap, or if a piece is of another line of history; `corrupt` or a kind of Encryption if something does not verify. After an
/// error there is no store.
pub fn restore(dir: &Path, from: impl Read, until: Until, options: &Options) -> Result<Restored> {
    restore_with(&OsDisk::open(dir)?, &Env::system(), from, until, options)
}

/// The same on a disk and in an environment of the caller's: for simulations.
pub fn restore_with(
    disk: &dyn Disk,
    env: &Env,
    from: impl Read,
    until: Until,
    options: &Options,
) -> Result<Restored> {
    restore_all(disk, env, from, Some(until), options)
}

#[cfg(test)]
pub(crate) use make::{next, position};
