//! A B+ tree of [`Block`]s, persistent in the functional sense: a clone takes constant time and shares
//! everything, and a change copies the nodes on its way if anybody shares them.

use std::ops::Bound;
use std::sync::Arc;

use crate::block::{Block, Spot};
use crate::entry::Entry;

/// Most children of a node.
const FANOUT: usize = 32;

/// Entries by key.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    root: Arc<Node>,
    len: usize,
}

#[derive(Clone)]
struct Node {
    /// The beginning of each child's first key: most comparisons on the way to a key are decided by
    /// that, without a visit to the child.
    firsts: Vec<Prefix>,
    children: Children,
}

#[derive(Clone)]
enum Children {
    Nodes(Vec<Arc<Node>>),
    Blocks(Vec<Block>),
}

impl Default for Node {
    fn default() -> Node {
        Node {
            firsts: Vec::new(),
            children: Children::Blocks(Vec::new()),
        }
    }
}

/// The first 16 bytes of a key, filled with zeros, in an order that agrees with the keys'.
type Prefix = u128;

fn prefix_of(key: &[u8]) -> Prefix {
    if let Some(bytes) = key.first_chunk() {
        return Prefix::from_be_bytes(*bytes);
    }
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    Prefix::from_be_bytes(bytes)
}

/// A key that is looked for.
#[derive(Clone, Copy)]
struct Probe<'a> {
    prefix: Prefix,
    key: &'a [u8],
}

impl Node {
    fn of_nodes(children: Vec<Arc<Node>>) -> Node {
        Node {
            firsts: children
                .iter()
                .map(|child| prefix_of(child.first_key()))
                .collect(),
            children: Children::Nodes(children),
        }
    }

    fn len(&self) -> usize {
        self.firsts.len()
    }

    fn first_key(&self) -> &[u8] {
        self.first_key_of(0)
    }

    fn first_key_of(&self, at: usize) -> &[u8] {
        match &self.children {
            Children::Nodes(nodes) => nodes.get(at).map(|node| node.first_key()),
            Children::Blocks(blocks) => blocks.get(at).map(Block::first_key),
        }
        .unwrap_or_default()
    }

