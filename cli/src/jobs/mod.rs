//! `job`: what the Jobs of a CodexStore run. Each does one step on one CodexBackup or CodexRestore, can be run again, and writes what
//! became of it into the status.

mod archive;
pub mod bucket;
mod cluster;
pub mod destination;
mod escrow;
mod feed;
mod lease;
mod member;
mod plan;
mod read;
mod restore;
#[cfg(test)]
mod scripted;
mod source;
mod stock;
mod stored;
mod take;
mod tries;
mod verify;

use anyhow::Result;
use clap::{Args, Subcommand};
use codexstore_crds::backup::Continuous;
use codexstore_crds::{CodexBackup, jobs, names};
use kube::ResourceExt as _;

use crate::failure::Coded;
use cluster::Cluster;
use destination::Destination;
use lease::Holder;
use take::Which;

/// `job`.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// Take a backup of each member
    ///
    /// Of a CodexBackup, or of the one that this makes for a scheduled Job. Reads each member's stream, stores it, reads
    /// it back and compares; needs the client certificate of the store's Jobs.
    #[command(after_help = "Example:\n  codexctl job backup --backup orders-now")]
    Backup {
        /// The CodexBackup
        #[arg(long, value_name = "NAME", required_unless_present = "store")]
        backup: Option<String>,
        /// The CodexStore, for a scheduled Job
        #[arg(long, value_name = "NAME", conflicts_with = "backup", requires = "job")]
        store: Option<String>,
        /// The scheduled Job, from whose name that of its CodexBackup is made
        #[arg(long, value_name = "NAME")]
        job: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Open a backup with its keys, and compare it with what the members said
    #[command(after_help = "Example:\n  codexctl job verify --backup orders-now")]
    Verify {
        /// The CodexBackup
        #[arg(long, value_name = "NAME")]
        backup: String,
        #[command(flatten)]
        place: Place,
    },
    /// Delete what is stored of a backup
    #[command(after_help = "Example:\n  codexctl job prune --backup orders-now")]
    Prune {
        /// The CodexBackup
        #[arg(long, value_name = "NAME")]
        backup: String,
        #[command(flatten)]
        place: Place,
    },
    /// Archive what the members of a store write, until it is told to end
    ///
    /// Asks each member for what is new, stores it as pieces beside the backups, and writes into the ConfigMap
    /// `cxs-STORE-archive` how far it is. Asks for a backup where pieces follow none, and deletes old pieces.
    #[command(
        after_help = "Example:\n  codexctl job archive --store orders --interval 5s --keep 168h"
    )]
    Archive {
        /// The CodexStore
        #[arg(long, value_name = "NAME")]
        store: String,
        /// How often members are asked
        #[arg(long, value_name = "TIME", default_value = "5s")]
        interval: String,
        /// How far back any time can be restored
        #[arg(long, value_name = "TIME", default_value = "168h")]
        keep: String,
        #[command(flatten)]
        place: Place,
    },
    /// Be there, so that others can read what is at the destination
    #[command(after_help = "Example:\n  codexctl job hold")]
    Hold,
    /// Write a file of the destination, which is a directory, to stdout
    #[command(
        after_help = "Example:\n  codexctl job read --path shop/orders/now/web-0-1a2b3c4d.backup"
    )]
    Read {
        /// The file, from the destination on
        #[arg(long)]
        path: String,
    },
    /// Restore members of a store, as a CodexRestore says
    ///
    /// Reads the backups that are at the destination and streams each member its own; what a member had is set aside.
    /// Needs the client certificate for it.
    #[command(after_help = "Example:\n  codexctl job restore --restore orders-back")]
    Restore {
        /// The CodexRestore
        #[arg(long, value_name = "NAME")]
        restore: String,
        /// The CodexBackup, where the CodexRestore copies another store's data and does not name one
        #[arg(long, value_name = "NAME")]
        backup: Option<String>,
        /// The store has no record of an archive: none is looked for
        #[arg(long)]
        no_archive_record: bool,
        #[command(flatten)]
        place: Place,
    },
}

