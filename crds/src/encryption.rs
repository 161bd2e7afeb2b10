//! `spec.encryption`: whether a store is encrypted, and where its keys come from.

use std::borrow::Cow;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::destination::LocalRef;
use crate::rotation::RotationPolicy;

/// Encryption at rest: `keys` (the default, also for `{}`) or `none`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.none) && has(self.keys))").message("encryption has both `none` and `keys`: write `keys: {managed: {}}` to encrypt, or `none: {}` not to"))]
#[x_kube(validation = Rule::new("!has(self.none) || !has(self.keySize) || self.keySize == 256").message("encryption has both `none` and `keySize`: drop `keySize`, or write `keys: {managed: {}}` instead of `none` to encrypt"))]
pub struct Encryption {
    /// Where the keys come from; by default `managed`. Encryption cannot be turned on or off later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Keys>,

    /// `none: {}` leaves the data unencrypted (it is still checksummed and chained). Not the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub none: Option<Empty>,

    /// Bits of the AES-GCM key: 256 (the default), 192 or 128. A change holds for files written after it.
    #[serde(default)]
    pub key_size: KeySize,
}

impl Default for Encryption {
    fn default() -> Self {
        Self {
            keys: Some(Keys {
                managed: Some(Managed::default()),
                ..Keys::default()
            }),
            none: None,
            key_size: KeySize::default(),
        }
    }
}

impl Encryption {
    /// Whether the store is encrypted.
    pub fn is_on(&self) -> bool {
        self.none.is_none()
    }

    /// Who is given the keyring, sealed, with each backup: age public keys. None where that is not asked for.
    pub fn escrow_recipients(&self) -> &[String] {
        let keys = self.keys.as_ref().filter(|_| self.is_on());
        let managed = keys.and_then(|keys| keys.managed.as_ref());
        let escrow = managed.and_then(|managed| managed.escrow.as_ref());
        escrow.map_or(&[], |escrow| &escrow.recipients)
    }

    /// How its keys are rotated: as the spec says, or by hand only.
    pub fn rotation(&self) -> RotationPolicy {
        let managed = self.keys.as_ref().and_then(|keys| keys.managed.as_ref());
        managed
            .and_then(|managed| managed.rotation.clone())
            .unwrap_or_default()
    }

    /// The user's Secret that holds the keys, or the passphrase; none where the operator makes them, or there are none.
    pub fn own_secret(&self) -> Option<&str> {
        let keys = self.keys.as_ref().filter(|_| self.is_on())?;
        let secret = keys.secret_ref.as_ref().map(|secret| &secret.name);
        let passphrase = keys.passphrase_ref.as_ref().map(|secret| &secret.name);
        secret.or(passphrase).map(String::as_str)
    }

    /// The entry of that Secret with the passphrase, where there is to be one.
    pub fn passphrase_entry(&self) -> Option<&str> {
        let keys = self.keys.as_ref().filter(|_| self.is_on())?;
        keys.passphrase_ref
            .as_ref()
            .map(|secret| secret.key.as_str())
    }
}

/// Where a store's keys come from: `managed` (the default, also for `{}`), `secretRef` or `passphraseRef`. Cannot be changed from
/// one to another.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.managed), has(self.secretRef), has(self.passphraseRef)].filter(given, given).size() <= 1").message("keys has more than one source: write `keys: {managed: {}}` for keys that the operator makes and rotates, `keys: {secretRef: {name: NAME}}` for those of a Secret of yours, or `keys: {passphraseRef: {name: NAME}}` for one that is derived from a passphrase"))]
pub struct Keys {
    /// The operator makes the first key, once, in the Secret `cxs-NAME-keyring`, and never makes another in its place where
    /// that is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub managed: Option<Managed>,

    /// A Secret of yours in the store's namespace, written by hand or by a tool: the entry `current` has the id of the current
    /// key, and each other entry is a key of 16, 24 or 32 raw bytes, named by its id. The operator follows it, and never
    /// changes or deletes it. Another name holds for pods that are made from then on: that Secret needs the keys of before, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.name.startsWith('cxs-')").message("secretRef.name begins with cxs-, as Secrets that the operator makes do: put the keys into a Secret of another name"))]
    pub secret_ref: Option<LocalRef>,

    /// A passphrase in a Secret of yours, of 12 to 1,024 bytes, from which each member derives its key (PBKDF2). It cannot be
    /// changed while members run. Keys of random bytes are stronger than what a person can remember.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.name.startsWith('cxs-')").message("passphraseRef.name begins with cxs-, as Secrets that the operator makes do: put the passphrase into a Secret of another name"))]
    pub passphrase_ref: Option<PassphraseRef>,
}

/// An entry of a Secret in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PassphraseRef {
    /// Name of the Secret.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,

    /// Its entry with the passphrase; by default `passphrase`.
    #[serde(default = "passphrase")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

fn passphrase() -> String {
    "passphrase".to_owned()
}

/// Keys that the operator makes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Managed {
    /// When the store gets a new key, and what becomes of old ones. Without it that is when somebody creates a CodexKeyRotation,
    /// and old keys stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationPolicy>,

    /// Who is given the keyring, sealed, beside each backup, so that backups can be opened when the cluster is gone. Without it the
    /// condition `KeyEscrowed` is False: keep a copy of the keyring yourself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escrow: Option<Escrow>,
}

/// Where copies of the keyring go.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Escrow {
    /// age public keys, as `age-keygen` prints them: `age1` and 58 characters. Each of their owners can open the keyring by himself, and
    /// with it all that the store wrote. At most 16; those of plugins (`age1yubikey1…`) and of ssh are not taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 128)))]
    #[x_kube(validation = Rule::new("self.all(r, r.matches('^age1[02-9ac-hj-np-z]{58}$'))").message("escrow.recipients are age public keys, each `age1` and 58 characters, as `age-keygen` prints them behind `Public key:`; an AGE-SECRET-KEY belongs nowhere in a cluster"))]
    pub recipients: Vec<String>,
}

/// An object without fields: its presence says everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

/// Size of an AES key in bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub enum KeySize {
    /// AES-128.
    Aes128,
    /// AES-192.
    Aes192,
    /// AES-256.
    #[default]
    Aes256,
}

impl KeySize {
    /// In bits.
    pub fn bits(self) -> u16 {
        match self {
            Self::Aes128 => 128,
            Self::Aes192 => 192,
            Self::Aes256 => 256,
        }
    }

    /// In bytes: the length of the raw key.
    pub fn bytes(self) -> usize {
        usize::from(self.bits() / 8)
    }
}

impl From<KeySize> for u16 {
    fn from(size: KeySize) -> Self {
        size.bits()
    }
}

impl TryFrom<u16> for KeySize {
    type Error = String;
    fn try_from(bits: u16) -> Result<Self, String> {
        match bits {
            128 => Ok(Self::Aes128),
            192 => Ok(Self::Aes192),
            256 => Ok(Self::Aes256),
            _ => Err(format!("keySize is {bits}: write 128, 192 or 256")),
        }
    }
}

impl JsonSchema for KeySize {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "KeySize".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "format": "int32", "enum": [128, 192, 256]})
    }
}
