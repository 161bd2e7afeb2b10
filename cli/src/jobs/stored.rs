//! What is stored of the archive of one member, and the record of it, as whoever restores reads them.

use anyhow::{Result, anyhow};
use codexstore_api::archive::PiecePath;
use codexstore_crds::archive::Record;
use codexstore_crds::names;
use k8s_openapi::api::core::v1::ConfigMap;

use super::destination::Destination;

/// All pieces of the member in a pod.
pub async fn pieces(destination: &Destination, archive: &str, pod: &str) -> Result<Vec<PiecePath>> {
    let below = format!("{archive}/{pod}");
    let mut found = Vec::new();
    let visit = |path: &str| {
        if let Some((_, piece)) = parse(path, archive) {
            found.push(piece);
        }
    };
    destination.walk(&below, visit).await?;
    Ok(found)
}

/// The path of a piece within the destination.
pub fn path(archive: &str, pod: &str, piece: &PiecePath) -> String {
    format!("{archive}/{pod}/{piece}")
}

/// The pod and the piece of a path within the directory of an archive.
pub fn parse<'a>(path: &'a str, archive: &str) -> Option<(&'a str, PiecePath)> {
    let own = path.strip_prefix(archive)?.strip_prefix('/')?;
    let (pod, piece) = own.split_once('/')?;
    Some((pod, PiecePath::parse(piece)?))
}

/// The record in its `ConfigMap`; none if none was written. One that cannot be read is an error, and not none.
pub fn record(map: &ConfigMap) -> Result<Option<Record>> {
    let data = map.data.as_ref();
    let Some(text) = data.and_then(|data| data.get(names::ARCHIVE_RECORD)) else {
        return Ok(None);
    };
    let record = Record::parse(text).ok_or_else(|| {
        anyhow!(
            "{} in the ConfigMap {} is no record of an archive: put it right, or delete the ConfigMap if nothing of it is wanted",
            names::ARCHIVE_RECORD,
            map.metadata.name.as_deref().unwrap_or_default()
        )
    })?;
    Ok(Some(record))
}
