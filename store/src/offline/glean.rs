//! What of one file can still be proven, damage or not.
//!
//! A frame authenticates with the chain's hash before it, and that hash also stands at the end of
//! the frame before. So a frame behind a damaged one can still be opened: what opens is provably of
//! this file, this place and this order, and only what stood between is missing. Where just the end
//! of a frame is damaged, the frame itself still authenticates, and its own bytes say what the hash
//! behind it was.

use std::sync::Arc;

use crate::disk::DiskFile;
use crate::error::{Code, Error, Result};
use crate::format::{Digest, FRAMES_AT, Frame, OpenFile, Reader, Resume, SECTOR, Step, Tail};
use crate::recovery::FileSource;

/// A stretch of a file of which nothing can be proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gap {
    pub offset: u64,
    pub bytes: u64,
    /// The first frame that is missing.
    pub sequence: u64,
    /// The last one, if a later frame says so.
    pub until: Option<u64>,
    pub what: String,
}

/// How a file was read.
#[derive(Debug, Default)]
pub(crate) struct Gleaned {
    pub frames: u64,
    /// Of those, the ones that stand behind a gap.
    pub behind: u64,
    pub gaps: Vec<Gap>,
    /// Frames that are whole although what stands around their content is damaged.
    pub mended: Vec<Gap>,
    /// Its end was found: a closing frame, or the end of a log.
    pub ended: bool,
    /// Where a write that never ended begins, and its bytes.
    pub torn: Option<(u64, u64)>,
    /// The last frame that was proven, a closing one included.
    pub last: u64,
}

/// Reads what can be proven, up to the frame `cut`, behind which nothing counts. `each` is given
/// every frame, and how many gaps are before it. `strict`: stops at the first gap.
pub(crate) fn glean(
    open: OpenFile,
    file: Arc<dyn DiskFile>,
    cut: Option<u64>,
    strict: bool,
    mut each: impl FnMut(&Frame<'_>, usize) -> Result<()>,
) -> Result<Gleaned> {
    let len = file.len().map_err(|e| Error::io("length", e))?;
    let must_close = open.header.kind.must_close();
    let mut reader = Reader::new(open, FileSource { file });
    let mut out = Gleaned::default();
    loop {
        if cut.is_some_and(|cut| out.last >= cut) {
            out.ended = true;
            return Ok(out);
        }
        let (offset, sequence) = (reader.offset(), reader.link().sequence + 1);
        let what = match reader.step() {
            Ok(Step::Frame(frame)) if cut.is_some_and(|cut| frame.sequence > cut) => {
                out.ended = true;
                return Ok(out);
            }
            Ok(Step::Frame(frame)) => {
                out.take(&frame, &mut each)?;
                continue;
            }
            Ok(Step::End(tail)) => {
                if let Tail::Torn { len } = tail {
                    out.torn = Some((offset, len));
                }
                out.last = reader.link().sequence;
                out.ended = true;
                return Ok(out);
            }
            Err(error) if error.is(Code::Corrupt) => {
                // The place is told apart from what is wrong there.
                let what = error.message();
                let (_, what) = what.split_once(": ").unwrap_or(("", what));
                what.to_owned()
            }
            Err(error) => return Err(error),
        };
        let mut gap = Gap {
            offset,
            bytes: 0,
            sequence,
            until: None,
            what,
        };
        if strict {
            gap.bytes = reader.written(offset, len)?;
            out.gaps.push(gap);
            return Ok(out);
        }
        // The frame as such may be whole. Then the next is looked for right behind it.
        let mut from = offset + SECTOR as u64;
        let mut computed = None;
        if let Some(frame) = reader.open_by_itself()? {
            from = frame.offset + frame.len;
            computed = Some((from, frame.chain));
            out.take(&frame, &mut each)?;
            out.mended.push(Gap {
                bytes: frame.len,
                ..gap.clone()
            });
            gap.offset = from;
            gap.sequence += 1;
        }
        let Some(found) = search(&mut reader, from, len, out.last, computed)? else {
            gap.bytes = reader.written(gap.offset, len)?;
            out.ended = gap.bytes == 0 && !must_close;
            if !out.ended {
                out.gaps.push(gap);
            }
            return Ok(out);
        };
        gap.bytes = found.offset.saturating_sub(gap.offset);
        if found.sequence > gap.sequence || gap.bytes > 0 {
            gap.until = Some(found.sequence.saturating_sub(1));
            out.gaps.push(gap);
        }
        reader.seek(&found);
    }
}

impl Gleaned {
    fn take(
        &mut self,
        frame: &Frame<'_>,
        each: &mut impl FnMut(&Frame<'_>, usize) -> Result<()>,
    ) -> Result<()> {
        self.frames += 1;
        self.last = frame.sequence;
        self.behind += u64::from(!self.gaps.is_empty());
        each(frame, self.gaps.len())
    }
}

/// The first place from `from` on where a frame of a higher sequence than `last` verifies.
fn search(
    reader: &mut Reader<FileSource>,
    from: u64,
    len: u64,
    last: u64,
    computed: Option<(u64, Digest)>,
) -> Result<Option<Resume>> {
    let mut at = from.max(FRAMES_AT);
    while let Some(offset) = reader.next_head(at, len)? {
        let mut chains: Vec<Digest> = computed
            .iter()
            .filter(|(place, _)| *place == offset)
            .map(|(_, chain)| *chain)
            .collect();
        chains.extend(reader.stored_chain(offset)?);
        for chain in chains {
            let place = Resume {
                offset,
                chain,
                sequence: 0,
            };
            if let Some(sequence) = reader.verifies_at(&place)?
                && sequence > last
            {
                return Ok(Some(Resume { sequence, ..place }));
            }
        }
        at = offset + SECTOR as u64;
    }
    Ok(None)
}
