//! Key slots: the data key, wrapped, twice.
//!
//! A rewrap writes the slot that is not in use, so a crash in the middle leaves the one that is.
//! The good slot with the highest generation counts.

use super::PAGE;
use super::wire::{Fields, Page, is_zero};
use crate::crypto::NONCE;
use crate::error::{Error, Result};
use crate::keyring::KeyId;
use crate::passphrase::{Derivation, SALT};

const MAGIC: [u8; 8] = *b"CODEXKEY";

/// Where a slot's key-encryption key comes from.
const RAW: u8 = 0;
const PBKDF2: u8 = 1;

/// One key slot: the file's data key, encrypted with a key of the keyring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// Counts rewraps, from 1.
    pub generation: u64,
    /// Which key of the keyring wraps the data key.
    pub key_id: KeyId,
    /// How that key is derived from a passphrase; none for a raw key. Not associated data, for it
    /// decides the key: another value makes another key, which does not unwrap.
    pub derivation: Option<Derivation>,
    pub(crate) nonce: [u8; NONCE],
    pub(crate) wrapped: [u8; 48],
}

impl KeySlot {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = Page::new();
        page.put(&MAGIC);
        page.put(&self.generation.to_le_bytes());
        let id = self.key_id.as_str().as_bytes();
        let mut name = [0; KeyId::MAX];
        for (to, from) in name.iter_mut().zip(id) {
            *to = *from;
        }
        page.put(&(id.len() as u64).to_le_bytes());
        page.put(&name);
        page.put(&self.nonce);
        page.put(&self.wrapped);
        if let Some(derivation) = &self.derivation {
            page.put(&[PBKDF2, 0, 0, 0]);
            page.put(&derivation.iterations.to_le_bytes());
            page.put(&derivation.salt);
        }
        page.seal()
    }

    fn decode(page: &[u8]) -> Option<KeySlot> {
        if !Page::verify(page) {
            return None;
        }
        let mut fields = Fields::new(page);
        if fields.array()? != MAGIC {
            return None;
        }
        let generation = fields.u64().filter(|generation| *generation > 0)?;
        let len = usize::try_from(fields.u64()?).ok()?;
        let (id, padding) = fields.bytes(KeyId::MAX)?.split_at_checked(len)?;
        let key_id = KeyId::new(std::str::from_utf8(id).ok()?).ok()?;
        let mut slot = KeySlot {
            generation,
            key_id,
            derivation: None,
            nonce: fields.array()?,
            wrapped: fields.array()?,
        };
        let [method, zeros @ ..] = fields.array::<4>()?;
        let derivation = Derivation {
            iterations: fields.u32()?,
            salt: fields.array::<SALT>()?,
        };
        slot.derivation = match (method, zeros) {
            (RAW, [0, 0, 0]) if derivation == Derivation::default() => None,
            // A count beyond the limits would weaken the key, or take for ever.
            (PBKDF2, [0, 0, 0]) if derivation.is_sound() => Some(derivation),
            _ => return None,
        };
        (is_zero(padding) && Page::rest_is_zero(&fields)).then_some(slot)
    }
}

/// What the two slots of a file hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    slots: [Option<KeySlot>; 2],
    /// A slot holds something that is not a good slot: a rewrap was cut, or the disk erred.
    pub damaged: bool,
}

impl Slots {
    /// Reads both pages.
    pub fn decode(pages: &[u8]) -> Slots {
        let mut damaged = false;
        let slots = [pages.get(..PAGE), pages.get(PAGE..2 * PAGE)].map(|page| {
            let slot = page.and_then(KeySlot::decode);
            damaged |= slot.is_none() && !page.is_some_and(is_zero);
            slot
        });
        Slots { slots, damaged }
    }

    /// The slot that counts, and its index.
    pub fn newest(&self) -> Option<(usize, &KeySlot)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((index, slot.as_ref()?)))
            .max_by_key(|(_, slot)| slot.generation)
    }

    /// The slot that does not count, if it is good.
    pub(crate) fn other(&self, index: usize) -> Option<&KeySlot> {
        self.slots.get(1 - index.min(1))?.as_ref()
    }

    pub(crate) fn require(&self) -> Result<(usize, &KeySlot)> {
        self.newest().ok_or_else(|| {
            Error::corrupt(format!(
                "key slots at offset {PAGE}: neither of the two is good, so the data key is lost"
            ))
        })
    }

    /// True if neither slot was ever written.
    pub fn is_empty(&self) -> bool {
        !self.damaged && self.slots.iter().all(Option::is_none)
    }
}
