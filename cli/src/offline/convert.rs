//! `convert`: another strategy for a store.

use anyhow::Result;
use codexstore::Options;

use super::{args::Convert, progress::Bar};
use crate::output::{self, Format};

/// `convert`.
pub fn convert(args: &Convert, format: Format) -> Result<()> {
    let dir = args.data.there()?;
    let wanted = codexstore::Strategy::from(args.strategy);
    let mut options = Options::new(args.keys.encryption()?);
    options.strategy = wanted;
    let bar = Bar::of_bytes("reading");
    let before = codexstore::convert(dir, options, &mut |done, of| bar.at(done, of))?;
    drop(bar);
    match format {
        Format::Table if before == wanted => {
            output::line(&format!("it is a {} already", wanted.as_str()))
        }
        Format::Table => output::line(&format!(
            "it was a {} and is a {}",
            before.as_str(),
            wanted.as_str()
        )),
        Format::Json => output::json(&serde_json::json!({
            "before": before.as_str(),
            "strategy": wanted.as_str(),
        })),
    }
}
