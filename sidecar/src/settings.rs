//! Settings: the flags, checked against each other and against the machine.
//! Nothing is opened or made here.

mod spans;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use codexstore::{
    Anchor, Compression, Durability, Encryption, KeySize, Options, Retention, Strategy,
};

use crate::access::Access;
use crate::flags::{
    CompressionFlag, DurabilityFlag, KeySizeFlag, LogFormat, RunFlags, StrategyFlag,
};
use crate::units::Size;
pub use spans::Tracing;

/// Longest path that fits a socket address, its final zero not counted.
const MAX_SOCKET_PATH: usize = 107;

/// What a percentage of memory is of where the container has no limit: 70 % of it are 512 MiB.
const MEMORY_WITHOUT_LIMIT: u64 = 732 << 20;

/// Memory that entries never get, whatever part of the limit is asked for: for the process itself,
/// and for requests.
const APART: u64 = 24 << 20;

/// What the process takes by itself: its idle memory, threads, TLS, a fold.
const PROCESS: u64 = 10 << 20;

/// The smallest memory limit with which there is room for entries besides.
const MIN_LIMIT: u64 = 32 << 20;

/// Longest value without `--max-value`, where memory allows it.
const MAX_VALUE: u64 = 8 << 20;

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
    /// Derived from the passphrase in this file.
    Passphrase(PathBuf),
}

/// Bounds and deadlines of the protocols.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest value.
    pub max_value: usize,
    /// Most connections on the sockets.
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
    /// What takes so long is logged.
    pub slow: Duration,
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
    /// What a ledger may forget.
    pub retention: Retention,
    /// Where a ledger is known to have been.
    pub anchor: Option<Anchor>,
    /// Whether a directory without a store waits for a restore.
    pub await_restore: bool,
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
    /// The socket of the Redis protocol, if there is one.
    pub redis_socket: Option<PathBuf>,
    /// Permissions of either.
    pub socket_mode: u32,
    /// Who may do what.
    pub access: Access,
    /// Bounds and deadlines.
    pub limits: Limits,
    /// Address of the admin listener.
    pub admin_listen: Option<std::net::SocketAddr>,
    /// Its certificates.
    pub tls_dir: PathBuf,
    /// Address of the metrics listener.
    pub metrics_listen: Option<std::net::SocketAddr>,
    /// Where spans go, if there are any.
    pub tracing: Option<Tracing>,
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
        let retention = retention(&flags)?;
        ensure!(
            flags.anchor.is_none() || flags.strategy == StrategyFlag::Ledger,
            "--anchor is for --strategy ledger: the snapshot strategy forgets its log"
        );
        let tracing = spans::tracing(&flags)?;
        let keys = keys(
            flags.no_encryption,
            flags.keyring_dir,
            flags.passphrase_file,
        )?;
        ensure!(
            !flags.await_restore || flags.admin_listen.is_some(),
            "--await-restore wants --admin-listen: backups are restored over it"
        );
        check_socket_path("--socket", &flags.socket)?;
        let redis_socket = redis_socket(flags.redis_socket, &flags.socket)?;
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
        let memory = Memory::divide(memory_limit(), flags.max_memory, flags.max_value)?;
        let max_disk = match flags.max_disk {
            Size::Bytes(bytes) => bytes,
            percent @ Size::Percent(_) => percent.of(filesystem_size(&flags.data_dir)?),
        };
        ensure!(
            max_disk >= Options::MIN_DISK,
            "--max-disk comes to {max_disk} bytes; the store wants at least {}",
            Options::MIN_DISK
        );
        let limits = Limits {
            max_value: memory.max_value,
            max_connections: connection_limit(flags.max_connections),
            max_requests: flags.max_requests as usize,
            in_flight_bytes: memory.in_flight,
            request: flags.request_timeout,
            io: flags.io_timeout,
            idle: flags.idle_timeout,
            slow: flags.slow_request,
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
                StrategyFlag::Ledger => Strategy::Ledger,
            },
            retention,
            anchor: flags.anchor,
            await_restore: flags.await_restore,
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
            max_memory: memory.entries,
            socket: flags.socket,
            redis_socket,
            socket_mode: flags.socket_mode,
            access: Access::parse(&flags.access).context("--access")?,
            limits,
            admin_listen: flags.admin_listen,
            tls_dir: flags.tls_dir,
            metrics_listen: flags.metrics_listen,
            tracing,
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

    /// Options to open the store with those keys.
    pub fn options(&self, encryption: Encryption) -> Options {
        let mut options = Options::new(encryption);
        options.key_size = self.key_size;
        options.strategy = self.strategy;
        options.retention = self.retention;
        options.anchor = self.anchor;
        options.durability = self.durability;
        options.compression = self.compression;
        options.max_disk = self.max_disk;
        options.max_memory = self.max_memory;
        options.max_value = self.limits.max_value;
        options
    }
}

