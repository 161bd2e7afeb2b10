//! The command line.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use codexstore_api::time::parse_duration;

use crate::{
    backups::Backup,
    jobs::Job,
    kv::args as kv,
    offline::{archive::Archive, args as offline, key::KeyCommand, keys},
    output::Format,
    restores::Restore,
};

const ABOUT: &str = "Talk to a CodexStore, run one on a laptop, and explain what the cluster does";

const AFTER: &str = "\
Exit codes:
  0  success, also when the reader of the output goes away
  1  internal error, or one without a code of its own
  2  wrong arguments or input (kind Validation)
  3  not there: key, pod, store (kind NotFound)
  4  not permitted (kind Permission)
  5  storage failed or a budget is used up (kind Io)
  6  keys missing or wrong (kind Encryption)
  7  stored bytes do not verify (kind Integrity)
  8  a precondition failed, a deadline passed, overload (kind Concurrency)
  9  the sidecar cannot be reached
`dev -- CMD` exits with CMD's code, or 128 + signal. Errors are one line on stderr.

Examples:
  codexctl set greeting hello
  codexctl get greeting
  codexctl list --prefix order/ -o json
  codexctl dev -f codexstore.yaml
  codexctl explain pod/orders-0 -n shop

Installed as `kubectl-codexstore` on the PATH, all of it is also `kubectl codexstore ...`.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "codexctl", version, about = ABOUT, after_long_help = AFTER)]
pub struct Cli {
    /// How results are shown
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: Format,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print a value
    ///
    /// Writes the value's bytes to stdout as they are, nothing added. With `-o json`: key, value, revision,
    /// version and expiry; the value is in `text`, or in `value` as base64 if it is not UTF-8. Exits with 3 when the key is not there.
    #[command(
        after_help = "Examples:\n  codexctl get greeting\n  codexctl get photo/1 > photo.jpg\n  codexctl get greeting --revision 41"
    )]
    Get(kv::Get),
    /// Put a value
    ///
    /// The value is the argument, `-` for stdin, or a file. When this returns, it is on disk (with durability
    /// `Always`). `-o json` prints the revision.
    #[command(
        after_help = "Examples:\n  codexctl set greeting hello\n  codexctl set session/7 --ttl 30m - < session.json\n  codexctl set leader me --if-absent\n  codexctl set photo/1 --file photo.jpg"
    )]
    Set(Set),
    /// Delete a key, or all keys with a prefix
    ///
    /// Exits with 3 when the key is not there. A prefix that matches nothing is no error.
    #[command(
        after_help = "Examples:\n  codexctl delete greeting\n  codexctl delete --prefix session/\n  codexctl delete --prefix '' --all"
    )]
    Delete(Delete),
    /// List keys in order
    ///
    /// Follows the pages of a long listing. Bytes of a key that are no text are shown as \xNN; in JSON such
    /// a key is in `keyBase64`.
    #[command(
        after_help = "Examples:\n  codexctl list\n  codexctl list --prefix order/ --values\n  codexctl list --match 'user/*/name' --limit 100 -o json"
    )]
    List(List),
    /// Do several operations at once, or none of them
    ///
    /// Takes the JSON of POST /v1/batch. All operations happen, in one revision, if all preconditions hold. Values
    /// are `text`, or `value` in base64.
    #[command(
        after_help = "Example:\n  codexctl batch - <<'END'\n  {\"preconditions\": [{\"key\": \"stock/7\", \"revision\": 41}],\n   \"operations\": [{\"op\": \"set\", \"key\": \"stock/7\", \"text\": \"2\"},\n                  {\"op\": \"set\", \"key\": \"order/9\", \"text\": \"one of 7\", \"ttl\": \"24h\"},\n                  {\"op\": \"delete\", \"key\": \"cart/9\"}]}\n  END"
    )]
    Batch {
        #[command(flatten)]
        socket: Socket,
        #[command(flatten)]
        actor: kv::Actor,
        /// File with the batch, or `-` for stdin
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Put a value if the key has an expected one now
    ///
    /// Compares and sets as one step: exits with 8, and changes nothing, when the key is not there or has another value.
    /// For a key that must not be there: `set --if-absent`.
    #[command(
        after_help = "Examples:\n  codexctl cas leader web-0 web-1\n  codexctl cas lock held free --ttl 30s"
    )]
    Cas(kv::Cas),
    /// Show or change when a key expires
    ///
    /// Prints the time that is left, or `never`. With a time, the key expires that long from now and keeps its value.
    #[command(
        after_help = "Examples:\n  codexctl ttl session/7\n  codexctl ttl session/7 30m\n  codexctl ttl session/7 --persist"
    )]
    Ttl(kv::Ttl),
    /// Print changes as they come
    ///
    /// A line for each key of each change, once it is on disk, in order and without a gap, until you stop it. It waits
    /// a moment for a sidecar that restarts, and goes on where it was. With `-o json`, one object a line for each
    /// change, with its `operations`. Exits with 3 when changes from there on are no longer kept.
    #[command(
        after_help = "Examples:\n  codexctl watch --prefix order/ --values\n  codexctl watch --from 1 -o json\n  codexctl watch --prefix flag/ --limit 1 && reload"
    )]
    Watch(kv::Watch),
    /// Print what became of a key
    ///
    /// Oldest first: each revision that touched it, when, by whom, and with what value. Only a store with the
    /// strategy Ledger has it.
    #[command(
        after_help = "Examples:\n  codexctl history order/7 --values\n  codexctl history order/7 --from 1000 --limit 10 -o json"
    )]
    History(kv::History),
    /// Show what a store does, again and again
    ///
    /// Requests a second and how long they take, by protocol and operation; commits, syncs, memory and disk. Of the time
    /// between two looks, until you stop it. Latencies are of the histogram's buckets: an upper bound.
    #[command(
        after_help = "Examples:\n  codexctl top\n  codexctl top --interval 10s --count 1 -o json"
    )]
    Top(kv::Top),
    /// Show what the store says about itself
    ///
    /// Works also while the store is not ready: state and message then say why.
    #[command(after_help = "Examples:\n  codexctl status\n  codexctl status -o json")]
    Status {
        #[command(flatten)]
        socket: Socket,
    },
    /// Say that the wall clock is right
    ///
    /// A store whose last write is more than a year old by the clock does not believe it and lets nothing expire
    /// by it, since a wrong clock would delete what has a time to live. `status` tells when that is so.
    #[command(after_help = "Example:\n  codexctl accept-clock")]
    AcceptClock {
        #[command(flatten)]
        socket: Socket,
    },
    /// Show what lies in a store's directory
    ///
    /// Offline: reads the files themselves, from end to end. Needs no key, so it says what is there, how each file
    /// ends and what an open would do, and nothing of what is in the store. Modifies nothing, and works on a
    /// read-only volume. Damage is shown and is no failure: `verify` is for that.
    #[command(
        after_help = "Examples:\n  codexctl inspect /data/orders\n  codexctl inspect /data/orders -o json"
    )]
    Inspect(offline::Inspect),
    /// Verify a store that nobody has open
    ///
    /// Offline. With keys, opens every file and replays the store as an open would, without claiming it, and prints
    /// what is in it with a root hash over all of it. Without keys, checks the chain of hashes, which tells damage
    /// but not a forgery. With --anchor, a ledger must hold all that it held when the anchor was taken. Modifies nothing.
    /// Exits with 7 when anything is wrong, and lists each fault.
    #[command(
        after_help = "Examples:\n  codexctl verify /data/orders --keyring /keyring\n  codexctl verify /data/orders -o json\n  codexctl verify /data/audit --anchor \"$(cat audit.anchor)\""
    )]
    Verify(offline::Verify),
    /// Write what can be proven of a damaged store to a new one
    ///
    /// Offline. Of each key, the newest state that verifies counts; frames behind a damaged one too, unless --strict.
    /// The damaged store is not modified. Lists what could not be proven, and then exits with 7 although the new
    /// store is there. The new store has the present only, and a history of its own.
    #[command(
        after_help = "Example:\n  codexctl salvage /data/orders --into /data/orders-new --keyring /keyring"
    )]
    Salvage(offline::Salvage),
    /// Write a store's entries as JSON Lines
    ///
    /// Of a store that nobody has open, by its directory, or of one that runs, by its socket. One object per line: `key`, or `keyBase64` if it is no UTF-8; `text`, or `value` in base64;
    /// `expiresAt`; `revision`, `createdRevision` and `version`. Modifies nothing. What is written is not encrypted.
    /// Of one that runs, each page of a hundred shows one moment, and later pages a later one.
    #[command(
        after_help = "Examples:\n  codexctl export $CODEXSTORE_SOCKET --to orders.jsonl\n  codexctl export /data/orders --keyring /keyring --to orders.jsonl\n  codexctl export /data/orders --keyring /keyring --prefix order/ | jq -r .key"
    )]
    Export(offline::Export),
    /// Put entries from JSON Lines, Redis, SQLite or a JSON file into a store
    ///
    /// Into a store that nobody has open, by its directory, which is made if it is not there; or into one that runs, by its
    /// socket. A file is checked to its end before anything is written. Batches
    /// of a few thousand entries are atomic; an import that fails says how far it came.
    #[command(
        after_help = "Examples:\n  codexctl import $CODEXSTORE_SOCKET orders.jsonl\n  codexctl import /data/orders orders.jsonl --keyring /keyring\n  codexctl import /data/orders dump.rdb --format rdb --keyring /keyring --on-conflict skip\n  codexctl import /data/orders --sqlite app.db --table kv --key-column k --value-column v --keyring /keyring"
    )]
    Import(offline::Import),
    /// Change a store's strategy
    ///
    /// Offline. No entry is touched, and a crash leaves the one or the other. A ledger that becomes a snapshot loses its
    /// history with the next folds.
    #[command(
        after_help = "Example:\n  codexctl convert /data/orders --strategy ledger --keyring /keyring"
    )]
    Convert(offline::Convert),
    /// Encrypt a store anew: other keys, another cipher, encryption on or off
    ///
    /// Offline. Every file is sealed again under fresh data keys and read back; the old files are removed only
    /// then. Needs as much space again as the store takes. If it is interrupted, run it again: at each point
    /// either the old keys open the store or the new ones do.
    #[command(
        after_help = "Examples:\n  codexctl migrate-encryption /data/orders --keyring /old --to-keyring /new\n  codexctl migrate-encryption /data/orders --keyring /old --to-passphrase-file /run/secret\n  codexctl migrate-encryption /data/orders --unencrypted --to-keyring /new --key-size 128"
    )]
    MigrateEncryption(keys::MigrateEncryption),
    /// List, make and check the keys of a keyring
    ///
    /// A keyring is a directory in the form of the Secret that a sidecar mounts: the file `current` with the id of the current key,
    /// and one file for each key, named by its id, of 16, 24 or 32 raw bytes. Stores take it with `--keyring`. No key is shown, but
    /// in a manifest that `--secret` asks for.
    #[command(
        subcommand,
        after_help = "Examples:\n  codexctl key new ./keyring\n  codexctl key list ./keyring\n  codexctl key rotate ./keyring --secret orders-keys | kubectl apply --server-side -f -"
    )]
    Key(KeyCommand),
    /// Check or change the passphrase of a store
    ///
    /// Offline. Without `--change` or a new file it says whether the passphrase opens every file. A change wraps
    /// the data keys anew, which is quick; if it is interrupted, run it again with both. A passphrase is read from a
    /// file, or asked for on the terminal, and is never an argument.
    #[command(
        after_help = "Examples:\n  codexctl passphrase /data/orders\n  codexctl passphrase /data/orders --change\n  codexctl passphrase /data/orders --passphrase-file old --new-passphrase-file new"
    )]
    Passphrase(keys::ChangePassphrase),
    /// Verify, list, show or download backups
    #[command(
        subcommand,
        after_help = "Examples:\n  codexctl backup verify orders.backup --keyring /keyring\n  codexctl backup list /backups\n  codexctl backup list -n shop\n  codexctl backup download before-the-upgrade -n shop --to ./backup"
    )]
    Backup(Backup),
    /// Verify the pieces of an archive
    #[command(
        subcommand,
        after_help = "Example:\n  codexctl archive verify ./orders-0 --keyring /keyring"
    )]
    Archive(Archive),
    /// Make a store of a backup, or give a store's members what a backup holds
    ///
    /// With `--into`, offline, of a file. The directory must hold nothing of a store. The store has the backup's entries, and a ledger's history,
    /// in a new lineage far above every revision that may have been given out. With `--archive` it has what was committed behind the
    /// backup too: all that is there, or up to a revision or a time. All of it is there or none: until this
    /// has ended well the directory does not open, and this can be run again.
    ///
    /// With `--store`, in a cluster. Creates a CodexRestore, says how it goes, and ends with it: members run on, and what they had is
    /// set aside on their volumes. Exits with 1 if any member is not restored, which then has what it had.
    #[command(
        after_help = "Examples:\n  codexctl restore orders.backup --into /data/orders --keyring /keyring\n  codexctl restore - --into /data/orders --keyring /keyring < orders.backup\n  codexctl restore orders.backup --archive ./orders-0 --until-time 2026-11-30T08:15:00Z --into /data/orders --keyring /keyring\n  codexctl restore before-the-upgrade --store orders -n shop\n  codexctl restore --at 2026-11-30T12:00:00Z --store orders -n shop --member web-0\n  codexctl restore --latest --store copy --from-store orders --wait=false",
        override_usage = "codexctl restore <FILE> --into <DIR> <--keyring <DIR>|--passphrase-file <FILE>|--unencrypted> [OPTIONS]\n       codexctl restore <NAME|--latest|--at <TIME>|--at-revision <REVISION>> --store <NAME> [OPTIONS]"
    )]
    Restore(Restore),
    /// What the Jobs of a CodexStore run
    ///
    /// Not for people: create a CodexBackup and the operator makes the Job.
    #[command(
        subcommand,
        hide = true,
        after_help = "Example:\n  codexctl job backup --backup orders-now"
    )]
    Job(Job),
    /// Say why a pod has a sidecar or has none, is outdated or not ready; or how a store's members are
    ///
    /// Reads the pod, its namespace, its store and events from the cluster, and decides with the code that the
    /// webhook runs. Changes nothing. Never reads a Secret.
    #[command(
        after_help = "Examples:\n  codexctl explain pod/orders-0 -n shop\n  codexctl explain cxs/orders -n shop -o json"
    )]
    Explain(Explain),
    /// Run a CodexStore on this machine
    ///
    /// Takes the file that the cluster takes, checks it against the same schema and rules, makes a keyring once,
    /// and runs the sidecar with the settings that a pod would get. Data and keys stay in the directory until
    /// you delete it. Ctrl-C or SIGTERM stops it cleanly. With a command after `--`, runs that with
    /// `CODEXSTORE_SOCKET` and `CODEXSTORE_REDIS_SOCKET` set, stops the store when it ends, and exits with its code.
    #[command(
        after_help = "Examples:\n  codexctl dev -f codexstore.yaml\n  codexctl dev -f codexstore.yaml -- cargo test"
    )]
    Dev(Dev),
    /// Print a script that completes commands in a shell
    #[command(
        after_help = "Examples:\n  source <(codexctl completion bash)\n  codexctl completion zsh > \"${fpath[1]}/_codexctl\""
    )]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a directory
    #[command(after_help = "Example:\n  codexctl man ~/.local/share/man/man1")]
    Man {
        /// The directory, which is made if it is not there
        dir: PathBuf,
    },
    /// Print the version
    #[command(after_help = "Examples:\n  codexctl version\n  codexctl version -o json")]
    Version,
}

