//! Command line: every flag is also an environment variable, and is only checked here; nothing is opened.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The CodexStore operator: injects the sidecar into labelled pods and looks after stores, keys and certificates.
#[derive(Debug, Parser)]
#[command(name = "codexstore-operator", version, about, long_about = LONG)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const LONG: &str = "\
The CodexStore operator.

It serves the admission webhook that gives pods with the label codexstore.dev/store their sidecar (every replica), and
reconciles CodexStore resources: keyring, certificates, volumes, status (the replica that holds the Lease).

Every flag can be given as an environment variable: CODEXSTORE_OPERATOR_ and the flag's name in upper case with
underscores. Flags win over the environment. Durations are written like 500ms, 15s, 2m or 1h.";

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator until SIGTERM or SIGINT.
    ///
    /// Exit status: 0 after a clean stop, 1 when it cannot start or go on, 2 when a flag is wrong.
    Run(Box<RunArgs>),
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
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Image of the sidecar that is injected, for example localhost/codexstore-sidecar:0.1.0
    #[arg(long, env = "CODEXSTORE_OPERATOR_SIDECAR_IMAGE", value_name = "IMAGE")]
    pub sidecar_image: String,
    /// Pull policy of the injected sidecar: `Always`, `IfNotPresent` or `Never`; the cluster's default when absent
    #[arg(long, env = "CODEXSTORE_OPERATOR_SIDECAR_IMAGE_PULL_POLICY", value_name = "POLICY",
          value_parser = pull_policy)]
    pub sidecar_image_pull_policy: Option<PullPolicy>,

    /// Image with /codexctl that backups' Jobs run: this operator's own image has it
    #[arg(
        long,
        env = "CODEXSTORE_OPERATOR_JOB_IMAGE",
        default_value = "",
        hide_default_value = true,
        value_name = "IMAGE"
    )]
    pub job_image: String,
    /// Pull policy of that image; the cluster's default when absent
    #[arg(long, env = "CODEXSTORE_OPERATOR_JOB_IMAGE_PULL_POLICY", value_name = "POLICY",
          value_parser = pull_policy)]
    pub job_image_pull_policy: Option<PullPolicy>,
    /// ClusterRole that the Jobs' service accounts are bound to, in their own namespace
    #[arg(
        long,
        env = "CODEXSTORE_OPERATOR_JOB_CLUSTER_ROLE",
        default_value = "codexstore-jobs",
        value_name = "NAME"
    )]
    pub job_cluster_role: String,

    /// Namespace that the operator runs in: its Lease and its webhook certificate are kept there
    #[arg(
        long,
        env = "CODEXSTORE_OPERATOR_NAMESPACE",
        default_value = "codexstore-system"
    )]
    pub namespace: String,
    /// Name of this replica, in the Lease and in events; the host's name when absent
    #[arg(long, env = "CODEXSTORE_OPERATOR_POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Work in these namespaces only (comma separated); all when absent
    #[arg(
        long,
        env = "CODEXSTORE_OPERATOR_NAMESPACES",
        value_delimiter = ',',
        value_name = "A,B"
    )]
    pub namespaces: Vec<String>,

    /// Address of the webhook (HTTPS)
    #[arg(
        long,
        env = "CODEXSTORE_OPERATOR_WEBHOOK_ADDR",
        default_value = "[::]:9443"
    )]
    pub webhook_addr: SocketAddr,
    /// Service in front of the webhook: the certificate is made for NAME.NAMESPACE.svc
    #[arg(
        long,
        env = "CODEXSTORE_OPERATOR_WEBHOOK_SERVICE",
        default_value = "codexstore-webhook",
        value_name = "NAME"
    )]
    pub webhook_service: String,
    /// Name of the mutating and of the validating webhook configuration whose `caBundle` is kept right
    #[arg(
        long,
        env = "CODEXSTORE_OPERATOR_WEBHOOK_CONFIG",
        default_value = "codexstore",
        value_name = "NAME"
    )]
    pub webhook_config: String,
    /// Secret that keeps the webhook's certificate and authority; the operator makes it
    #[arg(
        long,
        env = "CODEXSTORE_OPERATOR_WEBHOOK_SECRET",
        default_value = "codexstore-webhook-tls",
        value_name = "NAME"
    )]
    pub webhook_secret: String,
    /// Further DNS names or addresses of the webhook's certificate (comma separated)
    #[arg(
        long = "webhook-dns-name",
        env = "CODEXSTORE_OPERATOR_WEBHOOK_DNS_NAMES",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    pub webhook_dns_names: Vec<String>,
    /// Directory with tls.crt and tls.key from elsewhere (cert-manager, an existing Secret), read again when they change;
    /// with a ca.crt in it, that is written into the webhook configurations
    #[arg(long, env = "CODEXSTORE_OPERATOR_CERT_DIR", value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Do not serve the webhook: reconcile only
    #[arg(long, env = "CODEXSTORE_OPERATOR_NO_WEBHOOK")]
    pub no_webhook: bool,

    /// Address of /healthz, /readyz and /metrics (plain HTTP)
    #[arg(
        long,
        env = "CODEXSTORE_OPERATOR_HTTP_ADDR",
        default_value = "[::]:8080"
    )]
    pub http_addr: SocketAddr,

    /// Name of the Lease that one replica holds while it reconciles
    #[arg(
        long,
        env = "CODEXSTORE_OPERATOR_LEASE",
        default_value = "codexstore-operator",
        value_name = "NAME"
    )]
    pub lease: String,
    /// How long a Lease is good without renewal (at least 3s)
    #[arg(long, env = "CODEXSTORE_OPERATOR_LEASE_DURATION", default_value = "15s",
          value_parser = lease_duration)]
    pub lease_duration: Duration,
    /// Reconcile without holding a Lease; only safe when there is one replica
    #[arg(long, env = "CODEXSTORE_OPERATOR_NO_LEADER_ELECTION")]
    pub no_leader_election: bool,

    /// Stores that are reconciled at once
    #[arg(long, env = "CODEXSTORE_OPERATOR_CONCURRENCY", default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(1..=256), value_name = "N")]
    pub concurrency: u16,
    /// Members that are asked for their state at once, over all stores
    #[arg(long, env = "CODEXSTORE_OPERATOR_MEMBER_CONCURRENCY", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N")]
    pub member_concurrency: u16,
    /// Time that one member has to answer
    #[arg(long, env = "CODEXSTORE_OPERATOR_MEMBER_TIMEOUT", default_value = "2s",
          value_parser = duration)]
    pub member_timeout: Duration,
    /// How often each keyring Secret is read, give or take a tenth
    #[arg(long, env = "CODEXSTORE_OPERATOR_KEYRING_POLL", default_value = "60s",
          value_parser = duration)]
    pub keyring_poll: Duration,
    /// How long the admission of a pod waits for a keyring that is still being made; keep it under the webhook's timeout
    #[arg(long, env = "CODEXSTORE_OPERATOR_KEYRING_WAIT", default_value = "3s",
          value_parser = duration)]
    pub keyring_wait: Duration,
    /// Time for what is in flight when stopping
    #[arg(long, env = "CODEXSTORE_OPERATOR_SHUTDOWN_TIMEOUT", default_value = "10s",
          value_parser = duration)]
    pub shutdown_timeout: Duration,

    /// What is logged: error, warn, info, debug, trace, or per module as in `info,codexstore_operator=debug`
    #[arg(
        long,
        env = "CODEXSTORE_OPERATOR_LOG_LEVEL",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log_level: String,
    /// Form of the log
    #[arg(
        long,
        env = "CODEXSTORE_OPERATOR_LOG_FORMAT",
        default_value = "json",
        value_enum
    )]
    pub log_format: LogFormat,
}