/// One of the three.
fn keys(none: bool, dir: Option<PathBuf>, passphrase: Option<PathBuf>) -> Result<Keys> {
    Ok(match (none, dir, passphrase) {
        (true, None, None) => Keys::None,
        (false, None, Some(file)) => Keys::Passphrase(file),
        (false, dir, None) => Keys::Dir(dir.unwrap_or_else(|| "/etc/codexstore/keyring".into())),
        _ => bail!(
            "--no-encryption, --keyring-dir and --passphrase-file exclude each other: say which one is meant"
        ),
    })
}

/// What a ledger may forget; other stores have nothing to keep.
fn retention(flags: &RunFlags) -> Result<Retention> {
    let retention = Retention {
        age: flags.keep_age,
        revisions: flags.keep_revisions,
    };
    ensure!(
        retention == Retention::default() || flags.strategy == StrategyFlag::Ledger,
        "--keep-age and --keep-revisions are for --strategy ledger: the snapshot strategy keeps the present only"
    );
    Ok(retention)
}

/// The socket of the Redis protocol: beside the other one by default, none where the flag is empty.
fn redis_socket(flag: Option<OsString>, socket: &Path) -> Result<Option<PathBuf>> {
    let path = match flag {
        None => socket.with_file_name("redis.sock"),
        Some(path) if path.is_empty() => return Ok(None),
        Some(path) => PathBuf::from(path),
    };
    check_socket_path("--redis-socket", &path)?;
    ensure!(
        path != socket,
        "--redis-socket {} is --socket, too: each protocol has one of its own",
        path.display()
    );
    Ok(Some(path))
}