/// Which store to talk to.
#[derive(Debug, Args)]
pub struct Socket {
    /// Socket of the store
    #[arg(
        long,
        env = "CODEXSTORE_SOCKET",
        default_value = codexstore_crds::names::SOCKET_PATH,
        value_name = "PATH"
    )]
    pub socket: PathBuf,
    /// Longest wait for an answer, such as 10s
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = positive_duration)]
    pub timeout: Duration,
}

/// `set`.
#[derive(Debug, Args)]
pub struct Set {
    /// Which store
    #[command(flatten)]
    pub socket: Socket,
    /// Who writes
    #[command(flatten)]
    pub actor: kv::Actor,
    /// The key: 1 to 1,024 bytes
    pub key: OsString,
    /// The value, or `-` to read it from stdin
    #[arg(
        required_unless_present = "file",
        conflicts_with = "file",
        allow_hyphen_values = true
    )]
    pub value: Option<OsString>,
    /// Read the value from a file
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// The key expires after this time: 30s, 1h30m, 7d
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub ttl: Option<Duration>,
    /// Only if the key is not there; else exits with 8
    #[arg(long, conflicts_with = "if_revision")]
    pub if_absent: bool,
    /// Only if the key was last written in this revision; else exits with 8
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub if_revision: Option<u64>,
}

