//! Random workloads with folds, expiry, groups and new owners, archived at random moments: a restore to each revision is what
//! the store was then.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::disk::{Rng, SimDisk};
use super::super::scale::scale;
use super::super::sim::Sim;
use super::super::workload::quick;
use super::{backup_of, history, next, restored, row, state};
use crate::archive::{Archived, Piece, Until};
use crate::{Batch, Options, SetOptions, Strategy};

/// What was seen of one line of history.
#[derive(Default)]
struct Seen {
    /// The state at each revision that readers saw.
    states: BTreeMap<u64, Vec<String>>,
    /// Times of batches.
    times: BTreeMap<u64, u64>,
    /// Backups, with their revisions and the time when they were made.
    backups: Vec<(u64, u64, Vec<u8>)>,
    pieces: Vec<Piece>,
    reached: u64,
}

impl Seen {
    fn look(&mut self, sim: &Sim) {
        self.states.insert(sim.revision(), state(sim));
    }

    fn back_up(&mut self, sim: &Sim) {
        let (bytes, info) = backup_of(sim);
        let envelope = info.envelope;
        self.backups
            .push((envelope.revision, envelope.created_ms, bytes));
    }

    /// Takes what there is; where the past is gone, a backup fills the gap.
    fn archive(&mut self, sim: &Sim) {
        loop {
            match next(sim, self.reached) {
                Archived::Piece(piece) => {
                    self.reached = piece.info.envelope.to;
                    self.pieces.push(*piece);
                }
                Archived::UpToDate(_) => return,
                Archived::PastGone(_) => {
                    self.back_up(sim);
                    self.reached = sim.revision();
                    self.pieces.clear();
                    let last = self.backups.pop().unwrap();
                    self.backups = vec![last];
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Restores to revisions and times, and compares. How many restores that were.
    fn check(&self, sim: &Sim, options: &Options, rng: &mut Rng) -> u64 {
        // There must be room for all pieces.
        let options = &Options {
            max_disk: 64 << 20,
            ..options.clone()
        };
        let mut checked = 0;
        let all = history(sim);
        for (base, made_ms, bytes) in &self.backups {
            let bytes = row(bytes, &self.pieces);
            let reachable = self
                .states
                .range(base..)
                .filter(|(at, _)| **at <= self.reached);
            for (revision, expected) in reachable {
                if rng.below(8) > 0 {
                    continue;
                }
                let until = Until::Revision(*revision);
                let (told, copy) = restored(sim, &bytes, until, options).unwrap();
                assert_eq!(&state(&copy), expected, "from {base} until {until:?}");
                assert_eq!(told.archive.unwrap().revision, *revision);
                if options.strategy == Strategy::Ledger {
                    let until: Vec<_> = all.iter().filter(|(at, _)| at <= revision).collect();
                    assert!(history(&copy).iter().eq(until));
                }
                checked += 1;
            }
            // A time: the last batch at it, or before it.
            let (from, to) = (*made_ms, made_ms + 400);
            let wanted = from + rng.below(usize::try_from(to - from).unwrap()) as u64;
            let at = self
                .times
                .range(..=self.reached)
                .filter(|(_, ms)| **ms <= wanted);
            let at = at.map(|(at, _)| *at).max().unwrap_or(0).max(*base);
            let (told, copy) = restored(sim, &bytes, Until::Time(wanted), options).unwrap();
            assert_eq!(told.archive.unwrap().revision, at);
            if let Some(expected) = self.states.get(&at) {
                assert_eq!(&state(&copy), expected, "from {base} until {wanted} ms");
            }
            checked += 1;
        }
        checked
    }
}

fn batch(rng: &mut Rng) -> Batch {
    let mut batch = Batch::new().actor(["ada", "alan"][rng.below(2)]);
    for _ in 0..=rng.below(3) {
        let key = format!("key-{:02}", rng.below(12));
        let ttl = (rng.below(4) == 0).then(|| Duration::from_millis(1 + rng.below(90) as u64));
        let ttl = SetOptions {
            ttl,
            keep_ttl: false,
        };
        batch = match rng.below(6) {
            0 => batch.delete(key),
            n => batch.set_with(key, vec![u8::try_from(n).unwrap(); rng.below(9000)], ttl),
        };
    }
    batch
}

/// One workload. Restores that were compared, folds, and pieces.
fn run(options: &Options, seed: u64) -> [u64; 3] {
    let mut rng = Rng(seed);
    let disk = SimDisk::default();
    let mut known = Seen::default();
    let (mut folds, mut checked, mut pieces) = (0, 0, 0);
    for owner in 0..3_u64 {
        let mut sim = Sim::open(&disk, options.clone(), rng.next()).unwrap();
        sim.clock.advance(owner * 1000);
        known.look(&sim);
        for _ in 0..30 {
            let group = (0..=rng.below(2)).map(|_| batch(&mut rng)).collect();
            let before = sim.revision();
            for answer in sim.group_only(group) {
                answer.unwrap();
            }
            let now = sim.engine.seat.time.now_ms();
            known
                .times
                .extend((before + 1..=sim.revision()).map(|at| (at, now)));
            known.look(&sim);
            sim.clock.advance(rng.below(30) as u64);
            let before = sim.revision();
            sim.engine.tick();
            let now = sim.engine.seat.time.now_ms();
            known
                .times
                .extend((before + 1..=sim.revision()).map(|at| (at, now)));
            known.look(&sim);
            match rng.below(8) {
                0..=2 => known.archive(&sim),
                3 => known.back_up(&sim),
                _ => {}
            }
        }
        folds += sim.engine.gauges.folds;
        if owner == 2 {
            known.archive(&sim);
            pieces = known.pieces.len() as u64;
            checked = known.check(&sim, options, &mut rng);
        } else if rng.below(2) == 0 {
            sim.engine.close().unwrap();
        }
    }
    [checked, folds, pieces]
}

#[test]
fn a_restore_to_each_revision_is_what_the_store_was_then() {
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let mut options = Options {
            strategy,
            ..quick()
        };
        if strategy == Strategy::Ledger {
            options.max_disk = 16 << 20;
        }
        let mut sums = [0; 3];
        for seed in 0..scale(2, 10, 200) {
            let one = run(&options, seed);
            for (sum, one) in sums.iter_mut().zip(one) {
                *sum += one;
            }
        }
        let [checked, folds, pieces] = sums;
        println!(
            "archive of a {strategy:?}: restores compared: {checked} ({pieces} pieces, {folds} folds)"
        );
        assert!(checked > 20 && pieces > 10, "{sums:?}");
        // A ledger need not fold with so little.
        assert!(folds > 0 || strategy == Strategy::Ledger, "{sums:?}");
    }
}
