//! The header: what a file is, written once and hashed.
//!
//! The hash stands in for the whole header elsewhere: the frames' chain starts from it, and it is
//! associated data of the wrapped data key and of every frame. So a header cannot be exchanged
//! for another without every frame failing.

use std::fmt;

use super::wire::{Fields, Page};
use super::{Digest, PAGE, VERSION};
use crate::compress::Compression;
use crate::crypto::{Random, TAG, same};
use crate::error::{Code, Error, Result};
use crate::keyring::KeySize;

const MAGIC: [u8; 8] = *b"CODEXSTR";

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A random id.
            pub fn random(random: &dyn Random) -> Result<$name> {
                let mut id = [0; 16];
                random.fill(&mut id)?;
                Ok($name(id))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id! {
    /// Random id of a store, for its whole life. Shown as 32 hex digits.
    StoreId
}
id! {
    /// Random id of a file. Shown as 32 hex digits.
    FileId
}

/// Random name of one line of history. Shown as 16 hex digits, as in etags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lineage(pub u64);

impl Lineage {
    /// A random lineage.
    pub fn random(random: &dyn Random) -> Result<Lineage> {
        let mut bytes = [0; 8];
        random.fill(&mut bytes)?;
        Ok(Lineage(u64::from_le_bytes(bytes)))
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// All live entries at one revision. Complete only with its closing frame.
    Image,
    /// Batches since an image.
    Journal,
    /// Batches for ever.
    Ledger,
    /// An image that was written elsewhere. Complete only with its closing frame.
    Backup,
    /// A piece of the continuous archive: batches that were written elsewhere. Complete only with its closing frame.
    Archive,
}

impl FileKind {
    /// True for kinds that are written once and whole: one without its closing frame is cut.
    pub const fn must_close(self) -> bool {
        matches!(self, FileKind::Image | FileKind::Backup | FileKind::Archive)
    }

    /// `image`, `journal`, `ledger`, `backup` or `archive`.
    pub const fn as_str(self) -> &'static str {
        match self {
            FileKind::Image => "image",
            FileKind::Journal => "journal",
            FileKind::Ledger => "ledger",
            FileKind::Backup => "backup",
            FileKind::Archive => "archive",
        }
    }

    const fn to_byte(self) -> u8 {
        match self {
            FileKind::Image => 1,
            FileKind::Journal => 2,
            FileKind::Ledger => 3,
            FileKind::Backup => 4,
            FileKind::Archive => 5,
        }
    }

    fn from_byte(byte: u8) -> Option<FileKind> {
        [
            FileKind::Image,
            FileKind::Journal,
            FileKind::Ledger,
            FileKind::Backup,
            FileKind::Archive,
        ]
        .into_iter()
        .find(|kind| kind.to_byte() == byte)
    }
}

/// The cipher of a file's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// Not encrypted; still checksummed and chained.
    None,
    /// AES-GCM with a key of this size.
    AesGcm(KeySize),
}

impl Cipher {
    /// `none`, `AES-128-GCM`, `AES-192-GCM` or `AES-256-GCM`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Cipher::None => "none",
            Cipher::AesGcm(KeySize::Aes128) => "AES-128-GCM",
            Cipher::AesGcm(KeySize::Aes192) => "AES-192-GCM",
            Cipher::AesGcm(KeySize::Aes256) => "AES-256-GCM",
        }
    }

    /// Bytes that it adds to a body.
    pub(crate) const fn tag_len(self) -> usize {
        match self {
            Cipher::None => 0,
            Cipher::AesGcm(_) => TAG,
        }
    }

    const fn to_byte(self) -> u8 {
        match self {
            Cipher::None => 0,
            Cipher::AesGcm(KeySize::Aes128) => 1,
            Cipher::AesGcm(KeySize::Aes192) => 2,
            Cipher::AesGcm(KeySize::Aes256) => 3,
        }
    }

    fn from_byte(byte: u8) -> Option<Cipher> {
        [Cipher::None]
            .into_iter()
            .chain(KeySize::ALL.map(Cipher::AesGcm))
            .find(|cipher| cipher.to_byte() == byte)
    }
}

const fn compression_byte(compression: Compression) -> u8 {
    match compression {
        Compression::None => 0,
        Compression::Zstd => 1,
        Compression::Gzip => 2,
        Compression::Snappy => 3,
    }
}

