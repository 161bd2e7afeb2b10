//! What a power loss may leave: of the effects that were not synced, the combinations that a disk
//! allows.
//!
//! Each sector shows what it was, or what any of the writes since made of it; sectors land in any
//! order. A file's lengths land in the order in which they were set. Of the changes to names any
//! may be missing; those that landed did so in their order. Up to [`WHOLE`] effects are enumerated
//! wholly; of more, every prefix, every single one missing, and drawn subsets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::content::Shared;
use super::disk::{Effect, Files, Inode, Keep, NameEffect, Rng};

/// Most effects of which every combination is tried.
pub const WHOLE: usize = 12;

/// Something that lands, or does not.
enum Axis {
    /// A sector of a file, with when and to what it was written.
    Sector(usize, usize, Vec<(u64, Shared)>),
    /// A file's lengths.
    Length(usize, Vec<(u64, usize)>),
    /// A change of names.
    Name(u64, NameEffect),
}

impl Axis {
    /// Ways in which it may be found.
    fn ways(&self) -> usize {
        1 + match self {
            Axis::Sector(_, _, writes) => writes.len(),
            Axis::Length(_, lengths) => lengths.len(),
            Axis::Name(..) => 1,
        }
    }

    /// How it is if everything up to a call landed.
    fn at(&self, call: u64) -> usize {
        match self {
            Axis::Sector(_, _, writes) => writes.partition_point(|(at, _)| *at <= call),
            Axis::Length(_, lengths) => lengths.partition_point(|(at, _)| *at <= call),
            Axis::Name(at, _) => usize::from(*at <= call),
        }
    }
}

/// Everything that a power loss decides.
pub struct Undecided<'a> {
    files: &'a Files,
    axes: Vec<Axis>,
    calls: BTreeSet<u64>,
}

