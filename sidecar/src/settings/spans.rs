//! Where spans go, out of the flags.

use anyhow::{Result, ensure};

use crate::flags::RunFlags;

/// Where spans go, and which requests have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// The collector.
    pub endpoint: String,
    /// Requests without a parent that begin a trace, of a million.
    pub per_million: u32,
}

/// Checks the flags. What was written is not repeated: it may hold a password.
pub fn tracing(flags: &RunFlags) -> Result<Option<Tracing>> {
    let per_million = flags.otlp_sampling_rate_per_million;
    let Some(endpoint) = &flags.otlp_endpoint else {
        ensure!(
            per_million == 0,
            "--otlp-sampling-rate-per-million wants --otlp-endpoint: spans go there"
        );
        return Ok(None);
    };
    let good = endpoint.parse::<http::Uri>().is_ok_and(|uri| {
        let plain = uri
            .authority()
            .is_some_and(|host| !host.as_str().contains('@'));
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        uri.scheme_str() == Some("http") && plain && uri.port_u16().is_some() && bare
    });
    ensure!(
        good,
        "--otlp-endpoint is http://HOST:PORT of a collector that takes OTLP over gRPC, such as \
         http://otel-collector.observability:4317; TLS, paths and passwords are not supported"
    );
    Ok(Some(Tracing {
        endpoint: endpoint.clone(),
        per_million,
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::flags::{Cli, Command};

    const ENDPOINT: &str = "--otlp-endpoint";
    const RATE: &str = "--otlp-sampling-rate-per-million";

    fn spans(args: &[&str]) -> Result<Option<Tracing>> {
        let args = ["codexstore-sidecar", "run"].iter().chain(args);
        let Command::Run(flags) = Cli::try_parse_from(args)?.command else {
            panic!("not run")
        };
        tracing(&flags)
    }

    #[test]
    fn spans_go_to_an_address_without_tls_or_nowhere() {
        assert_eq!(spans(&[]).unwrap(), None);
        for endpoint in ["http://otel.observability:4317", "http://[fd00::1]:4317/"] {
            let to = spans(&[ENDPOINT, endpoint, RATE, "250"]).unwrap().unwrap();
            assert_eq!((to.endpoint.as_str(), to.per_million), (endpoint, 250));
        }
    }

    #[test]
    fn wrong_settings_are_refused_with_what_to_write_and_without_what_was_written() {
        for bad in [
            "",
            "collector:4317",
            "http://collector",
            "https://collector:4317",
            "grpc://collector:4317",
            "http://collector:4317/v1/traces",
            "http://collector:4317/?a=b",
            "http://name:s3cret@collector:4317",
        ] {
            let error = format!("{:#}", spans(&[ENDPOINT, bad]).unwrap_err());
            assert!(error.contains("http://HOST:PORT"), "{bad}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let error = spans(&[RATE, "10"]).unwrap_err().to_string();
        assert!(error.contains("wants --otlp-endpoint"), "{error}");
        assert!(spans(&[ENDPOINT, "http://c:1", RATE, "1000001"]).is_err());
    }
}
