//! Files of each released format version, kept in `tests/golden/` and read for ever.
//!
//! They were made with fixed keys and "random" bytes by `CODEXSTORE_WRITE_GOLDEN=1 cargo test -p
//! codexstore --test format_golden`, which writes only files that are missing. A golden file that
//! no longer reads, or a writer that makes other bytes of the same inputs, is a change of format.

// Helpers outside `#[test]` functions count as production code for these lints.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)] // small, fixed files
#![allow(clippy::type_complexity)] // what a helper reads, or after how many frames it failed

mod format_common;

use std::path::PathBuf;

use codexstore::format::record::{self, EntryRef, Op};
use codexstore::format::{self, FileKind, Tail};
use codexstore::{Compression, Encryption, KeySize, Passphrase};
use format_common::*;

struct Golden {
    name: &'static str,
    kind: FileKind,
    encryption: Encryption,
    size: KeySize,
    compression: Compression,
    close: bool,
    /// Whether the bytes may differ: another version of a compressor may compress better.
    packed: bool,
}

fn all() -> Vec<Golden> {
    use Compression::{Gzip, None as Plain, Snappy, Zstd};
    use KeySize::{Aes128, Aes192, Aes256};

    let golden = |name, kind, size: Option<KeySize>, compression, close, packed| Golden {
        name,
        kind,
        encryption: size.map_or(Encryption::None, |size| keyring("20260801-ab12", size)),
        size: size.unwrap_or_default(),
        compression,
        close,
        packed,
    };
    let mut all = vec![
        golden(
            "v1-journal-none",
            FileKind::Journal,
            None,
            Plain,
            false,
            false,
        ),
        golden(
            "v1-journal-aes256",
            FileKind::Journal,
            Some(Aes256),
            Plain,
            true,
            false,
        ),
        golden(
            "v1-journal-aes256-zstd",
            FileKind::Journal,
            Some(Aes256),
            Zstd,
            false,
            true,
        ),
        golden(
            "v1-image-aes128-gzip",
            FileKind::Image,
            Some(Aes128),
            Gzip,
            true,
            true,
        ),
        golden(
            "v1-ledger-aes192-snappy",
            FileKind::Ledger,
            Some(Aes192),
            Snappy,
            false,
            true,
        ),
        golden(
            "v1-backup-none-zstd",
            FileKind::Backup,
            None,
            Zstd,
            true,
            true,
        ),
    ];
    // Its key slot holds the salt and the count of the key's derivation.
    all.push(Golden {
        encryption: passphrase(),
        ..golden(
            "v1-journal-passphrase",
            FileKind::Journal,
            Some(Aes256),
            Plain,
            true,
            false,
        )
    });
    all
}

/// The key id of [`passphrase`] with the salt that the fixed random bytes give.
const PASSPHRASE_ID: &str = "passphrase-b84bc93d3d879724";

fn passphrase() -> Encryption {
    let passphrase = Passphrase::new(b"correct horse battery staple").unwrap();
    Encryption::Passphrase(passphrase.with_iterations(100_000).unwrap())
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", name]
        .iter()
        .collect()
}

fn text() -> Vec<u8> {
    b"a longer value, which compresses; ".repeat(40)
}

fn batches() -> Vec<Vec<u8>> {
    let text = text();
    let mut first = Vec::new();
    let set = |key, value, version, expires_at| Op::Set {
        key,
        value,
        created: 41,
        version,
        expires_at,
    };
    let ops = [
        set(b"greeting", b"hello", 1, None),
        set(&[0, 0xff], b"", 1, Some(1_800_000_000_000)),
    ];
    record::put_batch(
        &mut first,
        41,
        1_790_000_000_001,
        Some("uid 1000"),
        ops.into_iter(),
    )
    .unwrap();
    record::put_batch(
        &mut first,
        42,
        1_790_000_000_002,
        None,
        [set(b"text", &text, 300, None)].into_iter(),
    )
    .unwrap();
    let mut second = Vec::new();
    let ops = [
        Op::Delete { key: b"greeting" },
        Op::Expire { key: &[0, 0xff] },
    ];
    record::put_batch(&mut second, 43, 1_800_000_000_003, None, ops.into_iter()).unwrap();
    vec![first, second]
}

fn entries() -> Vec<Vec<u8>> {
    let text = text();
    let mut payload = Vec::new();
    for (key, value, expires_at) in [
        (&b"greeting"[..], &b"hello"[..], None),
        (b"text", &text, Some(1_800_000_000_000)),
    ] {
        let entry = EntryRef {
            key,
            value,
            created: 40,
            modified: 41,
            version: 2,
            expires_at,
        };
        record::put_entry(&mut payload, &entry).unwrap();
    }
    vec![payload]
}

impl Golden {
    fn payloads(&self) -> Vec<Vec<u8>> {
        if self.kind.must_close() {
            entries()
        } else {
            batches()
        }
    }

