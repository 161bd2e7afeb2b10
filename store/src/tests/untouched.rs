//! What an open that must fail leaves alone: wrong keys and versions of the format that it does not
//! know change nothing on the disk.

use super::disk::SimDisk;
use super::scale::say;
use super::sim::Sim;
use super::workload::{quick, run};
use crate::{Code, Disk, Encryption, Key, KeyId, KeySize, Keyring, Kind, Options, Strategy};

const KEK: [usize; 3] = [16, 24, 32];

fn ring(current: &str, keys: &[(&str, Vec<u8>)]) -> Encryption {
    let keys = keys.iter();
    let keys = keys.map(|(id, key)| (KeyId::new(*id).unwrap(), Key::new(key).unwrap()));
    Encryption::Keyring(Keyring::new(KeyId::new(current).unwrap(), keys.collect()).unwrap())
}

/// A store with an image, a log and a past, left as a kill leaves it.
fn store(strategy: Strategy, encryption: &Encryption) -> (SimDisk, Options) {
    let mut options = quick();
    options.strategy = strategy;
    options.max_disk = 2 << 20;
    options.encryption = encryption.clone();
    let disk = SimDisk::default();
    let trace = run(&disk, &options, 3);
    assert!(trace.error.is_none(), "{:?}", trace.error);
    (disk.restart(), options)
}

/// Opens, which must fail and call nothing that changes the disk.
fn refused(disk: &SimDisk, options: &Options, what: &str) -> crate::Error {
    let disk = disk.restart();
    let before = disk.hash();
    let error = Sim::open(&disk, options.clone(), 9).err();
    let error = error.unwrap_or_else(|| panic!("{what}: opened"));
    assert_eq!(disk.changes(), 0, "{what}: modified, {error:?}");
    assert_eq!(disk.hash(), before, "{what}");
    error
}

/// The frames of every file overwritten: whoever reads one reports damage.
fn without_frames(disk: &SimDisk) -> SimDisk {
    let disk = disk.restart();
    for name in disk.list().unwrap() {
        disk.edit(&name, |bytes| {
            if let Some(frames) = bytes.get_mut(12_288..) {
                frames.fill(0xa5);
            }
        });
    }
    disk
}

#[test]
fn every_wrong_key_is_an_encryption_error_before_any_frame_and_changes_nothing() {
    let mut tried = 0;
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        for bytes in KEK {
            let (good, other) = (vec![1; bytes], vec![2; bytes]);
            let right = ring("a", &[("a", good.clone()), ("b", other.clone())]);
            let (disk, options) = store(strategy, &right);
            let damaged = without_frames(&disk);
            let mut wrong = vec![
                ("none", Encryption::None, Code::EncryptionMismatch),
                (
                    "missing",
                    ring("b", &[("b", other.clone())]),
                    Code::KeyMissing,
                ),
                (
                    "swapped",
                    ring("a", &[("a", other.clone()), ("b", good.clone())]),
                    Code::WrongKey,
                ),
            ];
            for len in KEK {
                wrong.push(("wrong", ring("a", &[("a", vec![3; len])]), Code::WrongKey));
                if len != bytes {
                    // The right bytes, as far as they go.
                    let cut = vec![1; len];
                    wrong.push(("short or long", ring("a", &[("a", cut)]), Code::WrongKey));
                }
            }
            for bit in 0..bytes * 8 {
                let mut key = good.clone();
                key[bit / 8] ^= 1 << (bit % 8);
                wrong.push(("one bit", ring("a", &[("a", key)]), Code::WrongKey));
            }
            for size in KeySize::ALL {
                for (what, encryption, code) in &wrong {
                    let what = format!("{strategy:?}, {bytes} bytes, {what}");
                    let mut options = options.clone();
                    options.encryption = encryption.clone();
                    options.key_size = size;
                    for disk in [&disk, &damaged] {
                        let error = refused(disk, &options, &what);
                        assert!(error.is(*code), "{what}: {error:?}");
                        assert_eq!(error.kind(), Kind::Encryption, "{what}");
                        tried += 1;
                    }
                }
            }
            assert!(Sim::open(&disk, options.clone(), 9).is_ok());
            let error = Sim::open(&damaged, options, 9).err().unwrap();
            assert!(error.is(Code::Corrupt), "{error:?}");
        }
        let (disk, mut options) = store(strategy, &Encryption::None);
        options.encryption = ring("a", &[("a", vec![1; 32])]);
        let error = refused(&disk, &options, "a key for a store without");
        assert!(error.is(Code::EncryptionMismatch), "{error:?}");
        tried += 1;
    }
    for len in 0..100 {
        let made = Key::new(&vec![7; len]);
        assert_eq!(made.is_ok(), KEK.contains(&len), "{len} bytes");
    }
    say(&format!("wrong keys refused, nothing modified: {tried}"));
}

#[test]
fn every_file_of_another_format_version_is_refused_and_nothing_is_modified() {
    let mut tried = 0;
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let (disk, options) = store(strategy, &Encryption::None);
        for name in disk.list().unwrap() {
            for version in (0..=u16::MAX).filter(|v| *v != 1 && (*v < 300 || v.is_power_of_two())) {
                let disk = disk.restart();
                let mut empty = true;
                disk.edit(&name, |bytes| {
                    if bytes.iter().all(|byte| *byte == 0) {
                        return;
                    }
                    empty = false;
                    bytes[8..10].copy_from_slice(&version.to_le_bytes());
                    if name.starts_with("epoch-") {
                        let sum = crc32c::crc32c(&bytes[..60]);
                        bytes[60..64].copy_from_slice(&sum.to_le_bytes());
                    } else {
                        let sum = crate::crypto::sha256(&[&bytes[..4064]]);
                        bytes[4064..4096].copy_from_slice(&sum);
                    }
                });
                if empty {
                    continue;
                }
                let what = format!("{name}, version {version}");
                let error = refused(&disk, &options, &what);
                assert!(error.is(Code::UnsupportedVersion), "{what}: {error:?}");
                tried += 1;
            }
        }
    }
    say(&format!(
        "files of other versions refused, nothing modified: {tried}"
    ));
}

#[test]
fn an_image_without_its_closing_frame_is_not_taken_for_a_whole_one() {
    for encryption in [Encryption::None, ring("a", &[("a", vec![1; 32])])] {
        let (disk, options) = store(Strategy::Snapshot, &encryption);
        let names = disk.list().unwrap();
        let images: Vec<_> = names.iter().filter(|name| name.contains("image")).collect();
        assert!(!images.is_empty(), "{names:?}");
        for name in images {
            disk.edit(name, |bytes| bytes.truncate(bytes.len() - 512));
        }
        let error = Sim::open(&disk, options, 9).err().unwrap();
        assert!(error.is(Code::Corrupt), "{error:?}");
        assert!(error.message().contains("closing frame"), "{error:?}");
    }
}
