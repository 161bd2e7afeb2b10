//! A keyring as a directory, in the form of the Secret that a sidecar mounts: the file `current`, and one file for each key, named
//! by its id.
//!
//! Files are for their owner alone. Each appears whole, by a link or a rename of a file that is written and synced, whose name
//! begins with a dot: those are no keys. Nothing is ever overwritten but `current`.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result, anyhow};
use codexstore::{Key, KeyId, KeySize, Keyring};
use codexstore_api::encoding::base64;
use codexstore_crds::names::KEYRING_CURRENT;
use serde_json::json;
use zeroize::Zeroizing;

use crate::failure::Coded;
use crate::output::Format;

/// What is read of a file: an id has 64 bytes and maybe a newline, a key has fewer.
const READ: usize = KeyId::MAX + 2;

/// A key that was just made.
pub struct Fresh {
    /// Its id.
    pub id: KeyId,
    key: Zeroizing<Vec<u8>>,
}

impl Fresh {
    /// A key that was made elsewhere.
    pub fn of(id: KeyId, key: Zeroizing<Vec<u8>>) -> Self {
        Self { id, key }
    }

    /// A random key. Without an id, that is the day, and what tells it from others of that day.
    pub fn random(size: KeySize, id: Option<KeyId>) -> Result<Self> {
        let random = |bytes: &mut [u8]| {
            getrandom::fill(bytes).map_err(|e| anyhow!("random bytes for the key: {e}"))
        };
        let mut key = Zeroizing::new(vec![0; size.bytes()]);
        random(&mut key)?;
        let id = if let Some(id) = id {
            id
        } else {
            let mut salt = [0; 2];
            random(&mut salt)?;
            let day = jiff::Timestamp::now().strftime("%Y%m%d");
            KeyId::new(format!("{day}-{:04x}", u16::from_be_bytes(salt)))?
        };
        Ok(Self { id, key })
    }
}

/// Makes a keyring of one key. The directory is not there, or empty.
pub fn make(dir: &Path, fresh: &Fresh) -> io::Result<()> {
    if !dir.exists() {
        DirBuilder::new().mode(0o700).create(dir)?;
    }
    add(dir, fresh)?;
    set_current(dir, &fresh.id)
}

/// Adds a key that is not current. An error of kind `AlreadyExists` if there is one of this id.
pub fn add(dir: &Path, fresh: &Fresh) -> io::Result<()> {
    let name = fresh.id.as_str();
    let new = dir.join(format!(".{name}.new"));
    write(&new, &fresh.key)?;
    let linked = fs::hard_link(&new, dir.join(name));
    fs::remove_file(&new)?;
    linked?;
    File::open(dir)?.sync_all()
}

/// Makes a key current, in one step.
pub fn set_current(dir: &Path, id: &KeyId) -> io::Result<()> {
    let new = dir.join(".current.new");
    write(&new, id.as_str().as_bytes())?;
    fs::rename(&new, dir.join(KEYRING_CURRENT))?;
    File::open(dir)?.sync_all()
}

/// Writes a file for its owner alone, in the place of what an interrupted run left.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Whether the directory is where Kubernetes shows a Secret: it is read-only, or would be overwritten.
pub fn is_mounted(dir: &Path) -> bool {
    dir.join("..data").exists()
}

/// The names of the files that are taken for keys or for `current`.
pub fn entries(dir: &Path) -> io::Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') {
            all.push(name.into_owned());
        }
    }
    all.sort();
    Ok(all)
}

/// What is wrong with a keyring.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Nobody can use it.
    pub faults: Vec<String>,
    /// It can be used.
    pub warnings: Vec<String>,
}