impl<'a> Undecided<'a> {
    pub fn new(files: &'a Files) -> Undecided<'a> {
        let mut reachable: BTreeSet<usize> = files.durable_names.values().copied().collect();
        reachable.extend(files.pending_names.iter().filter_map(|(_, e)| match e {
            NameEffect::Link(_, inode) | NameEffect::Rename(_, _, inode) => Some(*inode),
            NameEffect::Unlink(_) => None,
        }));
        let mut calls = BTreeSet::new();
        let mut axes = Vec::new();
        for inode in reachable {
            let mut sectors: BTreeMap<usize, Vec<(u64, Shared)>> = BTreeMap::new();
            let mut lengths = Vec::new();
            for (call, effect) in &files.inodes[inode].pending {
                calls.insert(*call);
                match effect {
                    Effect::Sector(at, to) => {
                        sectors.entry(*at).or_default().push((*call, to.clone()));
                    }
                    Effect::Length(len) => lengths.push((*call, *len)),
                }
            }
            let sectors = sectors.into_iter();
            axes.extend(sectors.map(|(at, writes)| Axis::Sector(inode, at, writes)));
            if !lengths.is_empty() {
                axes.push(Axis::Length(inode, lengths));
            }
        }
        for (call, effect) in &files.pending_names {
            calls.insert(*call);
            axes.push(Axis::Name(*call, effect.clone()));
        }
        Undecided { files, axes, calls }
    }

    /// Number of effects.
    pub fn effects(&self) -> usize {
        self.axes.iter().map(|axis| axis.ways() - 1).sum()
    }

    /// The disk if each axis was found in one of its ways.
    pub fn decide(&self, ways: &[usize]) -> Files {
        let mut names = self.files.durable_names.clone();
        let mut changed: BTreeMap<usize, Vec<(u64, Effect)>> = BTreeMap::new();
        for (axis, way) in self.axes.iter().zip(ways) {
            match axis {
                Axis::Name(_, effect) if *way == 1 => effect.apply(&mut names),
                Axis::Sector(inode, at, writes) if *way > 0 => {
                    let (call, to) = &writes[way - 1];
                    let landed = changed.entry(*inode).or_default();
                    landed.push((*call, Effect::Sector(*at, to.clone())));
                }
                Axis::Length(inode, lengths) => {
                    let landed = changed.entry(*inode).or_default();
                    let set = lengths[..*way].iter();
                    landed.extend(set.map(|(call, len)| (*call, Effect::Length(*len))));
                }
                _ => {}
            }
        }
        let mut inodes = Vec::new();
        for inode in names.values_mut() {
            let old = &self.files.inodes[*inode];
            let mut content = old.durable.clone();
            let mut len = content.len();
            if let Some(landed) = changed.get_mut(inode) {
                // A length is set before the sectors of the same call.
                landed.sort_by_key(|(call, effect)| (*call, matches!(effect, Effect::Sector(..))));
                for (_, effect) in landed {
                    match effect {
                        Effect::Length(to) => {
                            len = *to;
                            content.set_len(len);
                        }
                        Effect::Sector(at, to) => content.put(*at, to.clone()),
                    }
                }
            }
            // What landed beyond the length is not there.
            content.set_len(len);
            *inode = inodes.len();
            inodes.push(Arc::new(Inode::durable(content)));
        }
        Files {
            inodes,
            durable_names: names.clone(),
            names,
            pending_names: Vec::new(),
        }
    }

    /// A way for each axis, from a function.
    fn ways(&self, way: impl FnMut(&Axis) -> usize) -> Vec<usize> {
        self.axes.iter().map(way).collect()
    }

    /// What a subset drawn from a seed leaves.
    pub fn drawn(&self, rng: &mut Rng) -> Vec<usize> {
        // Most effects land, or few, or half of them.
        let odds = [1, 4, 7][rng.below(3)];
        self.ways(|axis| match rng.below(8) {
            n if n < odds => 0,
            _ => 1 + rng.below(axis.ways() - 1),
        })
    }

    /// Gives every combination of up to [`WHOLE`] effects to `each`; of more, prefixes, single
    /// ones missing, and `drawn` subsets.
    pub fn each<E>(
        &self,
        drawn: usize,
        rng: &mut Rng,
        each: impl FnMut(&[usize]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.explore(true, drawn, rng, each)
    }

    /// The same without single ones missing, for files of many sectors that are synced at their end.
    pub fn most<E>(
        &self,
        drawn: usize,
        rng: &mut Rng,
        each: impl FnMut(&[usize]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.explore(false, drawn, rng, each)
    }

    fn explore<E>(
        &self,
        singles: bool,
        drawn: usize,
        rng: &mut Rng,
        mut each: impl FnMut(&[usize]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.effects() <= WHOLE {
            let mut ways = vec![0; self.axes.len()];
            loop {
                each(&ways)?;
                // Counts up, each place in its own base.
                let next = ways.iter_mut().zip(&self.axes).find_map(|(way, axis)| {
                    *way = (*way + 1) % axis.ways();
                    (*way > 0).then_some(())
                });
                if next.is_none() {
                    return Ok(());
                }
            }
        }
        each(&self.ways(|_| 0))?;
        for call in &self.calls {
            each(&self.ways(|axis| axis.at(*call)))?;
        }
        let all = self.ways(|axis| axis.ways() - 1);
        for at in 0..if singles { all.len() } else { 0 } {
            // The first of the sectors only, or all but one.
            let mut ways = all.clone();
            ways[at] = 0;
            each(&ways)?;
            ways[at..].fill(0);
            each(&ways)?;
        }
        for _ in 0..drawn {
            each(&self.drawn(rng))?;
        }
        Ok(())
    }
}

/// What is left after a power loss that keeps nothing, everything, or a drawn subset.
pub fn after(files: &Files, keep: Keep) -> Files {
    let undecided = Undecided::new(files);
    undecided.decide(&match keep {
        Keep::Nothing => undecided.ways(|_| 0),
        Keep::Everything => undecided.ways(|axis| axis.ways() - 1),
        Keep::Some(seed) => undecided.drawn(&mut Rng(seed)),
    })
}

#[test]
fn what_was_not_synced_is_found_in_every_way_and_what_was_in_one() {
    use crate::Disk;
    let disk = super::disk::SimDisk::default();
    let file = disk.create("a").unwrap();
    file.write_at(0, &[1; 1024]).unwrap();
    file.sync().unwrap();
    disk.sync_dir().unwrap();
    // Two sectors, one of them twice; a length; two names.
    file.write_at(512, &[2; 1024]).unwrap();
    file.write_at(512, &[3; 512]).unwrap();
    disk.create("b").unwrap();
    disk.rename("b", "c").unwrap();
    let files = disk.files();
    let undecided = Undecided::new(&files);
    assert_eq!(undecided.effects(), 6);
    let (mut found, mut tried) = (BTreeSet::new(), 0);
    undecided
        .each(0, &mut Rng(1), |ways| {
            tried += 1;
            let disk = disk.with_files(undecided.decide(ways));
            let bytes = disk.content("a");
            assert!(bytes[..512] == [1; 512], "was synced");
            let names = disk.list().unwrap();
            let shown = (bytes[512], bytes.get(1024).copied());
            found.insert((shown, names));
            Ok::<(), ()>(())
        })
        .unwrap();
    assert_eq!(tried, 3 * 2 * 2 * 2 * 2);
    // Of the second sector three ways; the third is not there, zero, or written; b, c, or neither.
    assert_eq!(found.len(), 3 * 3 * 3);
}
