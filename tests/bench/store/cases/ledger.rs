//! Writes to a ledger with a short history, and with a long one.

use std::path::Path;
use std::sync::mpsc::channel;

use anyhow::{Result, ensure};
use codexstore::{Batch, Durability, Store, Strategy};

use super::small::set;
use crate::data::{VALUE, key, spread, value};
use crate::measure::{Side, rate};
use crate::ours::{Ours, options};
use crate::run::{Run, count};

/// Keys whose history it is.
const KEYS: u64 = 10_000;

/// Revisions of the short history.
const SHORT: u64 = 10_000;

/// Batches handed over before one is waited for.
const WINDOW: u64 = 1000;

const WRITERS: usize = 8;

/// Runs the group.
pub fn run(run: &mut Run) -> Result<()> {
    let revisions = if run.full { 10_000_000 } else { 1_000_000 };
    let (short, long) = (run.fresh("ledger-short")?, run.fresh("ledger-long")?);
    let (short, long) = (ledger(&short, SHORT)?, ledger(&long, revisions)?);
    let until = run.until;
    let sides = vec![
        Side::new("ours", || rate(&long, WRITERS, until, &set)),
        Side::new("ours, a history of 10k", || {
            rate(&short, WRITERS, until, &set)
        }),
    ];
    let name = format!("store.ledger-set.{}.t{WRITERS}", count(revisions));
    run.versus(&name, "operations/s", sides)
}

/// A ledger with so many revisions.
fn ledger(dir: &Path, revisions: u64) -> Result<Ours> {
    let mut options = options()?;
    options.strategy = Strategy::Ledger;
    options.durability = Durability::INTERVAL;
    let store = Store::open(dir, options.clone())?;
    let mut n = 0;
    while n < revisions {
        let (send, receive) = channel();
        for _ in 0..WINDOW {
            let batch = Batch::new().set(key(spread(n, KEYS)).to_vec(), value(n, VALUE));
            let send = send.clone();
            store.submit(batch, move |result| {
                let _ = send.send(result.map(|_| ()));
            });
            n += 1;
        }
        drop(send);
        receive.iter().try_for_each(|result| result)?;
    }
    ensure!(
        store.status().revision == revisions,
        "revisions are missing"
    );
    store.close()?;
    options.durability = Durability::Always;
    Ok(Ours(Store::open(dir, options)?))
}
