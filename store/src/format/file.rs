//! The first pages of a file: made, opened, rewrapped.

use super::header::{Cipher, FileId, FileKind, Header, Lineage, Link, StoreId};
use super::seal::Sealer;
use super::slot::{KeySlot, Slots};
use super::wire::Page;
use super::{Digest, FRAMES_AT, PAGE};
use crate::compress::Compression;
use crate::crypto::{DataKey, FrameCipher, NONCE, Random, same};
use crate::error::{Code, Error, Kind, Result};
use crate::keyring::{Encryption, KeyId, KeySize, Keyring, Wrapping};

/// What a new file shall be. See [`Header`] for the fields.
#[derive(Debug, Clone)]
pub struct FileSpec {
    /// What it will hold.
    pub kind: FileKind,
    /// The store that it belongs to.
    pub store: StoreId,
    /// The line of history.
    pub lineage: Lineage,
    /// The new file's id; random.
    pub file: FileId,
    /// The owner's epoch.
    pub epoch: u64,
    /// See [`Header::first_revision`].
    pub first_revision: u64,
    /// See [`Header::link`].
    pub link: Link,
    /// How payloads are compressed where it helps.
    pub compression: Compression,
    /// Size of the frames' AES key; without meaning if the store is not encrypted.
    pub key_size: KeySize,
    /// The store's time: milliseconds since 1970.
    pub created_ms: u64,
}

/// A new file: its prefix, to be written at offset 0, and what makes its frames.
pub struct NewFile {
    /// Its header.
    pub header: Header,
    /// Header and key slots: [`FRAMES_AT`] bytes.
    pub prefix: Vec<u8>,
    /// Makes its frames.
    pub sealer: Sealer,
    /// The key that wraps its data key; none without encryption.
    pub key_id: Option<KeyId>,
}

/// A file whose header and key are verified; a [`super::Reader`] reads its frames.
pub struct OpenFile {
    /// Its header.
    pub header: Header,
    /// The key that wraps its data key; none without encryption.
    pub key_id: Option<KeyId>,
    /// One key slot is damaged, or was cut in a rewrap, and the file opened with the other: to be
    /// reported, and mended by [`rewrap`].
    pub damaged_slot: bool,
    pub(crate) hash: Digest,
    /// None when only the chain is to be checked.
    pub(crate) cipher: Option<FrameCipher>,
}

/// Makes a file's prefix, with a fresh data key.
pub fn create(spec: &FileSpec, encryption: &Encryption, random: &dyn Random) -> Result<NewFile> {
    let mut header = Header {
        kind: spec.kind,
        store: spec.store,
        lineage: spec.lineage,
        file: spec.file,
        epoch: spec.epoch,
        first_revision: spec.first_revision,
        link: spec.link,
        compression: spec.compression,
        cipher: Cipher::None,
        commitment: [0; 32],
        created_ms: spec.created_ms,
    };
    let mut key = None;
    let mut cipher = FrameCipher::None;
    if let Some(wrapping) = encryption.wrapping(random)? {
        let data_key = DataKey::generate(random)?;
        header.cipher = Cipher::AesGcm(spec.key_size);
        header.commitment = data_key.commitment(&header.file.0)?;
        cipher = data_key.frame_cipher(&header.file.0, spec.key_size)?;
        key = Some((data_key, wrapping));
    }
    let mut prefix = header.encode();
    let hash = Page::checksum(&prefix).unwrap_or_default();
    let mut key_id = None;
    if let Some((data_key, wrapping)) = key {
        prefix.extend(wrap(&data_key, &wrapping, &hash, 1, random)?.encode());
        key_id = Some(wrapping.id);
    }
    prefix.resize(3 * PAGE, 0);
    let sealer = Sealer::new(&header, hash, cipher)?;
    Ok(NewFile {
        header,
        prefix,
        sealer,
        key_id,
    })
}

/// Verifies a file's prefix ([`FRAMES_AT`] bytes) and unwraps its data key. Nothing is modified.
///
/// A wrong or missing key shows here, before any frame is opened.
pub fn open(prefix: &[u8], encryption: &Encryption) -> Result<OpenFile> {
    let (header, hash, slots) = decode(prefix)?;
    match (header.cipher, encryption) {
        (Cipher::None, Encryption::None) => Ok(OpenFile {
            header,
            key_id: None,
            damaged_slot: false,
            hash,
            cipher: Some(FrameCipher::None),
        }),
        (Cipher::None, given) => Err(Error::new(
            Code::EncryptionMismatch,
            format!("the file is not encrypted, but {} was given", given.what()),
        )),
        (Cipher::AesGcm(_), Encryption::None) => Err(Error::new(
            Code::EncryptionMismatch,
            "the file is encrypted, but neither a keyring nor a passphrase was given",
        )),
        (Cipher::AesGcm(size), encryption) => {
            let (_, slot) = slots.require()?;
            let data_key = unwrap(slot, encryption, &header, &hash)?;
            let cipher = data_key.frame_cipher(&header.file.0, size)?;
            Ok(OpenFile {
                key_id: Some(slot.key_id.clone()),
                damaged_slot: slots.damaged,
                hash,
                cipher: Some(cipher),
                header,
            })
        }
    }
}

