//! The closing frame: what a closed file must add up to.

use sha2::{Digest as _, Sha256};

use super::Digest;
use super::wire::Fields;

/// Counts and sum over the frames before the closing one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Frames.
    pub frames: u64,
    /// Bytes of payload in them, before compression.
    pub bytes: u64,
    /// SHA-256 over the SHA-256 of each payload, in order.
    pub sum: Digest,
}

impl Totals {
    pub(crate) const LEN: usize = 48;

    pub(crate) fn encode(&self) -> [u8; Totals::LEN] {
        let mut out = [0; Totals::LEN];
        let fields = self
            .frames
            .to_le_bytes()
            .into_iter()
            .chain(self.bytes.to_le_bytes());
        for (to, from) in out.iter_mut().zip(fields.chain(self.sum)) {
            *to = from;
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Totals> {
        let mut fields = Fields::new(payload);
        let totals = Totals {
            frames: fields.u64()?,
            bytes: fields.u64()?,
            sum: fields.array()?,
        };
        fields.is_empty().then_some(totals)
    }
}

/// Totals while they grow.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    frames: u64,
    bytes: u64,
    sums: Sha256,
}

impl Tally {
    pub(crate) fn add(&mut self, payload_len: usize, payload_sum: &Digest) {
        self.frames += 1;
        self.bytes += payload_len as u64;
        self.sums.update(payload_sum);
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            frames: self.frames,
            bytes: self.bytes,
            sum: self.sums.clone().finalize().into(),
        }
    }
}
