//! `set-aside`: what restores set aside, and its removal.

use anyhow::{Context, Result};
use codexstore::Replacement;

use crate::flags::AsideFlags;

/// Lists what was set aside, or removes one of it.
pub fn set_aside(flags: &AsideFlags) -> Result<()> {
    let all = Replacement::of(&flags.data_dir).set_aside()?;
    let name = |path: &std::path::Path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    if let Some(wanted) = &flags.remove {
        let found = all.iter().find(|aside| name(&aside.path) == *wanted);
        let found = found.with_context(|| format!("nothing of the name {wanted} was set aside"))?;
        found.remove()?;
        println!("{wanted} removed, {} bytes", found.bytes);
        return Ok(());
    }
    for aside in &all {
        println!("{} {} bytes", name(&aside.path), aside.bytes);
    }
    Ok(())
}
