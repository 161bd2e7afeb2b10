//! `backup verify FILE`, `backup list DIR` and `restore FILE`: backups as files, and a store made of one.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use codexstore::{
    Options, Strategy, archive,
    backup::{self, Contents, Envelope, Restored},
    format::{Header, PAGE},
};
use codexstore_api::{archive::Until, encoding::hex, time::rfc3339};
use serde_json::{Value, json};

use super::{
    archive::Pieces,
    args::{KeysIfAny, StrategyName},
    progress::Bar,
};
use crate::{
    failure::Coded,
    output::{self, Format, Table, size},
};

/// `restore` of a file.
#[derive(Debug, Args)]
#[group(skip)]
#[command(next_help_heading = "From a file")]
pub struct IntoDirectory {
    /// Directory of the new store, which must hold nothing of a store
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "store",
        conflicts_with_all = ["store", "latest", "at", "at_revision", "member", "from_store", "name", "namespace", "context", "kubeconfig"]
    )]
    pub into: Option<PathBuf>,
    /// With which keys; the new store has the same
    #[command(flatten)]
    pub keys: KeysIfAny,
    /// The strategy of the store that was backed up, where it cannot be read from the backup itself
    #[arg(long, value_enum, requires = "into")]
    pub strategy: Option<StrategyName>,
    /// Directory of the member's archive as it was downloaded: take what was committed behind the backup
    #[arg(long, value_name = "DIR", requires = "into")]
    pub archive: Option<PathBuf>,
    /// Of the archive, up to this revision and with it
    #[arg(
        long,
        value_name = "REVISION",
        requires = "archive",
        conflicts_with = "until_time"
    )]
    pub until_revision: Option<u64>,
    /// Of the archive, what was committed at this time or before: RFC 3339, or milliseconds since 1970
    #[arg(long, value_name = "TIME", requires = "archive", value_parser = point_in_time)]
    pub until_time: Option<u64>,
}

/// A time, in milliseconds since 1970.
pub fn point_in_time(text: &str) -> Result<u64, String> {
    Until::time_ms(text).ok_or_else(|| "a time is like 2026-11-30T08:15:00Z".to_owned())
}

impl IntoDirectory {
    /// How far the archive is taken.
    fn until(&self) -> Until {
        match (self.until_revision, self.until_time) {
            (Some(revision), _) => Until::Revision(revision),
            (None, Some(ms)) => Until::Time(ms),
            (None, None) => Until::End,
        }
    }
}

/// `backup verify`.
pub fn verify(file: &Path, keys: &KeysIfAny, format: Format) -> Result<()> {
    let encryption = keys.encryption()?;
    let from = Watched::open(file, "verifying")?;
    let named = || format!("verify {}", file.display());
    let (envelope, contents) = match encryption {
        Some(encryption) => {
            let info = backup::verify(from, &encryption).with_context(named)?;
            (info.envelope, Some(info.contents))
        }
        None => (backup::verify_chain(from).with_context(named)?, None),
    };
    show(&envelope, contents.as_ref(), Vec::new(), format)
}

