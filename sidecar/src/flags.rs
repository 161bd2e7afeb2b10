//! The command line as it is written, before anything is checked against the machine.
//!
//! Every flag of `run` is also an environment variable: `CODEXSTORE_` and the flag's name in upper
//! snake case. A flag wins over its variable.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, OsStringValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use codexstore::Anchor;

use crate::units::{Size, parse_age, parse_duration, parse_mode, parse_size};

/// Default path of the socket, in the memory volume that the app's containers share.
pub const SOCKET: &str = "/run/codexstore/codexstore.sock";

const EXIT_CODES: &str = "\
Exit codes:
  0  run: stopped by SIGTERM or SIGINT; ping: the sidecar answers (with --ready: and is ready)
  1  run: the socket cannot be made or the process cannot go on; ping: no, see stderr
  2  wrong flags

A store that cannot be opened (keys missing or wrong, stored bytes that do not verify, another
owner) does not end the process: it goes on, not ready, says why in GET /readyz, GET /v1/status and
the log, touches nothing, and tries again.";

const RUN_HELP: &str = "\
Serves one store on two Unix sockets: HTTP/1.1, HTTP/2 (prior knowledge) and gRPC on the one, the Redis
protocol on the other. All are plain, without authentication besides the sockets' permissions and the rules of --access.

  curl --unix-socket $CODEXSTORE_SOCKET -X PUT --data-binary hello http://localhost/v1/keys/greeting
  curl --unix-socket $CODEXSTORE_SOCKET http://localhost/v1/keys/greeting
  curl --unix-socket $CODEXSTORE_SOCKET 'http://localhost/v1/keys?prefix=gr&values=true'
  curl --unix-socket $CODEXSTORE_SOCKET http://localhost/v1/status
  redis-cli -s $CODEXSTORE_REDIS_SOCKET get greeting

The whole interface: GET /openapi.json. Sizes are bytes or 512Ki, 8Mi, 1Gi (1024) and 8M, 1G (1000).
Durations are 500ms, 30s, 5m, 1h30m.";

const ASIDE_HELP: &str = "\
Example:
  kubectl exec web-0 -c codexstore -- /codexstore-sidecar set-aside";

/// The CodexStore sidecar: durable, encrypted state for one pod, on a Unix socket.
#[derive(Debug, Parser)]
#[command(name = "codexstore-sidecar", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the store until SIGTERM.
    #[command(long_about = RUN_HELP, after_help = EXIT_CODES, args_override_self = true)]
    Run(Box<RunFlags>),
    /// Ask a running sidecar whether it is alive, for exec probes.
    #[command(after_help = EXIT_CODES, args_override_self = true)]
    Ping(PingFlags),
    /// List what restores set aside, or remove one of it for good.
    ///
    /// It counts for the disk budget, from when the store is opened.
    #[command(after_help = ASIDE_HELP)]
    SetAside(AsideFlags),
}

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DurabilityFlag {
    /// When it is on disk.
    Always,
    /// At once; it is on disk within 100 ms. A crash of the process or the machine loses what came after.
    Interval,
}

/// How new files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompressionFlag {
    /// Not at all.
    None,
    /// Zstandard: good ratio, fast.
    Zstd,
    /// Gzip.
    Gzip,
    /// Snappy: fastest.
    Snappy,
}

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StrategyFlag {
    /// The present: an atomic image and short journals.
    Snapshot,
    /// Every revision: segments that are never rewritten, and an image beside them.
    Ledger,
}

