//! Who can open what is sealed: X25519 keys in age's form.

use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use zeroize::Zeroizing;

use crate::{Error, bech32, derive, random};

const RECIPIENT: &str = "age";
const IDENTITY: &str = "age-secret-key-";
const INFO: &[u8] = b"age-encryption.org/v1/X25519";

/// A public key: `age1…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipient([u8; 32]);

impl Recipient {
    /// Reads a public key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bytes = bech32::decode(RECIPIENT, text.trim()).map_err(Error::Recipient)?;
        let recipient = Self(*bytes);
        // A few points have no private key, and agree on nothing: known now, and not when a key is to be sealed.
        Ephemeral::random()?
            .agree(&recipient)
            .map_err(|_| Error::Recipient("it is a point that no identity has"))?;
        Ok(recipient)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bech32::encode(RECIPIENT, &self.0))
    }
}

/// A private key: `AGE-SECRET-KEY-1…`. It is not shown by `Debug`.
pub struct Identity(Zeroizing<[u8; 32]>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}

impl Identity {
    /// A new one.
    pub fn random() -> Result<Self, Error> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    /// Reads a private key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        bech32::decode(IDENTITY, text.trim())
            .map(Self)
            .map_err(Error::Identity)
    }

    /// What is sealed to this one.
    pub fn recipient(&self) -> Result<Recipient, Error> {
        public(&private(&self.0)?).map(Recipient)
    }

    /// As the program `age` reads it from a file.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(bech32::encode(IDENTITY, &self.0).to_ascii_uppercase())
    }

    /// The key that wraps a file's key for this identity, where the sealer drew `share`.
    pub(crate) fn wrapping(&self, share: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, Error> {
        let own = self.recipient()?;
        wrapping(&private(&self.0)?, share, share, &own.0)
    }
}

/// The identities in a file as `age-keygen` writes it: one a line, with comments that begin with `#`.
pub fn identities(text: &str) -> Result<Vec<Identity>, Error> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let all: Vec<_> = lines.map(Identity::parse).collect::<Result<_, _>>()?;
    if all.is_empty() {
        return Err(Error::Identity("the file has none"));
    }
    Ok(all)
}

/// The private key of one recipient's part of one file.
pub struct Ephemeral(Zeroizing<[u8; 32]>);

impl Ephemeral {
    pub fn random() -> Result<Self, Error> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    /// Its public half, which goes into the file, and the key that wraps the file's key.
    pub fn agree(&self, to: &Recipient) -> Result<([u8; 32], Zeroizing<[u8; 32]>), Error> {
        let own = private(&self.0)?;
        let share = public(&own)?;
        let key = wrapping(&own, &to.0, &share, &to.0)?;
        Ok((share, key))
    }
}

fn private(bytes: &[u8; 32]) -> Result<PrivateKey, Error> {
    PrivateKey::from_private_key(&X25519, bytes).map_err(|_| Error::Crypto("X25519"))
}

fn public(key: &PrivateKey) -> Result<[u8; 32], Error> {
    let public = key.compute_public_key();
    let public = public.map_err(|_| Error::Crypto("X25519"))?;
    public
        .as_ref()
        .try_into()
        .map_err(|_| Error::Crypto("X25519"))
}

fn wrapping(
    own: &PrivateKey,
    peer: &[u8; 32],
    share: &[u8; 32],
    recipient: &[u8; 32],
) -> Result<Zeroizing<[u8; 32]>, Error> {
    let salt = [*share, *recipient].concat();
    let peer = UnparsedPublicKey::new(&X25519, peer);
    agree(own, peer, Error::Crypto("X25519"), |secret| {
        derive(secret, &salt, INFO)
    })
}
