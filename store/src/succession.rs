//! What a migration put in the place of what: found again after a crash in the middle of it.
//!
//! A migration writes a log anew, from its beginning, under names that end in `.tmp`, and then puts
//! an image in place that names the new log: that rename is the switch. So does the re-encryption of a
//! running store, whose log goes on meanwhile. What it replaced is removed before the new log files get
//! their names. So while such names are there, the newest image says which log counts: if that log, followed back
//! to its beginning, has `.tmp` files in it, then they count, with whatever follows them, and all else
//! that is not of a later epoch than its beginning was replaced, whether the keys at hand open it or
//! not. If not, the `.tmp` files are of a migration that did not get as far.
//!
//! A log file that is missing behind the image cannot make what follows it pass for replaced: the file before it
//! ends with the mark that another one follows, and does not open as the last.
//!
//! This goes by headers, which need no key. What counts is opened and verified all the same before
//! anything is removed.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::format::{FileId, Header, Link, PAGE};
use crate::layout::{self, Name};

/// Names in a directory, as far as a migration left its marks.
#[derive(Debug, Default)]
pub(crate) struct Succession {
    /// Files of before the switch.
    replaced: BTreeSet<String>,
    /// Log files of the new log that do not have their names yet.
    successors: BTreeSet<String>,
}

impl Succession {
    /// Looks at the headers, if there is anything to be found out.
    pub fn find(disk: &dyn Disk, names: &[String]) -> Result<Succession> {
        let next = |name: &String| matches!(layout::parse(name), Name::Next(..));
        if !names.iter().any(next) {
            return Ok(Succession::default());
        }
        let mut logs: BTreeMap<FileId, (String, Header)> = BTreeMap::new();
        let mut images = BTreeMap::new();
        for name in names {
            match layout::parse(name) {
                Name::Image(revision) => {
                    if let Some(header) = header(disk, name)? {
                        images.insert(revision, (name.clone(), header));
                    }
                }
                Name::Log(..) | Name::Next(..) => {
                    if let Some(header) = header(disk, name)? {
                        logs.insert(header.file, (name.clone(), header));
                    }
                }
                _ => {}
            }
        }
        let Some((image, newest)) = images.last_key_value().map(|(_, image)| image) else {
            return Ok(Succession::default());
        };
        let mut chain: BTreeSet<String> = BTreeSet::new();
        let mut link = newest.link;
        let mut begun = None;
        while let Some((name, header)) = logs.get(&link.file) {
            // A circle is no log.
            if !chain.insert(name.clone()) {
                return Ok(Succession::default());
            }
            link = header.link;
            if link == Link::default() {
                begun = Some(header.epoch);
                break;
            }
        }
        let Some(begun) = begun.filter(|_| chain.iter().any(next)) else {
            return Ok(Succession::default());
        };
        // What was logged between the image and the switch, and behind it.
        while let Some((name, _)) = logs
            .values()
            .find(|(name, header)| follows(&logs, header, &chain) && !chain.contains(name))
        {
            chain.insert(name.clone());
        }
        let replaced = images
            .values()
            .filter(|(name, _)| name != image)
            .chain(logs.values())
            .filter(|(name, header)| header.epoch <= begun && !chain.contains(name))
            .map(|(name, _)| name.clone())
            .collect();
        let successors = chain.into_iter().filter(next).collect();
        Ok(Succession {
            replaced,
            successors,
        })
    }

    /// True if a migration took this file's place.
    pub fn replaced(&self, name: &str) -> bool {
        self.replaced.contains(name)
    }

    /// True if this file is part of the log and has not got its name yet.
    pub fn succeeds(&self, name: &str) -> bool {
        self.successors.contains(name)
    }
}

/// True if the file that this one goes on behind is in the chain.
fn follows(
    logs: &BTreeMap<FileId, (String, Header)>,
    header: &Header,
    chain: &BTreeSet<String>,
) -> bool {
    let before = logs.get(&header.link.file);
    before.is_some_and(|(name, _)| chain.contains(name))
}

/// A file's header, if it has a good one.
fn header(disk: &dyn Disk, name: &str) -> Result<Option<Header>> {
    let io = |e| Error::io(format!("read {name}"), e);
    let file = disk.open(name).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => layout::gone(name),
        _ => io(e),
    })?;
    if file.len().map_err(io)? < PAGE as u64 {
        return Ok(None);
    }
    let mut page = vec![0; PAGE];
    file.read_at(0, &mut page).map_err(io)?;
    Ok(Header::decode(&page).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;
    use crate::format::{Cipher, FileKind, Lineage, StoreId};

    const KEPT: &str = "journal-00000000000000000001";
    const NEXT: &str = "journal-00000000000000000002.tmp";
    const OLD: &str = "journal-00000000000000000003";

    /// What is found of an image that names log file 1, and of files with these names, ids, and ids of the files that they
    /// follow (0: none).
    fn found(image: bool, logs: &[(&str, u8, u8)]) -> (bool, bool) {
        let dir = tempfile::tempdir().unwrap();
        let id = |file: u8| FileId([file; 16]);
        let write = |name: &str, kind, file, behind| {
            let header = Header {
                kind,
                store: StoreId([9; 16]),
                lineage: Lineage(1),
                file: id(file),
                epoch: if file == 5 { 2 } else { 1 },
                first_revision: 1,
                link: Link {
                    file: id(behind),
                    ..Link::default()
                },
                compression: crate::Compression::None,
                cipher: Cipher::None,
                commitment: [0; 32],
                created_ms: 0,
            };
            std::fs::write(dir.path().join(name), header.encode()).unwrap();
        };
        if image {
            write(&layout::image(1), FileKind::Image, 8, 1);
        }
        for (name, file, behind) in logs {
            write(name, FileKind::Journal, *file, *behind);
        }
        // Too short for a header, and one that does not verify: neither says anything.
        std::fs::write(dir.path().join(layout::image(2)), [1; 8]).unwrap();
        std::fs::write(dir.path().join(layout::image(3)), [1; PAGE]).unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        let found = Succession::find(&disk, &disk.list().unwrap()).unwrap();
        (found.succeeds(NEXT), found.replaced(OLD))
    }

    #[test]
    fn a_new_log_counts_if_the_image_names_it_and_it_has_a_beginning() {
        let whole = [(KEPT, 1, 2), (NEXT, 2, 0), (OLD, 3, 0)];
        assert_eq!(found(true, &whole), (true, true));
        // Of an owner that came later.
        let later = [(KEPT, 1, 2), (NEXT, 2, 0), (OLD, 5, 0)];
        assert_eq!(found(true, &later), (true, false));
        for (image, logs, what) in [
            (false, &whole[..], "no image"),
            (
                true,
                &[(KEPT, 1, 0), (NEXT, 2, 0), (OLD, 3, 0)],
                "the image names another log",
            ),
            (true, &[(KEPT, 1, 2), (NEXT, 2, 1), (OLD, 3, 0)], "a circle"),
            (
                true,
                &[(KEPT, 1, 2), (NEXT, 2, 7), (OLD, 3, 0)],
                "no beginning",
            ),
            (true, &[(KEPT, 1, 0), (OLD, 3, 0)], "no migration"),
        ] {
            assert_eq!(found(image, logs), (false, false), "{what}");
        }
    }

    #[test]
    fn a_file_that_goes_while_it_is_looked_at_is_another_owners_work() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        let error = Succession::find(&disk, &[NEXT.to_owned()]).unwrap_err();
        assert!(error.is(crate::Code::Locked), "{error:?}");
    }
}