/// Size of the AES key that encrypts the store's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeySizeFlag {
    /// AES-128-GCM.
    #[value(name = "128")]
    Aes128,
    /// AES-192-GCM.
    #[value(name = "192")]
    Aes192,
    /// AES-256-GCM.
    #[value(name = "256")]
    Aes256,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunFlags {
    /// The store's directory, made with mode 0700 if it is missing (its parent must exist).
    #[arg(
        long,
        env = "CODEXSTORE_DATA_DIR",
        default_value = "/var/lib/codexstore/data",
        help_heading = "Store"
    )]
    pub data_dir: PathBuf,

    /// Directory of the keyring: the file `current` names a key, every other file is one (16, 24
    /// or 32 raw bytes). Watched; changes are loaded live. [default: /etc/codexstore/keyring]
    #[arg(long, env = "CODEXSTORE_KEYRING_DIR", help_heading = "Store")]
    pub keyring_dir: Option<PathBuf>,

    /// File with a passphrase of 12 to 1,024 bytes that the key is derived from, in place of a keyring. (PBKDF2-HMAC-SHA256; a
    /// newline at its end does not count.)
    #[arg(long, env = "CODEXSTORE_PASSPHRASE_FILE", help_heading = "Store")]
    pub passphrase_file: Option<PathBuf>,

    /// Keep the data unencrypted: anyone who can read the disk can read the data.
    #[arg(long, env = "CODEXSTORE_NO_ENCRYPTION", value_parser = BoolishValueParser::new(), help_heading = "Store")]
    pub no_encryption: bool,

    /// Size of the AES key that encrypts new files, in bits. (A key of the keyring has the size
    /// that its length says.)
    #[arg(
        long,
        env = "CODEXSTORE_KEY_SIZE",
        value_enum,
        default_value = "256",
        help_heading = "Store"
    )]
    pub key_size: KeySizeFlag,

    /// What is kept.
    #[arg(
        long,
        env = "CODEXSTORE_STRATEGY",
        value_enum,
        ignore_case = true,
        default_value = "snapshot",
        help_heading = "Store"
    )]
    pub strategy: StrategyFlag,

    /// With the ledger strategy: revisions younger than this are kept. Without this flag and the next
    /// one all are; with both, what either keeps.
    #[arg(long, env = "CODEXSTORE_KEEP_AGE", value_parser = parse_age, help_heading = "Store")]
    pub keep_age: Option<Duration>,

    /// With the ledger strategy: so many of the latest revisions are kept.
    #[arg(long, env = "CODEXSTORE_KEEP_REVISIONS", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Store")]
    pub keep_revisions: Option<u64>,

    /// With the ledger strategy: where the log is known to have been, as `GET /v1/status` showed it. A store whose log does not
    /// pass through there was cut, rolled back or exchanged, and is not opened.
    #[arg(
        long,
        env = "CODEXSTORE_ANCHOR",
        value_name = "TEXT",
        help_heading = "Store"
    )]
    pub anchor: Option<Anchor>,

    /// When a write is answered.
    #[arg(
        long,
        env = "CODEXSTORE_DURABILITY",
        value_enum,
        ignore_case = true,
        default_value = "always",
        help_heading = "Store"
    )]
    pub durability: DurabilityFlag,

    /// How new files are compressed.
    #[arg(
        long,
        env = "CODEXSTORE_COMPRESSION",
        value_enum,
        ignore_case = true,
        default_value = "zstd",
        help_heading = "Store"
    )]
    pub compression: CompressionFlag,

    /// Most disk that the store's files may take: a size, or a part of the filesystem in percent.
    /// Beyond it writes answer `disk-full`.
    #[arg(long, env = "CODEXSTORE_MAX_DISK", default_value = "85%", value_parser = parse_size, help_heading = "Store")]
    pub max_disk: Size,

    /// Most memory that entries may take: a size, or a part of the container's memory limit in
    /// percent (of 732Mi where there is none), and always 24Mi less than the limit: the process and
    /// requests in flight need them. Beyond it writes answer `memory-full`.
    #[arg(long, env = "CODEXSTORE_MAX_MEMORY", default_value = "70%", value_parser = parse_size, help_heading = "Store")]
    pub max_memory: Size,

    /// Longest value, 64Mi at most. Refused if the memory limit leaves no room for it. [default: 8Mi,
    /// or less with a memory limit below 194Mi]
    #[arg(long, env = "CODEXSTORE_MAX_VALUE", value_parser = parse_size, help_heading = "Store")]
    pub max_value: Option<Size>,

    /// Path of the socket, less than 108 bytes long. Its directory must exist.
    #[arg(long, env = "CODEXSTORE_SOCKET", default_value = SOCKET, help_heading = "Socket")]
    pub socket: PathBuf,

    /// Path of the socket of the Redis protocol, as `--socket`; empty: there is none.
    /// [default: redis.sock beside --socket]
    #[arg(long, env = "CODEXSTORE_REDIS_SOCKET", value_parser = OsStringValueParser::new(), help_heading = "Socket")]
    pub redis_socket: Option<OsString>,

    /// Permissions of the sockets, octal, whatever the umask is. Connecting wants write permission.
    #[arg(long, env = "CODEXSTORE_SOCKET_MODE", default_value = "0666", value_parser = parse_mode, help_heading = "Socket")]
    pub socket_mode: u32,

    /// Who may do what, as JSON: a list of rules like `{"uids": [1000], "gids": [],
    /// "prefixes": ["orders/"], "verbs": ["Read", "Write"]}`; without prefixes a rule means every key.
    /// Without rules whoever can open the socket may do everything; with them, what some rule gives to
    /// the user or primary group that connects.
    #[arg(
        long,
        env = "CODEXSTORE_ACCESS",
        default_value = "",
        hide_default_value = true,
        help_heading = "Socket"
    )]
    pub access: String,

    /// Most connections at once, of both sockets together; beyond it the longest idle one is closed, and a new one is
    /// refused as `overloaded` if none is idle. Also bounded by the file descriptor limit.
    #[arg(long, env = "CODEXSTORE_MAX_CONNECTIONS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Socket")]
    pub max_connections: u32,

    /// Most requests in work at once; more are refused as `overloaded`.
    #[arg(long, env = "CODEXSTORE_MAX_REQUESTS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Socket")]
    pub max_requests: u32,

    /// Most time for one request, its body included.
    #[arg(long, env = "CODEXSTORE_REQUEST_TIMEOUT", default_value = "30s", value_parser = parse_duration, help_heading = "Socket")]
    pub request_timeout: Duration,

    /// Most time for a request's header to arrive, for a pause within a body, and for a client to
    /// take its answer.
    #[arg(long, env = "CODEXSTORE_IO_TIMEOUT", default_value = "10s", value_parser = parse_duration, help_heading = "Socket")]
    pub io_timeout: Duration,

    /// A connection of HTTP without a request for so long is closed.
    #[arg(long, env = "CODEXSTORE_IDLE_TIMEOUT", default_value = "5m", value_parser = parse_duration, help_heading = "Socket")]
    pub idle_timeout: Duration,

    /// A request that takes so long is logged as slow, at most one a second: what it was and how long
    /// it took, and never its key.
    #[arg(long, env = "CODEXSTORE_SLOW_REQUEST", default_value = "1s", value_parser = parse_duration, help_heading = "Process")]
    pub slow_request: Duration,

    /// Address of the admin listener (TLS 1.3, client certificate required), such as
    /// `[::]:7433` (all of IPv4 where there is no IPv6). Without it there is none.
    #[arg(long, env = "CODEXSTORE_ADMIN_LISTEN", help_heading = "Admin listener")]
    pub admin_listen: Option<SocketAddr>,

    /// Directory of tls.crt, tls.key and ca.crt of the admin listener. Watched.
    #[arg(
        long,
        env = "CODEXSTORE_TLS_DIR",
        default_value = "/etc/codexstore/tls",
        help_heading = "Admin listener"
    )]
    pub tls_dir: PathBuf,

    /// A data directory that holds no store is not opened until a backup was restored over the admin listener, or word
    /// came over it that there is none.
    #[arg(long, env = "CODEXSTORE_AWAIT_RESTORE", value_parser = BoolishValueParser::new(), help_heading = "Admin listener")]
    pub await_restore: bool,

    /// Address on which `GET /metrics` is served, and nothing else, in plain HTTP to whoever reaches it, such as
    /// `[::]:7434`. Without it metrics are on the socket only.
    #[arg(
        long,
        env = "CODEXSTORE_METRICS_LISTEN",
        help_heading = "Metrics listener"
    )]
    pub metrics_listen: Option<SocketAddr>,

    /// A collector that takes spans of requests over OTLP/gRPC, such as `http://otel-collector.observability:4317`. A request
    /// has a span if its caller sent a sampled `traceparent`. Without this flag there are none, and no thread for them. TLS
    /// is not supported.
    #[arg(
        long,
        env = "CODEXSTORE_OTLP_ENDPOINT",
        value_name = "http://HOST:PORT",
        help_heading = "Traces"
    )]
    pub otlp_endpoint: Option<String>,

    /// Of a million requests without a `traceparent`, so many begin a trace. Commands of the Redis protocol carry none: they
    /// have spans by this alone.
    #[arg(long, env = "CODEXSTORE_OTLP_SAMPLING_RATE_PER_MILLION", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000), help_heading = "Traces")]
    pub otlp_sampling_rate_per_million: u32,

    /// What is logged: error, warn, info, debug, trace, or a filter such as
    /// `info,codexstore_sidecar=debug`. Of the libraries only warnings and errors, since their
    /// details repeat what clients send.
    #[arg(
        long,
        env = "CODEXSTORE_LOG_LEVEL",
        default_value = "info",
        help_heading = "Process"
    )]
    pub log_level: String,

    /// Form of the log, on stderr.
    #[arg(
        long,
        env = "CODEXSTORE_LOG_FORMAT",
        value_enum,
        ignore_case = true,
        default_value = "json",
        help_heading = "Process"
    )]
    pub log_format: LogFormat,

    /// Most time between SIGTERM and the end: requests in work are answered, then the store is
    /// closed. (An unclosed store loses nothing: it replays its journal at the next start.)
    #[arg(long, env = "CODEXSTORE_SHUTDOWN_TIMEOUT", default_value = "1s", value_parser = parse_duration, help_heading = "Process")]
    pub shutdown_timeout: Duration,

    /// Name of the CodexStore, shown in status.
    #[arg(
        long,
        env = "CODEXSTORE_STORE",
        default_value = "",
        help_heading = "Identity"
    )]
    pub store: String,

    /// UID of the CodexStore, shown in status.
    #[arg(
        long,
        env = "CODEXSTORE_STORE_UID",
        default_value = "",
        help_heading = "Identity"
    )]
    pub store_uid: String,

    /// Name of this pod, shown in status.
    #[arg(
        long,
        env = "CODEXSTORE_POD_NAME",
        default_value = "",
        help_heading = "Identity"
    )]
    pub pod_name: String,

    /// UID of this pod, shown in status.
    #[arg(
        long,
        env = "CODEXSTORE_POD_UID",
        default_value = "",
        help_heading = "Identity"
    )]
    pub pod_uid: String,

    /// Namespace of this pod, shown in status.
    #[arg(
        long,
        env = "CODEXSTORE_NAMESPACE",
        default_value = "",
        help_heading = "Identity"
    )]
    pub namespace: String,

    /// Hash of the spec that this sidecar was made from, shown in status.
    #[arg(
        long,
        env = "CODEXSTORE_SPEC_HASH",
        default_value = "",
        help_heading = "Identity"
    )]
    pub spec_hash: String,
}

