//! Blocks: entries packed one behind the other in one allocation, in key order.
//!
//! A small entry costs its bytes, two more for its place, and its share of the block; on its own it
//! would cost an allocation's header, reference counts and rounding, 30 bytes and more. A scan reads
//! memory in a row. A block is never changed: a set copies it, about as fast as it would find a
//! place for a new entry. Large entries have a block of their own, which is shared and never copied.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::entry::{Entry, Packed, SHARE_FROM};

/// Most bytes of entries in a block that holds several.
const MOST: usize = 2048;

/// Bytes of an entry's start in a block.
const START: usize = 2;

/// Bytes that each entry takes behind the entries: its start, and a byte of a hash of its key.
const PLACE: usize = START + 1;

/// Some entries in key order, at least one.
#[derive(Clone)]
pub(crate) struct Block {
    /// The entries, and behind them, if there are several, where each begins, and then a byte of a
    /// hash of each key: who looks for a key mostly visits that and the one entry, and no others.
    memory: Arc<[u8]>,
    count: usize,
}

/// One entry in a block.
#[derive(Clone, Copy)]
pub(crate) struct Spot<'a> {
    memory: &'a Arc<[u8]>,
    start: usize,
    end: usize,
}

impl<'a> Spot<'a> {
    /// The entry's content.
    pub fn packed(self) -> Packed<'a> {
        Packed::new(self.memory.get(self.start..self.end).unwrap_or_default())
    }

    /// Where it ends in its block.
    pub fn end(self) -> usize {
        self.end
    }

    /// The entry, which keeps the block alive.
    pub fn entry(self) -> Entry {
        Entry::part(self.memory.clone(), self.start, self.end)
    }
}

impl Block {
    /// A block of one entry.
    pub fn single(entry: &Entry) -> Block {
        Block {
            memory: entry.alone(),
            count: 1,
        }
    }

    /// Bytes of its entries.
    fn bytes(&self) -> usize {
        match self.count {
            1 => self.memory.len(),
            count => self.memory.len() - count * PLACE,
        }
    }

    /// True if another block of this one's size may be packed with it.
    pub fn is_small(&self) -> bool {
        self.bytes() < MOST / 4
    }

    /// Where an entry begins, or where the last one ends.
    pub fn start(&self, at: usize) -> usize {
        let bytes = self.bytes();
        if at == 0 {
            return 0;
        }
        if at >= self.count {
            return bytes;
        }
        let place = bytes + at * START;
        let start = self.memory.get(place..place + START).unwrap_or_default();
        usize::from(u16::from_le_bytes(start.try_into().unwrap_or_default()))
    }

    /// The byte of a hash of each key, if there are several.
    fn fingers(&self) -> &[u8] {
        let at = self.bytes() + self.count * START;
        self.memory.get(at..).unwrap_or_default()
    }

    /// The entry at a place.
    pub fn get(&self, at: usize) -> Option<Spot<'_>> {
        self.get_at(at, self.start(at))
    }

    /// The same for who knows where it starts.
    pub fn get_at(&self, at: usize, start: usize) -> Option<Spot<'_>> {
        (at < self.count).then(|| Spot {
            memory: &self.memory,
            start,
            end: self.start(at + 1),
        })
    }

    /// The entry of a key.
    pub fn find(&self, key: &[u8]) -> Option<Spot<'_>> {
        let same = |spot: &Spot<'_>| spot.packed().key() == key;
        if self.count == 1 {
            return self.get(0).filter(same);
        }
        memchr::memchr_iter(finger(key), self.fingers())
            .filter_map(|at| self.get(at))
            .find(same)
    }

    /// The first key.
    pub fn first_key(&self) -> &[u8] {
        self.get(0)
            .map(|spot| spot.packed().key())
            .unwrap_or_default()
    }

    /// Where a key is, or where it would be.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            let found = self.get(middle).map(|spot| spot.packed().key());
            match found.unwrap_or_default().cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// The blocks with an entry put at a place, instead of the one there if `replaces`.
    pub fn with(&self, at: usize, entry: &Entry, replaces: bool) -> Vec<Block> {
        if let Some(block) = self.spliced(at, entry.packed(), replaces) {
            return vec![block];
        }
        let mut items: Vec<Item<'_>> = Vec::with_capacity(self.count + 1);
        items.extend((0..at).filter_map(|i| self.get(i)).map(Item::Old));
        items.push(Item::New(entry));
        let rest = at + usize::from(replaces);
        items.extend(
            (rest..self.count)
                .filter_map(|i| self.get(i))
                .map(Item::Old),
        );
        pack(&items, at == self.count)
    }

    /// The same in the common case: it is one block of several small entries, and stays one.
    fn spliced(&self, at: usize, entry: Packed<'_>, replaces: bool) -> Option<Block> {
        let (key, entry) = (entry.key(), entry.bytes());
        let rest = at + usize::from(replaces);
        let (from, to, end) = (self.start(at), self.start(rest), self.bytes());
        let bytes = end - (to - from) + entry.len();
        if self.count == 1 || entry.len() >= SHARE_FROM || bytes > MOST {
            return None;
        }
        let count = self.count + usize::from(!replaces);
        let part = |from, to| self.memory.get(from..to).unwrap_or_default();
        let mut memory = Vec::with_capacity(bytes + count * PLACE);
        memory.extend_from_slice(part(0, from));
        memory.extend_from_slice(entry);
        memory.extend_from_slice(part(to, end));
        memory.extend_from_slice(part(end, end + at * START));
        memory.extend_from_slice(&start_bytes(from));
        for i in rest..self.count {
            memory.extend_from_slice(&start_bytes(self.start(i) - to + from + entry.len()));
        }
        let (before, after) = self.fingers().split_at_checked(at).unwrap_or_default();
        memory.extend_from_slice(before);
        memory.push(finger(key));
        memory.extend_from_slice(after.get(rest - at..).unwrap_or_default());
        Some(Block {
            memory: Arc::from(memory),
            count,
        })
    }

    /// The blocks without the entry at a place: none, or one.
    pub fn without(&self, at: usize) -> Vec<Block> {
        let items: Vec<Item<'_>> = (0..self.count)
            .filter(|i| *i != at)
            .filter_map(|i| self.get(i))
            .map(Item::Old)
            .collect();
        pack(&items, false)
    }

    /// Both blocks as one; `None` if they are too large for that, or one holds a large entry.
    pub fn joined(&self, next: &Block) -> Option<Block> {
        if self.bytes() + next.bytes() > MOST / 2 {
            return None;
        }
        let items: Vec<Item<'_>> = [self, next]
            .into_iter()
            .flat_map(|block| (0..block.count).filter_map(|i| block.get(i)))
            .map(Item::Old)
            .collect();
        match <[Block; 1]>::try_from(pack(&items, false)) {
            Ok([block]) => Some(block),
            // A large entry stays in a block of its own.
            Err(_) => None,
        }
    }
}

