//! What there is to restore from.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, anyhow};
use codexstore_api::archive::PiecePath;
use codexstore_crds::CodexBackup;
use codexstore_crds::archive::Record;
use codexstore_crds::backup::Destination as Place;
use kube::ResourceExt as _;

use super::destination::Destination;
use super::member::Credentials;
use super::source::{self, Chosen, Source};
use super::stored;

/// Where backups are read, and what is known of them.
pub struct Stock {
    /// The destination.
    pub destination: Destination,
    /// As the store, or the backup, names it.
    pub place: Place,
    /// For people.
    pub location: String,
    /// The backups that are there.
    pub sources: Vec<Source>,
    /// Those that must not be used.
    pub useless: BTreeSet<String>,
    /// Those that the cluster says are there.
    pub known: Vec<CodexBackup>,
    /// What the archiver wrote down of the archive that is here.
    pub record: Option<Record>,
    /// Directory of the archive.
    pub archive: String,
    /// What a Job shows to members.
    pub credentials: Credentials,
}

impl Stock {
    /// Members that are stored, sorted.
    pub fn stored(&self) -> Vec<&str> {
        let all = self.sources.iter().flat_map(|source| &source.members);
        let stored = all.filter(|m| m.stored).map(|m| m.pod.as_str());
        stored.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The pieces of a member that are stored.
    pub async fn pieces(&self, pod: &str) -> Result<Vec<PiecePath>> {
        let found = stored::pieces(&self.destination, &self.archive, pod).await;
        found.with_context(|| format!("look for what is archived at {}", self.location))
    }

    /// The backups of a member that a restore may begin with.
    pub fn bases(&self, pod: &str) -> Vec<Chosen<'_>> {
        source::usable(&self.sources, pod, &self.useless, &self.known)
    }

    /// The latest backup of that member, if the cluster knows of no later one that should be here.
    pub fn newest(&self, pod: &str) -> Result<Option<Chosen<'_>>> {
        let (sources, useless) = (&self.sources, &self.useless);
        source::newest(sources, pod, useless, &self.known, &self.place).map_err(|lacks| {
            anyhow!(
                "cxb/{} says that it holds {pod}, and what is at {} is not what it says. Restore another with a \
                 CodexRestore that names it, or delete this one",
                lacks.name_any(),
                self.location
            )
        })
    }

    /// An error if the cluster knows of a backup that should be here: a member must not begin empty then.
    pub fn check_none(&self, pod: &str) -> Result<()> {
        let said = self.known.iter().find(|backup| {
            let status = backup.status.as_ref();
            let members = status.map(|s| s.members.as_slice()).unwrap_or_default();
            !source::is_broken(backup) && members.iter().any(|m| m.pod == pod && m.stored)
        });
        match said {
            None => Ok(()),
            Some(backup) => Err(anyhow!(
                "cxb/{} says that it holds {pod}, and is not at {}: is that the right destination? Restore it with a \
                 CodexRestore that names it, or delete it",
                backup.name_any(),
                self.location
            )),
        }
    }
}
