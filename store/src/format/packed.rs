//! Frames taken out of one file and put into another as they are: decrypted, and not unpacked.
//!
//! What is sealed anew under another data key keeps its payload, and with it the payload's sum and
//! its compressed form. Their making again would cost more than all the rest.

use super::frame::{self, FrameKind, HEAD, INNER};
use super::opener::{Inner, decrypt};
use super::read::{Reader, Source, Tail};
use crate::error::{Error, Result};

/// What [`Reader::step_packed`] found.
pub(crate) enum PackedStep<'a> {
    /// A frame in its place in the chain, which was decrypted, and authenticated if it is encrypted. That
    /// the payload has its sum was not looked at.
    Frame {
        kind: FrameKind,
        inner: Inner<'a>,
        /// Its length in the file.
        len: u64,
    },
    /// The end, as [`Reader::step`] tells it.
    End(Tail),
}

impl<S: Source> Reader<S> {
    /// As [`Reader::step`], with the payload as it is stored.
    pub(crate) fn step_packed(&mut self) -> Result<PackedStep<'_>> {
        if let Some(tail) = self.end {
            return Ok(PackedStep::End(tail));
        }
        let Some((head, at, chain)) = self.find()? else {
            return Ok(PackedStep::End(self.end.unwrap_or(Tail::Open)));
        };
        if head.kind == FrameKind::Close {
            return Ok(PackedStep::End(self.close(&head, at, chain)?));
        }
        let body = at..at + HEAD + head.body;
        let bytes = self.window.get_mut(body.clone()).unwrap_or_default();
        let inner = decrypt(&self.opener.file, &head, &self.chain, bytes);
        let (sum, encoding, len) = match inner {
            Ok(Some(inner)) => (inner.sum, inner.encoding, inner.len),
            Ok(None) => return Err(Error::internal("take out a frame without a key")),
            Err(what) => return Err(self.corrupt(what)),
        };
        self.opener.tally.add(len, &sum);
        self.advance(head.total() as u64, chain);
        let tag = self.opener.file.header.cipher.tag_len();
        let data = self.window.get(body).and_then(|bytes| {
            let stored = head.body.checked_sub(frame::body_len(0, tag))?;
            bytes.get(HEAD + INNER..)?.get(..stored)
        });
        Ok(PackedStep::Frame {
            kind: head.kind,
            inner: Inner {
                sum,
                encoding,
                len,
                data: data.unwrap_or_default(),
            },
            len: head.total() as u64,
        })
    }
}
