//! `key unseal`: a keyring directory from what the operator sealed.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use codexstore::Keyring;
use codexstore_crds::names::KEYRING_CURRENT;
use codexstore_escrow::{Keys, MAX_SEALED, identities, unseal as open};
use serde_json::json;
use zeroize::Zeroizing;

use crate::failure::Coded;
use crate::keyring::write;
use crate::output::{self, Format};

/// `key unseal`.
#[derive(Debug, Args)]
pub struct Unseal {
    /// The sealed keyring, `keyring-….age` beside a backup; or what `age -d` made of it; `-` reads it from standard input
    #[arg(value_name = "FILE")]
    sealed: PathBuf,
    /// Directory to make, which must not be there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// File with age identities, as `age-keygen` writes it; one with a passphrase is for `age -d`
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

/// `key unseal`.
pub fn unseal(unseal: &Unseal, format: Format) -> Result<()> {
    let dir = unseal.dir.as_path();
    if dir.symlink_metadata().is_ok() {
        let what = format!("{} is there: nothing was changed", dir.display());
        return Err(Coded::conflict(what).into());
    }
    let bytes = read(&unseal.sealed)?;
    let keys = keys(unseal, &bytes)?;
    make(dir, &keys).with_context(|| format!("make {}", dir.display()))?;
    let ids: Vec<_> = keys.iter().map(|(id, _)| id).collect();
    if format == Format::Json {
        let told = json!({"store": keys.store, "current": keys.current, "keys": ids});
        return output::json(&told);
    }
    let count = match ids.len() {
        1 => "1 key".to_owned(),
        n => format!("{n} keys"),
    };
    output::line(&format!(
        "{}: {count} of {}, current {}",
        dir.display(),
        keys.store,
        keys.current
    ))
}

fn keys(unseal: &Unseal, bytes: &[u8]) -> Result<Keys> {
    let file = unseal.sealed.display();
    if bytes.trim_ascii_start().starts_with(b"{") {
        // Opened by age already.
        let keys = Keys::from_json(bytes);
        return keys.map_err(|why| Coded::invalid(format!("{file}: {why}")).into());
    }
    let Some(path) = &unseal.identity else {
        let what = "--identity is missing: the file with the age identity that opens it";
        return Err(Coded::invalid(what).into());
    };
    let text = Zeroizing::new(read(path)?);
    let told = |why: &str| Coded::invalid(format!("{}: {why}", path.display()));
    let text = std::str::from_utf8(&text).unwrap_or_default();
    if text.starts_with("age-encryption.org/") || text.starts_with("-----BEGIN AGE") {
        let what = "it is sealed itself, by a passphrase maybe: `age -d -i` it with the sealed keyring, and give what that prints to `codexctl key unseal - DIR`";
        return Err(told(what).into());
    }
    let identities = identities(text).map_err(|why| told(&why.to_string()))?;
    open(bytes, &identities).map_err(|why| Coded::encryption(format!("{file}: {why}")).into())
}

/// All of a file that is not too long for what is asked for.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let limit = MAX_SEALED as u64 + 1;
    let read = if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let what = format!("{} is not there", path.display());
                return Err(Coded::not_found(what).into());
            }
            file => file.and_then(|file| file.take(limit).read_to_end(&mut bytes)),
        }
    };
    read.with_context(|| format!("read {}", path.display()))?;
    if bytes.len() > MAX_SEALED {
        let what = format!("{} is too long for a keyring", path.display());
        return Err(Coded::invalid(what).into());
    }
    Ok(bytes)
}

