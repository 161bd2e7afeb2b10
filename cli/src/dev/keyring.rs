//! The keyring of a store on a laptop: made once, in the form of the Secret that a sidecar mounts.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use anyhow::{Context, Result};
use codexstore::KeySize;
use codexstore_crds::names::KEYRING_CURRENT;

use crate::failure::Coded;
use crate::keyring::Fresh;

/// Makes the keyring with one key of this size, unless it is there. Never makes one while there are data:
/// they were written with a key that is gone. Returns the current key's id.
pub fn ensure(keyring: &Path, data: &Path, size: KeySize) -> Result<String> {
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
        make(keyring, size).with_context(|| format!("make {}", keyring.display()))?;
    }
    tighten(keyring).with_context(|| format!("protect {}", keyring.display()))?;
    let id = fs::read_to_string(&current).with_context(|| format!("read {}", current.display()))?;
    Ok(id.trim().to_owned())
}

/// In a directory of another name first: a crash leaves no half of a keyring.
fn make(keyring: &Path, size: KeySize) -> Result<()> {
    let new = keyring.with_extension("new");
    match fs::remove_dir_all(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    crate::keyring::make(&new, &Fresh::random(size, None)?)?;
    fs::rename(&new, keyring)?;
    if let Some(parent) = keyring.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
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
        let id = ensure(&keyring, &data, KeySize::Aes256).unwrap();
        let key = fs::read(keyring.join(&id)).unwrap();
        assert_eq!(key.len(), 32);
        fs::set_permissions(keyring.join(&id), Permissions::from_mode(0o644)).unwrap();
        fs::create_dir(&data).unwrap();
        fs::write(data.join("image-1"), "x").unwrap();

        assert_eq!(ensure(&keyring, &data, KeySize::Aes128).unwrap(), id);
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
        let error = ensure(&keyring, &data, KeySize::Aes256)
            .unwrap_err()
            .to_string();
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
            ensure(
                &keyring,
                root.path().join("data").as_path(),
                KeySize::Aes128
            )
            .unwrap(),
            "half"
        );
    }
}
