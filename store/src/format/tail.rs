//! What stands where no frame verifies: nothing, a frame that was being written, or damage.
//!
//! This decides whether bytes are dropped, so it gives a frame up only on evidence that its write
//! never ended.

use super::frame::{BOUND, END_MARKER, Head};
use super::read::Source;
use super::wire::is_zero;
use super::{PAGE, SECTOR};
use crate::error::Result;

/// Bytes read at a time; a multiple of [`SECTOR`].
const CHUNK: usize = 16 * PAGE;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Only zeros.
    Zero,
    /// A frame whose write never ended.
    Torn {
        /// Bytes up to the last one that is not zero.
        len: u64,
    },
    /// A later frame begins at this offset.
    Followed(u64),
    /// The frame's write had ended, so something else changed it.
    Damage,
}

/// Looks at everything from `at`, where a frame should begin, to the end of the file. `extent` is
/// the frame's length if its head is readable. Bytes behind the end of the file count as zeros: a
/// file that was not filled ahead ends where its last write was cut.
pub(crate) fn classify<S: Source>(
    source: &S,
    at: u64,
    file_len: u64,
    extent: Option<u64>,
) -> Result<Ending> {
    let mut first_byte = None;
    let mut last_byte = None;
    let mut first_zero_sector = None;
    // The last byte of the sector that holds the last byte that is not zero.
    let mut marker = 0;
    let mut chunk = vec![0; CHUNK];
    let mut chunk_at = at;
    while chunk_at < file_len {
        let len = usize::try_from(file_len - chunk_at)
            .unwrap_or(CHUNK)
            .min(CHUNK);
        let bytes = chunk.get_mut(..len).unwrap_or_default();
        source.read_at(chunk_at, bytes)?;
        for (sector_at, sector) in (chunk_at..).step_by(SECTOR).zip(bytes.chunks(SECTOR)) {
            if is_zero(sector) {
                first_zero_sector.get_or_insert(sector_at);
                continue;
            }
            let last = sector.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            if sector_at > at && sector.get(..BOUND).is_some_and(Head::begins) {
                return Ok(Ending::Followed(sector_at));
            }
            last_byte = Some(sector_at + last as u64);
            if first_byte.is_none() {
                let first = sector.iter().position(|byte| *byte != 0).unwrap_or(last);
                first_byte = Some(sector_at + first as u64);
            }
            marker = sector.get(SECTOR - 1).copied().unwrap_or(0);
        }
        chunk_at += len as u64;
    }
    let Some(last_byte) = last_byte else {
        return Ok(Ending::Zero);
    };
    let written = last_byte + 1 - at;
    let extent = match extent {
        Some(extent) if written > extent => return Ok(Ending::Damage),
        Some(extent) => {
            // Written up to its very last byte, or not.
            if written < extent {
                marker = 0;
            }
            extent
        }
        // One stray byte where an end marker would stand, and not that: space never written.
        None if first_byte == Some(last_byte) && marker != END_MARKER => {
            return Ok(Ending::Torn { len: written });
        }
        // The head is unreadable: the frame reaches at least as far as anything was written.
        None => written.next_multiple_of(SECTOR as u64),
    };
    let hole = first_zero_sector.is_some_and(|sector| sector < at + extent);
    Ok(if marker == 0 || hole {
        Ending::Torn { len: written }
    } else {
        Ending::Damage
    })
}