impl RunArgs {
    /// Where it works: each namespace, or `None` for all of them.
    pub fn scopes(&self) -> Vec<Option<String>> {
        let mut names: Vec<_> = self
            .namespaces
            .iter()
            .map(|n| n.trim())
            .filter(|n| !n.is_empty())
            .collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            vec![None]
        } else {
            names.into_iter().map(|n| Some(n.to_owned())).collect()
        }
    }
}

/// A checked image pull policy; absent when the text was empty, as a chart renders an unset value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullPolicy(pub Option<String>);

fn pull_policy(text: &str) -> Result<PullPolicy, String> {
    match text {
        "" => Ok(PullPolicy(None)),
        "Always" | "IfNotPresent" | "Never" => Ok(PullPolicy(Some(text.to_owned()))),
        _ => Err("write Always, IfNotPresent or Never".to_owned()),
    }
}

fn lease_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < Duration::from_secs(3) {
        return Err("a Lease must last at least 3s".to_owned());
    }
    // The Lease's record has whole seconds: half a second more here would be trusted by this replica and by no other.
    Ok(Duration::from_secs(duration.as_secs()))
}

/// Reads `500ms`, `15s`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let error = || format!("`{text}` is not a duration: write 500ms, 15s, 2m or 1h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| error())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    }
    .ok_or_else(error)?;
    if millis == 0 || millis > 7 * 24 * 3_600_000 {
        return Err(format!(
            "`{text}` must be more than nothing and at most a week"
        ));
    }
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn run(args: &[&str]) -> Result<RunArgs, clap::Error> {
        let all = ["codexstore-operator", "run", "--sidecar-image", "i:1"];
        let Command::Run(args) = Cli::try_parse_from(all.iter().chain(args))?.command;
        Ok(*args)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units_and_bounds() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        for bad in [
            "",
            "5",
            "s",
            "5 s",
            "-1s",
            "0s",
            "9999999999999999999s",
            "8000000h",
            "1d",
        ] {
            assert!(duration(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn no_namespaces_means_all_of_them() {
        assert_eq!(run(&[]).unwrap().scopes(), [None]);
        assert_eq!(run(&["--namespaces", ""]).unwrap().scopes(), [None]);
        assert_eq!(
            run(&["--namespaces", "b, a,b"]).unwrap().scopes(),
            [Some("a".to_owned()), Some("b".to_owned())]
        );
    }

    #[test]
    fn a_wrong_pull_policy_or_lease_is_refused() {
        assert!(run(&["--sidecar-image-pull-policy", "Sometimes"]).is_err());
        assert!(run(&["--sidecar-image-pull-policy", ""]).is_ok());
        assert!(run(&["--lease-duration", "1s"]).is_err());
    }
}
