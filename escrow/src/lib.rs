//! A keyring, sealed to people who are not in the cluster.
//!
//! What [`seal`] makes is an [age](https://age-encryption.org/v1) file in its text form: the program `age` opens it, and so does [`unseal`]. Inside is
//! the keyring as JSON ([`Keys`]). It is encrypted and cannot be changed unnoticed; who sealed it, it does not say: anybody can seal a keyring of his
//! own to a public key. That one does not open the store's files.
//!
//! ```
//! use codexstore_escrow::{Identity, Keys, seal, unseal};
//! # fn main() -> Result<(), codexstore_escrow::Error> {
//! let identity = Identity::random()?; // as `age-keygen` makes one
//! let mut keys = Keys::new("shop/orders", "20261129-0d4f");
//! keys.insert("20261129-0d4f", &[7; 32]);
//!
//! let sealed = seal(&keys, &[identity.recipient()?])?;
//! assert!(sealed.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"));
//! assert_eq!(unseal(sealed.as_bytes(), &[identity])?, keys);
//! # Ok(())
//! # }
//! ```

mod bech32;

mod party;

mod keys;

mod header;

mod payload;

mod armor;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

pub use keys::{Keys, is_id};
pub use party::{Identity, Recipient, identities};

/// Most recipients that a keyring is sealed to.
pub const MAX_RECIPIENTS: usize = 16;
/// Longest sealed keyring that is read, in bytes.
pub const MAX_SEALED: usize = 1 << 20;

/// What is wrong. No key, identity or content is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A public key that is none. The text is not repeated: somebody may have put an identity there.
    #[error("is not an age public key, which begins with age1 and has 62 characters: {0}")]
    Recipient(&'static str),
    /// An identity that is none.
    #[error("no age identity: {0}")]
    Identity(&'static str),
    /// No recipients, or too many.
    #[error("a keyring is sealed to 1 to {MAX_RECIPIENTS} recipients")]
    Recipients,
    /// What is sealed is no keyring.
    #[error("not a keyring: {0}")]
    Keyring(&'static str),
    /// It is no age file, or not a whole one.
    #[error("not a sealed keyring: {0}")]
    Malformed(&'static str),
    /// None of the identities opens it.
    #[error("sealed to others: none of the identities opens it")]
    NotForYou,
    /// It was changed after it was sealed.
    #[error("changed or cut after it was sealed")]
    Forged,
    /// The cryptographic library or the system's random numbers failed.
    #[error("cryptography failed: {0}")]
    Crypto(&'static str),
}

/// Seals a keyring: each of the recipients can open it by himself. Two seals of the same keyring differ.
pub fn seal(keys: &Keys, recipients: &[Recipient]) -> Result<String, Error> {
    if recipients.is_empty() || recipients.len() > MAX_RECIPIENTS {
        return Err(Error::Recipients);
    }
    keys.check()?;
    let file_key = FileKey::random()?;
    let mut bytes = header::write(&file_key, recipients)?;
    payload::write(&file_key, keys.to_json().as_bytes(), &mut bytes)?;
    Ok(armor::write(&bytes))
}

/// Opens what was sealed, in its text form or as bytes. Nothing of it is given out unless all of it verifies.
pub fn unseal(sealed: &[u8], identities: &[Identity]) -> Result<Keys, Error> {
    if sealed.len() > MAX_SEALED {
        return Err(Error::Malformed("it is too long for a keyring"));
    }
    let bytes = armor::read(sealed)?;
    let (file_key, rest) = header::read(&bytes, identities)?;
    let plain = payload::read(&file_key, rest)?;
    Keys::from_json(&plain)
}

/// The key of one sealed file.
struct FileKey(Zeroizing<[u8; 16]>);

impl FileKey {
    fn random() -> Result<Self, Error> {
        Ok(Self(Zeroizing::new(random()?)))
    }
}

/// 32 bytes for one purpose.
fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(salt), secret)
        .expand(info, key.as_mut())
        .map_err(|_| Error::Crypto("HKDF"))?;
    Ok(key)
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Error::Crypto("no random numbers"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
