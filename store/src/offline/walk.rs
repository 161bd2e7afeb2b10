//! Through the frames of one file up to its end or its first damage.

use std::sync::Arc;

use serde::Serialize;

use crate::disk::DiskFile;
use crate::error::{Code, Result};
use crate::format::{FRAMES_AT, Frame, Link, OpenFile, Reader, Step, Tail};
use crate::recovery::FileSource;

/// How a file ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum End {
    /// With its closing frame, and all before it adds up.
    Closed,
    /// Between two frames: its writer stopped, or was stopped.
    Open,
    /// With a frame that was being written when the writer was stopped, and was never
    /// acknowledged. An open drops it.
    Torn {
        /// Where it begins.
        offset: u64,
        /// Bytes of it that are there.
        bytes: u64,
    },
    /// It does not: here something does not verify.
    Damaged {
        /// Where.
        offset: u64,
        /// The sequence of the frame that should be there; 0 for the header.
        sequence: u64,
        /// What is wrong.
        what: String,
    },
    /// It was never begun: it has no header, and nothing behind it. Of no value.
    Unbegun,
}

/// What was found on the way.
pub(crate) struct Walk {
    /// Frames that verify, the closing one not counted.
    pub frames: u64,
    /// Where the last frame that verifies ends.
    pub offset: u64,
    /// The place behind it.
    pub link: Link,
    /// The last frame says that a next file follows.
    pub handed_over: bool,
    pub end: End,
}

/// Goes through the frames. Damage is an end; what cannot be read is an error.
pub(crate) fn walk(
    open: OpenFile,
    file: Arc<dyn DiskFile>,
    mut each: impl FnMut(&Frame<'_>) -> Result<()>,
) -> Result<Walk> {
    let mut reader = Reader::new(open, FileSource { file });
    let mut frames = 0;
    let mut handed_over = false;
    let end = loop {
        let before = reader.offset();
        match reader.step() {
            Ok(Step::Frame(frame)) => {
                if let Err(error) = each(&frame) {
                    if !error.is(Code::Corrupt) {
                        return Err(error);
                    }
                    break End::Damaged {
                        offset: before,
                        sequence: frame.sequence,
                        what: error.message().to_owned(),
                    };
                }
                handed_over = frame.hands_over;
                frames += 1;
            }
            Ok(Step::End(Tail::Closed(_))) => break End::Closed,
            Ok(Step::End(Tail::Open)) => break End::Open,
            Ok(Step::End(Tail::Torn { len })) => {
                break End::Torn {
                    offset: reader.offset(),
                    bytes: len,
                };
            }
            Err(error) if error.is(Code::Corrupt) => {
                break End::Damaged {
                    offset: reader.offset(),
                    sequence: reader.link().sequence + 1,
                    what: error.message().to_owned(),
                };
            }
            Err(error) => return Err(error),
        }
    };
    Ok(Walk {
        frames,
        offset: reader.offset().max(FRAMES_AT),
        link: reader.link(),
        handed_over,
        end,
    })
}
