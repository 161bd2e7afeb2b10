//! The entries of a store that nobody has open, read without claiming it.

use std::ops::Bound;
use std::path::Path;

use super::disk::ReadOnly;
use crate::block::Spot;
use crate::entry::Entry;
use crate::error::{Code, Error, Result};
use crate::format::Lineage;
use crate::index::View;
use crate::keyring::Encryption;
use crate::survey::Survey;

/// The entries of a store that nobody has open, read without claiming it.
pub struct Contents {
    _held: ReadOnly,
    view: View,
}

impl Contents {
    /// Reads a store as an open would, and modifies nothing; nobody opens it while this lives.
    /// Fails as [`crate::Store::open`] does, and with `io` if there is no such directory.
    pub fn read(dir: &Path, encryption: &Encryption) -> Result<Contents> {
        let disk = ReadOnly::hold(dir)?;
        let survey = Survey::take(&disk, encryption)?;
        if survey.claims.is_empty() && survey.bytes() == 0 {
            return Err(Error::new(
                Code::NotFound,
                format!("{} holds no store", dir.display()),
            ));
        }
        let state = survey.recover(&disk, || Ok(Lineage::default()))?;
        Ok(Contents {
            view: state.view,
            _held: disk,
        })
    }

    /// The latest revision.
    pub fn revision(&self) -> u64 {
        self.view.revision
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.view.index.from(Bound::Unbounded).count()
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries whose keys begin with `prefix`, in the order of their keys; those whose time is
    /// over included.
    pub fn entries<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = Entry> + 'a {
        self.view
            .index
            .spots(Bound::Included(prefix))
            .take_while(move |spot| spot.packed().key().starts_with(prefix))
            .map(Spot::entry)
    }
}
