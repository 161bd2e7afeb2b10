//! Settings: the flags, checked against each other and against the machine.
//! Nothing is opened or made here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use codexstore::{Compression, Durability, Encryption, KeySize, Keyring, Options, Strategy};

use crate::flags::{
    CompressionFlag, DurabilityFlag, KeySizeFlag, LogFormat, RunFlags, StrategyFlag,
};
use crate::units::Size;

/// Longest path that fits a socket address, its final zero not counted.
const MAX_SOCKET_PATH: usize = 107;

/// What a percentage of memory is of where the container has no limit: 70 % of it are 512 MiB.
const MEMORY_WITHOUT_LIMIT: u64 = 732 << 20;

/// File descriptors for everything but connections of the socket: the runtime, logs, the store's
/// files while it folds, keyring and certificates while they are read, and the admin listener.
const OTHER_DESCRIPTORS: u64 = 40;

/// Where the key-encryption keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// The data is not encrypted.
    None,
    /// A keyring in this directory.
    Dir(PathBuf),
}

/// Bounds and deadlines of the protocols.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest value.
    pub max_value: usize,
    /// Most connections on the socket.
    pub max_connections: usize,
    /// Most requests in work.
    pub max_requests: usize,
    /// Bytes of memory for bodies and pages in flight, all requests together.
    pub in_flight_bytes: usize,
    /// Most time for a request.
    pub request: Duration,
    /// Most time for a header, a pause in a body, and a client that does not take its answer.
    pub io: Duration,
    /// Most time without a request.
    pub idle: Duration,
}

/// Who this member is.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Name of the CodexStore.
    pub store: String,
    /// Its UID.
    pub store_uid: String,
    /// Name of the pod.
    pub pod: String,
    /// Its UID.
    pub pod_uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Hash of the spec that the sidecar was made from.
    pub spec_hash: String,
}

/// Everything that `run` needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The store's directory.
    pub data_dir: PathBuf,
    /// Where keys come from.
    pub keys: Keys,
    /// Cipher of new files.
    pub key_size: KeySize,
    /// What is kept.
    pub strategy: Strategy,
    /// When a write is answered.
    pub durability: Durability,
    /// How new files are compressed.
    pub compression: Compression,
    /// Disk budget in bytes.
    pub max_disk: u64,
    /// Memory budget in bytes.
    pub max_memory: u64,
    /// The socket.
    pub socket: PathBuf,
    /// Its permissions.
    pub socket_mode: u32,
    /// Bounds and deadlines.
    pub limits: Limits,
    /// Address of the admin listener.
    pub admin_listen: Option<std::net::SocketAddr>,
    /// Its certificates.
    pub tls_dir: PathBuf,
    /// Log filter.
    pub log_level: String,
    /// Log form.
    pub log_format: LogFormat,
    /// Most time between SIGTERM and the end.
    pub shutdown: Duration,
    /// Who this member is.
    pub identity: Identity,
}

impl Settings {
    /// Checks the flags.
    pub fn from_flags(flags: RunFlags) -> Result<Settings> {
        let keys = match (flags.no_encryption, flags.keyring_dir) {
            (true, Some(_)) => bail!(
                "--no-encryption and --keyring-dir exclude each other: say which one is meant"
            ),
            (true, None) => Keys::None,
            (false, dir) => Keys::Dir(dir.unwrap_or_else(|| "/etc/codexstore/keyring".into())),
        };
        check_socket_path(&flags.socket)?;
        ensure!(
            flags.socket_mode & 0o222 != 0,
            "--socket-mode {:04o} lets nobody connect: connecting wants write permission",
            flags.socket_mode
        );
        ensure!(
            flags.data_dir.is_absolute(),
            "--data-dir {} is not an absolute path",
            flags.data_dir.display()
        );
        let Size::Bytes(max_value) = flags.max_value else {
            bail!("--max-value is a size, not a percentage")
        };
        ensure!(
            (1..=64 << 20).contains(&max_value),
            "--max-value is 1 byte to 64Mi"
        );
        let max_disk = match flags.max_disk {
            Size::Bytes(bytes) => bytes,
            percent @ Size::Percent(_) => percent.of(filesystem_size(&flags.data_dir)?),
        };
        ensure!(
            max_disk >= Options::MIN_DISK,
            "--max-disk comes to {max_disk} bytes; the store wants at least {}",
            Options::MIN_DISK
        );
        let memory = memory_limit().unwrap_or(MEMORY_WITHOUT_LIMIT);
        let max_memory = flags.max_memory.of(memory);
        ensure!(
            max_memory >= 1 << 20,
            "--max-memory comes to {max_memory} bytes; the store wants at least 1Mi"
        );
        let max_value = usize::try_from(max_value)?;
        let limits = Limits {
            max_value,
            max_connections: connection_limit(flags.max_connections),
            max_requests: flags.max_requests as usize,
            in_flight_bytes: in_flight_bytes(max_value, memory),
            request: flags.request_timeout,
            io: flags.io_timeout,
            idle: flags.idle_timeout,
        };
        crate::log::parse_filter(&flags.log_level)
            .with_context(|| format!("--log-level {}", flags.log_level))?;
        Ok(Settings {
            data_dir: flags.data_dir,
            keys,
            key_size: match flags.key_size {
                KeySizeFlag::Aes128 => KeySize::Aes128,
                KeySizeFlag::Aes192 => KeySize::Aes192,
                KeySizeFlag::Aes256 => KeySize::Aes256,
            },
            strategy: match flags.strategy {
                StrategyFlag::Snapshot => Strategy::Snapshot,
            },
            durability: match flags.durability {
                DurabilityFlag::Always => Durability::Always,
                DurabilityFlag::Interval => Durability::INTERVAL,
            },
            compression: match flags.compression {
                CompressionFlag::None => Compression::None,
                CompressionFlag::Zstd => Compression::Zstd,
                CompressionFlag::Gzip => Compression::Gzip,
                CompressionFlag::Snappy => Compression::Snappy,
            },
            max_disk,
            max_memory,
            socket: flags.socket,
            socket_mode: flags.socket_mode,
            limits,
            admin_listen: flags.admin_listen,
            tls_dir: flags.tls_dir,
            log_level: flags.log_level,
            log_format: flags.log_format,
            shutdown: flags.shutdown_timeout,
            identity: Identity {
                store: flags.store,
                store_uid: flags.store_uid,
                pod: flags.pod_name,
                pod_uid: flags.pod_uid,
                namespace: flags.namespace,
                spec_hash: flags.spec_hash,
            },
        })
    }

