//! What a restore of one member takes: a backup, and the pieces of the archive that follow it. Pure: lists of names go in.
//!
//! It never guesses. What is missing between, or is known to have been there, refuses the restore and says what can be had.

use codexstore_api::archive::{Chain, PieceName, PiecePath, Until};
use codexstore_api::time::rfc3339;
use codexstore_crds::archive::Record;

use super::source::Chosen;

/// Windows that a message has room for.
const SHOWN: usize = 4;

/// What a restore takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan<'a> {
    /// The backup.
    pub base: Chosen<'a>,
    /// What follows it, in order.
    pub pieces: Vec<&'a PiecePath>,
    /// How far it goes.
    pub until: Until,
}

impl<'a> Plan<'a> {
    /// A backup alone.
    pub fn alone(base: Chosen<'a>) -> Plan<'a> {
        Plan {
            base,
            pieces: Vec::new(),
            until: Until::End,
        }
    }
}

/// All that is known of the past of one member.
#[derive(Debug, Clone, Copy)]
pub struct Past<'a> {
    /// Name of its pod.
    pub pod: &'a str,
    /// Its pieces.
    pub pieces: &'a [PiecePath],
    /// What the archiver wrote down, if that is about this archive.
    pub record: Option<&'a Record>,
}

/// A backup, as far as it counts here.
#[derive(Debug, Clone, Copy)]
struct Base<'a> {
    chosen: Chosen<'a>,
    lineage: &'a str,
    revision: u64,
    /// A time before which it cannot be used: milliseconds since 1970.
    from: u64,
    /// When it was there.
    stored: u64,
}

