//! The log: JSON lines (or text) on stderr, never a key of the store or a value.

use anyhow::Result;
use tracing_subscriber::EnvFilter;

use crate::flags::LogFormat;

/// Refuses a filter that does not parse.
pub fn check_filter(filter: &str) -> Result<()> {
    EnvFilter::try_new(filter)?;
    Ok(())
}

/// Starts logging.
pub fn start(filter: &str, format: LogFormat) -> Result<()> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .init(),
        LogFormat::Text => builder.init(),
    }
    Ok(())
}
