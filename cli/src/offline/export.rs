//! `export`: the entries of a store as JSON Lines.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Stdout, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Result;
use codexstore::offline::Contents;

use super::{args::Export, line::encode, progress::Bar};
use crate::{
    failure::{Coded, OutputClosed},
    kv::transfer::Live,
    output::{self, Format},
};

/// `export`.
pub async fn export(args: &Export, format: Format) -> Result<()> {
    let prefix = args.prefix.as_deref().unwrap_or_default().as_bytes();
    let bar = Bar::of_entries("exporting");
    let (mut out, count, revision);
    if args.data.is_live() {
        args.keys.none_for_live()?;
        let live = Live::new(&args.data.dir);
        // Before the file: a store that cannot be reached leaves none.
        live.revision().await?;
        out = Out::open(args.to.as_deref())?;
        let mut seen = 0;
        let written = live.lines(prefix, |line| {
            seen += 1;
            bar.count(seen);
            out.line(line)
        });
        (count, revision) = written.await.map_err(|e| out.failed(e))?;
    } else {
        let dir = args.data.there()?;
        let contents = Contents::read(dir, &args.keys.needed()?)?;
        out = Out::open(args.to.as_deref())?;
        let total = contents.len() as u64;
        let mut seen = 0;
        for entry in contents.entries(prefix) {
            let written = out.line(&encode(&entry));
            written.map_err(|e| out.failed(e.into()))?;
            seen += 1;
            bar.at(seen, total);
        }
        (count, revision) = (seen, contents.revision());
    }
    drop(bar);
    let finished = out.finish();
    finished.map_err(|e| out.failed(e.into()))?;
    match (&args.to, format) {
        (None, _) => Ok(()),
        (Some(file), Format::Table) => {
            output::line(&format!("{count} entries in {}", file.display()))
        }
        (Some(_), Format::Json) => output::json(&serde_json::json!({
            "entries": count,
            "revision": revision,
        })),
    }
}

/// Where lines go.
enum Out {
    Stdout(BufWriter<Stdout>),
    /// Under another name first: a file with the name that was asked for is whole.
    File {
        out: BufWriter<File>,
        partial: PathBuf,
        path: PathBuf,
    },
}

impl Out {
    fn open(file: Option<&Path>) -> Result<Out> {
        let Some(path) = file else {
            return Ok(Out::Stdout(BufWriter::new(io::stdout())));
        };
        if path.exists() {
            return Err(Coded::invalid(format!(
                "{} is there: it is not written over",
                path.display()
            ))
            .into());
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        // For its owner alone: what was encrypted is not any more.
        let out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)
            .map_err(|e| codexstore::Error::io(format!("write {}", partial.display()), e))?;
        Ok(Out::File {
            out: BufWriter::with_capacity(256 << 10, out),
            partial,
            path: path.to_owned(),
        })
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        let out: &mut dyn Write = match self {
            Out::Stdout(out) => out,
            Out::File { out, .. } => out,
        };
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")
    }

    /// Makes a file durable, and gives it its name.
    fn finish(&mut self) -> io::Result<()> {
        match self {
            Out::Stdout(out) => out.flush(),
            Out::File { out, partial, path } => {
                out.flush()?;
                out.get_ref().sync_all()?;
                fs::rename(partial, &*path)?;
                let parent = match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                File::open(parent)?.sync_all()
            }
        }
    }

    /// What an error means here; a file that is not whole is removed.
    fn failed(&self, error: anyhow::Error) -> anyhow::Error {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        match (self, kind) {
            (Out::Stdout(_), Some(io::ErrorKind::BrokenPipe)) => OutputClosed.into(),
            (Out::Stdout(_), Some(_)) => error.context("write to stdout"),
            (Out::File { partial, .. }, _) => {
                let _best_effort = fs::remove_file(partial);
                match error.downcast::<io::Error>() {
                    Ok(error) => {
                        codexstore::Error::io(format!("write {}", partial.display()), error).into()
                    }
                    Err(other) => other,
                }
            }
            (Out::Stdout(_), None) => error,
        }
    }
}
