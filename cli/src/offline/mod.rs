//! The commands that work on a store's files while nobody has it open.
//!
//! Thin over [`codexstore::offline`]: here are arguments, progress, and how things are shown.

pub mod args;
mod inspect;
mod progress;

pub use inspect::inspect;
