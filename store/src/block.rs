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

/// Bytes of an entry's place in a block.
const PLACE: usize = 2;

/// Some entries in key order, at least one.
#[derive(Clone)]
pub(crate) struct Block {
    /// The entries, and behind them, if there are several, where each begins: two bytes each.
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

    fn start(&self, at: usize) -> usize {
        if at == 0 {
            return 0;
        }
        if at >= self.count {
            return self.bytes();
        }
        let place = self.bytes() + at * PLACE;
        let bytes = self.memory.get(place..place + PLACE).unwrap_or_default();
        usize::from(u16::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    /// The entry at a place.
    pub fn get(&self, at: usize) -> Option<Spot<'_>> {
        (at < self.count).then(|| Spot {
            memory: &self.memory,
            start: self.start(at),
            end: self.start(at + 1),
        })
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
    let mut starts = Vec::with_capacity(items.len() * PLACE);
    for item in items {
        // At most `MOST` here, which fits.
        let start = u16::try_from(memory.len()).unwrap_or(u16::MAX);
        starts.extend_from_slice(&start.to_le_bytes());
        memory.extend_from_slice(item.bytes());
    }
    memory.extend_from_slice(&starts);
    Block {
        memory: Arc::from(memory),
        count: items.len(),
    }
}
