//! From frames of all files to one state: of each key, the newest that is proven.
//!
//! Whatever order the files are read in, the higher revision wins. An image also says which keys
//! are *not* there at its revision: where its frames are whole and follow each other, a key between
//! theirs that it does not hold was deleted, whatever an older file says.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::entry::Entry;
use crate::error::Result;
use crate::format::record::{self, EntryRef};

/// What is known of a key.
struct State {
    revision: u64,
    /// None: it was deleted.
    entry: Option<Entry>,
    /// Stands behind a gap.
    behind: bool,
    /// The newest image that holds it.
    image: u64,
}

/// Keys of which an image says all that there is: above the one bound and below the other.
type Range = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The state as far as it is known.
#[derive(Default)]
pub(crate) struct Merge {
    states: BTreeMap<Vec<u8>, State>,
    /// Of each image, by revision, what it is complete about.
    covered: BTreeMap<u64, Vec<Range>>,
    scratch: Vec<u8>,
    /// The highest revision that was seen.
    pub revision: u64,
}

impl Merge {
    /// Takes the batches of a log's frame; the revisions of the first and the last.
    pub fn batches(&mut self, payload: &[u8], behind: bool) -> Result<Option<(u64, u64)>> {
        let mut range: Option<(u64, u64)> = None;
        for batch in record::batches(payload) {
            let batch = batch?;
            let revision = batch.revision;
            let first = range.map_or(revision, |(first, _)| first);
            range = Some((first, revision));
            for op in &batch.ops {
                let entry = op.entry(revision);
                self.put(op.key(), revision, entry.as_ref(), behind, 0);
            }
        }
        Ok(range)
    }

    /// Takes the entries of an image's frame. `after`: the last key of the frame before it, if that
    /// is known; nothing at the image's beginning. Returns the frame's last key.
    pub fn entries(
        &mut self,
        image: u64,
        payload: &[u8],
        behind: bool,
        after: Option<Bound<Vec<u8>>>,
    ) -> Result<Option<Vec<u8>>> {
        let mut first = None;
        let mut last: Option<Vec<u8>> = None;
        for entry in record::entries(payload) {
            let entry = entry?;
            self.put(entry.key, entry.modified, Some(&entry), behind, image);
            if first.is_none() {
                first = Some(entry.key.to_vec());
            }
            last = Some(entry.key.to_vec());
        }
        if let (Some(first), Some(last)) = (first, &last) {
            let from = after.unwrap_or(Bound::Included(first));
            self.cover(image, (from, Bound::Included(last.clone())));
        }
        Ok(last)
    }

    /// The image is complete in this range.
    pub fn cover(&mut self, image: u64, range: Range) {
        self.covered.entry(image).or_default().push(range);
    }

    fn put(
        &mut self,
        key: &[u8],
        revision: u64,
        entry: Option<&EntryRef<'_>>,
        behind: bool,
        image: u64,
    ) {
        self.revision = self.revision.max(revision).max(image);
        let pack = |scratch: &mut Vec<u8>| entry.map(|entry| Entry::pack(entry, scratch));
        if let Some(state) = self.states.get_mut(key) {
            state.image = state.image.max(image);
            if revision > state.revision {
                state.revision = revision;
                state.entry = pack(&mut self.scratch);
                state.behind = behind;
            } else if revision == state.revision {
                // Proven twice, once without a gap before it.
                state.behind &= behind;
            }
            return;
        }
        let state = State {
            revision,
            entry: pack(&mut self.scratch),
            behind,
            image,
        };
        self.states.insert(key.to_vec(), state);
    }

    /// The live entries in the order of their keys, each with whether it stands behind a gap.
    pub fn finish(mut self) -> Vec<(Entry, bool)> {
        for (image, ranges) in &self.covered {
            for range in ranges {
                let bounds = (as_slice(&range.0), as_slice(&range.1));
                if empty(&bounds) {
                    continue;
                }
                for (_, state) in self.states.range_mut::<[u8], _>(bounds) {
                    if state.revision <= *image && state.image < *image {
                        state.entry = None;
                    }
                }
            }
        }
        self.states
            .into_values()
            .filter_map(|state| Some((state.entry?, state.behind)))
            .collect()
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

/// True for bounds that a range does not take.
fn empty(bounds: &(Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    match bounds {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from >= to,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::Op;

    fn batch(revision: u64, ops: &[Op<'_>]) -> Vec<u8> {
        let mut payload = Vec::new();
        record::put_batch(&mut payload, revision, 0, None, ops.iter().copied()).unwrap();
        payload
    }

    fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Op<'a> {
        Op::Set {
            key,
            value,
            created: 1,
            version: 1,
            expires_at: None,
        }
    }

    fn image(entries: &[(&[u8], u64)]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (key, modified) in entries {
            let entry = EntryRef {
                key,
                value: b"image",
                created: 1,
                modified: *modified,
                version: 1,
                expires_at: None,
            };
            record::put_entry(&mut payload, &entry).unwrap();
        }
        payload
    }

    #[track_caller]
    fn check(merge: Merge, wanted: &[(&str, &str)]) {
        let found = merge.finish();
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(entry, _)| {
                let text = |bytes| std::str::from_utf8(bytes).unwrap();
                (text(entry.key()), text(entry.value()))
            })
            .collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn the_higher_revision_wins_in_any_order() {
        let older = batch(3, &[set(b"a", b"3"), set(b"b", b"3")]);
        let newer = batch(4, &[set(b"a", b"4"), Op::Delete { key: b"b" }]);
        for order in [[&older, &newer], [&newer, &older]] {
            let mut merge = Merge::default();
            for payload in order {
                merge.batches(payload, false).unwrap();
            }
            check(merge, &[("a", "4")]);
        }
    }

    #[test]
    fn what_an_image_does_not_hold_was_deleted_where_the_image_is_whole() {
        let mut merge = Merge::default();
        let old = batch(
            3,
            &[
                set(b"a", b"3"),
                set(b"b", b"3"),
                set(b"d", b"3"),
                set(b"f", b"3"),
            ],
        );
        merge.batches(&old, false).unwrap();
        merge.batches(&batch(9, &[set(b"e", b"9")]), false).unwrap();
        // The image of revision 8 with two frames, and one lost between them.
        let first = merge
            .entries(
                8,
                &image(&[(b"a", 2), (b"c", 7)]),
                false,
                Some(Bound::Unbounded),
            )
            .unwrap();
        assert_eq!(first.as_deref(), Some(&b"c"[..]));
        merge
            .entries(8, &image(&[(b"e", 5), (b"g", 6)]), true, None)
            .unwrap();
        // a: set later than the image's entry says. b: deleted. d: in the gap. f: deleted.
        check(
            merge,
            &[
                ("a", "3"),
                ("c", "image"),
                ("d", "3"),
                ("e", "9"),
                ("g", "image"),
            ],
        );
    }
}
