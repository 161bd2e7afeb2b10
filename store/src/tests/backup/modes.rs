//! Whatever the store writes is for its owner alone, from the first moment, under any umask.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::{keyring, options};
use crate::archive::{Archived, Until};
use crate::backup::{self, BackupOptions};
use crate::disk::OsDisk;
use crate::migrate::migrate_on;
use crate::rewrap::rewrap_on;
use crate::{
    Batch, Compression, Disk, DiskFile, Encryption, Env, Store, Strategy, offline as tools,
};

/// Kinds of files that ever existed, with the modes that they had.
type Seen = Arc<Mutex<BTreeMap<String, Vec<u32>>>>;

/// A disk that looks at the mode of every file right after it was made or renamed, and when it is
/// synced and removed.
struct Watched {
    disk: OsDisk,
    path: PathBuf,
    seen: Seen,
    /// Of what, if that is more than the name says.
    what: &'static str,
}

impl Watched {
    fn look(&self) {
        look(&self.path, &self.seen, self.what);
    }
}

/// Looks at everything in a directory, and at itself.
fn look(path: &Path, seen: &Seen, what: &str) {
    for file in std::fs::read_dir(path).unwrap() {
        let file = file.unwrap();
        // Another thread may have removed it.
        let Ok(meta) = std::fs::symlink_metadata(file.path()) else {
            continue;
        };
        let name = file.file_name().into_string().unwrap();
        note(seen, what, &name, meta.permissions().mode());
    }
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    note(seen, what, "directory", mode);
}

/// Notes a mode under the kind of the file.
fn note(seen: &Seen, what: &str, name: &str, mode: u32) {
    let parts = name
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|part| part.len() > 1);
    let kind: Vec<&str> = Some(what)
        .filter(|what| !what.is_empty())
        .into_iter()
        .chain(parts)
        .collect();
    let kind = kind.join(" ");
    let mut seen = seen.lock();
    let modes = seen.entry(kind).or_default();
    if !modes.contains(&(mode & 0o7777)) {
        modes.push(mode & 0o7777);
    }
}

impl Disk for Watched {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.create(name)?;
        self.look();
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)?;
        self.look();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.look();
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.look();
        self.disk.sync_dir()
    }

    fn free(&self) -> io::Result<u64> {
        self.disk.free()
    }

    fn tighten(&self) -> io::Result<()> {
        self.disk.tighten()
    }

    fn unlock(&self) {
        self.disk.unlock();
    }
}

/// What the process of the test does.
const CHILD: &str = "CODEXSTORE_TEST_MODES";

#[test]
fn every_file_that_ever_exists_is_for_its_owner_alone() {
    let name = "tests::backup::modes::every_file_that_ever_exists_is_for_its_owner_alone";
    if let Ok(root) = std::env::var(CHILD) {
        // The umask is the whole process's.
        rustix::process::umask(rustix::fs::Mode::empty());
        return everything(Path::new(&root));
    }
    let root = tempfile::tempdir().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, root.path())
        .status()
        .unwrap();
    assert!(status.success());
}

fn watch(disk: OsDisk, path: &Path, seen: &Seen, what: &'static str) -> Arc<Watched> {
    let disk = Watched {
        disk,
        path: path.to_path_buf(),
        seen: seen.clone(),
        what,
    };
    disk.look();
    Arc::new(disk)
}

/// A ledger, and what is done to its files while nobody has it open.
fn offline(root: &Path, seen: &Seen) {
    let data = root.join("history");
    let at = |what| watch(OsDisk::open(&data).unwrap(), &data, seen, what);
    let mut options = options();
    options.max_disk = 16 << 20;
    options.compression = Compression::None;
    options.strategy = Strategy::Ledger;
    let store = Store::open_on(at("ledger"), Env::system(), options.clone()).unwrap();
    for n in 0_u64.. {
        if store.status().folds > 0 {
            break;
        }
        assert!(n < 1000, "no fold");
        let batch = Batch::new().set((n % 10).to_le_bytes().to_vec(), vec![1; 20_000]);
        store.commit(batch).unwrap();
    }
    store.reencrypt().unwrap();
    store.close().unwrap();

    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        options.strategy = strategy;
        let mut options = options.clone();
        options.convert = true;
        let store = Store::open_on(at("converted"), Env::system(), options).unwrap();
        store.close().unwrap();
    }

    let old = options.encryption.clone();
    let new = Encryption::Keyring(keyring("other", 8));
    let disk = at("rewrapped");
    rewrap_on(&*disk, &Env::system(), &old, &new, &mut |_, _| {}).unwrap();
    disk.look();
    drop(disk);

    migrate_on(at("migrated"), Env::system(), &new, &options, &mut |_| {}).unwrap();

    // Into a store that is opened as any, on a disk of its own.
    let into = root.join("salvaged");
    let salvaged = tools::salvage(&data, &into, &options, false, &mut |_, _| {}).unwrap();
    assert!(salvaged.written && salvaged.entries == 10, "{salvaged:?}");
    look(&into, seen, "salvaged");
}

