//! Passphrases as a user of the library meets them.

use super::basic::bytes_of;
use super::{keyring, options};
use crate::{Batch, Code, Encryption, KeySize, Kind, Options, Passphrase, Store};

/// A passphrase that is derived as fast as may be.
pub(crate) fn passphrase(secret: &str) -> Passphrase {
    Passphrase::new(secret.as_bytes())
        .unwrap()
        .with_iterations(Passphrase::MIN_ITERATIONS)
        .unwrap()
}

fn sealed(secret: &str) -> Options {
    Options::new(Encryption::Passphrase(passphrase(secret)))
}

/// The derivation fields of each file's first slot.
fn salts(dir: &std::path::Path) -> Vec<Vec<u8>> {
    let files = bytes_of(dir).into_iter();
    files
        .filter(|(_, bytes)| bytes.len() > 8192)
        .map(|(_, bytes)| bytes[4096 + 148..4096 + 172].to_vec())
        .collect()
}

#[test]
fn a_store_with_a_passphrase_has_one_salt_and_another_store_another() {
    let options = sealed("correct horse battery");
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut seen = Vec::new();
    for dir in &dirs {
        for size in KeySize::ALL {
            let mut options = options.clone();
            options.key_size = size;
            let store = Store::open(dir.path(), options).unwrap();
            store
                .set(&[1, 2], size.bits().to_string().as_bytes())
                .unwrap();
            let status = store.status();
            assert_eq!(status.cipher, format!("AES-{}-GCM", size.bits()));
            assert_eq!(status.loaded_keys, [status.key_id.unwrap()]);
            store.close().unwrap();
        }
        let mut salts = salts(dir.path());
        assert!(salts.len() >= 3);
        assert_eq!(salts[0][..8], [1, 0, 0, 0, 0xa0, 0x86, 1, 0]);
        salts.dedup();
        assert_eq!(salts.len(), 1);
        seen.append(&mut salts);
        // Another count asked for later leaves the store's as it is.
        let more = passphrase("correct horse battery").with_iterations(120_000);
        let more = Options::new(Encryption::Passphrase(more.unwrap()));
        let store = Store::open(dir.path(), more).unwrap();
        assert_eq!(store.get(&[1, 2]).unwrap().unwrap().value(), b"256");
    }
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn a_wrong_passphrase_and_keys_of_another_sort_modify_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), sealed("correct horse battery")).unwrap();
    store.commit(Batch::new().set("a", "1")).unwrap();
    let error = store.reload_keyring(keyring("k", 1)).unwrap_err();
    assert!(error.is(Code::EncryptionMismatch));
    store.close().unwrap();
    let before = bytes_of(dir.path());
    for (options, code) in [
        (sealed("correct horse batterz"), Code::WrongKey),
        (options(), Code::EncryptionMismatch),
        (Options::new(Encryption::None), Code::EncryptionMismatch),
    ] {
        let error = Store::open(dir.path(), options).err().unwrap();
        assert_eq!((error.kind(), error.as_code()), (Kind::Encryption, code));
        assert!(!format!("{error:?}").contains("batter"), "{error:?}");
        assert_eq!(bytes_of(dir.path()), before, "{code} modified something");
    }
    let store = Store::open(dir.path(), sealed("correct horse battery")).unwrap();
    assert_eq!(store.get(b"a").unwrap().unwrap().value(), b"1");

    for encryption in [Encryption::None, options().encryption] {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path(), Options::new(encryption)).unwrap();
        let before = bytes_of(dir.path());
        let error = Store::open(dir.path(), sealed("correct horse battery"));
        assert!(error.err().unwrap().is(Code::EncryptionMismatch));
        assert_eq!(bytes_of(dir.path()), before);
    }
}

#[test]
fn a_journal_is_left_for_a_fresh_data_key_long_before_its_messages_are_too_many() {
    use super::disk::{Keep, SimDisk};
    use super::sim::Sim;
    let disk = SimDisk::default();
    let mut options = options();
    options.max_disk = 4 << 20;
    options.max_frames = 40;
    let mut sim = Sim::open(&disk, options.clone(), 1).unwrap();
    let mut journals = std::collections::BTreeSet::new();
    for n in 0..200_u32 {
        sim.run(Batch::new().set("n", n.to_string())).unwrap();
        let journal = sim.engine.journal.as_ref().unwrap();
        // Half of the limit, and one more that says that another journal follows.
        assert!(journal.messages() <= 20, "{}", journal.messages());
        journals.insert(journal.number);
        assert_eq!(sim.engine.gauges.messages, journal.messages());
    }
    assert!(journals.len() >= 10, "{journals:?}");
    let wraps = sim
        .engine
        .seat
        .wraps
        .load(std::sync::atomic::Ordering::Relaxed);
    let folds = sim.engine.gauges.folds;
    assert!(wraps >= journals.len() as u64 + folds, "{wraps}");
    drop(sim);
    let sim = Sim::open(&disk.power_loss(Keep::Nothing), options, 2).unwrap();
    assert_eq!(sim.content()[&b"n"[..]], b"199");
}

#[test]
fn no_file_has_room_for_more_frames_than_its_data_key_allows() {
    use crate::format::{MAX_FILE, MAX_FRAMES, SECTOR};
    // Images are never left in the middle: their size keeps them below the limit.
    assert!(MAX_FILE / SECTOR as u64 <= MAX_FRAMES && MAX_FRAMES <= (1 << 32) / 16);
}

#[test]
fn the_times_of_syncs_and_the_size_of_the_image_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    for n in 0..5_u8 {
        store.set(&[n + 1], b"x").unwrap();
    }
    assert_eq!(store.status().image_bytes, 0, "there is none yet");
    store.reencrypt().unwrap();
    // The numbers are brought up to date behind the answer, and before the next one.
    store.run(|_: &mut crate::Txn<'_>| Ok(())).unwrap();
    let status = store.status();
    let counted: u64 = status.sync_times.iter().sum();
    assert!(counted > 0 && counted <= status.syncs, "{status:?}");
    let files = std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap);
    let images = files.filter(|file| file.file_name().to_string_lossy().starts_with("image-"));
    let bytes: u64 = images.map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes > 0);
    assert_eq!(status.image_bytes, bytes);
}

#[test]
fn the_counts_of_messages_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    for n in 0..5_u8 {
        store.set(&[n + 1], b"x").unwrap();
    }
    // The numbers are brought up to date behind the answer, and before the next one.
    store.run(|_: &mut crate::Txn<'_>| Ok(())).unwrap();
    let status = store.status();
    assert_eq!((status.data_key_messages, status.log_number), (5, 1));
    assert_eq!(
        (status.key_wraps, status.max_data_key_messages),
        (1, 1 << 27)
    );
    store.close().unwrap();
    let plain = tempfile::tempdir().unwrap();
    let store = Store::open(plain.path(), Options::new(Encryption::None)).unwrap();
    assert_eq!(store.status().key_wraps, 0);
}
