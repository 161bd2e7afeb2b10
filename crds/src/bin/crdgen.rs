//! Writes the CRDs to where they are kept: crds/ and the chart.
//!
//! `cargo run -p codexstore-crds --bin crdgen`, from anywhere in the repository.

use std::{error::Error, fs, path::Path};

use codexstore_crds::manifest;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("the crate has no parent directory")?;
    for (path, text) in manifest::files()? {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