/// Flags of `set-aside`.
#[derive(Debug, Args)]
pub struct AsideFlags {
    /// The store's directory, beside which it is.
    #[arg(
        long,
        env = "CODEXSTORE_DATA_DIR",
        default_value = "/var/lib/codexstore/data"
    )]
    pub data_dir: PathBuf,

    /// Name of what is removed, as it is listed.
    #[arg(long, value_name = "NAME")]
    pub remove: Option<String>,
}

/// Flags of `ping`.
#[derive(Debug, Args)]
pub struct PingFlags {
    /// Path of the socket.
    #[arg(long, env = "CODEXSTORE_SOCKET", default_value = SOCKET)]
    pub socket: PathBuf,

    /// Ask whether the store is open, not only whether the process answers.
    #[arg(long, env = "CODEXSTORE_PING_READY", value_parser = BoolishValueParser::new())]
    pub ready: bool,

    /// Most time for the answer.
    #[arg(long, env = "CODEXSTORE_PING_TIMEOUT", default_value = "1s", value_parser = parse_duration)]
    pub timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_run_is_also_an_environment_variable_of_its_name() {
        let cli = Cli::command();
        let run = cli.find_subcommand("run").unwrap();
        let mut seen = 0;
        for arg in run.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            if matches!(long, "help" | "version") {
                continue;
            }
            let wanted = format!("CODEXSTORE_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(
                arg.get_env().and_then(|v| v.to_str()),
                Some(wanted.as_str())
            );
            seen += 1;
        }
        assert!(seen > 25, "{seen}");
    }

    #[test]
    fn values_as_the_custom_resource_spells_them_are_taken() {
        let cli = Cli::try_parse_from([
            "codexstore-sidecar",
            "run",
            "--durability",
            "Interval",
            "--compression",
            "Gzip",
            "--strategy",
            "Snapshot",
            "--key-size",
            "192",
        ])
        .unwrap();
        let Command::Run(flags) = cli.command else {
            panic!("not run")
        };
        assert_eq!(flags.durability, DurabilityFlag::Interval);
        assert_eq!(flags.compression, CompressionFlag::Gzip);
    }
}
