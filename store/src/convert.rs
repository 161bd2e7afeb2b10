//! Changing a store's strategy.

use std::path::Path;

use crate::error::Result;
use crate::layout;
use crate::offline;
use crate::options::{Options, Strategy};
use crate::store::Store;

/// Gives a store that is not open the strategy of `options`; without effect if it has it. No entry
/// is touched: the log goes on in a file of the other kind, and a crash leaves the one or the other.
///
/// A store that becomes a ledger remembers what is in its log from then on, which begins with what
/// it had kept for watchers. A ledger that becomes a snapshot keeps its present; its history goes
/// with the folds to come, but for [`Options::keep_log`]: take what is still wanted of it first.
///
/// Returns the strategy that it had. Fails with `not-found` if there is no store. `progress` is told how
/// many bytes of how many are read.
pub fn convert(
    dir: &Path,
    options: Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Strategy> {
    let before = offline::strategy(dir)?.ok_or_else(layout::no_store)?;
    let mut options = options;
    options.convert = true;
    if before != options.strategy {
        Store::open_telling(dir, options, progress)?.close()?;
    }
    Ok(before)
}