/// Looks at each file of a keyring. No key is shown.
pub fn check(dir: &Path) -> Result<Findings> {
    let mut found = Findings::default();
    let names = entries(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut keys: Vec<(&str, Zeroizing<Vec<u8>>)> = Vec::new();
    for name in &names {
        let path = dir.join(name);
        let meta = fs::metadata(&path).with_context(|| format!("read {}", path.display()))?;
        if !is_mounted(dir) && meta.permissions().mode() & 0o077 != 0 {
            found.warnings.push(format!(
                "{name} can be used by others than its owner: chmod 600 {}",
                path.display()
            ));
        }
        if !meta.is_file() {
            found.faults.push(format!("{name} is not a file"));
            continue;
        }
        if name == KEYRING_CURRENT {
            continue;
        }
        if let Err(why) = KeyId::new(name.as_str()) {
            // Not repeated: somebody may have put a key there.
            found.faults.push(format!("the name of a file: {why}"));
            continue;
        }
        let bytes = read(&path).with_context(|| format!("read {}", path.display()))?;
        if let Err(why) = Key::new(&bytes) {
            found.faults.push(format!("{name}: {why}"));
        } else if let Some((other, _)) = keys.iter().find(|(_, other)| **other == *bytes) {
            found
                .warnings
                .push(format!("{other} and {name} are the same key"));
        }
        keys.push((name, bytes));
    }
    if names.iter().any(|name| name == KEYRING_CURRENT) {
        let path = dir.join(KEYRING_CURRENT);
        let text = read(&path).with_context(|| format!("read {}", path.display()))?;
        let id = std::str::from_utf8(&text).unwrap_or_default().trim();
        if !keys.iter().any(|(name, _)| *name == id) {
            let what = "current does not name one of the keys".to_owned();
            found.faults.push(what);
        }
    } else {
        found
            .faults
            .push("there is no file named current".to_owned());
    }
    // What the store says counts.
    if found.faults.is_empty()
        && let Err(why) = Keyring::load(dir)
    {
        found.faults.push(why.to_string());
    }
    Ok(found)
}

/// As much of a file as a key or an id can have, and a byte more.
pub fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(READ));
    File::open(path)?
        .take(READ as u64)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The keyring as a Secret's manifest, which holds the keys.
pub fn manifest(secret: &str, dir: &Path, format: Format) -> Result<Zeroizing<Vec<u8>>> {
    let keyring = Keyring::load(dir)?;
    let mut data = vec![(
        KEYRING_CURRENT.to_owned(),
        Zeroizing::new(base64(keyring.current().as_str().as_bytes())),
    )];
    for id in keyring.ids() {
        let path = dir.join(id.as_str());
        let key = read(&path).with_context(|| format!("read {}", path.display()))?;
        data.push((id.to_string(), Zeroizing::new(base64(&key))));
    }
    Ok(text(secret, &data, format))
}

/// The manifest of a Secret with one key that is nowhere else.
pub fn manifest_of(secret: &str, fresh: &Fresh, format: Format) -> Zeroizing<Vec<u8>> {
    let id = fresh.id.as_str();
    let data = [
        (
            KEYRING_CURRENT.to_owned(),
            Zeroizing::new(base64(id.as_bytes())),
        ),
        (id.to_owned(), Zeroizing::new(base64(&fresh.key))),
    ];
    text(secret, &data, format)
}

fn text(secret: &str, data: &[(String, Zeroizing<String>)], format: Format) -> Zeroizing<Vec<u8>> {
    // An id such as 20261129 or 1e5 is text only where it stands in quotes; JSON's are YAML's too.
    let quoted = |text: &str| json!(text).to_string();
    let (indent, comma) = match format {
        Format::Table => ("  ", "\n"),
        Format::Json => ("    ", ",\n"),
    };
    let mut lines = Zeroizing::new(String::new());
    for (n, (id, value)) in data.iter().enumerate() {
        let before = if n == 0 { "" } else { comma };
        lines.push_str(before);
        lines.push_str(indent);
        lines.push_str(&quoted(id));
        lines.push_str(": ");
        lines.push('"');
        lines.push_str(value);
        lines.push('"');
    }
    let secret = quoted(secret);
    let whole = match format {
        Format::Table => format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {secret}\ntype: Opaque\ndata:\n{}\n",
            *lines
        ),
        Format::Json => format!(
            "{{\n  \"apiVersion\": \"v1\",\n  \"kind\": \"Secret\",\n  \"metadata\": {{\"name\": {secret}}},\n  \"type\": \"Opaque\",\n  \"data\": {{\n{}\n  }}\n}}\n",
            *lines
        ),
    };
    Zeroizing::new(whole.into_bytes())
}

/// A name that a Secret can have.
pub fn secret_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    if bytes.len() > 253
        || !bytes.iter().all(|b| allowed(*b))
        || !ends(bytes.first())
        || !ends(bytes.last())
    {
        return Err("the name of a Secret is 1 to 253 of a-z 0-9 - and ., and begins and ends with a letter or digit".to_owned());
    }
    if text.starts_with("cxs-") {
        return Err("names that begin with cxs- are for what the operator makes".to_owned());
    }
    Ok(text.to_owned())
}

/// An error where a directory cannot be changed by us.
pub fn changeable(dir: &Path) -> Result<()> {
    if is_mounted(dir) {
        let what = format!("{} is a mounted Secret: change the Secret", dir.display());
        return Err(Coded::invalid(what).into());
    }
    Ok(())
}