/// Under another name first, which nobody else has: a crash leaves no half of a keyring in its place. What a store cannot use is not made.
fn make(dir: &Path, keys: &Keys) -> Result<()> {
    let name = dir.file_name().context("it has no name")?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let new = tempfile::Builder::new()
        .prefix(&format!(".{}.", name.to_string_lossy()))
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)?;
    for (id, key) in keys.iter() {
        write(&new.path().join(id), key)?;
    }
    let current = new.path().join(KEYRING_CURRENT);
    write(&current, keys.current.as_bytes())?;
    Keyring::load(new.path())?;
    File::open(new.path())?.sync_all()?;
    fs::rename(new.path(), dir)?;
    // It is there, under its own name.
    let _gone = new.keep();
    File::open(parent)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use codexstore_escrow::{Identity, seal};

    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        identity: Identity,
    }

    impl Place {
        fn new() -> Self {
            let place = Self {
                dir: tempfile::tempdir().unwrap(),
                identity: Identity::random().unwrap(),
            };
            let mut keys = Keys::new("shop/orders", "b");
            keys.insert("a", &[1; 16]);
            keys.insert("b", &[2; 32]);
            let sealed = seal(&keys, &[place.identity.recipient().unwrap()]).unwrap();
            place.file("keyring.age", &sealed);
            place.file("me.txt", &format!("# me\n{}\n", *place.identity.to_text()));
            place
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn file(&self, name: &str, text: &str) {
            fs::write(self.at(name), text).unwrap();
        }

        /// The words of the error, and its exit code.
        fn run(&self, sealed: &str, identity: Option<&str>, dir: &str) -> Result<(), (String, u8)> {
            let args = Unseal {
                sealed: self.at(sealed),
                dir: self.at(dir),
                identity: identity.map(|name| self.at(name)),
            };
            unseal(&args, Format::Json).map_err(|error| {
                let (line, code) = crate::failure::report(&error);
                (line.unwrap_or_default(), code)
            })
        }
    }

    #[test]
    fn a_keyring_is_made_for_its_owner_alone_and_nothing_is_overwritten() {
        let place = Place::new();
        // A keyring of somebody's, under a name that comes to mind.
        fs::create_dir(place.at("ring.new")).unwrap();
        place.file("ring.new/current", "mine");
        place.run("keyring.age", Some("me.txt"), "ring").unwrap();
        assert!(place.at("ring.new/current").exists());
        let ring = place.at("ring");
        let loaded = Keyring::load(&ring).unwrap();
        assert_eq!(loaded.current().as_str(), "b");
        assert_eq!(fs::read(ring.join("a")).unwrap(), [1; 16]);
        assert_eq!(fs::read(ring.join("b")).unwrap(), [2; 32]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&ring), 0o700);
        for name in ["a", "b", "current"] {
            assert_eq!(mode(&ring.join(name)), 0o600, "{name}");
        }
        let (why, code) = place
            .run("keyring.age", Some("me.txt"), "ring")
            .unwrap_err();
        assert!(why.contains("nothing was changed"), "{why}");
        assert_eq!(code, codexstore_api::codes::EXIT_CONCURRENCY);
    }

    #[test]
    fn what_age_printed_needs_no_identity() {
        let place = Place::new();
        let json = r#"{"codexstoreKeyring": 1, "store": "shop/orders", "current": "a", "keys": {"a": "AQEBAQEBAQEBAQEBAQEBAQ=="}}"#;
        place.file("keyring.json", json);
        place.run("keyring.json", None, "ring").unwrap();
        assert_eq!(fs::read(place.at("ring/a")).unwrap(), [1; 16]);
        place.file("keyring.json", &json.replace("\"a\":", "\"../a\":"));
        let (why, code) = place.run("keyring.json", None, "other").unwrap_err();
        assert!(why.contains("the id of a key is none"), "{why}");
        assert_eq!(code, codexstore_api::codes::EXIT_VALIDATION);
    }

    #[test]
    fn what_does_not_open_it_is_said_and_leaves_nothing() {
        let place = Place::new();
        let other = Identity::random().unwrap();
        place.file("other.txt", &other.to_text());
        place.file("none.txt", "# nothing\n");
        place.file(
            "wrapped.txt",
            &fs::read_to_string(place.at("keyring.age")).unwrap(),
        );
        let sealed = fs::read_to_string(place.at("keyring.age")).unwrap();
        place.file("cut.age", &sealed[..sealed.len() - 40]);
        let (encryption, validation) = (
            codexstore_api::codes::EXIT_ENCRYPTION,
            codexstore_api::codes::EXIT_VALIDATION,
        );
        for (file, identity, words, exit) in [
            (
                "keyring.age",
                Some("other.txt"),
                "sealed to others",
                encryption,
            ),
            (
                "keyring.age",
                Some("none.txt"),
                "the file has none",
                validation,
            ),
            ("keyring.age", Some("wrapped.txt"), "age -d", validation),
            ("keyring.age", None, "--identity is missing", validation),
            ("cut.age", Some("me.txt"), "it is cut", encryption),
            (
                "none.txt",
                Some("me.txt"),
                "not a sealed keyring",
                encryption,
            ),
        ] {
            let (why, code) = place.run(file, identity, "ring").unwrap_err();
            assert!(why.contains(words), "{file}: {why}");
            assert_eq!(code, exit, "{file}: {why}");
        }
        let (_, code) = place.run("gone.age", Some("me.txt"), "ring").unwrap_err();
        assert_eq!(code, codexstore_api::codes::EXIT_NOT_FOUND);
        let left = fs::read_dir(place.dir.path()).unwrap();
        let names = left.map(|entry| entry.unwrap().file_name());
        let dirs: Vec<_> = names
            .filter(|name| place.dir.path().join(name).is_dir())
            .collect();
        assert_eq!(dirs, [""; 0]);
    }
}
