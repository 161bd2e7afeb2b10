//! `archive verify`, and which pieces of an archive `restore` takes behind a backup.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Subcommand;
use codexstore::{
    Encryption,
    archive::{self, PieceContents, PieceEnvelope},
    format::{FileKind, Header, PAGE},
};
use codexstore_api::{
    archive::{Chain, PieceName, SUFFIX, Until},
    codes,
    encoding::hex,
    time::rfc3339,
};
use serde_json::json;

use super::{args::KeysIfAny, progress::Bar};
use crate::{
    failure::{Coded, Exit},
    output::{self, Format, Table, size},
};

/// `archive`.
#[derive(Debug, Subcommand)]
pub enum Archive {
    /// Verify the pieces of an archive
    ///
    /// Of one piece, or of all in a directory and below it. With keys, opens all of each; without, checks its chain of
    /// hashes, which tells damage but not a forgery. Tells where a line of history has a gap. Exits with 7 when anything is wrong; a
    /// gap is not.
    #[command(
        after_help = "Examples:\n  codexctl archive verify ./orders-0 --keyring /keyring\n  codexctl archive verify ./orders-0 -o json"
    )]
    Verify {
        /// A piece, or the directory of a member's archive as it was downloaded
        path: PathBuf,
        /// With which keys
        #[command(flatten)]
        keys: KeysIfAny,
    },
}

/// `archive`.
pub fn archive(command: &Archive, format: Format) -> Result<()> {
    match command {
        Archive::Verify { path, keys } => verify(path, keys.encryption()?.as_ref(), format),
    }
}

