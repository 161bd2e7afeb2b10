//! What goes to stdout: tables, JSON, raw bytes.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::failure::OutputClosed;

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: columns, or the value itself.
    #[default]
    Table,
    /// For programs: one JSON document.
    Json,
}

/// Writes bytes as they are.
pub fn raw(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        other => other.context("write to stdout"),
    }
}

/// Writes one line.
pub fn line(text: &str) -> Result<()> {
    raw(format!("{text}\n").as_bytes())
}

/// Writes one JSON document, indented.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value).context("make JSON")?)
}

/// Rows in columns as wide as their widest cell, three spaces apart, as kubectl prints them.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(ToString::to_string).collect()],
        }
    }

    /// A table without headings.
    pub fn bare() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The text, each line ended, without blanks at the ends of lines.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let pad = width.saturating_sub(cell.chars().count()) + 3;
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', pad));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Writes it.
    pub fn print(&self) -> Result<()> {
        raw(self.render().as_bytes())
    }
}

/// Bytes for a terminal: text as it is, but control characters and what is not UTF-8 escaped, so
/// that a key cannot move the cursor.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            // writing to a String does not fail
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// A number of bytes for people: `512 B`, `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = None;
    // tenths, so that integers are enough
    let mut tenths = u128::from(bytes) * 10;
    for next in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths = tenths.div_ceil(1024);
        unit = Some(next);
    }
    match unit {
        None => format!("{bytes} B"),
        Some(unit) if tenths % 10 == 0 => format!("{} {unit}", tenths / 10),
        Some(unit) => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let mut table = Table::new(&["KEY", "REVISION"]);
        table.row(vec!["größe".into(), "7".into()]);
        table.row(vec!["a".into(), String::new()]);
        assert_eq!(table.render(), "KEY     REVISION\ngröße   7\na\n");
    }

    #[test]
    fn keys_cannot_send_control_codes_to_a_terminal() {
        assert_eq!(printable(b"a\x1b[2J\xff\n\\"), r"a\u{1b}[2J\xff\n\\");
        assert_eq!(printable("grüße".as_bytes()), "grüße");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1 KiB");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(1 << 30), "1 GiB");
        assert!(size(u64::MAX).ends_with("PiB"));
    }
}
