//! Entity tags and the conditions on them (RFC 9110, section 13.1).

use codexstore::{Code, Error};

/// What an `ETag` stands for: a line of history and the revision that wrote the value. After a
/// restore the lineage differs, so an old tag never matches other data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The store's lineage.
    pub lineage: u64,
    /// The modified revision.
    pub revision: u64,
}

/// What `If-Match` or `If-None-Match` lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// `*`: any value at all.
    Any,
    /// One of these. A tag that is not ours in form is kept out: it matches nothing.
    Tags(Vec<Tag>),
}

impl Match {
    fn matches(&self, found: Option<Tag>) -> bool {
        match (self, found) {
            (_, None) => false,
            (Match::Any, Some(_)) => true,
            (Match::Tags(tags), Some(found)) => tags.contains(&found),
        }
    }
}

/// The conditions of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The key must have one of these.
    pub if_match: Option<Match>,
    /// The key must have none of these.
    pub if_none_match: Option<Match>,
}

impl Conditions {
    /// True without conditions.
    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    /// True if `If-Match` holds, or is not there.
    pub fn match_holds(&self, found: Option<Tag>) -> bool {
        self.if_match.as_ref().is_none_or(|m| m.matches(found))
    }

    /// True if `If-None-Match` holds, or is not there.
    pub fn none_match_holds(&self, found: Option<Tag>) -> bool {
        self.if_none_match
            .as_ref()
            .is_none_or(|m| !m.matches(found))
    }

    /// Refuses with `precondition-failed` if they do not hold.
    pub fn check(&self, found: Option<Tag>) -> Result<(), Error> {
        let failed = if !self.match_holds(found) {
            "If-Match"
        } else if !self.none_match_holds(found) {
            "If-None-Match"
        } else {
            return Ok(());
        };
        let found = match found {
            Some(tag) => format!("its entity tag is {tag}"),
            None => "there is no such key".to_string(),
        };
        Err(Error::new(
            Code::PreconditionFailed,
            format!("{failed} does not hold: {found}"),
        ))
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{:016x}-{}\"", self.lineage, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Tag = Tag {
        lineage: 0xab,
        revision: 7,
    };

    #[test]
    fn conditions_hold_as_rfc_9110_says() {
        let tags = |tags: &[Tag]| Some(Match::Tags(tags.to_vec()));
        let check = |if_match, if_none_match, found| {
            Conditions {
                if_match,
                if_none_match,
            }
            .check(found)
            .is_ok()
        };
        assert!(check(None, None, None));
        assert!(check(tags(&[A]), None, Some(A)));
        assert!(!check(tags(&[A]), None, None));
        assert!(!check(tags(&[A]), None, Some(Tag { revision: 8, ..A })));
        assert!(!check(tags(&[A]), None, Some(Tag { lineage: 1, ..A })));
        assert!(!check(tags(&[]), None, Some(A)));
        assert!(check(Some(Match::Any), None, Some(A)) && !check(Some(Match::Any), None, None));
        assert!(check(None, Some(Match::Any), None) && !check(None, Some(Match::Any), Some(A)));
        assert!(!check(None, tags(&[A]), Some(A)) && check(None, tags(&[A]), None));
    }

    #[test]
    fn a_tag_is_lineage_and_revision_in_quotes() {
        assert_eq!(A.to_string(), "\"00000000000000ab-7\"");
    }
}
