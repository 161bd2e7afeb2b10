//! What is stored of an archive, by the names of its files.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use codexstore_api::archive::PiecePath;

use super::super::destination::Destination;
use super::super::stored::parse;

/// What a file is called while it is being written.
const UNFINISHED: &str = ".partial";

/// All that is stored, counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    /// Lines of history, by pod and line.
    pub lines: BTreeMap<(String, String), Count>,
    /// The keys that pieces need, and how many pieces do.
    pub keys: BTreeMap<String, u64>,
    /// What an archiver that was killed was writing.
    pub unfinished: Vec<String>,
}

/// The pieces of one line of history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub pieces: u64,
    /// How far they go.
    pub to: u64,
    /// When the last batch in them was committed: milliseconds since 1970.
    pub last_ms: u64,
}

impl Shelf {
    /// All of a store's archive.
    pub async fn read(destination: &Destination, directory: &str) -> Result<Shelf> {
        let mut shelf = Shelf::default();
        let mut visit = |path: &str| shelf.add(path, directory);
        destination.walk(directory, &mut visit).await?;
        Ok(shelf)
    }

    /// One file more.
    pub fn add(&mut self, path: &str, directory: &str) {
        if path.ends_with(UNFINISHED) {
            self.unfinished.push(path.to_owned());
        }
        let Some((pod, piece)) = parse(path, directory) else {
            return;
        };
        let line = (pod.to_owned(), piece.lineage);
        let count = self.lines.entry(line).or_default();
        count.pieces += 1;
        count.to = count.to.max(piece.name.to);
        count.last_ms = count.last_ms.max(piece.name.last_ms);
        if let Some(key_id) = piece.name.key_id {
            *self.keys.entry(key_id).or_default() += 1;
        }
    }

    /// A piece less that needs its key.
    pub fn remove(&mut self, piece: &PiecePath) {
        if let Some(key_id) = &piece.name.key_id
            && let Some(count) = self.keys.get_mut(key_id)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.keys.remove(key_id);
            }
        }
    }
}

/// How far one line of history is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Behind this revision there is no gap …
    pub since: u64,
    /// … up to this one, the last.
    pub to: u64,
    /// When it was committed: milliseconds since 1970.
    pub last_ms: u64,
    /// How many pieces there are.
    pub pieces: u64,
}

impl Reach {
    /// Of one line of history; none where nothing is stored of it.
    pub async fn read(
        destination: &Destination,
        directory: &str,
        pod: &str,
        lineage: &str,
    ) -> Result<Option<Reach>> {
        // As little as that takes: there may be very many.
        let mut all: BTreeSet<(u64, u64)> = BTreeSet::new();
        let (mut pieces, mut last) = (0, (0, 0));
        let below = format!("{directory}/{pod}/{lineage}");
        let visit = |path: &str| {
            let Some((_, piece)) = parse(path, directory) else {
                return;
            };
            pieces += 1;
            last = last.max((piece.name.to, piece.name.last_ms));
            all.insert((piece.name.from, piece.name.to));
        };
        destination.walk(&below, visit).await?;
        let Some(since) = since(&all) else {
            return Ok(None);
        };
        Ok(Some(Reach {
            since,
            to: last.0,
            last_ms: last.1,
            pieces,
        }))
    }
}

/// Where the last stretch without a gap begins; from and to of each piece, sorted.
fn since(all: &BTreeSet<(u64, u64)>) -> Option<u64> {
    let mut all = all.iter();
    let (mut since, mut reaches) = *all.next()?;
    for (from, to) in all {
        if *from > reaches {
            since = *from;
        }
        reaches = reaches.max(*to);
    }
    Some(since)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const DIRECTORY: &str = "shop/orders/_archive";
    const LINE: &str = "00000000000000aa";

    fn path(pod: &str, from: u64, to: u64, key: &str) -> String {
        format!(
            "{DIRECTORY}/{pod}/{LINE}/{:020}/{from:020}-{to:020}-{:015}{key}.piece",
            1,
            to * 10
        )
    }

    #[test]
    fn the_last_stretch_begins_behind_the_last_gap() {
        let of = |all: &[(u64, u64)]| since(&all.iter().copied().collect());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(0, 5), (5, 9)]), Some(0));
        assert_eq!(of(&[(0, 5), (6, 9), (9, 12)]), Some(6));
        assert_eq!(of(&[(0, 20), (6, 9), (15, 30)]), Some(0), "they overlap");
    }

    #[tokio::test]
    async fn what_is_stored_is_counted_and_what_is_no_piece_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::Dir(dir.path().to_owned());
        assert_eq!(
            Shelf::read(&destination, DIRECTORY).await.unwrap(),
            Shelf::default()
        );
        let partial = path("web-0", 7, 8, "").replace(".piece", ".partial");
        for path in [
            path("web-0", 0, 3, ".k1"),
            path("web-0", 3, 5, ".k2"),
            path("web-0", 6, 7, ".k2"),
            path("web-1", 0, 2, ""),
            format!("{DIRECTORY}/web-0/readme"),
            path("web-2", 5, 5, ""),
        ] {
            let put = destination.put_new(&path, Bytes::from_static(b"x"));
            assert!(put.await.unwrap());
        }
        std::fs::write(dir.path().join(&partial), "x").unwrap();
        let shelf = Shelf::read(&destination, DIRECTORY).await.unwrap();
        let keys: Vec<_> = shelf.keys.iter().map(|(k, n)| (k.as_str(), *n)).collect();
        assert_eq!(keys, [("k1", 1), ("k2", 2)]);
        assert_eq!(shelf.unfinished, [partial]);
        assert_eq!(shelf.lines.len(), 2);
        let first = shelf.lines[&("web-0".to_owned(), LINE.to_owned())];
        assert_eq!((first.pieces, first.to, first.last_ms), (3, 7, 70));
        let reach = async |pod: &str| {
            let read = Reach::read(&destination, DIRECTORY, pod, LINE).await;
            read.unwrap().map(|r| (r.since, r.to, r.last_ms, r.pieces))
        };
        assert_eq!(reach("web-0").await, Some((6, 7, 70, 3)));
        assert_eq!(reach("web-1").await, Some((0, 2, 20, 1)));
        assert_eq!(reach("web-3").await, None);
    }
}
