//! Random bytes that cannot be had, at every place that asks for them: an error, and nothing that is half there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use super::disk::SimDisk;
use super::migrate::{check, pairs};
use super::reencrypt::ask;
use super::sim::{Model, Sim, env};
use super::workload::quick;
use super::{keyring, migrate, passphrase, rewrap};
use crate::backup::{self, BackupOptions};
use crate::migrate::migrate_on;
use crate::rewrap::rewrap_on;
use crate::time::tests::ManualClock;
use crate::{Batch, Code, Disk, Encryption, Env, Error, Options, Random, Result, Strategy};

/// Fails at one call, or from it on.
struct Failing {
    good: Arc<dyn Random>,
    calls: AtomicU64,
    at: u64,
    lasting: bool,
}

impl Random for Failing {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if call == self.at || (self.lasting && call > self.at) {
            return Err(Error::new(Code::Io, "no random bytes"));
        }
        self.good.fill(out)
    }
}

fn failing(at: u64, lasting: bool) -> (Env, Arc<Failing>) {
    let good = env(77);
    let random = Arc::new(Failing {
        good: good.random.clone(),
        calls: AtomicU64::new(0),
        at,
        lasting,
    });
    let env = Env {
        random: random.clone(),
        ..good
    };
    (env, random)
}

/// Does something again and again, with each call for random bytes failing in turn. It looks itself at what a
/// failure left, and returns the error.
fn sweep(what: &str, run: impl Fn(Env) -> Result<()>) {
    let (env, random) = failing(u64::MAX, false);
    run(env).unwrap();
    let calls = random.calls.load(Ordering::Relaxed);
    assert!(calls > 0);
    for (lasting, step) in [(false, 1), (true, 5)] {
        for at in (1..=calls).step_by(step) {
            let (env, _) = failing(at, lasting);
            let place = format!("{what}, call {at} of {calls}");
            let error = run(env).expect_err(&place);
            let codes = [Code::Io, Code::Poisoned, Code::OutcomeUnknown];
            assert!(codes.contains(&error.as_code()), "{place}: {error:?}");
            assert!(!error.message().contains("panicked"), "{place}: {error:?}");
        }
    }
    println!("calls for random bytes that failed, {what}: {calls}");
}

fn open(disk: &SimDisk, options: &Options, seed: u64, env: &Env) -> Result<Sim> {
    let clock = ManualClock::at(1_700_000_000_000);
    Sim::open_with(disk, options.clone(), seed, clock, env.random.clone())
}

fn encrypted(strategy: Strategy) -> Options {
    Options {
        max_disk: 2 << 20,
        encryption: Encryption::Keyring(keyring("test-key", 1)),
        strategy,
        ..quick()
    }
}

/// What writers were promised.
#[derive(Default)]
struct Promised {
    content: Model,
    /// With the write that nobody answered.
    unknown: Model,
}

/// Two owners write; there are folds, and the second one encrypts everything anew.
fn live(disk: &SimDisk, options: &Options, env: &Env, promised: &mut Promised) -> Result<()> {
    let mut folds = 0;
    for owner in 0..2_u8 {
        let mut sim = open(disk, options, u64::from(owner), env)?;
        let waiter = (owner == 1).then(|| ask(&sim));
        let mut answered = waiter.is_none();
        for n in 0..200_u8 {
            let (key, value) = (vec![b'k', n % 5], vec![owner ^ n; 48_000]);
            promised.unknown = promised.content.clone();
            promised.unknown.insert(key.clone(), value.clone());
            sim.run(Batch::new().set(key, value))?;
            promised.content = promised.unknown.clone();
            if let Some(Ok(answer)) = waiter.as_ref().map(Receiver::try_recv) {
                answer?;
                answered = true;
            }
            if answered && (owner == 1 || sim.engine.gauges.folds > 0) {
                break;
            }
        }
        assert!(answered, "the re-encryption is never done");
        folds += sim.engine.gauges.folds;
        sim.engine.close()?;
    }
    assert!(folds > 0);
    Ok(())
}

fn live_sweep(strategy: Strategy) {
    let mut options = encrypted(strategy);
    options.max_disk = 8 << 20;
    sweep(&format!("{strategy:?}"), |env| {
        let (disk, mut promised) = (SimDisk::default(), Promised::default());
        let done = live(&disk, &options, &env, &mut promised);
        let mut sim = Sim::open(&disk.restart(), options.clone(), 99).unwrap();
        let found = sim.content();
        assert!(found == promised.content || (done.is_err() && found == promised.unknown));
        let findings = &sim.engine.shared.findings;
        assert!(findings.is_empty(), "half a frame: {findings:?}");
        sim.run(Batch::new().set("after", "all")).unwrap();
        done
    });
}

