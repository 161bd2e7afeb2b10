//! Anchors: where a ledger stood, to be kept elsewhere.
//!
//! The hash chain goes through all frames of a file, and through its header on to the next file.
//! So one hash stands for everything before it. Whoever keeps an anchor where the writer of the
//! store's disk cannot change it can tell later whether the ledger was cut, rolled back to an old
//! copy, or went another way since: the chain must still pass through the anchor.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::disk::Disk;
use crate::error::{Code, Error, Result};
use crate::format::{self, FRAMES_AT, FileId, Link, Reader, Step, StoreId};
use crate::journal::LogFile;
use crate::recovery::FileSource;

/// Where a ledger stood. As text, six fields with `:` between them: store, epoch, revision, file,
/// sequence and chain hash. No part of it is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The store.
    pub store: StoreId,
    /// The owner's epoch.
    pub epoch: u64,
    /// The last revision before it; of an anchor that was taken of the files without a key, the
    /// lowest that this can be, since which it is stands in what is encrypted.
    pub revision: u64,
    /// The place in the log, and the chain's hash there.
    pub link: Link,
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Link {
            file,
            sequence,
            chain,
        } = self.link;
        write!(
            f,
            "{}:{}:{}:{file}:{sequence}:",
            self.store, self.epoch, self.revision
        )?;
        chain.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Anchor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Anchor> {
        let wrong = || {
            Error::new(
                Code::InvalidArgument,
                "an anchor is STORE:EPOCH:REVISION:FILE:SEQUENCE:CHAIN, as a ledger's status shows it",
            )
        };
        let text = text.trim();
        let fields: Vec<&str> = text.split(':').collect();
        let [store, epoch, revision, file, sequence, chain] = fields[..] else {
            return Err(wrong());
        };
        let number = |text: &str| text.parse().map_err(|_| wrong());
        let anchor = Anchor {
            store: StoreId(hex(store).ok_or_else(wrong)?),
            epoch: number(epoch)?,
            revision: number(revision)?,
            link: Link {
                file: FileId(hex(file).ok_or_else(wrong)?),
                sequence: number(sequence)?,
                chain: hex(chain).ok_or_else(wrong)?,
            },
        };
        // One text for each: no signs, no zeros in front, no capitals.
        if anchor.to_string() == text {
            Ok(anchor)
        } else {
            Err(wrong())
        }
    }
}

impl Serialize for Anchor {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Bytes from their hex digits.
pub(crate) fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(out)
}

impl Anchor {
    /// The error of one who has an anchor for what is no ledger.
    pub(crate) fn of_no_ledger() -> Error {
        Error::new(
            Code::InvalidArgument,
            "an anchor is for the ledger strategy: a snapshot forgets its log",
        )
    }

    /// Checks that a directory holds the anchor's store. `None`: it holds none.
    pub(crate) fn check_store(&self, store: Option<StoreId>) -> Result<()> {
        match store {
            Some(store) if store == self.store => Ok(()),
            Some(store) => Err(Error::corrupt(format!(
                "the anchor is of store {}, and this is store {store}",
                self.store
            ))),
            None => Err(Error::corrupt(format!(
                "there is no store, and the anchor says that there was one, which had reached \
                 revision {}: all of it is lost",
                self.revision
            ))),
        }
    }

    /// Checks that a log passes through the anchor: its files in order, and the last revision in
    /// them, if that is known. Needs no key.
    pub(crate) fn check(
        &self,
        disk: &dyn Disk,
        store: StoreId,
        files: &[&LogFile],
        latest: Option<u64>,
    ) -> Result<()> {
        self.check_store(Some(store))?;
        let first = files.first().map_or(1, |file| file.first_revision);
        let Some(found) = files.iter().find(|file| file.file == self.link.file) else {
            if self.revision < first {
                return Err(Error::new(
                    Code::PastGone,
                    format!(
                        "the anchor at revision {} cannot be checked: the log begins at revision {first}",
                        self.revision
                    ),
                ));
            }
            return Err(self.lost(latest));
        };
        let chain =
            chain_at(disk, found, self.link.sequence).map_err(|e| e.context(&found.name))?;
        match chain {
            Some(chain) if chain == self.link.chain => Ok(()),
            _ => Err(self.lost(latest)),
        }
    }

    fn lost(&self, latest: Option<u64>) -> Error {
        let revision = self.revision;
        Error::corrupt(match latest {
            Some(latest) if latest < revision => format!(
                "the ledger was cut or rolled back: it ends at revision {latest}, and the anchor \
                 says that it had reached {revision}; revisions {} to {revision} are lost",
                latest + 1
            ),
            Some(latest) => format!(
                "the ledger was cut or went another way: it is at revision {latest}, but does not \
                 pass through the anchor at revision {revision}"
            ),
            None => format!(
                "the ledger was cut, rolled back or went another way: it does not pass through the \
                 anchor at revision {revision}"
            ),
        })
    }
}

