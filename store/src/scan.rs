//! Scans: what is asked for, and pages of answers.

use bytes::Bytes;

use crate::entry::Entry;

/// Which entries are wanted, in key order. All conditions given must hold.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Keys that begin with this.
    pub prefix: Bytes,
    /// Keys from this one on.
    pub from: Option<Bytes>,
    /// Keys below this one.
    pub to: Option<Bytes>,
    /// Keys that match this pattern: `*` any bytes, `?` one byte, `[a-z]` and `[^a-z]` one byte of
    /// a set, `\` takes the next byte literally.
    pub glob: Option<Bytes>,
    /// Where an earlier page ended: its [`Page::cursor`].
    pub cursor: Option<Bytes>,
    /// Most entries in the page; 0: no limit.
    pub limit: usize,
    /// The page ends when its keys and values reach this many bytes; 0: no limit.
    pub max_bytes: usize,
    /// Most entries to look at for the page, matching or not; 0: no limit. Keeps a pattern that
    /// matches little from taking long: such a page may be empty and still have a cursor.
    pub max_examined: usize,
}

impl Scan {
    /// Everything.
    pub fn all() -> Scan {
        Scan::default()
    }

    /// Keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Scan {
        Scan {
            prefix: prefix.into(),
            ..Scan::default()
        }
    }

    /// Keys that match `glob`.
    pub fn glob(glob: impl Into<Bytes>) -> Scan {
        Scan {
            glob: Some(glob.into()),
            ..Scan::default()
        }
    }
}

/// One page of a scan: a point in time of its own.
#[derive(Debug, Clone)]
pub struct Page {
    /// The entries, in key order.
    pub items: Vec<Entry>,
    /// Where to go on; `None` when there is no more.
    pub cursor: Option<Bytes>,
    /// The revision that the page shows.
    pub revision: u64,
}
