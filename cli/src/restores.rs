//! `restore`: of a file into a directory by [`files`]; in a cluster by a CodexRestore, which is created and followed to its end.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::Args;
use codexstore_crds::backup::LocalRef;
use codexstore_crds::codex_backup::phase;
use codexstore_crds::codex_restore::{PointInTime, RestoreTarget};
use codexstore_crds::{CodexRestore, CodexRestoreSpec, CodexRestoreStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::json;

use crate::{
    args::InCluster,
    explain::cluster::Cluster,
    failure::Coded,
    follow::{Seen, follow},
    offline::backup as files,
    output::{self, Format, Table},
};

/// What is told where nothing is said of it.
const HINT: &str = "nothing is said of it yet: does the operator run?";

/// `restore`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Restore {
    /// A file with a backup, or `-` for stdin. With --store, the name of a backup of that store
    #[arg(
        value_name = "FILE|NAME",
        required_unless_present_any = ["latest", "at", "at_revision"],
        conflicts_with_all = ["latest", "at", "at_revision"]
    )]
    backup: Option<PathBuf>,
    #[command(flatten)]
    files: files::IntoDirectory,
    #[command(flatten)]
    cluster: IntoMembers,
}

/// Into the members of a store, while they run.
#[derive(Debug, Args)]
#[group(skip)]
#[command(next_help_heading = "In a cluster")]
struct IntoMembers {
    /// The CodexStore whose members get other data
    #[arg(long, value_name = "NAME", conflicts_with_all = ["KeysIfAny", "strategy", "archive"])]
    store: Option<String>,
    /// Of each member its latest backup, and what was archived since
    #[arg(long, requires = "store")]
    latest: bool,
    /// What was there at this time, by a continuous archive: RFC 3339, or milliseconds since 1970
    #[arg(long, value_name = "TIME", requires = "store", conflicts_with = "latest", value_parser = files::point_in_time)]
    at: Option<u64>,
    /// What one member had at this revision, by a continuous archive
    #[arg(long, value_name = "REVISION", requires = "member", conflicts_with_all = ["latest", "at"],
        value_parser = clap::value_parser!(i64).range(0..))]
    at_revision: Option<i64>,
    /// Only this member, by the name of its pod; with another one's backup as POD=OTHER. Can be given more than once
    #[arg(long, value_name = "POD", requires = "store", value_parser = target)]
    member: Vec<RestoreTarget>,
    /// Copy the data of this other CodexStore
    #[arg(long, value_name = "NAME", requires = "store")]
    from_store: Option<String>,
    /// Name of the CodexRestore; by default one that is made of the store's
    #[arg(long, value_name = "NAME", requires = "store")]
    name: Option<String>,
    /// Whether to wait until it has ended
    #[arg(long, value_name = "BOOL", requires = "store", default_value_t = true, default_missing_value = "true",
        num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    wait: bool,
    #[command(flatten)]
    place: InCluster,
}

fn target(text: &str) -> Result<RestoreTarget, String> {
    let (pod, from) = match text.split_once('=') {
        Some((pod, from)) => (pod, Some(from.to_owned())),
        None => (text, None),
    };
    if pod.is_empty() || from.as_deref() == Some("") {
        return Err("write POD, or POD=OTHER for the backup of another one".to_owned());
    }
    Ok(RestoreTarget {
        pod: pod.to_owned(),
        from,
    })
}

/// `restore`.
pub async fn restore(args: &Restore, format: Format) -> Result<()> {
    let backup = args.backup.as_deref();
    match &args.cluster.store {
        Some(store) => {
            let wanted = wanted(store, backup, &args.cluster)?;
            in_cluster(&wanted, &args.cluster, format).await
        }
        None => files::restore(backup.unwrap_or(Path::new("-")), &args.files, format),
    }
}

/// The CodexRestore that is asked for.
fn wanted(store: &str, backup: Option<&Path>, args: &IntoMembers) -> Result<CodexRestore> {
    let named = |name: &str| LocalRef {
        name: name.to_owned(),
    };
    let backup = match backup.map(Path::to_str) {
        Some(Some(name)) if !name.contains('/') => Some(named(name)),
        Some(name) => {
            let what = format!(
                "{} is no name of a backup: with --store it is one of the cluster's, and a file is restored with --into",
                name.unwrap_or("that")
            );
            return Err(Coded::invalid(what).into());
        }
        None => None,
    };
    let time = match args.at.map(i64::try_from) {
        Some(Ok(ms)) => Timestamp::from_millisecond(ms).ok().map(MicroTime),
        _ => None,
    };
    let point_in_time = (args.at.is_some() || args.at_revision.is_some()).then_some(PointInTime {
        time,
        revision: args.at_revision,
    });
    let spec = CodexRestoreSpec {
        store_ref: named(store),
        from_store_ref: args.from_store.as_deref().map(named),
        backup_ref: backup,
        point_in_time,
        members: args.member.clone(),
        ..CodexRestoreSpec::default()
    };
    let mut restore = CodexRestore::new("", spec);
    restore.metadata.name.clone_from(&args.name);
    if args.name.is_none() {
        restore.metadata.generate_name = Some(format!("{store}-"));
    }
    Ok(restore)
}