fn check_socket_path(flag: &str, path: &Path) -> Result<()> {
    let length = path.as_os_str().len();
    ensure!(
        length <= MAX_SOCKET_PATH,
        "{flag} {} is {length} bytes long; a socket's path may have at most {MAX_SOCKET_PATH}",
        path.display()
    );
    ensure!(
        path.is_absolute() && path.file_name().is_some(),
        "{flag} {} is not an absolute path of a file",
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

/// How the container's memory is divided, so that the sum of all budgets fits its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    /// For entries.
    entries: u64,
    /// For bodies and answers in flight.
    in_flight: usize,
    /// Longest value.
    max_value: usize,
}

impl Memory {
    /// Divides it. Of what is left of the limit beside entries and the process, one half is for
    /// requests in flight and the other for the write that is being committed, whose bytes are
    /// there up to three times: as written, compressed, encrypted.
    fn divide(limit: Option<u64>, entries: Size, max_value: Option<Size>) -> Result<Memory> {
        let mi = |bytes: u64| bytes.div_ceil(1 << 20);
        ensure!(
            limit.is_none_or(|limit| limit >= MIN_LIMIT),
            "the memory limit of this container is {}Mi; raise it to {}Mi at least",
            mi(limit.unwrap_or(0)),
            mi(MIN_LIMIT)
        );
        let limit = limit.unwrap_or(match entries {
            // Nothing bounds the process but what it is told: entries come on top of the rest.
            Size::Bytes(bytes) => {
                MEMORY_WITHOUT_LIMIT.max(bytes.saturating_add(MEMORY_WITHOUT_LIMIT / 10 * 3))
            }
            Size::Percent(_) => MEMORY_WITHOUT_LIMIT,
        });
        let shares = Shares::of(limit, entries);
        ensure!(
            shares.entries >= 1 << 20,
            "--max-memory comes to {} bytes; the store wants at least 1Mi",
            shares.entries
        );
        let max_value = match max_value {
            None => shares.value.min(MAX_VALUE) >> 20 << 20,
            Some(Size::Bytes(bytes)) => bytes,
            Some(Size::Percent(_)) => bail!("--max-value is a size, not a percentage"),
        };
        ensure!(
            (1..=64 << 20).contains(&max_value),
            "--max-value is 1 byte to 64Mi"
        );
        if max_value > shares.value {
            let part = match entries {
                Size::Percent(_) => entries,
                Size::Bytes(_) => Size::Percent(70),
            };
            let enough = (mi(limit)..4096)
                .find(|limit| Shares::of(limit << 20, part).value >= max_value)
                .unwrap_or(4096);
            bail!(
                "--max-value {}Mi does not fit: beside the entries' {}Mi (--max-memory), a memory limit of {}Mi \
                 leaves room for values of {}Mi; raise limits.memory to {enough}Mi, or lower --max-value",
                mi(max_value),
                mi(shares.entries),
                limit >> 20,
                shares.value >> 20,
            );
        }
        Ok(Memory {
            entries: shares.entries,
            in_flight: usize::try_from(shares.in_flight)?,
            max_value: usize::try_from(max_value)?,
        })
    }
}

/// What a memory limit of at least [`MIN_LIMIT`] allows, in bytes.
struct Shares {
    entries: u64,
    in_flight: u64,
    /// Longest value.
    value: u64,
}

impl Shares {
    fn of(limit: u64, entries: Size) -> Shares {
        // Lowered rather than refused: 70 % of a small limit is a setting that everyone has.
        let entries = entries.of(limit).min(limit.saturating_sub(APART));
        let room = limit - entries - PROCESS;
        let in_flight = (room / 2).min(256 << 20);
        Shares {
            entries,
            in_flight,
            // Of the largest value a batch holds two in base64, and up to a MiB of small ones.
            value: (room / 6).min((in_flight - (1 << 20)) / 2),
        }
    }
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

    const ANCHOR: &str = "0102030405060708090a0b0c0d0e0f10:1:7:100f0e0d0c0b0a090807060504030201:7:\
                          00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn an_anchor_is_what_the_ledger_is_opened_with() {
        let settings = settings(&["--strategy", "ledger", "--anchor", ANCHOR]).unwrap();
        let anchor = settings.options(Encryption::None).anchor.unwrap();
        assert_eq!(anchor.to_string(), ANCHOR);
    }

    #[test]
    fn the_defaults_are_valid() {
        let settings = settings(&[]).unwrap();
        assert_eq!(settings.keys, Keys::Dir("/etc/codexstore/keyring".into()));
        assert_eq!(settings.limits.max_value, 8 << 20);
        assert!(settings.max_disk > 0 && settings.max_memory > 0);
        assert_eq!(settings.tracing, None);
    }

    #[test]
    fn wrong_settings_are_refused_with_what_is_wrong() {
        let long = format!("/{}", "x".repeat(107));
        refused(&["--socket", &long], "at most 107");
        refused(&["--socket", "relative.sock"], "absolute");
        refused(&["--socket-mode", "0444"], "write permission");
        refused(&["--no-encryption", "--keyring-dir", "/k"], "exclude");
        refused(&["--no-encryption", "--passphrase-file", "/p"], "exclude");
        refused(
            &["--keyring-dir", "/k", "--passphrase-file", "/p"],
            "exclude",
        );
        refused(&["--max-value", "65Mi"], "64Mi");
        refused(&["--max-value", "10%"], "percentage");
        refused(&["--max-disk", "1k"], "at least");
        refused(&["--data-dir", "data"], "absolute");
        refused(&["--log-level", "info,,=="], "--log-level");
        refused(&["--request-timeout", "0s"], "above zero");
        refused(&["--compression", "lzma"], "zstd");
        refused(&["--anchor", "1:2"], "STORE:EPOCH:REVISION");
        refused(&["--anchor", ANCHOR], "--strategy ledger");
    }

    #[test]
    fn budgets_fit_the_memory_limit_however_small_it_is() {
        for limit in [32, 40, 64, 80, 100, 128, 200, 256, 512, 1024, 8192] {
            for percent in [1, 50, 70, 95, 100] {
                let all = limit << 20;
                let memory = Memory::divide(Some(all), Size::Percent(percent), None);
                let Ok(memory) = memory else {
                    assert!(limit < 100 && percent == 1, "{limit}Mi {percent} %");
                    continue;
                };
                let (value, in_flight) = (memory.max_value as u64, memory.in_flight as u64);
                let sum = memory.entries + in_flight + 3 * value + PROCESS;
                assert!(sum <= all, "{limit}Mi {percent} %: {memory:?}");
                // The largest batch fits, or nobody could send it.
                assert!(
                    2 * value + (1 << 20) <= in_flight && value >= 1 << 20,
                    "{memory:?}"
                );
            }
        }
    }

    #[test]
    fn the_default_limit_takes_values_of_8_mib_and_a_smaller_one_smaller_values() {
        let max = |limit: u64| {
            let memory = Memory::divide(Some(limit << 20), Size::Percent(70), None).unwrap();
            (memory.entries >> 20, memory.max_value >> 20)
        };
        assert_eq!(max(32), (8, 2));
        assert_eq!(max(64), (40, 2));
        assert_eq!(max(128), (89, 4));
        assert_eq!(max(256), (179, 8));
        assert_eq!(max(4096), (2867, 8));
        // What the injector passes is a number of bytes, and lowered where it does not fit.
        let memory = Memory::divide(Some(32 << 20), Size::Bytes(23_488_102), None).unwrap();
        assert_eq!(memory.entries, 8 << 20);
    }

    #[test]
    fn a_value_that_does_not_fit_the_memory_is_refused_with_what_to_raise() {
        let divide = |limit: u64, value: u64| {
            let value = Some(Size::Bytes(value << 20));
            Memory::divide(Some(limit << 20), Size::Percent(70), value)
        };
        let error = divide(64, 8).unwrap_err().to_string();
        assert!(error.contains("raise limits.memory to 194Mi"), "{error}");
        assert!(divide(193, 8).is_err() && divide(194, 8).is_ok());
        assert!(divide(256, 8).is_ok() && divide(2048, 64).is_ok());
        let error = Memory::divide(Some(20 << 20), Size::Percent(70), None).unwrap_err();
        assert!(error.to_string().contains("32Mi at least"), "{error}");
    }

    #[test]
    fn a_path_of_107_bytes_still_fits() {
        let just = format!("/{}", "x".repeat(106));
        assert!(settings(&["--socket", &just]).is_ok());
    }
}
