//! The keyring of a store on a laptop: made once, in the form of the Secret that a sidecar mounts.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result, anyhow};
use codexstore_crds::names::KEYRING_CURRENT;
use zeroize::Zeroizing;

use crate::failure::Coded;

/// Makes the keyring with one key of `key_bytes`, unless it is there. Never makes one while there are data:
/// they were written with a key that is gone. Returns the current key's id.
pub fn ensure(keyring: &Path, data: &Path, key_bytes: usize) -> Result<String> {
    let current = keyring.join(KEYRING_CURRENT);
    if !keyring.exists() {
        if has_entries(data) {
            return Err(Coded::invalid(format!(
                "{} holds data and {} is gone: put the keyring back, or, if the data are worthless, delete both",
                data.display(),
                keyring.display()
            ))
            .into());
        }
        make(keyring, key_bytes).with_context(|| format!("make {}", keyring.display()))?;
    }
    tighten(keyring).with_context(|| format!("protect {}", keyring.display()))?;
    let id = fs::read_to_string(&current).with_context(|| format!("read {}", current.display()))?;
    Ok(id.trim().to_owned())
}

/// In a directory of another name first: a crash leaves no half of a keyring.
fn make(keyring: &Path, key_bytes: usize) -> Result<()> {
    let mut key = Zeroizing::new(vec![0; key_bytes]);
    let mut salt = [0; 2];
    getrandom::fill(&mut key).map_err(|e| anyhow!("random bytes for the key: {e}"))?;
    getrandom::fill(&mut salt).map_err(|e| anyhow!("random bytes for the key: {e}"))?;
    let day = jiff::Timestamp::now().strftime("%Y%m%d");
    let id = format!("{day}-{:04x}", u16::from_be_bytes(salt));

    let new = keyring.with_extension("new");
    match fs::remove_dir_all(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&new)?;
    write(&new.join(&id), &key)?;
    write(&new.join(KEYRING_CURRENT), id.as_bytes())?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, keyring)?;
    if let Some(parent) = keyring.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Copying a directory about loosens modes.
fn tighten(keyring: &Path) -> io::Result<()> {
    fs::set_permissions(keyring, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(keyring)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o600))?;
        }
    }
    Ok(())
}

fn has_entries(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_keyring_is_made_once_for_its_user_alone() {
        let root = tempfile::tempdir().unwrap();
        let (keyring, data) = (root.path().join("keyring"), root.path().join("data"));
        let id = ensure(&keyring, &data, 32).unwrap();
        let key = fs::read(keyring.join(&id)).unwrap();
        assert_eq!(key.len(), 32);
        fs::set_permissions(keyring.join(&id), Permissions::from_mode(0o644)).unwrap();
        fs::create_dir(&data).unwrap();
        fs::write(data.join("image-1"), "x").unwrap();

        assert_eq!(ensure(&keyring, &data, 16).unwrap(), id);
        assert_eq!(fs::read(keyring.join(&id)).unwrap(), key);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&keyring), 0o700);
        assert_eq!(mode(&keyring.join(&id)), 0o600);
        assert_eq!(mode(&keyring.join("current")), 0o600);
    }

    #[test]
    fn no_key_is_made_beside_data_that_were_written_with_another() {
        let root = tempfile::tempdir().unwrap();
        let (keyring, data) = (root.path().join("keyring"), root.path().join("data"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("image-1"), "x").unwrap();
        let error = ensure(&keyring, &data, 32).unwrap_err().to_string();
        assert!(error.contains("put the keyring back"), "{error}");
        assert!(!keyring.exists());
    }

    #[test]
    fn what_an_interrupted_run_left_is_no_keyring() {
        let root = tempfile::tempdir().unwrap();
        let keyring = root.path().join("keyring");
        fs::create_dir(root.path().join("keyring.new")).unwrap();
        fs::write(root.path().join("keyring.new/current"), "half").unwrap();
        assert_ne!(
            ensure(&keyring, root.path().join("data").as_path(), 16).unwrap(),
            "half"
        );
    }
}