/// All files below a directory that are named as pieces, in the order of their paths.
fn find(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let doing = || format!("list {}", dir.display());
        for entry in fs::read_dir(&dir).with_context(doing)? {
            let entry = entry.with_context(doing)?;
            let kind = entry.file_type().with_context(doing)?;
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if entry.file_name().to_string_lossy().ends_with(SUFFIX) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Reads the header of a piece.
fn head(path: &Path) -> Result<Header> {
    let mut page = Vec::new();
    let read = File::open(path).and_then(|file| file.take(PAGE as u64).read_to_end(&mut page));
    read.with_context(|| format!("read {}", path.display()))?;
    let header = Header::decode(&page).with_context(|| path.display().to_string())?;
    if header.kind != FileKind::Archive {
        let what = format!("{}: not a piece of an archive", path.display());
        return Err(codexstore::Error::corrupt(what).into());
    }
    Ok(header)
}

/// What a header says in the way of a name.
fn name_of(header: &Header) -> PieceName {
    PieceName {
        from: header.first_revision.saturating_sub(1),
        to: header.link.sequence,
        last_ms: header.created_ms,
        key_id: None,
    }
}

/// Files, one behind the other.
pub struct Pieces {
    files: std::vec::IntoIter<PathBuf>,
    now: Option<File>,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Pieces {
    /// The pieces below `dir` that lead from the backup with this header to `until`. An error says what is missing.
    pub fn choose(dir: &Path, backup: &Header, until: Until) -> Result<Pieces> {
        if !dir.is_dir() {
            return Err(Coded::not_found(format!("{} is not a directory", dir.display())).into());
        }
        let mut paths = Vec::new();
        let mut names = Vec::new();
        for path in find(dir)? {
            let header = head(&path)?;
            if (header.store, header.lineage) == (backup.store, backup.lineage) {
                names.push(name_of(&header));
                paths.push(path);
            }
        }
        if paths.is_empty() {
            let what = format!(
                "no piece in {} is of the backup's line of history, {}: is it another member's? Without --archive the backup is \
                 restored alone",
                dir.display(),
                backup.lineage
            );
            return Err(Coded::not_found(what).into());
        }
        let base = backup.link.sequence.saturating_sub(1);
        let chain = Chain::choose(base, until, &names);
        chain.complete(until)?;
        let chosen = chain.pieces.iter().filter_map(|at| paths.get(*at).cloned());
        let files: Vec<PathBuf> = chosen.collect();
        let mut bytes = 0;
        for file in &files {
            let doing = || format!("look at {}", file.display());
            bytes += fs::metadata(file).with_context(doing)?.len();
        }
        Ok(Pieces {
            files: files.into_iter(),
            now: None,
            bytes,
        })
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.now {
                let read = file.read(into)?;
                if read > 0 || into.is_empty() {
                    return Ok(read);
                }
            }
            match self.files.next() {
                Some(path) => self.now = Some(File::open(path)?),
                None => return Ok(0),
            }
        }
    }
}

/// A piece that was looked at.
struct Looked {
    path: PathBuf,
    found: Result<(PieceEnvelope, Option<PieceContents>)>,
}

fn look(
    path: &Path,
    encryption: Option<&Encryption>,
) -> Result<(PieceEnvelope, Option<PieceContents>)> {
    let file = File::open(path).context("open it")?;
    let found = match encryption {
        Some(encryption) => {
            let info = archive::verify(file, encryption)?;
            (info.envelope, Some(info.contents))
        }
        None => (archive::verify_chain(file)?, None),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let envelope = &found.0;
    let holds = PieceName {
        from: envelope.from,
        to: envelope.to,
        last_ms: envelope.last_ms,
        key_id: envelope.key_id.as_ref().map(ToString::to_string),
    };
    // Which keys are needed, and which pieces a restore takes, is known by the names.
    if PieceName::parse(&name).is_some_and(|said| said != holds) {
        let what = format!("its name says something else than it holds: that is {holds}");
        return Err(codexstore::Error::corrupt(what).into());
    }
    Ok(found)
}

fn verify(path: &Path, encryption: Option<&Encryption>, format: Format) -> Result<()> {
    let paths = if path.is_dir() {
        find(path)?
    } else if path.exists() {
        vec![path.to_owned()]
    } else {
        return Err(Coded::not_found(format!("{} is not there", path.display())).into());
    };
    if paths.is_empty() {
        return Err(Coded::not_found(format!("there is no piece in {}", path.display())).into());
    }
    let bar = Bar::of_bytes("verifying");
    let mut done = 0;
    let mut all = Vec::new();
    for path in paths {
        done += fs::metadata(&path).map_or(0, |found| found.len());
        let found = look(&path, encryption);
        bar.count(done);
        all.push(Looked { path, found });
    }
    drop(bar);
    show(&all, encryption.is_some(), format)?;
    // A wrong key has its own code; damage comes first.
    let wrong = all.into_iter().filter_map(|looked| looked.found.err());
    let mut exit = None;
    for error in wrong {
        let (_, code) = crate::failure::report(&error);
        if exit.is_none() || code == codes::EXIT_INTEGRITY {
            exit = Some(code);
        }
    }
    exit.map_or(Ok(()), |code| Err(Exit(code).into()))
}

/// Where revisions are missing between pieces of one line of history: the last before, and that behind which it goes on.
fn gaps(all: &[Looked]) -> Vec<(String, u64, u64)> {
    let good = all.iter().filter_map(|looked| looked.found.as_ref().ok());
    let mut rows: Vec<(String, u64, u64)> = good
        .map(|(envelope, _)| {
            let line = format!("{}/{}", envelope.store, envelope.lineage);
            (line, envelope.from, envelope.to)
        })
        .collect();
    rows.sort();
    let mut gaps = Vec::new();
    let mut reached: Option<(String, u64)> = None;
    for (line, from, to) in rows {
        reached = match reached {
            Some((before, end)) if before == line => {
                if from > end {
                    gaps.push((line.clone(), end, from));
                }
                Some((line, end.max(to)))
            }
            _ => Some((line, to)),
        };
    }
    gaps
}

fn show(all: &[Looked], opened: bool, format: Format) -> Result<()> {
    let gaps = gaps(all);
    if format == Format::Json {
        let pieces: Vec<_> = all.iter().map(as_json).collect();
        let gaps: Vec<_> = gaps
            .iter()
            .map(|(line, end, from)| {
                let lineage = line.rsplit('/').next().unwrap_or_default();
                json!({"lineage": lineage, "behind": end, "until": from})
            })
            .collect();
        return output::json(&json!({"opened": opened, "pieces": pieces, "gaps": gaps}));
    }
    let heads = [
        "LINEAGE", "EPOCH", "FROM", "TO", "LAST", "KEY", "SIZE", "RESULT", "PATH",
    ];
    let mut table = Table::new(&heads);
    for looked in all {
        let path = looked.path.display().to_string();
        let row = match &looked.found {
            Ok((envelope, _)) => vec![
                envelope.lineage.to_string(),
                envelope.epoch.to_string(),
                envelope.from.to_string(),
                envelope.to.to_string(),
                rfc3339(envelope.last_ms).unwrap_or_default(),
                envelope
                    .key_id
                    .as_ref()
                    .map_or_else(|| "none".to_owned(), ToString::to_string),
                size(envelope.bytes),
                if opened { "good" } else { "whole" }.to_owned(),
                path,
            ],
            Err(error) => {
                let mut row = vec![String::new(); heads.len() - 2];
                row.extend([format!("{error:#}"), path]);
                row
            }
        };
        table.row(row);
    }
    let mut text = table.render();
    for (line, end, from) in gaps {
        text.extend([format!(
            "\n{line}: nothing is here of what was committed behind revision {end} up to {from}\n"
        )]);
    }
    if !opened {
        text.push_str("\nWithout a key nothing was opened, so a forgery is not told.\n");
    }
    output::raw(text.as_bytes())
}

fn as_json(looked: &Looked) -> serde_json::Value {
    match &looked.found {
        Ok((envelope, contents)) => json!({
            "path": looked.path,
            "store": envelope.store.to_string(),
            "lineage": envelope.lineage.to_string(),
            "epoch": envelope.epoch,
            "from": envelope.from,
            "to": envelope.to,
            "firstAt": contents.and_then(|contents| rfc3339(contents.first_ms)),
            "lastAt": rfc3339(envelope.last_ms),
            "batches": contents.map(|contents| contents.batches),
            "cipher": envelope.cipher.as_str(),
            "keyId": envelope.key_id.as_ref().map(ToString::to_string),
            "bytes": envelope.bytes,
            "sha256": hex(&envelope.sha256),
        }),
        Err(error) => json!({"path": looked.path, "error": format!("{error:#}")}),
    }
}
