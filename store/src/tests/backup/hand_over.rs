//! A backup that is handed over opens with the other keyring alone, and says the same.

use super::super::{disk::SimDisk, keyring, sim::Sim};
use super::{backup_of, filled, quick, quick_ledger};
use crate::backup::{self, HEAD, hand_over, verify, verify_chain};
use crate::format::PAGE;
use crate::{Code, Encryption, KeySize, Kind, Options};

fn with(id: &str, byte: u8) -> Encryption {
    Encryption::Keyring(keyring(id, byte))
}

/// Options of an encrypted store.
fn sealed(mut options: Options) -> Options {
    options.encryption = with("test-key", 7);
    options
}

/// A backup with other first bytes.
fn handed(stream: &[u8], old: &Encryption, new: &Encryption) -> crate::Result<Vec<u8>> {
    let head = hand_over(&stream[..HEAD], old, new)?;
    assert_eq!(head.len(), HEAD);
    Ok([&head, &stream[HEAD..]].concat())
}

#[test]
fn what_was_handed_over_opens_with_the_other_keyring_alone() {
    let mut small = sealed(quick());
    small.key_size = KeySize::Aes128;
    for options in [sealed(quick()), sealed(quick_ledger()), small] {
        let sim = filled(options.clone(), 1);
        let (stream, info) = backup_of(&sim);
        let old = &options.encryption;
        // The same id with another key is another key.
        for new in [with("theirs", 9), with("test-key", 9)] {
            let other = handed(&stream, old, &new).unwrap();
            let said = verify(&other[..], &new).unwrap();
            assert_eq!(said.contents, info.contents);
            assert_eq!(said.envelope.file, info.envelope.file);
            assert_ne!(said.envelope.sha256, info.envelope.sha256);
            assert_eq!(other[HEAD..], stream[HEAD..]);
            // Neither slot has what the other key wrapped.
            let slots = |bytes: &[u8]| [1, 2].map(|n| bytes[n * PAGE..][..PAGE].to_vec());
            let before = slots(&stream);
            assert!(slots(&other).iter().all(|slot| !before.contains(slot)));
            verify_chain(&other[..]).unwrap();
            let error = verify(&other[..], old).unwrap_err();
            assert_eq!(error.kind(), Kind::Encryption, "{error}");
            // It is restored as any backup, and back again is what it was.
            let (disk, env) = (SimDisk::default(), sim.engine.seat.env.clone());
            let theirs = Options {
                encryption: new.clone(),
                ..options.clone()
            };
            backup::restore_on(&disk, &env, &other[..], &theirs).unwrap();
            let copy = Sim::open(&disk, theirs, 7).unwrap();
            assert_eq!(copy.content(), sim.content());
            let back = handed(&other, &new, old).unwrap();
            assert_eq!(verify(&back[..], old).unwrap().contents, info.contents);
        }
        // With the same current key there is nothing to do.
        assert_eq!(handed(&stream, old, old).unwrap(), stream);
    }
}

#[test]
fn what_cannot_be_handed_over_is_told() {
    let (options, new) = (sealed(quick()), with("theirs", 9));
    let (stream, _) = backup_of(&filled(options.clone(), 1));
    let old = &options.encryption;
    let check = |stream: &[u8], old: &Encryption, new: &Encryption, code| {
        let head = stream.get(..HEAD).unwrap_or(stream);
        let error = hand_over(head, old, new).unwrap_err();
        assert_eq!(error.as_code(), code, "{error}");
    };
    check(&stream, &with("lost", 7), &new, Code::KeyMissing);
    check(&stream, &with("test-key", 8), &new, Code::WrongKey);
    check(&stream, &Encryption::None, &new, Code::EncryptionMismatch);
    check(&stream, old, &Encryption::None, Code::EncryptionMismatch);
    check(&stream[..HEAD - 1], old, &new, Code::Corrupt);
    check(b"no backup", old, &new, Code::Corrupt);
    for at in [100, 4096 + 100] {
        let mut broken = stream.clone();
        broken[at] ^= 1;
        check(&broken, old, &new, Code::Corrupt);
    }
    let (unsealed, _) = backup_of(&filled(quick(), 1));
    check(&unsealed, old, &new, Code::EncryptionMismatch);
}
