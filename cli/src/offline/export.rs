//! `export`: the entries of a store as JSON Lines.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use codexstore::offline::Contents;

use super::{args::Export, line::encode, progress::Bar};
use crate::{
    failure::{Coded, OutputClosed},
    output::{self, Format},
};

/// `export`.
pub fn export(args: &Export, format: Format) -> Result<()> {
    let dir = args.data.there()?;
    let contents = Contents::read(dir, &args.keys.encryption()?)?;
    let prefix = args.prefix.as_deref().unwrap_or_default().as_bytes();
    let Some(file) = &args.to else {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = write(&contents, prefix, &mut out).and_then(|_| out.flush());
        return match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
            other => other.context("write to stdout"),
        };
    };
    let count = to_file(&contents, prefix, file)?;
    match format {
        Format::Table => output::line(&format!("{count} entries in {}", file.display())),
        Format::Json => output::json(&serde_json::json!({
            "entries": count,
            "revision": contents.revision(),
        })),
    }
}

/// Under another name first: a file with the name that was asked for is whole.
fn to_file(contents: &Contents, prefix: &[u8], file: &Path) -> Result<u64> {
    if file.exists() {
        return Err(Coded::invalid(format!(
            "{} is there: it is not written over",
            file.display()
        ))
        .into());
    }
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = (|| {
        // For its owner alone: what was encrypted is not any more.
        let out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)?;
        let mut out = BufWriter::with_capacity(256 << 10, out);
        let count = write(contents, prefix, &mut out)?;
        let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        out.sync_all()?;
        fs::rename(&partial, file)?;
        let parent = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(parent)?.sync_all()?;
        Ok(count)
    })();
    written.map_err(|e: io::Error| {
        if e.kind() != io::ErrorKind::AlreadyExists {
            let _best_effort = fs::remove_file(&partial);
        }
        codexstore::Error::io(format!("write {}", partial.display()), e).into()
    })
}

fn write(contents: &Contents, prefix: &[u8], out: &mut impl Write) -> io::Result<u64> {
    let bar = Bar::of_entries("exporting");
    let total = contents.len() as u64;
    let mut count = 0;
    for entry in contents.entries(prefix) {
        let mut line = encode(&entry);
        line.push('\n');
        out.write_all(line.as_bytes())?;
        count += 1;
        bar.at(count, total);
    }
    Ok(count)
}
