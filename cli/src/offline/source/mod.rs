//! Where entries come from: one file each.

mod json;
mod lines;
mod rdb;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, Result};

use super::args::{Import, SourceFormat};
use crate::failure::Coded;

/// An entry to be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// When it expires: milliseconds since 1970.
    pub expires_at: Option<u64>,
}

/// Entries, each with the number of its line, row or member; or what is wrong with that.
pub type Records = Box<dyn Iterator<Item = (u64, Result<Record, String>)>>;

/// What a number of [`Records`] counts.
pub fn unit(args: &Import) -> &'static str {
    if args.sqlite.sqlite.is_some() {
        return "row";
    }
    match args.format {
        SourceFormat::Jsonl => "line",
        SourceFormat::Json => "member",
        SourceFormat::Rdb => "key",
    }
}

/// True if the source can be read twice, and so checked before anything is written.
pub fn seekable(args: &Import) -> bool {
    args.sqlite.sqlite.is_some() || args.file.as_os_str() != "-"
}

/// Opens the source, from its beginning.
pub fn open(args: &Import) -> Result<Records> {
    if let Some(file) = &args.sqlite.sqlite {
        return open_sqlite(args, file);
    }
    let input = input(&args.file)?;
    match args.format {
        SourceFormat::Jsonl => Ok(lines::read(input)),
        SourceFormat::Json => json::read(input),
        SourceFormat::Rdb => rdb::read(&args.file, args.redis_db, args.collections),
    }
}

#[cfg(feature = "sqlite")]
fn open_sqlite(args: &Import, file: &Path) -> Result<Records> {
    sqlite::read(file, &args.sqlite)
}

#[cfg(not(feature = "sqlite"))]
fn open_sqlite(_: &Import, _: &Path) -> Result<Records> {
    Err(Coded::invalid("this codexctl was built without SQLite (feature `sqlite`)").into())
}

fn input(path: &Path) -> Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = File::open(path)
        .map_err(|e| Coded::invalid(format!("open {}: {e}", path.display())))
        .context("import")?;
    Ok(Box::new(BufReader::with_capacity(256 << 10, file)))
}
