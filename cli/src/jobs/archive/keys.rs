//! The keys that what is stored needs: those that a walk through it found, and those that were named since.

use std::collections::{BTreeMap, BTreeSet};

/// Keys. A walk may miss what is stored while it goes on, or was about to be: what was named stays until a walk that began after one
/// that had found all.
#[derive(Debug, Default)]
pub struct Keys {
    /// What the last walk found, or what was read; none where nobody knows.
    found: Option<BTreeSet<String>>,
    /// What was named, each with the walk that had begun last.
    named: BTreeMap<String, u64>,
    begun: u64,
    ended: u64,
}

impl Keys {
    /// What an earlier archiver wrote down, which counts until a walk has ended.
    pub fn read(&mut self, ids: Option<&[String]>) {
        for id in ids.unwrap_or_default() {
            self.name(id);
        }
        if self.ended == 0 {
            self.found = ids.map(|ids| ids.iter().cloned().collect());
        }
    }

    /// Something that needs this key is about to be stored, or somebody says that it is.
    pub fn name(&mut self, id: &str) {
        self.named.insert(id.to_owned(), self.begun);
    }

    /// A walk begins: its number.
    pub fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// A walk has ended, and found that these are needed.
    pub fn end(&mut self, walk: u64, found: BTreeSet<String>) {
        let before = std::mem::replace(&mut self.ended, walk);
        self.named.retain(|_, at| *at >= before);
        self.found = Some(found);
    }

    /// All of them, sorted; none where nobody knows.
    pub fn ids(&self) -> Option<Vec<String>> {
        let all: BTreeSet<_> = self
            .found
            .as_ref()?
            .iter()
            .chain(self.named.keys())
            .collect();
        Some(all.into_iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(keys: &mut Keys, found: &[&str]) {
        let walk = keys.begin();
        keys.end(walk, found.iter().map(|id| (*id).to_owned()).collect());
    }

    fn told(keys: &Keys) -> String {
        keys.ids().unwrap().join(" ")
    }

    #[test]
    fn what_was_named_stays_until_a_whole_walk_later() {
        let mut keys = Keys::default();
        keys.name("before");
        assert_eq!(keys.ids(), None);
        walk(&mut keys, &["k1"]);
        assert_eq!(told(&keys), "before k1");
        keys.name("k2");
        // It may be stored just where the walk has been already.
        let going = keys.begin();
        keys.name("k3");
        keys.end(going, ["k1".to_owned()].into());
        assert_eq!(told(&keys), "k1 k2 k3");
        walk(&mut keys, &["k3"]);
        assert_eq!(told(&keys), "k3", "it would have found k2");
        walk(&mut keys, &[]);
        assert_eq!(told(&keys), "");
    }

    #[test]
    fn what_was_read_counts_and_stays_with_the_first_walk() {
        let mut keys = Keys::default();
        keys.read(None);
        keys.name("k1");
        assert_eq!(keys.ids(), None, "nobody knows of others");
        keys.read(Some(&["k2".to_owned()]));
        assert_eq!(told(&keys), "k1 k2");
        walk(&mut keys, &["k3"]);
        assert_eq!(told(&keys), "k1 k2 k3");
        walk(&mut keys, &["k3"]);
        assert_eq!(told(&keys), "k3");
    }

    #[test]
    fn walks_that_do_not_end_take_nothing_away() {
        let mut keys = Keys::default();
        walk(&mut keys, &[]);
        keys.name("k1");
        for _ in 0..3 {
            keys.begin();
        }
        assert_eq!(told(&keys), "k1");
        walk(&mut keys, &[]);
        assert_eq!(told(&keys), "k1");
        walk(&mut keys, &[]);
        assert_eq!(told(&keys), "");
    }
}