    /// The child that holds the key if any does: the last one that does not begin behind it.
    fn position(&self, probe: Probe<'_>) -> usize {
        let behind = self.firsts.partition_point(|first| *first <= probe.prefix);
        let before = behind.saturating_sub(1);
        if self.firsts.get(before) != Some(&probe.prefix) {
            return before;
        }
        // Where beginnings tie, whole keys decide.
        let mut low = self.firsts.partition_point(|first| *first < probe.prefix);
        let mut high = behind;
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.first_key_of(middle) > probe.key {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low.saturating_sub(1)
    }

    /// Brings the beginning of a child's first key up to date.
    fn refresh(&mut self, at: usize) {
        let prefix = prefix_of(self.first_key_of(at));
        if let Some(first) = self.firsts.get_mut(at) {
            *first = prefix;
        }
    }

    /// Puts blocks in the place of one, or in an empty node.
    fn replace(&mut self, at: usize, with: Vec<Block>) {
        let Children::Blocks(blocks) = &mut self.children else {
            return;
        };
        let end = (at + 1).min(blocks.len());
        let firsts: Vec<Prefix> = with.iter().map(|b| prefix_of(b.first_key())).collect();
        if let ([block], Some(place)) = (with.as_slice(), blocks.get_mut(at)) {
            *place = block.clone();
        } else {
            blocks.splice(at..end, with);
        }
        self.firsts.splice(at..end, firsts);
    }

    /// Cuts an overfull node; the part behind the cut. Who appends leaves full nodes behind.
    fn cut(&mut self, appended: bool) -> Option<Arc<Node>> {
        if self.len() <= FANOUT {
            return None;
        }
        let at = if appended { FANOUT } else { self.len() / 2 };
        let firsts = self.firsts.split_off(at);
        let children = match &mut self.children {
            Children::Nodes(nodes) => Children::Nodes(nodes.split_off(at)),
            Children::Blocks(blocks) => Children::Blocks(blocks.split_off(at)),
        };
        Some(Arc::new(Node { firsts, children }))
    }

    /// Puts an entry in: the one that it replaces, and what the node had to give away.
    fn put(&mut self, probe: Probe<'_>, entry: &Entry) -> (Option<Entry>, Option<Arc<Node>>) {
        let at = self.position(probe);
        let last = at + 1 >= self.len();
        let old = match &mut self.children {
            Children::Blocks(blocks) => {
                let (with, old) = match blocks.get(at) {
                    None => (vec![Block::single(entry)], None),
                    Some(block) => match block.search(probe.key) {
                        Ok(place) => (
                            block.with(place, entry, true),
                            block.get(place).map(Spot::entry),
                        ),
                        Err(place) => (block.with(place, entry, false), None),
                    },
                };
                self.replace(at, with);
                old
            }
            Children::Nodes(nodes) => {
                let Some(node) = nodes.get_mut(at) else {
                    return (None, None);
                };
                let (old, rest) = Arc::make_mut(node).put(probe, entry);
                if let Some(rest) = rest {
                    self.firsts.insert(at + 1, prefix_of(rest.first_key()));
                    nodes.insert(at + 1, rest);
                }
                // Only the first child takes in what is before its first key.
                if at == 0 {
                    self.refresh(at);
                }
                old
            }
        };
        (old, self.cut(last))
    }

    /// Takes an entry out, which is there.
    fn take(&mut self, probe: Probe<'_>) -> Option<Entry> {
        let at = self.position(probe);
        match &mut self.children {
            Children::Blocks(blocks) => {
                let block = blocks.get(at)?;
                let place = block.search(probe.key).ok()?;
                let (with, old) = (block.without(place), block.get(place).map(Spot::entry));
                self.replace(at, with);
                self.join(at);
                old
            }
            Children::Nodes(nodes) => {
                let node = Arc::make_mut(nodes.get_mut(at)?);
                let old = node.take(probe);
                if node.len() == 0 {
                    nodes.remove(at);
                    self.firsts.remove(at);
                } else {
                    self.refresh(at);
                    self.join(at);
                }
                old
            }
        }
    }

    /// Joins a small child with a neighbour, if both fit into one.
    fn join(&mut self, at: usize) {
        let left = if at + 1 < self.len() {
            at
        } else {
            at.saturating_sub(1)
        };
        match &mut self.children {
            Children::Blocks(blocks) => {
                let small = blocks.get(at).is_some_and(Block::is_small);
                if let (true, Some([a, b])) = (small, blocks.get(left..left + 2))
                    && let Some(joined) = a.joined(b)
                {
                    blocks.splice(left..left + 2, [joined]);
                    self.firsts.remove(left + 1);
                }
            }
            Children::Nodes(nodes) => {
                let small = nodes.get(at).is_some_and(|node| node.len() < FANOUT / 4);
                let Some([a, b]) = nodes.get_mut(left..left + 2) else {
                    return;
                };
                if !small || a.len() + b.len() > FANOUT / 2 {
                    return;
                }
                let (a, b) = (Arc::make_mut(a), Arc::clone(b));
                match (&mut a.children, &b.children) {
                    (Children::Nodes(to), Children::Nodes(from)) => to.extend_from_slice(from),
                    (Children::Blocks(to), Children::Blocks(from)) => to.extend_from_slice(from),
                    // All leaves are equally deep.
                    _ => return,
                }
                a.firsts.extend_from_slice(&b.firsts);
                nodes.remove(left + 1);
                self.firsts.remove(left + 1);
            }
        }
    }
}

impl Tree {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The entry of a key.
    pub fn get(&self, key: &[u8]) -> Option<Spot<'_>> {
        let probe = Probe {
            prefix: prefix_of(key),
            key,
        };
        let mut node = &*self.root;
        loop {
            let at = node.position(probe);
            match &node.children {
                Children::Nodes(nodes) => node = nodes.get(at)?,
                Children::Blocks(blocks) => {
                    return blocks.get(at)?.find(key);
                }
            }
        }
    }

    /// Puts an entry in and returns the one that it replaces.
    pub fn insert(&mut self, entry: &Entry) -> Option<Entry> {
        let key = entry.key();
        let probe = Probe {
            prefix: prefix_of(key),
            key,
        };
        let (old, rest) = Arc::make_mut(&mut self.root).put(probe, entry);
        if let Some(rest) = rest {
            let root = std::mem::take(&mut self.root);
            self.root = Arc::new(Node::of_nodes(vec![root, rest]));
        }
        if old.is_none() {
            self.len += 1;
        }
        old
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        // Nothing is copied for what is not there.
        self.get(key)?;
        let probe = Probe {
            prefix: prefix_of(key),
            key,
        };
        let old = Arc::make_mut(&mut self.root).take(probe)?;
        self.len -= 1;
        while let Children::Nodes(nodes) = &self.root.children {
            match nodes.as_slice() {
                [] => self.root = Arc::default(),
                [only] => self.root = only.clone(),
                _ => break,
            }
        }
        Some(old)
    }

    /// Entries from a key on.
    pub fn range(&self, start: Bound<&[u8]>) -> Range<'_> {
        let mut range = Range {
            path: Vec::new(),
            blocks: [].iter(),
            block: None,
            at: 0,
            start: 0,
        };
        let (key, skip) = match start {
            Bound::Unbounded => (&[][..], false),
            Bound::Included(key) => (key, false),
            Bound::Excluded(key) => (key, true),
        };
        let probe = Probe {
            prefix: prefix_of(key),
            key,
        };
        let mut node = &*self.root;
        loop {
            let at = node.position(probe);
            match &node.children {
                Children::Nodes(nodes) => {
                    let mut rest = nodes.get(at..).unwrap_or_default().iter();
                    let Some(child) = rest.next() else { break };
                    range.path.push(rest);
                    node = child;
                }
                Children::Blocks(blocks) => {
                    range.blocks = blocks.get(at..).unwrap_or_default().iter();
                    range.block = range.blocks.next();
                    if let Some(block) = range.block {
                        range.at = match block.search(key) {
                            Ok(place) => place + usize::from(skip),
                            Err(place) => place,
                        };
                        range.start = block.start(range.at);
                    }
                    break;
                }
            }
        }
        range
    }
}