/// An entry to be packed.
#[derive(Clone, Copy)]
enum Item<'a> {
    Old(Spot<'a>),
    New(&'a Entry),
}

impl Item<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Item::Old(spot) => spot.packed().bytes(),
            Item::New(entry) => entry.packed().bytes(),
        }
    }

    fn single(&self) -> Block {
        match self {
            Item::Old(spot) => Block::single(&spot.entry()),
            Item::New(entry) => Block::single(entry),
        }
    }
}

/// Packs entries into blocks: one, unless they are too many, or some are large.
fn pack(items: &[Item<'_>], appended: bool) -> Vec<Block> {
    let mut blocks = Vec::new();
    for run in items.chunk_by(|a, b| a.bytes().len() < SHARE_FROM && b.bytes().len() < SHARE_FROM) {
        let total: usize = run.iter().map(|item| item.bytes().len()).sum();
        if total <= MOST {
            blocks.push(block(run));
            continue;
        }
        // Who appends key after key leaves full blocks behind; others split in the middle.
        let mut kept = 0;
        let middle = run
            .iter()
            .position(|item| {
                kept += item.bytes().len();
                kept > total / 2
            })
            .unwrap_or(0);
        let at = if appended { run.len() - 1 } else { middle };
        let (left, right) = run.split_at(at.clamp(1, run.len().max(2) - 1).min(run.len()));
        blocks.extend(
            [left, right]
                .into_iter()
                .filter(|half| !half.is_empty())
                .map(block),
        );
    }
    blocks
}

fn block(items: &[Item<'_>]) -> Block {
    if let [item] = items {
        return item.single();
    }
    let total: usize = items.iter().map(|item| item.bytes().len()).sum();
    let mut memory = Vec::with_capacity(total + items.len() * PLACE);
    let mut starts = Vec::with_capacity(items.len() * START);
    for item in items {
        starts.extend_from_slice(&start_bytes(memory.len()));
        memory.extend_from_slice(item.bytes());
    }
    memory.extend_from_slice(&starts);
    memory.extend(
        items
            .iter()
            .map(|item| finger(Packed::new(item.bytes()).key())),
    );
    Block {
        memory: Arc::from(memory),
        count: items.len(),
    }
}

fn start_bytes(start: usize) -> [u8; START] {
    // At most `MOST`, which fits.
    u16::try_from(start).unwrap_or(u16::MAX).to_le_bytes()
}

/// A byte that differs between most keys. Who picks keys that agree in it gains a search of the block.
fn finger(key: &[u8]) -> u8 {
    let (words, rest) = key.as_chunks();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let hash = words.iter().chain([&last]).fold(0_u64, |hash, word| {
        // The multiplier of a Fibonacci hash (Knuth, The Art of Computer Programming 3, 6.4).
        let mixed = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    });
    hash.to_le_bytes()[7]
}

#[cfg(test)]
mod tests {
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

    /// Keys whose hashes agree in the byte that a block keeps of them: found none the less, and told
    /// from such a key that is not there.
    #[test]
    fn keys_that_agree_in_their_byte_of_a_hash_are_told_apart() {
        let same: Vec<String> = (0..20_000)
            .map(|n| format!("key/{n:05}"))
            .filter(|key| finger(key.as_bytes()) == 7)
            .take(21)
            .collect();
        let (absent, present) = same.split_last().unwrap();
        let mut block = Block::single(&entry(present[0].as_bytes(), b""));
        for key in &present[1..] {
            let place = block.search(key.as_bytes()).unwrap_err();
            let entry = entry(key.as_bytes(), key.as_bytes());
            block = block.with(place, &entry, false).pop().unwrap();
        }
        assert_eq!(block.count, 20);
        for key in &present[1..] {
            let found = block.find(key.as_bytes()).unwrap();
            assert_eq!(found.packed().value(), key.as_bytes());
        }
        assert!(block.find(absent.as_bytes()).is_none());
    }

    #[test]
    fn the_bytes_of_hashes_differ_between_keys_of_every_length() {
        for len in 1..40 {
            let mut seen = [0_u32; 256];
            for n in 0..4096_u32 {
                let mut key = vec![b'k'; len.max(4)];
                let at = key.len() - 4;
                key[at..].copy_from_slice(&n.to_be_bytes());
                seen[usize::from(finger(&key))] += 1;
            }
            // 16 each on average.
            assert!(seen.iter().all(|count| *count < 64), "{len}: {seen:?}");
        }
    }
}