/// A place in a log: right behind a frame of a file. All zero (the default) is "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// The log file.
    pub file: FileId,
    /// Sequence of the last frame before the place; 0 is the file's beginning.
    pub sequence: u64,
    /// Chain hash of that frame; for sequence 0 the file's header hash.
    pub chain: Digest,
}

/// A file's immutable header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the file holds.
    pub kind: FileKind,
    /// The store that it belongs to.
    pub store: StoreId,
    /// The line of history.
    pub lineage: Lineage,
    /// The file's own id.
    pub file: FileId,
    /// Epoch of the owner that made it.
    pub epoch: u64,
    /// Image and backup: the revision that it shows. Logs and archive: the lowest revision that it may hold.
    pub first_revision: u64,
    /// Logs: where the predecessor ended. Image: where the log goes on. A backup has no log behind
    /// it: the sequence is the first revision that the store had not given out, the rest is zero. Archive: the sequence is
    /// the revision of its last batch, the rest is zero.
    pub link: Link,
    /// How payloads are compressed where it helps.
    pub compression: Compression,
    /// How frames are encrypted.
    pub cipher: Cipher,
    /// Commitment to the data key; zero without encryption.
    pub commitment: Digest,
    /// When it was made, by the store's clock: milliseconds since 1970. Archive: when its last batch was committed.
    pub created_ms: u64,
}

impl Header {
    /// The header as its [`PAGE`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = Page::new();
        page.put(&MAGIC);
        page.put(&VERSION.to_le_bytes());
        page.put(&[
            self.kind.to_byte(),
            self.cipher.to_byte(),
            compression_byte(self.compression),
            0,
            0,
            0,
        ]);
        page.put(&self.store.0);
        page.put(&self.lineage.0.to_le_bytes());
        page.put(&self.file.0);
        page.put(&self.epoch.to_le_bytes());
        page.put(&self.first_revision.to_le_bytes());
        page.put(&self.created_ms.to_le_bytes());
        page.put(&self.link.file.0);
        page.put(&self.link.sequence.to_le_bytes());
        page.put(&self.link.chain);
        page.put(&self.commitment);
        page.seal()
    }

    /// Reads and verifies the first [`PAGE`] bytes of a file.
    pub fn decode(page: &[u8]) -> Result<Header> {
        let corrupt = |what: &str| Error::corrupt(format!("header at offset 0: {what}"));
        let page = page
            .get(..PAGE)
            .ok_or_else(|| corrupt("shorter than a header"))?;
        let mut fields = Fields::new(page);
        if fields.array() != Some(MAGIC) {
            return Err(corrupt(
                "this is not a file of a store, or its beginning is damaged",
            ));
        }
        // Magic, version and checksum keep their places in every version, so that a newer file is
        // told from a damaged one.
        if !Page::verify(page) {
            return Err(corrupt("its checksum does not match"));
        }
        let version = fields.u16().unwrap_or_default();
        if version != VERSION {
            return Err(Error::new(
                Code::UnsupportedVersion,
                format!("the file has format version {version}; this program reads {VERSION}"),
            ));
        }
        let mut read = || -> Option<Header> {
            let kind = FileKind::from_byte(fields.u8()?)?;
            let cipher = Cipher::from_byte(fields.u8()?)?;
            let byte = fields.u8()?;
            let compression = Compression::ALL
                .into_iter()
                .find(|c| compression_byte(*c) == byte)?;
            if fields.array()? != [0; 3] {
                return None;
            }
            let header = Header {
                kind,
                cipher,
                compression,
                store: StoreId(fields.array()?),
                lineage: Lineage(fields.u64()?),
                file: FileId(fields.array()?),
                epoch: fields.u64()?,
                first_revision: fields.u64()?,
                created_ms: fields.u64()?,
                link: Link {
                    file: FileId(fields.array()?),
                    sequence: fields.u64()?,
                    chain: fields.array()?,
                },
                commitment: fields.array()?,
            };
            let plain = header.cipher == Cipher::None;
            (plain == same(&header.commitment, &[0; 32]) && Page::rest_is_zero(&fields))
                .then_some(header)
        };
        read().ok_or_else(|| corrupt("a field has a value that this version does not know"))
    }

    /// SHA-256 that stands for the header: its checksum.
    pub fn hash(&self) -> Digest {
        Page::checksum(&self.encode()).unwrap_or_default()
    }
}
