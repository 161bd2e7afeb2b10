//! Passing the bytes of a stored member on to the member that gets them.

use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use codexstore::backup::{self, HEAD};
use codexstore::{Encryption, Keyring};
use codexstore_api::archive::PiecePath;
use codexstore_api::encoding::hex;
use codexstore_crds::codex_backup::BackupMember;
use codexstore_crds::jobs::SOURCE_KEYRING_DIR;
use codexstore_crds::names;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::destination::Destination;
use super::source::Source;
use super::stored::path;
use crate::failure::Coded;

/// Bytes that are sent at a time.
const PART: usize = 256 << 10;

/// The keyrings between which a copy is handed over.
pub struct Keys {
    theirs: Encryption,
    ours: Encryption,
}

impl Keys {
    /// Those that are mounted, as they are now.
    pub fn mounted() -> Result<Keys> {
        Keys::load(Path::new(SOURCE_KEYRING_DIR), Path::new(names::KEYRING_DIR))
    }

    fn load(theirs: &Path, ours: &Path) -> Result<Keys> {
        let theirs =
            Keyring::load(theirs).context("load the keyring of the store that is copied")?;
        let ours = Keyring::load(ours).context("load the keyring")?;
        Ok(Keys {
            theirs: Encryption::Keyring(theirs),
            ours: Encryption::Keyring(ours),
        })
    }
}

/// What a member gets.
pub struct Parcel<'a> {
    /// The backup.
    pub source: &'a Source,
    /// What is stored of the member in it.
    pub stored: &'a BackupMember,
    /// Those that a copy is handed over with.
    pub keys: Option<&'a Keys>,
    /// Directory of the archive, and the pod whose it is.
    pub archive: (&'a str, &'a str),
    /// Its pieces that follow, in order.
    pub pieces: &'a [&'a PiecePath],
}

/// Passes the bytes of a stored member on, the last of them once it is certain that they are those that were stored: a
/// member that does not get them all changes nothing. With `keys`, the copy's keyring opens what arrives.
///
/// The pieces of the archive that follow have no sum anywhere but in themselves, which the member verifies.
pub async fn feed(
    destination: &Destination,
    parcel: &Parcel<'_>,
    parts: mpsc::Sender<io::Result<Bytes>>,
) -> Result<()> {
    let fed = pass_all_on(destination, parcel, &parts).await;
    if fed.is_err() {
        let _ = parts.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
    }
    fed
}

