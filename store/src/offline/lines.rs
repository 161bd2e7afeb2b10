//! Which log follows which, from their headers alone.
//!
//! Recovery decides the same while it reads, and refuses what it cannot explain. Here nothing is
//! refused: what does not fit has a place too.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::{FileId, Header, Link};

/// The logs of a store by their places in the list that [`Lines::of`] was given.
#[derive(Default)]
pub(crate) struct Lines {
    /// Of each log, the one that goes on where it ends.
    next: BTreeMap<FileId, usize>,
    /// Logs of owners that were overtaken, and what follows them: what they hold was not
    /// acknowledged, or is in the line that counts as well.
    overtaken: BTreeSet<usize>,
    links: Vec<(FileId, Link)>,
}

impl Lines {
    /// Reads links and epochs.
    pub fn of(logs: &[&Header]) -> Lines {
        let mut lines = Lines {
            links: logs.iter().map(|log| (log.file, log.link)).collect(),
            ..Lines::default()
        };
        let mut by_file: BTreeMap<FileId, Vec<usize>> = BTreeMap::new();
        for (at, log) in logs.iter().enumerate() {
            if log.link != Link::default() {
                by_file.entry(log.link.file).or_default().push(at);
            }
        }
        let epoch = |at: &usize| logs.get(*at).map_or(0, |log| log.epoch);
        let mut losers = Vec::new();
        for (file, mut at) in by_file {
            at.sort_by_key(epoch);
            if let Some(winner) = at.pop() {
                lines.next.insert(file, winner);
            }
            losers.extend(at);
        }
        while let Some(at) = losers.pop() {
            if lines.overtaken.insert(at)
                && let Some((file, _)) = lines.links.get(at)
            {
                losers.extend(lines.next.get(file));
            }
        }
        lines
    }

    /// True if what this log holds does not count.
    pub fn overtaken(&self, at: usize) -> bool {
        self.overtaken.contains(&at)
    }

    /// Where the next log took over from this one: what stands behind does not count.
    pub fn cut(&self, file: FileId) -> Option<Link> {
        let next = self.next.get(&file)?;
        self.links.get(*next).map(|(_, link)| *link)
    }

    /// The logs before this one, the latest first: as far back as none is missing.
    pub fn before(&self, at: usize) -> BTreeSet<usize> {
        let logs = self.links.iter().enumerate();
        let places: BTreeMap<FileId, usize> = logs.map(|(at, (file, _))| (*file, at)).collect();
        let mut before = BTreeSet::new();
        let mut here = at;
        while let Some((_, link)) = self.links.get(here)
            && let Some(there) = places.get(&link.file)
            && before.insert(*there)
        {
            here = *there;
        }
        before
    }

    /// The logs from `first` on, in order.
    pub fn from(&self, first: usize) -> Vec<usize> {
        let mut line = vec![first];
        let mut last = Some(first);
        while let Some(at) = last {
            last = self
                .links
                .get(at)
                .and_then(|(file, _)| self.next.get(file))
                .copied()
                .filter(|next| !line.contains(next));
            line.extend(last);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Compression;
    use crate::format::{Cipher, FileKind, Lineage, StoreId};

    fn log(id: u8, after: u8, epoch: u64) -> Header {
        let link = Link {
            file: FileId([after; 16]),
            sequence: u64::from(after),
            chain: [after; 32],
        };
        Header {
            kind: FileKind::Journal,
            store: StoreId([1; 16]),
            lineage: Lineage(1),
            file: FileId([id; 16]),
            epoch,
            first_revision: 1,
            link: if after == 0 { Link::default() } else { link },
            compression: Compression::None,
            cipher: Cipher::None,
            commitment: [0; 32],
            created_ms: 0,
        }
    }

    #[track_caller]
    fn check(logs: &[Header], line: &[usize], overtaken: &[usize]) {
        let lines = Lines::of(&logs.iter().collect::<Vec<_>>());
        assert_eq!(lines.from(0), line);
        let found: Vec<usize> = (0..logs.len()).filter(|at| lines.overtaken(*at)).collect();
        assert_eq!(found, overtaken);
    }

    #[test]
    fn logs_follow_their_links_in_whatever_order_they_are_found() {
        check(&[log(1, 0, 1), log(3, 2, 1), log(2, 1, 1)], &[0, 2, 1], &[]);
        let lines = Lines::of(&[&log(1, 0, 1), &log(2, 1, 1)]);
        assert_eq!(lines.cut(FileId([1; 16])).unwrap().sequence, 1);
        assert_eq!(lines.cut(FileId([2; 16])), None);
    }

    #[test]
    fn logs_are_before_another_up_to_one_that_is_missing() {
        let logs = [log(5, 4, 1), log(1, 0, 1), log(4, 3, 1), log(3, 2, 1)];
        let lines = Lines::of(&logs.iter().collect::<Vec<_>>());
        assert_eq!(lines.before(0), BTreeSet::from([2, 3]));
        assert_eq!(lines.before(1), BTreeSet::new());
    }

    #[test]
    fn the_higher_epoch_overtakes_with_all_that_follows() {
        let logs = [log(1, 0, 1), log(2, 1, 1), log(3, 2, 1), log(4, 1, 2)];
        check(&logs, &[0, 3], &[1, 2]);
    }

    #[test]
    fn links_in_a_circle_come_to_an_end() {
        let logs = [log(1, 2, 1), log(2, 1, 1)];
        check(&logs, &[0, 1], &[]);
        let lines = Lines::of(&logs.iter().collect::<Vec<_>>());
        assert_eq!(lines.before(0), BTreeSet::from([0, 1]));
    }
}
