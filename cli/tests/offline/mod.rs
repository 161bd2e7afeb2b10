//! The offline commands on stores that the library wrote.

mod archive;
mod backup;
mod inspect;
mod key;
mod keys;
mod ledger;
mod place;
mod transfer;
mod verify;
