//! Pieces of the continuous archive where they are stored: their names, and which of them follow a backup.
//!
//! All of it is pure. A piece lies under its line of history and the epoch of the owner that made it:
//! `LINEAGE/EPOCH/FROM-TO-MS.KEY.piece`, without `KEY.` where it is not encrypted. So a list of names says which revisions and
//! which time a restore can reach, and which keys it needs. A name is only where to look: what a piece is says its header.

use std::fmt;

use crate::bodies::PieceTold;

/// What the name of a piece ends with.
pub const SUFFIX: &str = ".piece";

/// Longest key id.
const KEY_ID: usize = 64;

/// What the name of a piece says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceName {
    /// It holds every batch behind this revision …
    pub from: u64,
    /// … up to this one.
    pub to: u64,
    /// When its last batch was committed: milliseconds since 1970.
    pub last_ms: u64,
    /// The key that it needs; none without encryption.
    pub key_id: Option<String>,
}

/// What the path of a piece says, from its line of history on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PiecePath {
    /// The line of history: 16 hexadecimal digits.
    pub lineage: String,
    /// Epoch of the owner that made it.
    pub epoch: u64,
    /// The file's name.
    pub name: PieceName,
}

impl PieceName {
    /// The name of a piece of which a member told this.
    pub fn of(told: &PieceTold) -> PieceName {
        PieceName {
            from: told.from,
            to: told.to,
            last_ms: told.last_ms,
            key_id: told.key_id.clone(),
        }
    }

    /// The inverse of `to_string`: none if it is not the name of a piece, in exactly that form.
    pub fn parse(name: &str) -> Option<PieceName> {
        let name = name.strip_suffix(SUFFIX)?;
        let (numbers, key_id) = match name.split_once('.') {
            None => (name, None),
            Some((numbers, key_id)) => (numbers, Some(key_id)),
        };
        if key_id.is_some_and(|id| !is_key_id(id)) {
            return None;
        }
        let mut numbers = numbers.split('-');
        let mut number = |digits| number(numbers.next()?, digits);
        let (from, to, last_ms) = (number(20)?, number(20)?, number(15)?);
        let whole = numbers.next().is_none() && from < to;
        whole.then(|| PieceName {
            from,
            to,
            last_ms,
            key_id: key_id.map(str::to_owned),
        })
    }
}

impl fmt::Display for PieceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PieceName { from, to, .. } = self;
        write!(f, "{from:020}-{to:020}-{:015}", self.last_ms)?;
        if let Some(key_id) = &self.key_id {
            write!(f, ".{key_id}")?;
        }
        f.write_str(SUFFIX)
    }
}

impl PiecePath {
    /// The path of a piece of which a member told this.
    pub fn of(told: &PieceTold) -> PiecePath {
        PiecePath {
            lineage: told.lineage.clone(),
            epoch: told.epoch,
            name: PieceName::of(told),
        }
    }

    /// The inverse of `to_string`: none if it is not the path of a piece, in exactly that form.
    pub fn parse(path: &str) -> Option<PiecePath> {
        let mut parts = path.split('/');
        let lineage = parts.next().filter(|lineage| is_lineage(lineage))?;
        let epoch = number(parts.next()?, 20)?;
        let name = PieceName::parse(parts.next()?)?;
        parts.next().is_none().then(|| PiecePath {
            lineage: lineage.to_owned(),
            epoch,
            name,
        })
    }
}

impl fmt::Display for PiecePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:020}/{}", self.lineage, self.epoch, self.name)
    }
}

/// A number of at least so many digits, with no more zeros before it than that takes.
fn number(text: &str, digits: usize) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (format!("{number:0digits$}") == text).then_some(number)
}

/// True for 16 hexadecimal digits as a lineage is shown.
pub fn is_lineage(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_key_id(id: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=KEY_ID).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(allowed)
}

/// How far a restore goes beyond its backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Until {
    /// As far as the archive goes.
    #[default]
    End,
    /// Up to this revision and with it.
    Revision(u64),
    /// Up to the last batch that was committed at this time or before: milliseconds since 1970.
    Time(u64),
}

impl Until {
    /// As the query of a restore has it; none for the end.
    pub fn query(self) -> Option<String> {
        match self {
            Until::End => None,
            Until::Revision(revision) => {
                Some(format!("{}={revision}", crate::query::UNTIL_REVISION))
            }
            Until::Time(ms) => Some(format!("{}={ms}", crate::query::UNTIL_TIME)),
        }
    }

    /// The inverse of [`Until::query`]: what the values of `untilRevision` and `untilTime` say, of which there is one at most.
    /// `invalid-argument` if there are both, or one is malformed.
    pub fn of_query(revision: Option<&str>, time: Option<&str>) -> crate::Result<Until> {
        let wrong = |what: &str| Err(crate::Error::new("invalid-argument", what));
        match (revision, time) {
            (None, None) => Ok(Until::End),
            (Some(revision), None) => match revision.parse() {
                Ok(revision) => Ok(Until::Revision(revision)),
                Err(_) => wrong("untilRevision is a number"),
            },
            (None, Some(time)) => match Until::time_ms(time) {
                Some(ms) => Ok(Until::Time(ms)),
                None => wrong("untilTime is RFC 3339, or milliseconds since 1970"),
            },
            (Some(_), Some(_)) => wrong("a restore goes until a revision or a time"),
        }
    }