/// `backup list DIR`.
pub fn list(dir: &Path, format: Format) -> Result<()> {
    if !dir.is_dir() {
        return Err(Coded::not_found(format!("{} is not a directory", dir.display())).into());
    }
    let found = backup::list(dir)?;
    if format == Format::Json {
        let rows = found.iter().map(|found| {
            json!({
                "path": found.path,
                "store": found.store.to_string(),
                "revision": found.revision,
                "createdAt": rfc3339(found.created_ms),
                "bytes": found.bytes,
                "complete": found.complete,
            })
        });
        return output::json(&rows.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["STORE", "CREATED", "REVISION", "SIZE", "COMPLETE", "PATH"]);
    for found in found {
        table.row(vec![
            found.store.to_string(),
            rfc3339(found.created_ms).unwrap_or_default(),
            found.revision.to_string(),
            size(found.bytes),
            if found.complete { "yes" } else { "no" }.to_owned(),
            found.path.display().to_string(),
        ]);
    }
    output::raw(table.render().as_bytes())
}

/// `restore` of a file, or of stdin.
pub fn restore(file: &Path, args: &IntoDirectory, format: Format) -> Result<()> {
    let options = Options::new(args.keys.needed()?);
    let into = args.into.as_deref();
    let into = into.ok_or_else(|| Coded::invalid("into which directory? Add --into DIR"))?;
    let given = args.strategy.map(Strategy::from);
    let again = given.is_none() && file != Path::new("-");
    let restored = match make(file, into, args, given, &options)? {
        // A ledger without a history shows at the end of its backup only, and can be read once more if it is a file.
        Err(error) if error.code() == "invalid-argument" && again => {
            make(file, into, args, Some(Strategy::Ledger), &options)?
        }
        made => made,
    };
    let restored = restored.with_context(|| format!("restore into {}", into.display()))?;
    let mut more = vec![
        ("Restored to", "restoredTo", json!(into)),
        ("Strategy", "strategy", json!(restored.strategy.as_str())),
        (
            "Its lineage",
            "newLineage",
            json!(restored.lineage.to_string()),
        ),
        (
            "It goes on at revision",
            "newRevision",
            json!(restored.next_revision),
        ),
    ];
    if let Some(taken) = &restored.archive {
        let at = taken.last_ms.and_then(rfc3339);
        more.extend([
            ("Pieces of the archive", "pieces", json!(taken.pieces)),
            ("Batches of them", "batches", json!(taken.batches)),
            (
                "Restored revision",
                "restoredRevision",
                json!(taken.revision),
            ),
            ("Committed at", "restoredAt", json!(at)),
        ]);
    }
    let backup = restored.backup;
    show(&backup.envelope, Some(&backup.contents), more, format)
}

/// Makes the store, with this strategy or with that of the store that was backed up.
fn make(
    file: &Path,
    into: &Path,
    args: &IntoDirectory,
    strategy: Option<Strategy>,
    options: &Options,
) -> Result<Result<Restored, codexstore::Error>> {
    let mut from = Watched::open(file, "restoring")?;
    let mut until = None;
    if let Some(dir) = &args.archive {
        from.add_pieces(dir, args.until())?;
        until = Some(match args.until() {
            Until::End => archive::Until::End,
            Until::Revision(revision) => archive::Until::Revision(revision),
            Until::Time(ms) => archive::Until::Time(ms),
        });
    }
    let Some(strategy) = strategy else {
        return Ok(backup::restore_as_it_was(into, from, until, options));
    };
    let mut options = options.clone();
    options.strategy = strategy;
    Ok(match until {
        None => backup::restore(into, from, &options),
        Some(until) => archive::restore(into, from, until, &options),
    })
}

/// Name for people, name in JSON, value.
type Row = (&'static str, &'static str, Value);

fn show(
    envelope: &Envelope,
    contents: Option<&Contents>,
    more: Vec<Row>,
    format: Format,
) -> Result<()> {
    let key = envelope.key_id.as_ref().map(ToString::to_string);
    let mut rows: Vec<Row> = vec![
        ("Store", "store", json!(envelope.store.to_string())),
        ("Lineage", "lineage", json!(envelope.lineage.to_string())),
        ("Epoch", "epoch", json!(envelope.epoch)),
        ("Revision", "revision", json!(envelope.revision)),
        ("Created", "createdAt", json!(rfc3339(envelope.created_ms))),
        ("Cipher", "cipher", json!(envelope.cipher.as_str())),
        ("Key", "keyId", json!(key)),
        ("Bytes", "bytes", json!(envelope.bytes)),
        ("SHA-256", "sha256", json!(hex(&envelope.sha256))),
    ];
    match contents {
        Some(contents) => rows.extend([
            ("Entries", "entries", json!(contents.entries)),
            ("Root", "root", json!(hex(&contents.root))),
            ("Batches of history", "history", json!(contents.history)),
        ]),
        None => rows.push((
            "Opened",
            "opened",
            json!("no: without a key, a forgery is not told"),
        )),
    }
    rows.extend(more);
    if format == Format::Json {
        let rows = rows.into_iter().map(|(_, name, value)| match name {
            "opened" => (name.to_owned(), Value::Bool(false)),
            _ => (name.to_owned(), value),
        });
        return output::json(&rows.collect::<serde_json::Map<_, _>>());
    }
    let mut table = Table::bare();
    for (label, _, value) in rows {
        let text = match value {
            Value::Null => "none".to_owned(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        table.row(vec![label.to_owned(), text]);
    }
    output::raw(table.render().as_bytes())
}

/// A file or stdin, with a bar that shows how far it was read.
struct Watched {
    from: Box<dyn Read>,
    len: Option<u64>,
    done: u64,
    bar: Bar,
}

impl Watched {
    fn open(file: &Path, doing: &'static str) -> Result<Watched> {
        let (from, len): (Box<dyn Read>, _) = if file == Path::new("-") {
            (Box::new(io::stdin().lock()), None)
        } else {
            let doing = || format!("open {}", file.display());
            let opened = File::open(file).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    Coded::not_found(format!("{} is not there", file.display())).into()
                }
                _ => anyhow::Error::new(error).context(doing()),
            })?;
            let len = opened.metadata().with_context(doing)?.len();
            (Box::new(opened), Some(len))
        };
        Ok(Watched {
            from,
            len,
            done: 0,
            bar: Bar::of_bytes(doing),
        })
    }
}

impl Watched {
    /// Has the pieces follow that lead from the backup to `until`, of those below `dir`.
    fn add_pieces(&mut self, dir: &Path, until: Until) -> Result<()> {
        let mut page = Vec::new();
        let first = &mut self.from;
        let read = first.take(PAGE as u64).read_to_end(&mut page);
        read.context("read the backup")?;
        let row = Pieces::choose(
            dir,
            &Header::decode(&page).context("read the backup")?,
            until,
        )?;
        self.len = self.len.map(|len| len + row.bytes);
        let rest = std::mem::replace(&mut self.from, Box::new(io::empty()));
        self.from = Box::new(io::Cursor::new(page).chain(rest).chain(row));
        Ok(())
    }
}

impl Read for Watched {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.done += read as u64;
        match self.len {
            Some(len) => self.bar.at(self.done, len),
            None => self.bar.count(self.done),
        }
        Ok(read)
    }
}
