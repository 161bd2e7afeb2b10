//! The same at more and more keys; larger values; each compression; each cipher.

use std::fs;

use anyhow::{Result, anyhow, ensure};
use codexstore::{Compression, Encryption, KeySize, Options, Store};

use crate::data::{self, VALUE, key, spread};
use crate::fjall::Fjall;
use crate::measure::{Side, Until, rate};
use crate::ours::{Ours, options};
use crate::peer::{Peer, Session};
use crate::redb::Redb;
use crate::run::{Run, count, fill};
use crate::sqlite::Sqlite;

/// Writers at once.
const WRITERS: usize = 8;

/// Runs the group.
pub fn run(run: &mut Run) -> Result<()> {
    let rounds = std::mem::replace(&mut run.rounds, 1);
    let most = if run.full { 10_000_000 } else { 1_000_000 };
    let mut keys = 10_000;
    while keys <= most {
        grown(run, keys)?;
        keys *= 10;
    }
    run.rounds = rounds;
    for (name, len, keys) in [
        ("100", 100, 10_000),
        ("1k", 1 << 10, 10_000),
        ("64k", 64 << 10, 500),
    ] {
        sized(run, name, len, keys)?;
    }
    compressions(run)?;
    ciphers(run)
}

fn field(run: &Run) -> Result<(Ours, Vec<Box<dyn Peer>>)> {
    let at = |name: &str| run.fresh(&format!("growth-{name}"));
    Ok((
        Ours::open(&at("ours")?)?,
        vec![
            Box::new(Sqlite::shared(&at("sqlite")?)?),
            Box::new(Redb::open(&at("redb")?)?),
            Box::new(Fjall::open(&at("fjall")?)?),
        ],
    ))
}

fn clean(run: &Run) -> Result<()> {
    for name in ["ours", "sqlite", "redb", "fjall"] {
        let dir = run.dir.join(format!("growth-{name}"));
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
    }
    Ok(())
}

fn set(keys: u64, len: usize) -> impl Fn(&mut dyn Session, u64, &mut Vec<u8>) -> Result<()> + Sync {
    move |session, n, buffer| {
        buffer.resize(len, 0);
        data::fill(n, buffer);
        session.set(&key(spread(n, keys)), buffer)
    }
}

fn get(keys: u64) -> impl Fn(&mut dyn Session, u64, &mut Vec<u8>) -> Result<()> + Sync {
    move |session, n, _| {
        let found = session.get(&key(spread(n, keys)))?;
        found.map(|_| ()).ok_or_else(|| anyhow!("a key is gone"))
    }
}

/// Sets, gets and a scan with so many keys there.
fn grown(run: &mut Run, keys: u64) -> Result<()> {
    let until = run.until;
    let size = count(keys);
    let (ours, peers) = field(run)?;
    let all: Vec<&dyn Peer> = std::iter::once(&ours as &dyn Peer)
        .chain(peers.iter().map(|peer| &**peer))
        .collect();
    for peer in &all {
        fill(*peer, keys, VALUE)?;
    }
    let sides = all.iter().map(|peer| {
        Side::new(peer.name(), move || {
            rate(*peer, WRITERS, until, &set(keys, VALUE))
        })
    });
    run.versus(
        &format!("store.set.keys-{size}.t{WRITERS}"),
        "operations/s",
        sides.collect(),
    )?;
    let sides = all
        .iter()
        .map(|peer| Side::new(peer.name(), move || rate(*peer, 1, until, &get(keys))));
    run.versus(
        &format!("store.get.keys-{size}.t1"),
        "operations/s",
        sides.collect(),
    )?;
    let scan = move |session: &mut dyn Session, _: u64, _: &mut Vec<u8>| {
        let (entries, _) = session.scan()?;
        ensure!(entries == keys, "a scan saw {entries} entries");
        Ok(())
    };
    let until = Until {
        operations: (3_000_000 / keys).max(3),
        ..until
    };
    let sides = all.iter().map(|peer| {
        Side::new(peer.name(), move || {
            Ok(rate(*peer, 1, until, &scan)? * keys as f64)
        })
    });
    run.versus(
        &format!("store.scan.keys-{size}.t1"),
        "entries/s",
        sides.collect(),
    )?;
    drop((ours, peers));
    clean(run)
}