/// The chain's hash behind a frame of a file; `None` if the log left the file before it.
fn chain_at(disk: &dyn Disk, log: &LogFile, sequence: u64) -> Result<Option<format::Digest>> {
    if sequence > log.end {
        return Ok(None);
    }
    let io = |e| Error::io("read", e);
    let file = disk.open(&log.name).map_err(io)?;
    let mut prefix = vec![0; usize::try_from(FRAMES_AT).unwrap_or_default()];
    file.read_at(0, &mut prefix).map_err(io)?;
    let mut reader = Reader::new(format::open_without_key(&prefix)?, FileSource { file });
    loop {
        let here = reader.link();
        if here.sequence == sequence {
            return Ok(Some(here.chain));
        }
        if let Step::End(_) = reader.step()? {
            let end = reader.link();
            return Ok((end.sequence == sequence).then_some(end.chain));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_read_back_from_its_text() {
        let anchor = Anchor {
            store: StoreId([0xab; 16]),
            epoch: 3,
            revision: u64::MAX,
            link: Link {
                file: FileId([1; 16]),
                sequence: 9,
                chain: [0xfe; 32],
            },
        };
        let text = anchor.to_string();
        assert_eq!(text.parse::<Anchor>().unwrap(), anchor);
        let of_file = format!("{text}\n").parse::<Anchor>().unwrap();
        assert_eq!(of_file.to_string(), text);
        assert_eq!(serde_json::to_value(anchor).unwrap(), text);
        for wrong in [
            "",
            "a:b",
            &text[1..],
            &format!("{text}0"),
            &text.replace('f', "é"),
            &text.replace(":3:", ":+3:"),
            &text.replace(":3:", ":03:"),
            &text.to_uppercase(),
            &text.replacen("ab", "+b", 1),
            &text.replace(':', "-"),
            &text.replace(":9:", ": 9:"),
            &text.replacen("fe", "é", 1),
        ] {
            assert_ne!(wrong, text);
            let error = wrong.parse::<Anchor>().unwrap_err();
            assert!(error.is(Code::InvalidArgument), "{wrong}");
        }
    }

    #[test]
    fn an_anchor_holds_at_its_place_only_and_before_the_log_it_cannot_be_checked() {
        use crate::compress::Compression;
        use crate::crypto::OsRandom;
        use crate::disk::OsDisk;
        use crate::format::{FileKind, FileSpec, FrameKind, Lineage};
        use crate::keyring::{Encryption, KeySize};
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        let spec = FileSpec {
            kind: FileKind::Ledger,
            store: StoreId([1; 16]),
            lineage: Lineage(2),
            file: FileId([3; 16]),
            epoch: 1,
            first_revision: 5,
            link: Link::default(),
            compression: Compression::None,
            key_size: KeySize::Aes256,
            created_ms: 0,
        };
        let mut made = format::create(&spec, &Encryption::None, &OsRandom).unwrap();
        let mut bytes = made.prefix.clone();
        let (kind, random) = (FrameKind::Batches, &OsRandom);
        made.sealer.seal(kind, b"", random, &mut bytes).unwrap();
        let first = made.sealer.link();
        let (_, closed) = made.sealer.close(random, &mut bytes).unwrap();
        disk.create("log").unwrap().write_at(0, &bytes).unwrap();
        let log = LogFile {
            name: "log".to_owned(),
            len: bytes.len() as u64,
            used: 0,
            key_id: None,
            file: spec.file,
            first_revision: 5,
            created_ms: 0,
            end: 9,
        };
        let check = |link, revision| {
            let anchor = Anchor {
                store: spec.store,
                epoch: 1,
                revision,
                link,
            };
            let checked = anchor.check(&disk, spec.store, &[&log], Some(7));
            checked.err().map(|error| error.as_code())
        };
        let other = Link {
            file: FileId([4; 16]),
            ..first
        };
        let beyond = |sequence| Link { sequence, ..first };
        for (link, revision, expected) in [
            (first, 5, None),
            (closed, 7, None),
            // Behind the closing frame, and behind the place where the log left the file.
            (beyond(5), 7, Some(Code::Corrupt)),
            (beyond(10), 7, Some(Code::Corrupt)),
            (other, 5, Some(Code::Corrupt)),
            (other, 4, Some(Code::PastGone)),
        ] {
            assert_eq!(check(link, revision), expected, "{link:?} {revision}");
        }
    }
}