/// Entries in key order.
pub(crate) struct Range<'a> {
    /// What is still to be visited of the nodes above.
    path: Vec<std::slice::Iter<'a, Arc<Node>>>,
    blocks: std::slice::Iter<'a, Block>,
    block: Option<&'a Block>,
    at: usize,
    /// Where the entry there begins in its block.
    start: usize,
}

impl<'a> Iterator for Range<'a> {
    type Item = Spot<'a>;

    fn next(&mut self) -> Option<Spot<'a>> {
        loop {
            if let Some(spot) = self.block?.get_at(self.at, self.start) {
                self.at += 1;
                self.start = spot.end();
                return Some(spot);
            }
            self.at = 0;
            self.start = 0;
            self.block = self.blocks.next();
            if self.block.is_some() {
                continue;
            }
            // Up to a node with something left, and down its left side again.
            let mut node = loop {
                match self.path.last_mut()?.next() {
                    Some(node) => break node,
                    None => self.path.pop(),
                };
            };
            loop {
                match &node.children {
                    Children::Nodes(nodes) => {
                        let mut rest = nodes.iter();
                        node = rest.next()?;
                        self.path.push(rest);
                    }
                    Children::Blocks(blocks) => {
                        self.blocks = blocks.iter();
                        self.block = self.blocks.next();
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::format::record::EntryRef;

    fn entry(key: &[u8], value: &[u8]) -> Entry {
        let fields = EntryRef {
            key,
            value,
            created: 1,
            modified: 1,
            version: 1,
            expires_at: None,
        };
        Entry::pack(&fields, &mut Vec::new())
    }

    /// A sequence that looks random (a linear congruence), from a seed.
    struct Rng(u64);

    impl Rng {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    fn check(tree: &Tree, model: &Model) {
        assert_eq!(tree.len(), model.len());
        let all: Vec<_> = tree
            .range(Bound::Unbounded)
            .map(|spot| (spot.packed().key().to_vec(), spot.packed().value().to_vec()))
            .collect();
        let expected: Vec<_> = model.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(all, expected);
    }

    /// Keys with long common beginnings, so that prefixes tie; values small, large, and empty.
    #[test]
    fn it_holds_what_a_map_holds_and_clones_stay_as_they_were() {
        for (seed, keys) in [(1, 40), (2, 3_000), (3, 20_000)] {
            let mut rng = Rng(seed);
            let (mut tree, mut model) = (Tree::default(), Model::new());
            let mut kept: Vec<(Tree, Model)> = Vec::new();
            for step in 0..30_000_u32 {
                let n = rng.below(keys);
                let key = match n % 3 {
                    0 => format!("a/long/common/beginning/{n}").into_bytes(),
                    1 => n.to_be_bytes().to_vec(),
                    _ => format!("{n}").into_bytes(),
                };
                let long = [0, 5, 100, 511, 600][usize::try_from(rng.below(5)).unwrap()];
                // It grows, shrinks to nothing, and grows again.
                let removes = if (10_000..20_000).contains(&step) {
                    9
                } else {
                    2
                };
                if rng.below(10) < removes {
                    let old = tree.remove(&key).map(|entry| entry.value().to_vec());
                    assert_eq!(old, model.remove(&key));
                } else {
                    let value = vec![step.to_le_bytes()[0]; long];
                    let old = tree.insert(&entry(&key, &value));
                    let old = old.map(|entry| entry.value().to_vec());
                    assert_eq!(old, model.insert(key.clone(), value));
                }
                assert_eq!(
                    tree.get(&key).map(|spot| spot.entry().value().to_vec()),
                    model.get(&key).cloned()
                );
                if step % 5_000 == 0 {
                    kept.push((tree.clone(), model.clone()));
                    check(&tree, &model);
                    let from = tree.range(Bound::Excluded(&key)).count();
                    let bounds = (Bound::Excluded(key.clone()), Bound::Unbounded);
                    assert_eq!(from, model.range(bounds).count());
                }
            }
            for (tree, model) in &kept {
                check(tree, model);
            }
            for key in model.keys() {
                assert!(tree.remove(key).is_some());
            }
            assert_eq!(tree.range(Bound::Unbounded).count(), 0);
        }
    }

    #[test]
    fn keys_in_order_leave_full_blocks_and_nodes_behind() {
        let mut tree = Tree::default();
        for n in 0..100_000_u32 {
            tree.insert(&entry(&n.to_be_bytes(), &[7; 100]));
        }
        let mut node = &*tree.root;
        let mut depth = 1;
        while let Children::Nodes(nodes) = &node.children {
            assert_eq!(nodes[0].len(), FANOUT);
            node = &nodes[0];
            depth += 1;
        }
        assert_eq!(
            depth, 3,
            "100,000 entries, 17 in a block, 32 blocks in a node"
        );
    }
}