    /// Options to open the store with that keyring.
    pub fn options(&self, keyring: Option<Keyring>) -> Options {
        let mut options = Options::new(keyring.map_or(Encryption::None, Encryption::Keyring));
        options.key_size = self.key_size;
        options.strategy = self.strategy;
        options.durability = self.durability;
        options.compression = self.compression;
        options.max_disk = self.max_disk;
        options.max_memory = self.max_memory;
        options.max_value = self.limits.max_value;
        options
    }
}

fn check_socket_path(path: &Path) -> Result<()> {
    let length = path.as_os_str().len();
    ensure!(
        length <= MAX_SOCKET_PATH,
        "--socket {} is {length} bytes long; a socket's path may have at most {MAX_SOCKET_PATH}",
        path.display()
    );
    ensure!(
        path.is_absolute() && path.file_name().is_some(),
        "--socket {} is not an absolute path of a file",
        path.display()
    );
    Ok(())
}

/// Size of the filesystem that `path`, which may not exist yet, is or will be on.
fn filesystem_size(path: &Path) -> Result<u64> {
    let existing = path
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing)
        .with_context(|| format!("--max-disk in percent: ask {} its size", existing.display()))?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// The container's memory limit, if it has one (cgroup version 2, then 1).
fn memory_limit() -> Option<u64> {
    [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .iter()
    .find_map(|path| {
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    })
    // Version 1 says "no limit" with a number close to 2^63.
    .filter(|limit| *limit < 1 << 50)
}

/// Bodies and pages in flight: a tenth of memory, yet enough for two of the largest requests.
fn in_flight_bytes(max_value: usize, memory: u64) -> usize {
    let tenth = usize::try_from(memory / 10).unwrap_or(usize::MAX);
    tenth.min(256 << 20).max(4 * max_value).max(16 << 20)
}

/// As many connections as asked for, if the file descriptor limit allows. The soft limit is raised
/// to the hard one first.
fn connection_limit(wanted: u32) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let available = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let available = available
        .unwrap_or(u64::MAX)
        .saturating_sub(OTHER_DESCRIPTORS)
        .max(4);
    usize::try_from(available.min(u64::from(wanted))).unwrap_or(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Cli, Command};
    use clap::Parser;

    fn settings(args: &[&str]) -> Result<Settings> {
        let args = ["codexstore-sidecar", "run"].iter().chain(args);
        let Command::Run(flags) = Cli::try_parse_from(args)?.command else {
            panic!("not run")
        };
        Settings::from_flags(*flags)
    }

    #[track_caller]
    fn refused(args: &[&str], because: &str) {
        let error = format!("{:#}", settings(args).unwrap_err());
        assert!(error.contains(because), "{error}");
    }

    #[test]
    fn the_defaults_are_valid() {
        let settings = settings(&[]).unwrap();
        assert_eq!(settings.keys, Keys::Dir("/etc/codexstore/keyring".into()));
        assert_eq!(settings.limits.max_value, 8 << 20);
        assert!(settings.max_disk > 0 && settings.max_memory > 0);
    }

    #[test]
    fn wrong_settings_are_refused_with_what_is_wrong() {
        let long = format!("/{}", "x".repeat(107));
        refused(&["--socket", &long], "at most 107");
        refused(&["--socket", "relative.sock"], "absolute");
        refused(&["--socket-mode", "0444"], "write permission");
        refused(&["--no-encryption", "--keyring-dir", "/k"], "exclude");
        refused(&["--max-value", "65Mi"], "64Mi");
        refused(&["--max-value", "10%"], "percentage");
        refused(&["--max-disk", "1k"], "at least");
        refused(&["--data-dir", "data"], "absolute");
        refused(&["--log-level", "info,,=="], "--log-level");
        refused(&["--request-timeout", "0s"], "above zero");
        refused(&["--compression", "lzma"], "zstd");
    }

    #[test]
    fn a_path_of_107_bytes_still_fits() {
        let just = format!("/{}", "x".repeat(106));
        assert!(settings(&["--socket", &just]).is_ok());
    }
}