async fn in_cluster(wanted: &CodexRestore, args: &IntoMembers, format: Format) -> Result<()> {
    let cluster = Cluster::connect(&args.place).await?;
    let made = cluster.create(wanted, "create a CodexRestore").await?;
    let name = made.name_any();
    if !args.wait {
        return match format {
            Format::Json => show(&name, &CodexRestoreStatus::default(), format),
            Format::Table => output::line(&format!("cxr/{name} is created")),
        };
    }
    eprintln!("cxr/{name} is created, and goes on if this is interrupted");
    let status = follow(&cluster, &made, HINT, seen).await?;
    show(&name, &status, format)?;
    match status.phase.as_deref() {
        Some(phase::SUCCEEDED) => Ok(()),
        other => Err(anyhow!(
            "cxr/{name} has ended as {}: {}",
            other.unwrap_or_default(),
            status.message.as_deref().unwrap_or("no reason is given")
        )),
    }
}

/// What is seen of it.
fn seen(restore: CodexRestore) -> Seen<CodexRestoreStatus> {
    let status = restore.status.unwrap_or_default();
    if status.ended() {
        return Seen::Ended(status);
    }
    let line = |phase: &String| format!("{phase}: {}", status.message.as_deref().unwrap_or("…"));
    Seen::Going(status.phase.as_ref().map(line))
}

fn show(name: &str, status: &CodexRestoreStatus, format: Format) -> Result<()> {
    if format == Format::Json {
        let mut all = json!(status);
        if let Some(all) = all.as_object_mut() {
            all.remove("conditions");
            all.insert("name".to_owned(), json!(name));
        }
        return output::json(&all);
    }
    if status.members.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[
        "POD",
        "RESTORED",
        "BACKUP",
        "FROM",
        "TO",
        "REVISION",
        "ENTRIES",
        "SET ASIDE",
        "MESSAGE",
    ]);
    let number = |number: Option<i64>| number.map_or_else(String::new, |n| n.to_string());
    for member in &status.members {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let to = member.restored_to.as_ref();
        table.row(vec![
            member.pod.clone(),
            if member.restored { "yes" } else { "no" }.to_owned(),
            text(&member.backup),
            text(&member.from),
            to.map_or_else(String::new, |at| at.0.to_string()),
            number(member.revision),
            number(member.keys),
            text(&member.set_aside),
            text(&member.message),
        ]);
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        restore: Restore,
    }

    fn parsed(line: &str) -> Result<Restore, clap::Error> {
        let args = ["restore"].into_iter().chain(line.split_whitespace());
        Cli::try_parse_from(args).map(|cli| cli.restore)
    }

    /// The spec that a line asks for.
    fn spec(line: &str) -> serde_json::Value {
        let args = parsed(line).unwrap();
        let store = args.cluster.store.as_deref().unwrap();
        let wanted = wanted(store, args.backup.as_deref(), &args.cluster).unwrap();
        let mut spec = json!(wanted.spec);
        spec.as_object_mut().unwrap().remove("onStart");
        spec
    }

    #[test]
    fn a_file_goes_into_a_directory_and_a_backup_of_the_cluster_into_members() {
        for good in [
            "f --into d --unencrypted",
            "- --into d --keyring k --archive a --until-revision 7",
            "now --store orders -n shop",
            "--latest --store orders --wait=false",
            "--at 2026-11-30T12:00:00Z --store orders --member web-0 --member web-1=web-0",
            "--at-revision 7 --member web-0 --store orders",
            "now --store copy --from-store orders --name look",
        ] {
            assert!(parsed(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "f",
            "f --into d --store orders",
            "f --into d -n shop",
            "f --into d --member web-0",
            "--latest --into d --unencrypted",
            "now --store orders --keyring k",
            "now --store orders --strategy ledger",
            "now --store orders --archive a",
            "now --latest --store orders",
            "--latest --at 7 --store orders",
            "--at noon --store orders",
            "--at-revision 7 --store orders",
            "now --store orders --member =web-1",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_asked_for_is_a_codexrestore() {
        assert_eq!(
            spec("now --store orders"),
            json!({"storeRef": {"name": "orders"}, "backupRef": {"name": "now"}})
        );
        assert_eq!(
            spec("--at 2026-11-30T12:00:00.5Z --store orders --member web-0 --member web-1=web-0"),
            json!({"storeRef": {"name": "orders"}, "pointInTime": {"time": "2026-11-30T12:00:00.500000Z"},
                "members": [{"pod": "web-0"}, {"pod": "web-1", "from": "web-0"}]})
        );
        assert_eq!(
            spec("--at-revision 7 --member web-0 --store copy --from-store orders"),
            json!({"storeRef": {"name": "copy"}, "fromStoreRef": {"name": "orders"}, "pointInTime": {"revision": 7},
                "members": [{"pod": "web-0"}]})
        );
        let args = parsed("dir/now --store orders").unwrap();
        let refused = wanted("orders", args.backup.as_deref(), &args.cluster);
        assert!(refused.unwrap_err().to_string().contains("--into"));
    }
}
