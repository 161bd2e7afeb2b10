//! Handing a backup, or a piece of an archive, over: from one keyring to another.
//!
//! Only the key slots change, which stand behind the header and in no sum: the header, all frames and
//! what they say of each other stay as they are. So whoever passes a backup on does it to the first few
//! kilobytes, and never has the content.

use super::read::check_kind;
use crate::crypto::OsRandom;
use crate::error::{Code, Error, Result};
use crate::format::{self, Cipher, FileKind, PAGE};
use crate::keyring::Encryption;

/// How many bytes at the beginning of a backup say what opens it: header and key slots.
pub const HEAD: usize = 3 * PAGE;

/// The first [`HEAD`] bytes of a backup, or of a piece of an archive, as `new` opens it, given those that `old` opens. What comes behind them
/// stays. The SHA-256 of the whole is another one then.
///
/// `encryption-mismatch` if the backup is not encrypted, or either has no keys; another kind of Encryption if `old` does not open it;
/// `corrupt` if these are not the first bytes of either.
pub fn hand_over(head: &[u8], old: &Encryption, new: &Encryption) -> Result<Vec<u8>> {
    let header = format::open_without_key(head)?.header;
    match header.kind {
        FileKind::Archive => crate::archive::check_kind(&header)?,
        _ => check_kind(&header)?,
    }
    if header.cipher == Cipher::None {
        return Err(Error::new(
            Code::EncryptionMismatch,
            "it is not encrypted: there is no key to wrap anew",
        ));
    }
    let mut head = head.to_vec();
    head.truncate(HEAD);
    // One slot behind the other, until neither holds what `old` wrapped.
    while let Some((offset, page)) = format::rewrap_to(&head, old, new, true, &OsRandom)? {
        let at = usize::try_from(offset).unwrap_or_default();
        if let Some(slot) = head.get_mut(at..at + PAGE) {
            slot.copy_from_slice(&page);
        }
    }
    format::open(&head, new)?;
    Ok(head)
}