    fn make(&self) -> Vec<u8> {
        let spec = spec(self.kind, self.compression, self.size);
        let new = format::create(&spec, &self.encryption, &Seed::new(2026)).unwrap();
        let zeros = if self.kind.must_close() { 0 } else { 512 };
        build(new, &self.payloads(), self.close, zeros).0
    }
}

#[test]
fn golden_files_read_as_they_were_written() {
    for golden in all() {
        let path = path(golden.name);
        if std::env::var_os("CODEXSTORE_WRITE_GOLDEN").is_some() && !path.exists() {
            std::fs::write(&path, golden.make()).unwrap();
        }
        let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", golden.name));
        let open = format::open(prefix(&file), &golden.encryption).unwrap();
        let spec = spec(golden.kind, golden.compression, golden.size);
        let header = &open.header;
        assert_eq!(header.kind, spec.kind, "{}", golden.name);
        assert_eq!(header.store, spec.store);
        assert_eq!(header.lineage, spec.lineage);
        assert_eq!(header.file, spec.file);
        assert_eq!(header.epoch, spec.epoch);
        assert_eq!(header.first_revision, spec.first_revision);
        assert_eq!(header.link, spec.link);
        assert_eq!(header.compression, spec.compression);
        assert_eq!(header.created_ms, spec.created_ms);
        let key_id = open.key_id.as_ref().map(|id| id.as_str().to_owned());
        let expected = match golden.encryption {
            Encryption::None => None,
            Encryption::Keyring(_) => Some("20260801-ab12"),
            Encryption::Passphrase(_) => Some(PASSPHRASE_ID),
        };
        assert_eq!(key_id.as_deref(), expected);
        let (payloads, tail) = read_frames(open, &file).unwrap();
        assert_eq!(payloads, golden.payloads(), "{}", golden.name);
        assert_eq!(
            matches!(tail, Tail::Closed(_)),
            golden.close,
            "{}: {tail:?}",
            golden.name
        );
    }
}

#[test]
fn the_writer_still_makes_the_same_bytes() {
    for golden in all().iter().filter(|golden| !golden.packed) {
        let file = std::fs::read(path(golden.name)).unwrap();
        assert!(
            file == golden.make(),
            "{} would be written differently",
            golden.name
        );
    }
}

#[test]
fn golden_frames_stand_where_the_format_says() {
    // Offsets of docs/format.md, by hand, in the file that is not encrypted.
    let file = std::fs::read(path("v1-journal-none")).unwrap();
    assert_eq!(&file[..8], b"CODEXSTR");
    assert_eq!(file[8..16], [1, 0, 2, 0, 0, 0, 0, 0]);
    assert_eq!(file[16..32], [0x11; 16]);
    assert_eq!(file[32..40], 0x0123_4567_89ab_cdef_u64.to_le_bytes());
    assert_eq!(file[40..56], [0x22; 16]);
    assert_eq!(file[56..64], 3_u64.to_le_bytes());
    assert_eq!(file[64..72], 41_u64.to_le_bytes());
    assert_eq!(file[72..80], 1_790_000_000_000_u64.to_le_bytes());
    assert_eq!(file[80..96], [0x33; 16]);
    assert_eq!(file[96..104], 7_u64.to_le_bytes());
    assert_eq!(file[104..136], [0x44; 32]);
    assert!(file[136..4064].iter().all(|byte| *byte == 0));
    assert!(file[4096..12288].iter().all(|byte| *byte == 0));
    let frame = &file[12288..];
    assert_eq!(&frame[..4], b"CXFR");
    let body = u32::from_le_bytes(frame[4..8].try_into().unwrap()) as usize;
    assert_eq!(body, 40 + batches()[0].len());
    assert_eq!(frame[8..16], 1_u64.to_le_bytes());
    assert_eq!(frame[16..20], [1, 0, 0, 0]);
    let total = (36 + body + 33).next_multiple_of(512);
    assert_eq!(frame[total - 1], 0xed);
    assert_eq!(&frame[total..total + 4], b"CXFR");
    let encrypted = std::fs::read(path("v1-journal-aes256")).unwrap();
    let slot = &encrypted[4096..8192];
    assert_eq!(&slot[..8], b"CODEXKEY");
    assert_eq!(slot[8..16], 1_u64.to_le_bytes());
    assert_eq!(slot[16..24], 13_u64.to_le_bytes());
    assert_eq!(&slot[24..37], b"20260801-ab12");
    assert!(slot[148..4064].iter().all(|byte| *byte == 0));
    let derived = std::fs::read(path("v1-journal-passphrase")).unwrap();
    let slot = &derived[4096..8192];
    assert_eq!(slot[148..152], [1, 0, 0, 0]);
    assert_eq!(slot[152..156], 100_000_u32.to_le_bytes());
    assert!(slot[172..4064].iter().all(|byte| *byte == 0));
    assert!(derived[8192..12288].iter().all(|byte| *byte == 0));
}