/// Where a Job runs.
#[derive(Debug, Args)]
pub struct Place {
    /// Namespace; by default the pod's, or the context's
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Name of this pod, which holds the Lease
    #[arg(long, env = "POD_NAME", default_value = "codexctl", hide_env = true)]
    pub pod_name: String,
}

/// `job`.
pub async fn job(job: &Job) -> Result<()> {
    match job {
        Job::Backup {
            backup,
            store,
            job,
            place,
        } => {
            let cluster = Cluster::connect(place.namespace.as_deref()).await?;
            let which = match (backup, store, job) {
                (None, Some(store), Some(job)) => Which::Scheduled { store, job },
                (name, _, _) => Which::Named(name.as_deref().unwrap_or_default()),
            };
            Box::pin(take::take(&cluster, which, &place.pod_name)).await
        }
        Job::Verify { backup, place } => {
            let cluster = Cluster::connect(place.namespace.as_deref()).await?;
            verify::verify(&cluster, backup).await
        }
        Job::Prune { backup, place } => {
            let cluster = Cluster::connect(place.namespace.as_deref()).await?;
            prune(&cluster, backup, &place.pod_name).await
        }
        Job::Archive {
            store,
            interval,
            keep,
            place,
        } => {
            let cluster = Cluster::connect(place.namespace.as_deref()).await?;
            let policy = Continuous {
                interval: interval.clone(),
                keep: keep.clone(),
            };
            Box::pin(archive::archive(cluster, store, policy, &place.pod_name)).await
        }
        Job::Hold => read::hold().await,
        Job::Read { path } => read::read(path).await,
        Job::Restore {
            restore,
            backup,
            no_archive_record,
            place,
        } => {
            let cluster = Cluster::connect(place.namespace.as_deref()).await?;
            let asked = restore::Asked {
                restore,
                backup: backup.as_deref(),
                recorded: !no_archive_record,
            };
            Box::pin(restore::restore(&cluster, asked, &place.pod_name)).await
        }
    }
}

async fn prune(cluster: &Cluster, name: &str, holder: &str) -> Result<()> {
    let backup = cluster.backup(name).await?;
    let status = backup.status.clone().unwrap_or_default();
    let (Some(named), true) = (&status.destination, status.directory.is_some()) else {
        eprintln!("cxb/{} has nothing stored", backup.name_any());
        return Ok(());
    };
    let directory = own_directory(&cluster.namespace, &backup)?;
    let destination = Destination::of(named)?;
    let lease = names::backup_lease(&backup.spec.store_ref.name);
    let holder = Holder::new(
        &cluster.client,
        &cluster.namespace,
        lease,
        holder.to_owned(),
    );
    let deleted = holder.hold(destination.delete_all(&directory)).await?;
    eprintln!("cxb/{name}: {deleted} files deleted");
    Ok(())
}

/// The directory of a backup. The status says it too, but a status is anybody's who may write one: what is read and deleted
/// is this backup's own.
pub fn own_directory(namespace: &str, backup: &CodexBackup) -> Result<String> {
    let store = &backup.spec.store_ref.name;
    let own = jobs::directory(namespace, store, &backup.name_any());
    let told = backup.status.as_ref().and_then(|s| s.directory.as_ref());
    if told.is_some_and(|told| *told != own) {
        let what = format!(
            "the status of cxb/{} names a directory that is not its own",
            backup.name_any()
        );
        return Err(Coded::invalid(what).into());
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        job: Job,
    }

    #[test]
    fn a_restore_takes_the_flag_that_the_operator_gives_it() {
        let flagged = |more: &[&str]| {
            let args = ["job", "restore", "--restore", "back"];
            let cli = Cli::try_parse_from(args.iter().chain(more)).unwrap();
            matches!(cli.job, Job::Restore { no_archive_record, .. } if no_archive_record)
        };
        assert!(!flagged(&[]));
        assert!(flagged(&["--no-archive-record"]));
    }
}