#[test]
fn without_random_bytes_a_running_snapshot_store_writes_nothing_and_loses_nothing() {
    live_sweep(Strategy::Snapshot);
}

#[test]
fn without_random_bytes_a_running_ledger_writes_nothing_and_loses_nothing() {
    live_sweep(Strategy::Ledger);
}

#[test]
fn without_random_bytes_no_passphrase_gets_a_salt_and_no_store_is_begun() {
    let secret = passphrase("correct horse battery");
    sweep("a passphrase", |env| {
        let disk = SimDisk::default();
        let options = Options {
            encryption: Encryption::Passphrase(secret.for_store()),
            ..quick()
        };
        let done = open(&disk, &options, 1, &env).and_then(|mut sim| {
            sim.run(Batch::new().set("k", "v"))?;
            sim.engine.close()
        });
        let sim = Sim::open(&disk.restart(), options, 2).unwrap();
        assert!(done.is_err() || sim.content().len() == 1);
        done
    });
}

#[test]
fn without_random_bytes_a_migration_leaves_the_old_store_or_the_new_one() {
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let (old, new) = pairs(strategy).remove(0);
        let (base, content) = migrate::prepared(&old);
        sweep(&format!("a migration, {strategy:?}"), |env| {
            let disk = base.restart();
            let on = Arc::new(disk.clone());
            let done = migrate_on(on, env, &old.encryption, &new, &mut |_| {});
            check(&disk.restart(), &old, &new, &content);
            done.map(drop)
        });
    }
}

#[test]
fn without_random_bytes_a_rewrap_leaves_what_both_keys_open_and_is_finished_later() {
    let base = rewrap::prepared();
    let old = Encryption::Keyring(keyring("old", 1));
    for new in [
        Encryption::Keyring(keyring("new", 2)),
        Encryption::Passphrase(passphrase("correct horse battery")),
    ] {
        sweep("a rewrap", |env| {
            let disk = base.restart();
            let done = rewrap_on(&disk, &env, &old, &new, &mut |_, _| {});
            let again = rewrap_on(&disk, &super::sim::env(5), &old, &new, &mut |_, _| {}).unwrap();
            assert_eq!(done.is_ok(), again.slots == 0);
            let options = Options {
                encryption: new.clone(),
                ..encrypted(Strategy::Snapshot)
            };
            let sim = Sim::open(&disk, options, 3).unwrap();
            assert!(sim.content().len() == 5 && sim.engine.shared.findings.is_empty());
            done.map(drop)
        });
    }
}

#[test]
fn without_random_bytes_there_is_no_half_of_a_backup_or_of_a_restored_store() {
    let options = encrypted(Strategy::Ledger);
    let filled = |env: &Env| -> Result<Sim> {
        let mut sim = open(&SimDisk::default(), &options, 1, env)?;
        sim.run(Batch::new().set("k", "v"))?;
        Ok(sim)
    };
    let mut stream = Vec::new();
    let sim = filled(&env(1)).unwrap();
    backup::write(&sim.engine.shared, &BackupOptions::default(), &mut stream).unwrap();
    sweep("a backup", |env| {
        let mut sim = filled(&env)?;
        let there = SimDisk::default();
        let done = backup::write_to(&sim.engine.shared, &there, &BackupOptions::default());
        let files = there.list().unwrap();
        assert_eq!(files.len(), usize::from(done.is_ok()), "{files:?}");
        let written = sim.run(Batch::new().set("k", "w"));
        done?;
        written.and_then(|_| sim.engine.close())
    });
    sweep("a restore", |env| {
        let disk = SimDisk::default();
        let done = backup::restore_on(&disk, &env, &stream[..], &options);
        if done.is_err() {
            match Sim::open(&disk.restart(), options.clone(), 2) {
                Ok(sim) => assert!(sim.content().is_empty(), "half of it"),
                Err(error) => assert!(error.is(Code::RestoreUnfinished), "{error:?}"),
            }
            let again = disk.restart();
            backup::restore_on(&again, &super::sim::env(5), &stream[..], &options).unwrap();
            assert_eq!(
                Sim::open(&again, options.clone(), 2)
                    .unwrap()
                    .content()
                    .len(),
                1
            );
        }
        done.map(drop)
    });
}
