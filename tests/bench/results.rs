//! Rows of `target/bench/results.json`, the bars that they are held to, and the table for people.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// One case against one peer.
#[derive(Debug, Clone)]
pub struct Row {
    /// `layer.operation.mode.parallelism`.
    pub name: String,
    /// Of both values.
    pub unit: &'static str,
    /// What we measured of ourselves.
    pub ours: f64,
    /// Whom we measured beside it: a database, ourselves in another state, or a fixed figure.
    pub peer: String,
    /// What we measured of them.
    pub peer_value: f64,
    /// The least ratio that the project asks of itself, where it does.
    pub bar: Option<f64>,
    /// What else the run saw.
    pub note: String,
}

impl Row {
    /// How many times better than the peer, whatever the unit.
    pub fn ratio(&self) -> f64 {
        if self.more_is_better() {
            self.ours / self.peer_value
        } else {
            self.peer_value / self.ours
        }
    }

    fn more_is_better(&self) -> bool {
        self.unit.ends_with("/s") || self.unit == "sets/sync"
    }

    /// Whether the bar is met, if there is one.
    pub fn met(&self) -> Option<bool> {
        self.bar.map(|bar| self.ratio() >= bar)
    }

    /// `met`, `NOT MET`, or nothing.
    pub fn verdict(&self) -> &'static str {
        match self.met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let bar = self.bar.map_or(String::new(), |bar| {
            format!("   bar {bar}: {}", self.verdict())
        });
        format!(
            "{:34} {:>12} {:14} {:32} {:>12}   ratio {:>7.2}{bar}",
            self.name,
            short(self.ours),
            self.unit,
            self.peer,
            short(self.peer_value),
            self.ratio()
        )
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "ours": self.ours, "peer": self.peer,
            "peer_value": self.peer_value, "ratio": self.ratio(), "bar": self.bar, "met": self.met(),
            "note": self.note,
        })
    }

    fn from_json(row: &Value) -> Option<Row> {
        let text = |name: &str| Some(row.get(name)?.as_str()?.to_owned());
        let number = |name: &str| row.get(name)?.as_f64();
        Some(Row {
            name: text("name")?,
            unit: UNITS
                .into_iter()
                .find(|unit| text("unit").as_deref() == Some(unit))?,
            ours: number("ours")?,
            peer: text("peer")?,
            peer_value: number("peer_value")?,
            bar: number("bar"),
            note: text("note").unwrap_or_default(),
        })
    }
}

/// All units that rows have.
const UNITS: [&str; 10] = [
    "operations/s",
    "entries/s",
    "sets/sync",
    "MB/s",
    "s",
    "ms",
    "µs",
    "µs of processor",
    "MiB",
    "bytes",
];

/// Reads the rows that an earlier run wrote; none if it did not.
pub fn read(path: &Path) -> Vec<Row> {
    let rows = fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Vec<Value>>(&bytes).ok())
        .unwrap_or_default();
    rows.iter().filter_map(Row::from_json).collect()
}

/// Puts the rows in the place of those that have the same name and peer, and writes all.
pub fn write(path: &Path, new: &[Row]) -> Result<()> {
    for row in new {
        // Else it is not read again, and is lost.
        let known = UNITS.contains(&row.unit);
        ensure!(
            known,
            "{} is in {}, which is not a unit",
            row.name,
            row.unit
        );
    }
    let mut rows = read(path);
    rows.retain(|old| {
        !new.iter()
            .any(|row| row.name == old.name && row.peer == old.peer)
    });
    rows.extend_from_slice(new);
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    fs::write(path, serde_json::to_vec_pretty(&rows)?).context("writing the results")
}

/// A figure in four digits, with the thousands apart.
pub fn short(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