/// `delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// Which store
    #[command(flatten)]
    pub socket: Socket,
    /// Who writes
    #[command(flatten)]
    pub actor: kv::Actor,
    /// The key
    #[arg(required_unless_present = "prefix", conflicts_with = "prefix")]
    pub key: Option<OsString>,
    /// Delete all keys that begin with this
    #[arg(long)]
    pub prefix: Option<OsString>,
    /// Needed beside an empty prefix, which means every key
    #[arg(long, requires = "prefix")]
    pub all: bool,
}

/// `list`.
#[derive(Debug, Args)]
pub struct List {
    /// Which store
    #[command(flatten)]
    pub socket: Socket,
    /// Only keys that begin with this
    #[arg(long)]
    pub prefix: Option<OsString>,
    /// Only keys that match this glob: `*` any text, `?` one character, `[a-z]` one of these
    #[arg(long = "match", value_name = "GLOB")]
    pub glob: Option<OsString>,
    /// At most this many keys
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Show values too
    #[arg(long)]
    pub values: bool,
}

/// `explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// What to explain: pod/NAME or cxs/NAME
    #[arg(value_name = "KIND/NAME")]
    pub target: String,
    /// Where it is
    #[command(flatten)]
    pub place: InCluster,
}

/// Which cluster, and where in it.
#[derive(Debug, Args)]
pub struct InCluster {
    /// Namespace; by default the context's
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long)]
    pub context: Option<String>,
    /// Kubeconfig file; by default $KUBECONFIG, ~/.kube/config, or the pod's service account
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
}

/// `dev`.
#[derive(Debug, Args)]
pub struct Dev {
    /// YAML file with a CodexStore, among other documents if you like; `-` for stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Which CodexStore, where the file has several
    #[arg(long, value_name = "NAME")]
    pub store: Option<String>,
    /// Where keyring, data and socket are kept [default: .codexstore/NAME]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The sidecar's binary [default: codexstore-sidecar beside codexctl, or on the PATH]
    #[arg(long, value_name = "PATH")]
    pub sidecar: Option<PathBuf>,
    /// How much the sidecar logs, to stderr: error, warn, info, debug
    #[arg(long, default_value = "warn", value_name = "LEVEL")]
    pub log_level: String,
    /// Command to run with the store
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// A time above zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Some(time) if !time.is_zero() => Ok(time),
        _ => Err("write for example 500ms, 30s, 1h30m or 7d".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_time_of_zero_or_without_meaning_is_refused() {
        assert!(positive_duration("0s").is_err());
        assert!(positive_duration("soon").is_err());
        assert_eq!(positive_duration("2m"), Ok(Duration::from_mins(2)));
    }
}
