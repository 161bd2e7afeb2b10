//! Speed of the library on this machine: `cargo run --release -p codexstore --example speed [DIR]`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use codexstore::{Encryption, Key, KeyId, Keyring, Options, Result, Scan, Store};

const KEYS: u32 = 1_000_000;
const TIME: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let dir = dir.join(format!("codexstore-speed-{}", std::process::id()));
    let keyring = Keyring::single(KeyId::new("speed")?, Key::new(&[1; 32])?);
    let options = Options::new(Encryption::Keyring(keyring));
    let store = Store::open(&dir, options.clone())?;

    for writers in [1, 8, 32] {
        sets(&store, writers)?;
    }
    load(&store)?;
    gets(&store)?;
    scans(&store)?;
    store.close()?;
    let start = Instant::now();
    let store = Store::open(&dir, options)?;
    println!("open with {} keys: {:?}", store.len(), start.elapsed());
    store.close()?;
    std::fs::remove_dir_all(&dir)
        .map_err(|e| codexstore::Error::io(format!("remove {}", dir.display()), e))
}

fn key(n: u32) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let mut rest = n;
    for digit in key.iter_mut().rev().take(10) {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    key
}

fn rate(what: &str, count: u64, took: Duration) {
    #[allow(clippy::cast_precision_loss)] // for people
    let rate = count as f64 / took.as_secs_f64();
    println!("{what}: {rate:.0}/s");
}

fn sets(store: &Store, writers: u32) -> Result<()> {
    let done = AtomicU64::new(0);
    let before = store.status();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                let done = &done;
                scope.spawn(move || -> Result<()> {
                    let mut n = writer;
                    while start.elapsed() < TIME {
                        store.set(&key(n % 10_000), &[7; 100])?;
                        n += writers;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(codexstore::Error::internal("a writer panicked")))
        })
    })?;
    let after = store.status();
    let groups = after.groups - before.groups;
    let done = done.into_inner();
    rate(&format!("durable sets by {writers}"), done, start.elapsed());
    println!(
        "  {} per group, a sync takes {:?}",
        done / groups.max(1),
        Duration::from_nanos((after.sync_nanos - before.sync_nanos) / groups.max(1))
    );
    Ok(())
}

fn load(store: &Store) -> Result<()> {
    let start = Instant::now();
    for chunk in 0..KEYS / 1000 {
        store.run(move |txn: &mut codexstore::Txn<'_>| {
            (0..1000).try_for_each(|n| txn.set(&key(chunk * 1000 + n), &[7; 100]))
        })?;
    }
    rate("sets in batches of 1000", u64::from(KEYS), start.elapsed());
    Ok(())
}

fn gets(store: &Store) -> Result<()> {
    let (mut n, mut count) = (1_u32, 0_u64);
    let start = Instant::now();
    while start.elapsed() < TIME {
        for _ in 0..1000 {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if store.get(&key(n % KEYS))?.is_some() {
                count += 1;
            }
        }
    }
    rate("gets by one thread", count, start.elapsed());
    Ok(())
}

fn scans(store: &Store) -> Result<()> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < TIME {
        let mut scan = Scan::all();
        scan.limit = 1000;
        loop {
            let page = store.scan(&scan)?;
            count += page.items.len() as u64;
            scan.cursor = page.cursor;
            if scan.cursor.is_none() {
                break;
            }
        }
    }
    rate("scanned entries", count, start.elapsed());
    Ok(())
}