impl<'a> Base<'a> {
    fn of(chosen: Chosen<'a>) -> Base<'a> {
        let (source, member) = chosen;
        let number = |n: i64| u64::try_from(n).unwrap_or_default();
        Base {
            chosen,
            lineage: member.lineage.as_deref().unwrap_or_default(),
            revision: member.revision.map_or(0, number),
            from: member.from_ms(source.stored_at),
            stored: number(source.stored_at).saturating_mul(1000),
        }
    }

    /// When it was begun, by the member's clock, if that is known: nothing in it is later.
    fn taken(&self) -> Option<u64> {
        self.chosen.1.taken_at.as_ref().map(|_| self.from)
    }
}

impl<'a> Past<'a> {
    /// The latest: the backup, and all that follows it. An error if more than that was there.
    pub fn latest(&self, base: Chosen<'a>) -> Result<Plan<'a>, String> {
        let base = Base::of(base);
        let own = self.of(base.lineage);
        let chain = choose(&base, Until::End, &own);
        chain.complete(Until::End).map_err(|gap| {
            format!(
                "{}: {}. Nothing older is taken in its place: say how far to go with a CodexRestore, by pointInTime",
                self.pod,
                gap.message()
            )
        })?;
        if let Some(line) = self.line(base.lineage)
            && line > chain.reaches
        {
            return Err(format!(
                "{} was archived up to revision {line}, and what is stored reaches revision {}: files are missing. Say how far to go with \
                 a CodexRestore, by pointInTime",
                self.pod, chain.reaches
            ));
        }
        let own_last = own.iter().map(|piece| piece.name.last_ms).max();
        let own_last = own_last.max(self.until(base.lineage)).unwrap_or(0);
        let last = own_last.max(base.stored).max(base.from);
        if let Some((lineage, at)) = self.later(base.lineage, last) {
            return Err(format!(
                "{} went on in another line of history, {lineage}, which was there at {}, and of which there is no backup: the latest of \
                 what can be restored is older. Say what to take with a CodexRestore: a backup by backupRef, or a time by pointInTime",
                self.pod,
                shown(at)
            ));
        }
        Ok(plan(&base, &chain, &own, Until::End))
    }

    /// An error if anything was archived: a member of which there is no backup did not begin empty, or did more since.
    pub fn check_none(&self) -> Result<(), String> {
        let lines = self.record.iter().flat_map(|record| &record.lines);
        let mut written = lines.filter(|line| line.pod == self.pod && line.revision > 0);
        if self.pieces.is_empty() && written.next().is_none() {
            return Ok(());
        }
        Err(format!(
            "{} is archived, and there is no backup of it that this follows: it does not begin empty. If nothing of it is wanted, delete \
             its directory of the archive and the ConfigMap that records it",
            self.pod
        ))
    }

    /// What was there at a time, in milliseconds since 1970.
    pub fn at_time(&self, bases: &[Chosen<'a>], ms: u64) -> Result<Plan<'a>, String> {
        let until = Until::Time(ms);
        let bases: Vec<_> = bases.iter().map(|base| Base::of(*base)).collect();
        let before = bases.iter().filter(|base| base.from <= ms);
        let base = before.max_by_key(|base| (base.from, base.revision));
        let cannot = |why: &str| {
            let windows = self.windows(&bases);
            format!(
                "{} cannot be restored to {}: {why}. {windows}",
                self.pod,
                shown(ms)
            )
        };
        let base = base.ok_or_else(|| cannot("there is no backup from before it"))?;
        let own = self.of(base.lineage);
        let chain = choose(base, until, &own);
        // Something later in the same line shows that nothing is missing before.
        let piece = chain.last_ms.is_some_and(|last| last > ms);
        let backup = bases.iter().any(|other| {
            other.lineage == base.lineage
                && other.taken().is_some_and(|taken| taken >= ms)
                && other.revision <= chain.reaches
        });
        let recorded = chain.gap.is_none()
            && self.until(base.lineage).is_some_and(|until| until >= ms)
            && self.line(base.lineage) <= Some(chain.reaches);
        if !(piece || backup || recorded) {
            return Err(match chain.gap {
                Some(gap) => cannot(&format!(
                    "what was written between the revisions {} and {gap} was not archived",
                    chain.reaches
                )),
                None => cannot("it is not known that all up to there was archived"),
            });
        }
        Ok(plan(base, &chain, &own, until))
    }

    /// What was there at a revision.
    pub fn at_revision(&self, bases: &[Chosen<'a>], revision: u64) -> Result<Plan<'a>, String> {
        let until = Until::Revision(revision);
        let bases: Vec<_> = bases.iter().map(|base| Base::of(*base)).collect();
        let mut before: Vec<_> = bases.iter().filter(|b| b.revision <= revision).collect();
        before.sort_by_key(|base| std::cmp::Reverse(base.revision));
        let mut found: Vec<(&str, Plan<'a>)> = Vec::new();
        for base in before {
            let own = self.of(base.lineage);
            let chain = choose(base, until, &own);
            let known = found.iter().any(|(lineage, _)| *lineage == base.lineage);
            if !known && chain.complete(until).is_ok() {
                found.push((base.lineage, plan(base, &chain, &own, until)));
            }
        }
        match found.len() {
            0 => Err(format!(
                "{} cannot be restored to revision {revision}. {}",
                self.pod,
                self.windows(&bases)
            )),
            1 => found.pop().map(|(_, plan)| plan).ok_or_else(String::new),
            _ => Err(format!(
                "revision {revision} of {} is in more than one line of history: say which with pointInTime.time. {}",
                self.pod,
                self.windows(&bases)
            )),
        }
    }

    /// The pieces of a line of history.
    fn of(&self, lineage: &str) -> Vec<&'a PiecePath> {
        let all = self.pieces.iter();
        all.filter(|piece| piece.lineage == lineage).collect()
    }

    /// Up to which revision a line is archived, as the record says.
    fn line(&self, lineage: &str) -> Option<u64> {
        let line = self.record?.line(self.pod, lineage)?;
        Some(line.revision)
    }

    /// Up to which time, in milliseconds since 1970.
    fn until(&self, lineage: &str) -> Option<u64> {
        self.record?.line(self.pod, lineage)?.until_ms
    }

    /// Another line in which something was later than this.
    fn later(&self, lineage: &str, than: u64) -> Option<(String, u64)> {
        let pieces = self.pieces.iter();
        let pieces = pieces.map(|piece| (piece.lineage.as_str(), piece.name.last_ms));
        let lines = self.record.iter().flat_map(|record| &record.lines);
        // One without a name is that of a member which never said where it is.
        let lines = lines.filter(|line| line.pod == self.pod && !line.lineage.is_empty());
        let lines = lines.filter_map(|line| Some((line.lineage.as_str(), line.seen_ms()?)));
        let other = pieces.chain(lines).filter(|(other, _)| *other != lineage);
        let last = other.max_by_key(|(_, at)| *at)?;
        (last.1 > than).then(|| (last.0.to_owned(), last.1))
    }

    /// What can be had, in words.
    fn windows(&self, bases: &[Base<'_>]) -> String {
        let mut all: Vec<Window> = Vec::new();
        let mut bases: Vec<_> = bases.iter().collect();
        bases.sort_by_key(|base| (base.lineage, base.revision));
        let mut before: Option<&str> = None;
        for base in bases {
            let chain = choose(base, Until::End, &self.of(base.lineage));
            let last = chain.last_ms.unwrap_or(0).max(base.from);
            let end = (last, chain.reaches);
            match all.last_mut() {
                Some(window) if before == Some(base.lineage) && base.revision <= window.end.1 => {
                    window.end = window.end.max(end);
                }
                _ => all.push(Window {
                    begin: (base.from, base.revision),
                    end,
                }),
            }
            before = Some(base.lineage);
        }
        if all.is_empty() {
            return "There is no backup of it".to_owned();
        }
        all.sort_by_key(|window| std::cmp::Reverse(window.end));
        let shown: Vec<_> = all.iter().take(SHOWN).map(Window::words).collect();
        format!("What can be had: {}", shown.join("; "))
    }
}

/// A time and a revision from which, and up to which, everything can be had.
struct Window {
    begin: (u64, u64),
    end: (u64, u64),
}

impl Window {
    fn words(&self) -> String {
        let point = |(at, revision): (u64, u64)| format!("{} (revision {revision})", shown(at));
        if self.begin == self.end {
            return point(self.begin);
        }
        format!("{} to {}", point(self.begin), point(self.end))
    }
}

fn choose(base: &Base<'_>, until: Until, own: &[&PiecePath]) -> Chain {
    let names = own.iter().map(|piece| &piece.name);
    Chain::choose(base.revision, until, names)
}

fn plan<'a>(base: &Base<'a>, chain: &Chain, own: &[&'a PiecePath], until: Until) -> Plan<'a> {
    let pieces = chain.pieces.iter().filter_map(|at| own.get(*at).copied());
    Plan {
        base: base.chosen,
        pieces: pieces.collect(),
        until,
    }
}

/// A time, for people.
fn shown(ms: u64) -> String {
    rfc3339(ms).unwrap_or_else(|| format!("{ms} ms"))
}

/// A backup of a line of history that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// What it shows.
    pub revision: u64,
    /// When it was taken: milliseconds since 1970.
    pub taken: u64,
    /// Whether a restore may count on it.
    pub good: bool,
}

/// The revision up to which nothing of a line is needed to go back to `cut` or later, in milliseconds since 1970: the latest good
/// backup from before that shows it, or none of those that are left comes before it.
pub fn below(left: &[Left], cut: u64) -> Option<u64> {
    let before = left.iter().filter(|base| base.good && base.taken <= cut);
    let before = before.map(|base| base.revision).max();
    let first = left.iter().map(|base| base.revision).min();
    before.max(first)
}

/// Whether a piece is to be deleted: it is older than anybody wants to go back to (`cut`), and no restore to a later time needs it.
pub fn expired(piece: &PieceName, left: &[Left], cut: u64) -> bool {
    let unneeded = left.is_empty() || below(left, cut).is_some_and(|below| piece.to <= below);
    piece.last_ms < cut && unneeded
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
