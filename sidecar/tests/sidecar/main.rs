//! The real binary on a temporary directory, spoken to over its socket. One test binary, a module
//! for each concern.

mod admin;
mod batch;
mod conditions;
mod document;
mod durability;
mod harness;
mod keyring;
mod keys;
mod life;
mod lists;
mod privacy;
mod robust;
