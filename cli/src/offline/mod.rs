//! The commands that work on a store's files while nobody has it open.
//!
//! Thin over [`codexstore::offline`]: here are arguments, progress, and how things are shown.

pub mod archive;
pub mod args;
pub mod backup;
mod convert;
mod derive;
mod export;
mod import;
mod inspect;
pub mod key;
pub mod keys;
mod line;
mod progress;
mod salvage;
mod source;
mod unseal;
mod verify;

pub use archive::archive;
pub use args::Conflict;
pub use convert::convert;
pub use export::export;
pub use import::{Done, import};
pub use inspect::inspect;
pub use key::key;
pub use keys::{migrate_encryption, passphrase};
pub use progress::Bar;
pub use salvage::salvage;
pub use source::Record;
pub use verify::verify;
