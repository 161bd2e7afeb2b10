//! `If-Match` and `If-None-Match` as they are written.

use http::header::{HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};

use super::answer::Reject;
use crate::engine::condition::{Conditions, Match, Tag};

/// Most tags in one header.
const MAX_TAGS: usize = 64;

/// The conditions of a request.
pub fn conditions(headers: &HeaderMap) -> Result<Conditions, Reject> {
    Ok(Conditions {
        if_match: parse(headers, &IF_MATCH, false)?,
        if_none_match: parse(headers, &IF_NONE_MATCH, true)?,
    })
}

/// Reads all lines of one header. `weak`: weak tags compare like strong ones (`If-None-Match`);
/// else they match nothing (`If-Match`), RFC 9110, 8.8.3.2.
fn parse(headers: &HeaderMap, name: &HeaderName, weak: bool) -> Result<Option<Match>, Reject> {
    let mut tags = Vec::new();
    let mut any = false;
    let mut seen = 0;
    for line in headers.get_all(name) {
        let wrong = || {
            let form = "is * or a list of entity tags in double quotes";
            Reject::new("invalid-argument", format!("{name} {form}"))
        };
        let mut rest = line.to_str().map_err(|_| wrong())?.trim();
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            seen += 1;
            if let Some(after) = rest.strip_prefix('*') {
                any = true;
                rest = after;
            } else {
                let strong = rest.strip_prefix("W/");
                let quoted = strong.unwrap_or(rest).strip_prefix('"').ok_or_else(wrong)?;
                let (opaque, after) = quoted.split_once('"').ok_or_else(wrong)?;
                if (weak || strong.is_none())
                    && let Some(tag) = ours(opaque)
                {
                    tags.push(tag);
                }
                rest = after;
            }
            rest = match rest.trim_start() {
                "" => "",
                more => more.strip_prefix(',').ok_or_else(wrong)?.trim_start(),
            };
        }
        if (any && seen > 1) || seen > MAX_TAGS {
            return Err(wrong());
        }
    }
    Ok(match (seen, any) {
        (0, _) => None,
        (_, true) => Some(Match::Any),
        (_, false) => Some(Match::Tags(tags)),
    })
}

/// The tag in the form that we give out; another form is not an error, it matches nothing.
pub fn ours(opaque: &str) -> Option<Tag> {
    let (lineage, revision) = opaque.split_once('-')?;
    if lineage.len() != 16 {
        return None;
    }
    let tag = Tag {
        lineage: u64::from_str_radix(lineage, 16).ok()?,
        revision: revision.parse().ok()?,
    };
    (tag.to_string().trim_matches('"') == opaque).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &HeaderName, lines: &[&str]) -> Result<Conditions, Reject> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), line.parse().unwrap());
        }
        conditions(&headers)
    }

    const TAG: Tag = Tag {
        lineage: 0xab,
        revision: 7,
    };
    const TEXT: &str = "\"00000000000000ab-7\"";

    #[test]
    fn tags_are_read_from_lists_and_several_lines() {
        let one = read(&IF_MATCH, &[TEXT]).unwrap();
        assert_eq!(one.if_match, Some(Match::Tags(vec![TAG])));
        let more = read(&IF_MATCH, &[&format!("\"x,y\" , {TEXT}"), TEXT]).unwrap();
        assert_eq!(more.if_match, Some(Match::Tags(vec![TAG, TAG])));
        assert_eq!(read(&IF_MATCH, &["*"]).unwrap().if_match, Some(Match::Any));
        assert_eq!(read(&IF_MATCH, &[]).unwrap(), Conditions::default());
    }

    #[test]
    fn weak_tags_count_only_for_if_none_match() {
        let weak = format!("W/{TEXT}");
        let tags = |m| Some(Match::Tags(m));
        assert_eq!(read(&IF_MATCH, &[&weak]).unwrap().if_match, tags(vec![]));
        assert_eq!(
            read(&IF_NONE_MATCH, &[&weak]).unwrap().if_none_match,
            tags(vec![TAG])
        );
    }

    #[test]
    fn a_foreign_tag_matches_nothing_and_a_malformed_header_is_an_error() {
        for foreign in [
            "\"abc\"",
            "\"ab-7\"",
            "\"00000000000000AB-7\"",
            "\"00000000000000ab-07\"",
        ] {
            assert_eq!(
                read(&IF_MATCH, &[foreign]).unwrap().if_match,
                Some(Match::Tags(vec![]))
            );
        }
        for bad in ["", "abc", "\"abc", "\"a\" \"b\"", "*, \"a\"", "7"] {
            assert!(read(&IF_MATCH, &[bad]).is_err(), "{bad}");
        }
    }
}
