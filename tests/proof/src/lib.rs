//! What the tests of the store with real processes, kernels and threads share.
//!
//! A *worker* ([`work`]) is a process that opens a store with the library, checks what it finds, and writes numbered batches; it
//! says on a pipe what was acknowledged. A test ends it in some way, starts the next one on the same files, and tells it what the
//! one before had acknowledged. **No product code depends on this crate.**

// A test that cannot go on panics, with what it saw: that is what this harness is for.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc
)]

pub mod disk;
pub mod history;
pub mod work;