/// Verifies a file's prefix without any key. A reader of it checks the chain and shows no payload;
/// without encryption it checks and shows everything.
pub fn open_without_key(prefix: &[u8]) -> Result<OpenFile> {
    let (header, hash, slots) = decode(prefix)?;
    Ok(OpenFile {
        key_id: slots.newest().map(|(_, slot)| slot.key_id.clone()),
        damaged_slot: slots.damaged,
        hash,
        cipher: (header.cipher == Cipher::None).then_some(FrameCipher::None),
        header,
    })
}

/// Wraps the file's data key with the keyring's current key: the offset to write at, and the page
/// to write there and sync. `None` if the current key wraps it already and no slot is damaged.
pub fn rewrap(
    prefix: &[u8],
    keyring: &Keyring,
    random: &dyn Random,
) -> Result<Option<(u64, Vec<u8>)>> {
    let encryption = Encryption::Keyring(keyring.clone());
    rewrap_to(prefix, &encryption, &encryption, false, random)
}

/// Wraps the data key of a file that `old` or `new` opens with what `new` wraps new files with: see
/// [`rewrap`]. With `both`, a second call gives the page for the slot that still holds the key of
/// before, so that this key opens the file no more, and either slot may be damaged later.
pub(crate) fn rewrap_to(
    prefix: &[u8],
    old: &Encryption,
    new: &Encryption,
    both: bool,
    random: &dyn Random,
) -> Result<Option<(u64, Vec<u8>)>> {
    let (header, hash, slots) = decode(prefix)?;
    if header.cipher == Cipher::None {
        return Ok(None);
    }
    let (index, slot) = slots.require()?;
    let opened = unwrap(slot, new, &header, &hash);
    let done = opened.is_ok() && new.wraps_like(slot);
    let other = slots.other(index);
    let good =
        |other: &KeySlot| new.wraps_like(other) && unwrap(other, new, &header, &hash).is_ok();
    let stale = both && other.is_some_and(|other| !good(other));
    if done && !slots.damaged && !stale {
        return Ok(None);
    }
    let data_key = match opened {
        Err(error) if error.kind() == Kind::Encryption => unwrap(slot, old, &header, &hash)?,
        result => result?,
    };
    let generation = slot
        .generation
        .checked_add(1)
        .ok_or_else(|| Error::corrupt("key slot: its generation cannot be raised"))?;
    let wrapping = new.wrapping(random)?.ok_or_else(|| {
        Error::new(
            Code::EncryptionMismatch,
            "without a keyring or a passphrase no key can be wrapped",
        )
    })?;
    let page = wrap(&data_key, &wrapping, &hash, generation, random)?.encode();
    let other = if index == 0 { 2 } else { 1 };
    Ok(Some(((other * PAGE) as u64, page)))
}

fn decode(prefix: &[u8]) -> Result<(Header, Digest, Slots)> {
    let header = Header::decode(prefix)?;
    let hash = Page::checksum(prefix).unwrap_or_default();
    let pages = prefix
        .get(PAGE..3 * PAGE)
        .ok_or_else(|| Error::corrupt(format!("the file ends before offset {FRAMES_AT}")))?;
    let slots = Slots::decode(pages);
    if header.cipher == Cipher::None && !slots.is_empty() {
        return Err(Error::corrupt(format!(
            "key slots at offset {PAGE}: not zero in a file that is not encrypted"
        )));
    }
    Ok((header, hash, slots))
}

fn wrap(
    data_key: &DataKey,
    with: &Wrapping,
    header_hash: &Digest,
    generation: u64,
    random: &dyn Random,
) -> Result<KeySlot> {
    let mut nonce = [0; NONCE];
    random.fill(&mut nonce)?;
    let wrapped = data_key.wrap(&with.key, &nonce, header_hash)?;
    Ok(KeySlot {
        generation,
        key_id: with.id.clone(),
        derivation: with.derivation,
        nonce,
        wrapped,
    })
}

fn unwrap(
    slot: &KeySlot,
    encryption: &Encryption,
    header: &Header,
    hash: &Digest,
) -> Result<DataKey> {
    let id = &slot.key_id;
    let kek = encryption.unwrapping(slot)?;
    let wrong = || {
        let what = match slot.derivation {
            Some(_) => "the passphrase is not the one".to_owned(),
            None => format!("key {id} is not the one"),
        };
        Error::new(
            Code::WrongKey,
            format!("{what} that wrapped the file's data key"),
        )
    };
    let data_key = DataKey::unwrap(&slot.wrapped, &kek, &slot.nonce, hash)?.ok_or_else(wrong)?;
    if !same(&data_key.commitment(&header.file.0)?, &header.commitment) {
        return Err(Error::new(
            Code::WrongKey,
            format!("the data key under {id} is not the one that the header commits to"),
        ));
    }
    encryption.adopt(slot);
    Ok(data_key)
}
