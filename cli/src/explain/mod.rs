//! explain
use crate::{args::Explain, output::Format};
use anyhow::Result;
/// `explain`.
pub async fn explain(_args: &Explain, _format: Format) -> Result<()> {
    Ok(())
}