/// Sets and gets of values of so many bytes.
fn sized(run: &mut Run, name: &str, len: usize, keys: u64) -> Result<()> {
    let until = run.until;
    let (ours, peers) = field(run)?;
    let all: Vec<&dyn Peer> = std::iter::once(&ours as &dyn Peer)
        .chain(peers.iter().map(|peer| &**peer))
        .collect();
    for peer in &all {
        fill(*peer, keys, len)?;
    }
    let sides = all.iter().map(|peer| {
        Side::new(peer.name(), move || {
            rate(*peer, WRITERS, until, &set(keys, len))
        })
    });
    run.versus(
        &format!("store.set.value-{name}.t{WRITERS}"),
        "operations/s",
        sides.collect(),
    )?;
    let sides = all
        .iter()
        .map(|peer| Side::new(peer.name(), move || rate(*peer, 1, until, &get(keys))));
    run.versus(
        &format!("store.get.value-{name}.t1"),
        "operations/s",
        sides.collect(),
    )?;
    drop((ours, peers));
    clean(run)
}

/// Durable sets and batches of ours with these settings, beside the first of them.
fn settings(run: &mut Run, all: Vec<(&'static str, Options)>) -> Result<()> {
    let mut open = Vec::new();
    for (name, options) in all {
        let dir = run.fresh(&format!("growth-{name}"))?;
        open.push((name, dir.clone(), Ours(Store::open(&dir, options)?)));
    }
    let Some((first, _, base)) = open.first() else {
        return Ok(());
    };
    let until = run.until;
    let batch = |session: &mut dyn Session, n: u64, _: &mut Vec<u8>| {
        let mut items =
            (n * 1000..(n + 1) * 1000).map(|n| (key(spread(n, 10_000)), data::value(n, VALUE)));
        session.batch(&mut items)
    };
    for (name, _, ours) in open.iter().skip(1) {
        let peer = format!("ours, {first}");
        let sides = vec![
            Side::new("ours", || rate(ours, WRITERS, until, &set(10_000, VALUE))),
            Side::new(peer.clone(), || {
                rate(base, WRITERS, until, &set(10_000, VALUE))
            }),
        ];
        run.versus(
            &format!("store.set.{name}.t{WRITERS}"),
            "operations/s",
            sides,
        )?;
        let sides = vec![
            Side::new("ours", || Ok(rate(ours, 1, until, &batch)? * 1000.0)),
            Side::new(peer, || Ok(rate(base, 1, until, &batch)? * 1000.0)),
        ];
        run.versus(
            &format!("store.batch.1000-{name}.t1"),
            "operations/s",
            sides,
        )?;
    }
    for (_, dir, ours) in open {
        drop(ours);
        fs::remove_dir_all(dir)?;
    }
    Ok(())
}

fn compressions(run: &mut Run) -> Result<()> {
    let mut all = Vec::new();
    for compression in Compression::ALL {
        let mut options = options()?;
        options.compression = compression;
        let name = match compression {
            Compression::None => "uncompressed",
            other => other.as_str(),
        };
        all.push((name, options));
    }
    settings(run, all)
}

fn ciphers(run: &mut Run) -> Result<()> {
    let mut plain = options()?;
    plain.encryption = Encryption::None;
    let mut all = vec![("unencrypted", plain)];
    for size in KeySize::ALL {
        let mut options = options()?;
        options.key_size = size;
        let name = match size.bits() {
            128 => "aes-128",
            192 => "aes-192",
            _ => "aes-256",
        };
        all.push((name, options));
    }
    settings(run, all)
}