/// Does everything that makes files, and looks at all of them.
fn everything(root: &Path) {
    let seen = Seen::default();
    let watched = |path: &Path, disk: OsDisk| watch(disk, path, &seen, "");
    let at = |name: &str| root.join("deep").join(name);
    let mut options = options();
    options.max_disk = 2 << 20;

    let (data, backups) = (at("data"), at("backups"));
    let (copy, pieced) = (at("copy"), at("pieced"));
    let open = || {
        let disk = watched(&data, OsDisk::open(&data).unwrap());
        Store::open_on(disk, Env::system(), options.clone()).unwrap()
    };
    let store = open();
    // Until journals were switched and images made and removed.
    let mut n = 0_u64;
    while store.status().folds < 3 {
        let batch = Batch::new().set((n % 50).to_le_bytes().to_vec(), vec![1; 5000]);
        store.commit(batch).unwrap();
        n += 1;
        assert!(n < 20_000, "no fold");
    }
    let folder = watched(&backups, OsDisk::unlocked(&backups).unwrap());
    let keep = BackupOptions {
        keep: std::num::NonZeroUsize::new(1),
        ..BackupOptions::default()
    };
    for _ in 0..2 {
        backup::write_to(store.shared(), &*folder, &keep).unwrap();
    }
    let mut stream = Vec::new();
    let info = store.backup(&mut stream).unwrap().envelope;
    let mut row = stream.clone();
    store.set(b"behind the backup", b"1").unwrap();
    match store.archive(info.lineage, info.revision).unwrap() {
        Archived::Piece(piece) => row.extend(&piece.bytes),
        other => panic!("{other:?}"),
    }
    let made = store.reencrypt().unwrap();
    assert!(made.files > 1, "{made:?}");
    store.close().unwrap();
    // As after a failed sync: the next open rewrites everything.
    let disk = watched(&data, OsDisk::open(&data).unwrap());
    disk.create("suspect").unwrap();
    drop(disk);
    open().close().unwrap();

    // Of a backup, and of one with a piece of an archive behind it.
    for (copy, from, until) in [(copy, stream, None), (pieced, row, Some(Until::End))] {
        let disk = watched(&copy, OsDisk::open(&copy).unwrap());
        backup::restore_all(&*disk, &Env::system(), &from[..], until, &options).unwrap();
        let disk = watched(&copy, OsDisk::open(&copy).unwrap());
        let store = Store::open_on(disk, Env::system(), options.clone()).unwrap();
        let behind = store.get(b"behind the backup").unwrap();
        assert_eq!(behind.is_some(), until.is_some());
        store.close().unwrap();
    }

    offline(&root.join("deep"), &seen);

    let seen = seen.lock();
    let kinds: Vec<&str> = seen.keys().map(String::as_str).collect();
    for kind in [
        "LOCK",
        "directory",
        "epoch",
        "epoch tmp",
        "image",
        "image tmp",
        "journal",
        "journal tmp",
        "restoring",
        "suspect",
        "ledger ledger",
        "ledger ledger tmp",
        "ledger image tmp",
        "converted journal",
        "converted ledger",
        "converted epoch tmp",
        "rewrapped image",
        "rewrapped ledger",
        "migrated ledger",
        "migrated ledger tmp",
        "migrated image tmp",
        "salvaged ledger",
        "salvaged directory",
    ] {
        assert!(kinds.contains(&kind), "{kind} was never seen: {kinds:?}");
    }
    for suffix in ["backup", "backup tmp"] {
        assert!(
            kinds
                .iter()
                .any(|kind| kind.starts_with("codexstore") && kind.ends_with(suffix)),
            "{suffix} was never seen: {kinds:?}"
        );
    }
    for (kind, modes) in &*seen {
        let directory = kind.ends_with("directory");
        let expected = if directory { 0o700 } else { 0o600 };
        assert_eq!(modes[..], [expected], "{kind}: {modes:?}, not {expected:o}");
    }
    // The levels above were made too.
    let deep = std::fs::metadata(root.join("deep")).unwrap();
    assert_eq!(deep.permissions().mode() & 0o7777, 0o700);
    println!("kinds of files whose modes were looked at: {}", seen.len());
}
