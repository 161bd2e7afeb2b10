//! The summary frame: what a backup holds, said by the store that wrote it.

use super::Digest;
use super::wire::Fields;

/// What stands in a backup's summary frame, right before the closing one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// SHA-256 over all entries: see [`crate::Store::content`].
    pub root: Digest,
    /// Number of entries.
    pub entries: u64,
    /// Number of batches of history; none, if the store keeps no history.
    pub history: Option<u64>,
}

impl Summary {
    /// Bit of the flags: the backup carries the store's history.
    const HISTORY: u64 = 1;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let (flags, batches) = match self.history {
            Some(batches) => (Summary::HISTORY, batches),
            None => (0, 0),
        };
        let mut out = self.root.to_vec();
        for number in [self.entries, flags, batches] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Summary> {
        let mut fields = Fields::new(payload);
        let root = fields.array()?;
        let entries = fields.u64()?;
        let history = match (fields.u64()?, fields.u64()?) {
            (0, 0) => None,
            (Summary::HISTORY, batches) => Some(batches),
            _ => return None,
        };
        fields.is_empty().then_some(Summary {
            root,
            entries,
            history,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_back_and_nothing_else_is_one() {
        for history in [None, Some(0), Some(7)] {
            let summary = Summary {
                root: [7; 32],
                entries: 3,
                history,
            };
            let bytes = summary.encode();
            assert_eq!(Summary::decode(&bytes), Some(summary));
            assert_eq!(Summary::decode(&bytes[..55]), None);
            assert_eq!(Summary::decode(&[&bytes[..], &[0]].concat()), None);
        }
        let mut flags = Summary::decode(&[0; 56]).unwrap().encode();
        flags[40] = 2;
        assert_eq!(Summary::decode(&flags), None);
    }
}
