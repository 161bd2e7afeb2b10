//! What is stored of the archive of one member, and the record of it, as whoever restores reads them.

use anyhow::Result;
use codexstore_api::archive::PiecePath;
use codexstore_crds::archive::Record;
use codexstore_crds::names;
use k8s_openapi::api::core::v1::ConfigMap;

use super::destination::Destination;
use super::plan::Stored;

/// All pieces of the member in a pod.
pub async fn pieces(destination: &Destination, archive: &str, pod: &str) -> Result<Vec<Stored>> {
    let below = format!("{archive}/{pod}");
    let mut found = Vec::new();
    let visit = |path: &str| {
        if let Some((_, piece)) = parse(path, archive) {
            let path = path.to_owned();
            found.push(Stored { path, piece });
        }
    };
    destination.walk(&below, visit).await?;
    Ok(found)
}

/// The pod and the piece of a path within the directory of an archive.
pub fn parse<'a>(path: &'a str, archive: &str) -> Option<(&'a str, PiecePath)> {
    let own = path.strip_prefix(archive)?.strip_prefix('/')?;
    let (pod, piece) = own.split_once('/')?;
    Some((pod, PiecePath::parse(piece)?))
}

/// The record in its `ConfigMap`, if one was written that can be read.
pub fn record(map: &ConfigMap) -> Option<Record> {
    Record::parse(map.data.as_ref()?.get(names::ARCHIVE_RECORD)?)
}