    /// Reads a point in time, RFC 3339 or milliseconds since 1970, as the latter. None if it is neither.
    pub fn time_ms(text: &str) -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if digits {
            text.parse().ok()
        } else {
            crate::time::parse_rfc3339(text)
        }
    }
}

/// The pieces that a restore takes behind its backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Which of the pieces, in the order in which they follow each other.
    pub pieces: Vec<usize>,
    /// The last revision that they reach: the backup's where there is none.
    pub reaches: u64,
    /// When its batch was committed; none where there is no piece.
    pub last_ms: Option<u64>,
    /// The next piece that is there begins behind this revision, and those between are missing.
    pub gap: Option<u64>,
}

impl Chain {
    /// Chooses, of the pieces of the backup's own line of history, those that lead from revision `base`, which the backup
    /// shows, to `until`, each following the one before without a gap. What overlaps is no harm: a line of history is the same
    /// whoever wrote it down.
    ///
    /// [`Chain::complete`] says whether that is enough.
    pub fn choose<'a>(
        base: u64,
        until: Until,
        pieces: impl IntoIterator<Item = &'a PieceName>,
    ) -> Chain {
        let mut all: Vec<(usize, &PieceName)> = pieces.into_iter().enumerate().collect();
        all.sort_by_key(|(_, name)| (name.from, name.to));
        let mut chain = Chain {
            pieces: Vec::new(),
            reaches: base,
            last_ms: None,
            gap: None,
        };
        let mut all = all.into_iter().peekable();
        while !chain.is_enough(until) {
            // Of those that follow, the one that reaches furthest.
            let mut best: Option<(usize, &PieceName)> = None;
            while let Some(next) = all.next_if(|(_, name)| name.from <= chain.reaches) {
                if best.is_none_or(|(_, name)| next.1.to > name.to) {
                    best = Some(next);
                }
            }
            let Some((at, name)) = best.filter(|(_, name)| name.to > chain.reaches) else {
                // What does not follow yet may do so after none of what was left out: it reaches no further.
                chain.gap = all.peek().map(|(_, name)| name.from);
                return chain;
            };
            chain.pieces.push(at);
            chain.reaches = name.to;
            chain.last_ms = Some(name.last_ms);
        }
        chain
    }

    /// True once nothing behind what was chosen can be wanted.
    fn is_enough(&self, until: Until) -> bool {
        match until {
            Until::End => false,
            Until::Revision(revision) => self.reaches >= revision,
            Until::Time(ms) => self.last_ms.is_some_and(|last_ms| last_ms > ms),
        }
    }

    /// An error that says what is missing, if a restore until there cannot be had: nothing is left out silently.
    pub fn complete(&self, until: Until) -> crate::Result<()> {
        if self.is_enough(until) {
            return Ok(());
        }
        let missing = |what: String| Err(crate::Error::new("not-found", what));
        match (self.gap, until) {
            (Some(from), _) => missing(format!(
                "the archive has a gap: it goes on to revision {}, and then from behind {from}; restore a later backup, or up to {}",
                self.reaches, self.reaches
            )),
            (None, Until::Revision(revision)) => missing(format!(
                "the archive ends at revision {}, before {revision}",
                self.reaches
            )),
            (None, Until::End | Until::Time(_)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(from: u64, to: u64, last_ms: u64) -> PieceName {
        PieceName {
            from,
            to,
            last_ms,
            key_id: None,
        }
    }

    #[test]
    fn names_go_both_ways_and_sort_by_revision() {
        let plain = name(0, 12, 1_795_472_736_123);
        let text = "00000000000000000000-00000000000000000012-001795472736123.piece";
        assert_eq!(plain.to_string(), text);
        for key_id in [
            None,
            Some("none"),
            Some("2026-11"),
            Some("a.piece"),
            Some("k-1_2"),
        ] {
            for (from, to, ms) in [(0, 1, 0), (7, u64::MAX, u64::MAX), (1 << 32, 1 << 33, 5)] {
                let name = PieceName {
                    key_id: key_id.map(str::to_owned),
                    ..name(from, to, ms)
                };
                assert_eq!(PieceName::parse(&name.to_string()), Some(name));
            }
        }
        let sorted = [name(2, 9, 5), name(10, 11, 4), name(10, 100, 3)];
        assert!(sorted.map(|name| name.to_string()).is_sorted());
    }

    #[test]
    fn what_is_not_exactly_a_name_is_none() {
        let good = "00000000000000000001-00000000000000000012-001795472736123";
        assert!(PieceName::parse(&format!("{good}.piece")).is_some());
        for bad in [
            good.to_owned(),
            format!("{good}..piece"),
            format!("{good}..hidden.piece"),
            format!("{good}.k/1.piece"),
            format!("{good}.{}.piece", "k".repeat(65)),
            format!("{good}-1.piece"),
            format!("0{good}.piece"),
            format!("+{}.piece", &good[1..]),
            format!("{}.piece", &good[1..]),
            "00000000000000000012-00000000000000000012-001795472736123.piece".to_owned(),
            "00000000000000000001-00000000000000000012.piece".to_owned(),
            format!("{good}.piece.tmp"),
            ".piece".to_owned(),
        ] {
            assert_eq!(PieceName::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn paths_go_both_ways() {
        let path = PiecePath {
            lineage: "00ff00ff00ff00ff".into(),
            epoch: 12,
            name: name(3, 4, 5),
        };
        let text = path.to_string();
        assert!(
            text.starts_with("00ff00ff00ff00ff/00000000000000000012/0"),
            "{text}"
        );
        assert_eq!(PiecePath::parse(&text), Some(path));
        for bad in [
            text.replace("00ff00ff00ff00ff", "00FF00ff00ff00ff"),
            text.replace("00ff00ff00ff00ff", "00ff"),
            text.replace("00000000000000000012/", "12/"),
            format!("{text}/x"),
            format!("x/{text}"),
        ] {
            assert_eq!(PiecePath::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_point_in_time_is_read_in_both_forms() {
        let ms = 1_795_472_736_123;
        assert_eq!(Until::time_ms("1795472736123"), Some(ms));
        let text = crate::time::rfc3339(ms).unwrap();
        assert_eq!(Until::time_ms(&text), Some(ms));
        for bad in ["", "yesterday", "-1", "+5", "1.5", "2026-11-30"] {
            assert_eq!(Until::time_ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_query_says_how_far_and_is_read_back() {
        let time = Until::Time(1_795_472_736_123);
        assert_eq!(time.query().unwrap(), "untilTime=1795472736123");
        assert_eq!(Until::Revision(7).query().unwrap(), "untilRevision=7");
        assert_eq!(Until::End.query(), None);
        for until in [Until::End, Until::Revision(0), Until::Revision(7), time] {
            let query = until.query().unwrap_or_default();
            let value = |name| {
                let rest = query.strip_prefix(name)?;
                rest.strip_prefix('=')
            };
            let (revision, time) = (
                value(crate::query::UNTIL_REVISION),
                value(crate::query::UNTIL_TIME),
            );
            assert_eq!(Until::of_query(revision, time), Ok(until));
        }
        for (revision, time) in [
            (Some("-1"), None),
            (Some(""), None),
            (None, Some("noon")),
            (Some("1"), Some("1")),
        ] {
            let error = Until::of_query(revision, time).unwrap_err();
            assert!(error.is("invalid-argument"), "{error}");
        }
    }

    #[test]
    fn a_chain_follows_from_the_backup_without_a_gap() {
        let pieces = [
            name(20, 30, 300),
            name(0, 10, 100),
            name(10, 20, 200),
            name(5, 18, 180),
            name(40, 50, 500),
        ];
        let choose = |base, until| Chain::choose(base, until, &pieces);
        let all = choose(10, Until::End);
        assert_eq!((&all.pieces[..], all.reaches), (&[2, 0][..], 30));
        assert_eq!((all.last_ms, all.gap), (Some(300), Some(40)));
        let error = all.complete(Until::End).unwrap_err();
        assert!(
            error.message().contains("30") && error.message().contains("40"),
            "{error}"
        );
        // Up to there it can be had.
        let part = choose(10, Until::Revision(30));
        assert_eq!(part.pieces, [2, 0]);
        part.complete(Until::Revision(30)).unwrap();
        assert!(
            choose(10, Until::Revision(31))
                .complete(Until::Revision(31))
                .is_err()
        );
        // A time is reached by the first piece that goes beyond it, and no sooner.
        let time = choose(0, Until::Time(200));
        assert_eq!(time.pieces, [1, 2, 0]);
        time.complete(Until::Time(200)).unwrap();
        assert_eq!(choose(0, Until::Time(199)).pieces, [1, 2]);
        assert!(
            choose(0, Until::Time(300))
                .complete(Until::Time(300))
                .is_err()
        );
        // A backup in the middle of a piece, or beyond all of them.
        assert_eq!(choose(12, Until::Revision(19)).pieces, [2]);
        let beyond = choose(60, Until::End);
        assert_eq!(
            (beyond.pieces.len(), beyond.reaches, beyond.gap),
            (0, 60, None)
        );
        beyond.complete(Until::End).unwrap();
        assert!(beyond.complete(Until::Revision(61)).is_err());
        let none = Chain::choose(7, Until::Time(1), &[]);
        none.complete(Until::Time(1)).unwrap();
        assert_eq!(none.reaches, 7);
    }
}
