//! One run of the bench: where it works, how long it takes, and the rows that it gathers.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use anyhow::Result;

use crate::bars;
use crate::data;
use crate::measure::{Side, Until, alternate};
use crate::peer::Peer;
use crate::results::Row;

/// Entries in a batch that fills a database.
const FILL: u64 = 10_000;

/// A run.
pub struct Run {
    /// Everything that it writes.
    pub dir: PathBuf,
    /// Growth to 10^7 keys, more and longer rounds.
    pub full: bool,
    /// Rounds of each case.
    pub rounds: usize,
    /// One round's end.
    pub until: Until,
    /// The rows so far.
    pub rows: Vec<Row>,
    /// Cases to run: those with this in their group's name.
    only: Option<String>,
}

impl Run {
    /// A run in `dir`. `BENCH=full` makes it a long one, `BENCH_ONLY` a part of one.
    pub fn new(dir: &Path) -> Run {
        let full = env::var("BENCH").is_ok_and(|mode| mode == "full");
        let millis = if full { 2000 } else { 700 };
        Run {
            dir: dir.to_owned(),
            full,
            rounds: if full { 5 } else { 3 },
            until: Until {
                time: Duration::from_millis(millis),
                operations: u64::MAX,
            },
            rows: Vec::new(),
            only: env::var("BENCH_ONLY").ok(),
        }
    }

    /// True if the group of cases is to be run.
    pub fn wants(&self, group: &str) -> bool {
        let wants = self
            .only
            .as_ref()
            .is_none_or(|only| group.contains(only.as_str()));
        if wants {
            println!("\n{group}");
        }
        wants
    }

    /// A fresh directory that nothing else of the run uses.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        Ok(dir)
    }

    /// Alternates rounds; the first side is ours, and each of the others becomes a row.
    pub fn versus(
        &mut self,
        name: &str,
        unit: &'static str,
        mut sides: Vec<Side<'_>>,
    ) -> Result<()> {
        let values = alternate(&mut sides, self.rounds)?;
        let names: Vec<String> = sides.into_iter().map(|side| side.name).collect();
        if let Some((ours, peers)) = values.split_first() {
            for (peer, value) in names.iter().skip(1).zip(peers) {
                self.row(name, unit, *ours, peer, *value);
            }
        }
        Ok(())
    }

    /// Adds a row.
    pub fn row(&mut self, name: &str, unit: &'static str, ours: f64, peer: &str, value: f64) {
        self.noted(name, unit, ours, peer, value, String::new());
    }

    /// Adds a row with a note.
    pub fn noted(
        &mut self,
        name: &str,
        unit: &'static str,
        ours: f64,
        peer: &str,
        value: f64,
        note: String,
    ) {
        let row = Row {
            name: name.to_owned(),
            unit,
            ours,
            peer: peer.to_owned(),
            peer_value: value,
            bar: bars::bar(name, peer),
            note,
        };
        println!("{}", row.line());
        self.rows.push(row);
    }
}

/// Sets the first `keys` keys.
pub fn fill(peer: &dyn Peer, keys: u64, value: usize) -> Result<()> {
    let mut session = peer.session()?;
    let mut first = 0;
    let most = (FILL * data::VALUE as u64 / value as u64).max(1);
    while first < keys {
        let end = (first + most).min(keys);
        let mut items = (first..end).map(|n| (data::key(n), data::value(n, value)));
        session.batch(&mut items)?;
        first = end;
    }
    Ok(())
}

/// A number of keys in a name: `10k`, `1m`.
pub fn count(keys: u64) -> String {
    match keys {
        1_000_000.. => format!("{}m", keys / 1_000_000),
        1_000.. => format!("{}k", keys / 1_000),
        _ => keys.to_string(),
    }
}