async fn pass_all_on(
    destination: &Destination,
    parcel: &Parcel<'_>,
    parts: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<()> {
    let Parcel {
        source,
        stored,
        keys,
        archive: (archive, pod),
        pieces,
    } = parcel;
    pass_on(destination, source, stored, *keys, parts).await?;
    for piece in *pieces {
        let path = path(archive, pod, piece);
        let read = || format!("read {path}");
        let mut file = destination.read(&path).await?;
        loop {
            let mut part = vec![0; PART];
            let read = file.read(&mut part).await.with_context(read)?;
            if read == 0 {
                break;
            }
            part.truncate(read);
            if parts.send(Ok(Bytes::from(part))).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn pass_on(
    destination: &Destination,
    source: &Source,
    stored: &BackupMember,
    keys: Option<&Keys>,
    parts: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<()> {
    let name = stored.file.as_deref().filter(|name| !name.contains('/'));
    let name = name.context("its file is not in the backup's directory")?;
    let path = format!("{}/{name}", source.directory);
    let mut file = destination.read(&path).await?;
    let mut sum = Sha256::new();
    let mut held = Bytes::new();
    if let Some(keys) = keys {
        let mut first = vec![0; HEAD];
        let read = file.read_exact(&mut first).await;
        read.with_context(|| format!("read {path}"))?;
        sum.update(&first);
        let handed = backup::hand_over(&first, &keys.theirs, &keys.ours);
        held = handed.with_context(|| format!("hand {path} over"))?.into();
    }
    loop {
        let mut part = vec![0; PART];
        let read = file.read(&mut part).await;
        let read = read.with_context(|| format!("read {path}"))?;
        if read == 0 {
            break;
        }
        part.truncate(read);
        sum.update(&part);
        let before = std::mem::replace(&mut held, Bytes::from(part));
        // A member that wants no more says why in its answer.
        if !before.is_empty() && parts.send(Ok(before)).await.is_err() {
            return Ok(());
        }
    }
    if Some(hex(&sum.finalize())) != stored.sha256 {
        let what = format!("{path} is not what was stored: its SHA-256 differs");
        return Err(Coded::integrity(what).into());
    }
    let _ = parts.send(Ok(held)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use codexstore::{Key, KeyId, Options, Store};

    use super::*;

    /// A backup of one member, in a directory as a Job leaves it.
    struct Stored {
        destination: Destination,
        source: Source,
        pieces: Vec<PiecePath>,
        content: [u8; 32],
        dir: tempfile::TempDir,
    }

    fn keyring(id: &str, byte: u8) -> Encryption {
        let key = Key::new(&[byte; 32]).unwrap();
        Encryption::Keyring(Keyring::single(KeyId::new(id).unwrap(), key))
    }

    /// Larger than one part, so that the first bytes and the last ones go separately.
    async fn stored(encryption: Encryption) -> Stored {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("data"), Options::new(encryption)).unwrap();
        for n in 0..40_u32 {
            // What does not get shorter by compression.
            let sums =
                (0..400_u32).map(|i| Sha256::digest([n.to_be_bytes(), i.to_be_bytes()].concat()));
            let value: Vec<u8> = sums.flatten().collect();
            store.set(&n.to_be_bytes(), &value).unwrap();
        }
        let mut bytes = Vec::new();
        let info = store.backup(&mut bytes).unwrap();
        assert!(bytes.len() > HEAD + PART, "{}", bytes.len());
        let root = dir.path().join("destination");
        std::fs::create_dir(&root).unwrap();
        let destination = Destination::Dir(root);
        let path = "shop/orders/monday/web-0-1a.backup";
        destination.put(path, bytes).await.unwrap();
        let member = BackupMember {
            pod: "web-0".to_owned(),
            stored: true,
            file: Some("web-0-1a.backup".to_owned()),
            sha256: Some(hex(&info.envelope.sha256)),
            ..BackupMember::default()
        };
        Stored {
            destination,
            pieces: Vec::new(),
            source: Source {
                backup: "monday".to_owned(),
                directory: "shop/orders/monday".to_owned(),
                stored_at: 1,
                members: vec![member],
            },
            content: info.contents.root,
            dir,
        }
    }

    impl Stored {
        /// What a member gets, and how it went.
        async fn fed(
            &self,
            member: &BackupMember,
            keys: Option<&Keys>,
        ) -> (io::Result<Vec<u8>>, Result<()>) {
            let (parts, mut body) = mpsc::channel(2);
            let collect = async {
                let mut all = Vec::new();
                while let Some(part) = body.recv().await {
                    all.extend(part?);
                }
                Ok(all)
            };
            let pieces: Vec<_> = self.pieces.iter().collect();
            let parcel = Parcel {
                source: &self.source,
                stored: member,
                keys,
                archive: ("shop/orders/_archive", "web-0"),
                pieces: &pieces,
            };
            let fed = feed(&self.destination, &parcel, parts);
            tokio::join!(collect, fed)
        }
    }

    #[tokio::test]
    async fn a_member_gets_what_was_stored_or_nothing_whole() {
        let stored = stored(keyring("theirs", 7)).await;
        let member = &stored.source.members[0];
        let (bytes, fed) = stored.fed(member, None).await;
        fed.unwrap();
        let said = backup::verify(&bytes.unwrap()[..], &keyring("theirs", 7)).unwrap();
        assert_eq!(said.contents.root, stored.content);
        let other = BackupMember {
            sha256: Some("aa".to_owned()),
            ..member.clone()
        };
        for keys in [None, Some(&keys("theirs", 7))] {
            let (bytes, fed) = stored.fed(&other, keys).await;
            assert!(bytes.is_err());
            assert!(fed.unwrap_err().to_string().contains("SHA-256 differs"));
        }
        let outside = BackupMember {
            file: Some("../web-0-1a.backup".to_owned()),
            ..member.clone()
        };
        assert!(stored.fed(&outside, None).await.1.is_err());
    }

    #[tokio::test]
    async fn pieces_follow_in_order_and_one_that_is_gone_is_the_end() {
        let mut stored = stored(Encryption::None).await;
        let member = stored.source.members[0].clone();
        let (alone, fed) = stored.fed(&member, None).await;
        fed.unwrap();
        let large = vec![7; PART + 5];
        for (n, bytes) in [(1, large.clone()), (2, b"second".to_vec())] {
            let line = "00000000000000aa/00000000000000000001";
            let name = format!("{n:020}-{:020}-000000000000005.piece", n + 1);
            let piece = PiecePath::parse(&format!("{line}/{name}")).unwrap();
            let path = format!("shop/orders/_archive/web-0/{piece}");
            let bytes = Bytes::from(bytes);
            assert!(stored.destination.put_new(&path, bytes).await.unwrap());
            stored.pieces.push(piece);
        }
        let (bytes, fed) = stored.fed(&member, None).await;
        fed.unwrap();
        assert!(bytes.unwrap() == [alone.unwrap(), large, b"second".to_vec()].concat());
        let gone = path("shop/orders/_archive", "web-0", &stored.pieces[1]);
        stored.destination.delete(&gone).await.unwrap();
        let (bytes, fed) = stored.fed(&member, None).await;
        assert!(bytes.is_err(), "the member is told that there is no more");
        assert!(format!("{:#}", fed.unwrap_err()).contains(&gone));
    }

    fn keys(id: &str, byte: u8) -> Keys {
        Keys {
            theirs: keyring(id, byte),
            ours: keyring("ours", 9),
        }
    }

    #[tokio::test]
    async fn a_copy_opens_with_its_own_keyring_alone() {
        let stored = stored(keyring("theirs", 7)).await;
        let member = &stored.source.members[0];
        let (bytes, fed) = stored.fed(member, Some(&keys("theirs", 7))).await;
        fed.unwrap();
        let bytes = bytes.unwrap();
        let said = backup::verify(&bytes[..], &keyring("ours", 9)).unwrap();
        assert_eq!(said.contents.root, stored.content);
        assert!(backup::verify(&bytes[..], &keyring("theirs", 7)).is_err());
        // A store of it, as a member makes it.
        let options = Options::new(keyring("ours", 9));
        let restored = stored.dir.path().join("restored");
        backup::restore(&restored, &bytes[..], &options).unwrap();
        let copy = Store::open(&restored, options).unwrap();
        assert_eq!(copy.content().unwrap().1, stored.content);

        for (wrong, says) in [
            (keys("lost", 7), "lacks key theirs"),
            (keys("theirs", 8), "not the one that wrapped"),
        ] {
            let (bytes, fed) = stored.fed(member, Some(&wrong)).await;
            assert!(bytes.is_err());
            let why = format!("{:#}", fed.unwrap_err());
            assert!(why.contains(says), "{why}");
        }
        let plain = super::tests::stored(Encryption::None).await;
        let keys = keys("theirs", 7);
        let (_, fed) = plain.fed(&plain.source.members[0], Some(&keys)).await;
        assert!(format!("{:#}", fed.unwrap_err()).contains("not encrypted"));
    }

    #[test]
    fn both_keyrings_are_needed_and_the_error_says_which_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["theirs", "ours"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let fill = |name: &str| {
            std::fs::write(at(name).join("current"), "k").unwrap();
            std::fs::write(at(name).join("k"), [7; 32]).unwrap();
        };
        let why = || {
            format!(
                "{:#}",
                Keys::load(&at("theirs"), &at("ours")).err().unwrap()
            )
        };
        fill("ours");
        assert!(why().contains("of the store that is copied"), "{}", why());
        fill("theirs");
        Keys::load(&at("theirs"), &at("ours")).unwrap();
    }
}
