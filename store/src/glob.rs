//! Glob patterns over bytes, as Redis has them.

use crate::error::{Code, Error, Result};

/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 1024;

/// One step of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This byte.
    Byte(u8),
    /// Any one byte.
    Any,
    /// Any bytes, or none.
    Star,
    /// One byte of these ranges, or of none of them.
    Set {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
}

/// A pattern made ready for matching.
#[derive(Debug, Clone)]
pub(crate) struct Glob {
    tokens: Vec<Token>,
    prefix: Vec<u8>,
}

impl Glob {
    /// Reads a pattern.
    pub fn new(pattern: &[u8]) -> Result<Glob> {
        let refuse = |what: &str| {
            Err(Error::new(
                Code::InvalidArgument,
                format!("pattern: {what}"),
            ))
        };
        if pattern.len() > MAX_PATTERN {
            return refuse("longer than 1,024 bytes");
        }
        let mut tokens = Vec::new();
        let mut rest = pattern.iter().copied();
        while let Some(byte) = rest.next() {
            match byte {
                b'*' if tokens.last() == Some(&Token::Star) => {}
                b'*' => tokens.push(Token::Star),
                b'?' => tokens.push(Token::Any),
                b'\\' => match rest.next() {
                    Some(byte) => tokens.push(Token::Byte(byte)),
                    None => return refuse("ends with a backslash"),
                },
                b'[' => match set(&mut rest) {
                    Some(token) => tokens.push(token),
                    None => return refuse("a [ without its ], or an empty set"),
                },
                byte => tokens.push(Token::Byte(byte)),
            }
        }
        let prefix = tokens
            .iter()
            .map_while(|token| match token {
                Token::Byte(byte) => Some(*byte),
                _ => None,
            })
            .collect();
        Ok(Glob { tokens, prefix })
    }

    /// What every match begins with.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// True if the whole text matches. Takes at most pattern times text steps: after a mismatch
    /// only the last star is tried again, one byte further.
    pub fn matches(&self, text: &[u8]) -> bool {
        let (mut at, mut token) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match (self.tokens.get(token), text.get(at)) {
                (None, None) => return true,
                (Some(Token::Star), _) => {
                    retry = Some((at, token));
                    token += 1;
                    continue;
                }
                (Some(wanted), Some(&byte)) if wanted.matches(byte) => {
                    at += 1;
                    token += 1;
                    continue;
                }
                _ => {}
            }
            match &mut retry {
                Some((from, star)) if *from < text.len() => {
                    *from += 1;
                    at = *from;
                    token = *star + 1;
                }
                _ => return false,
            }
        }
    }
}

impl Token {
    fn matches(&self, byte: u8) -> bool {
        match self {
            Token::Byte(wanted) => *wanted == byte,
            Token::Any => true,
            Token::Star => false,
            Token::Set { negated, ranges } => {
                ranges
                    .iter()
                    .any(|(low, high)| (low..=high).contains(&&byte))
                    != *negated
            }
        }
    }
}

/// Reads a set behind its `[`.
fn set(rest: &mut impl Iterator<Item = u8>) -> Option<Token> {
    let mut next = rest.next()?;
    let negated = matches!(next, b'^' | b'!');
    if negated {
        next = rest.next()?;
    }
    let mut ranges: Vec<(u8, u8)> = Vec::new();
    let mut pending = false;
    loop {
        match next {
            b']' if pending => {
                // A dash at the end means itself.
                ranges.push((b'-', b'-'));
                break;
            }
            b']' => break,
            b'-' if !pending && !ranges.is_empty() => pending = true,
            byte => {
                let byte = if byte == b'\\' { rest.next()? } else { byte };
                match ranges.last_mut() {
                    Some((low, high)) if pending => {
                        (*low, *high) = (byte.min(*low), byte.max(*low));
                        pending = false;
                    }
                    _ => ranges.push((byte, byte)),
                }
            }
        }
        next = rest.next()?;
    }
    (!ranges.is_empty()).then_some(Token::Set { negated, ranges })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let glob = Glob::new(pattern.as_bytes()).unwrap();
        for text in yes {
            assert!(
                glob.matches(text.as_bytes()),
                "{pattern} should match {text}"
            );
            assert!(text.as_bytes().starts_with(glob.prefix()));
        }
        for text in no {
            assert!(!glob.matches(text.as_bytes()), "{pattern} matches {text}");
        }
    }

    #[test]
    fn stars_questions_and_sets_match_like_redis() {
        check("", &[""], &["a"]);
        check("*", &["", "a", "abc"], &[]);
        check("a*", &["a", "ab"], &["", "b", "ba"]);
        check("*a*b", &["ab", "xaxb", "aab", "abab"], &["a", "abx", "ba"]);
        check("h?llo", &["hello", "hallo"], &["hllo", "heello"]);
        check("h[ae]llo", &["hello", "hallo"], &["hillo"]);
        check("h[^e]llo", &["hallo"], &["hello"]);
        check("k[a-c]", &["ka", "kc"], &["kd"]);
        check("k[c-a]", &["kb"], &["kd"]);
        check("k[a-]", &["ka", "k-"], &["kb"]);
        check(r"k\*", &["k*"], &["kx"]);
        check(r"k[\]]", &["k]"], &["k\\"]);
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in ["[", "a[b", "[]", "[^]", "x\\"] {
            let error = Glob::new(pattern.as_bytes()).unwrap_err();
            assert!(error.is(Code::InvalidArgument), "{pattern}");
        }
        assert!(Glob::new(&[b'a'; MAX_PATTERN + 1]).is_err());
    }

    #[test]
    fn a_hostile_pattern_does_not_take_exponential_time() {
        let glob = Glob::new("*a".repeat(500).as_bytes()).unwrap();
        let text = [b"a".repeat(499), b"b".repeat(500)].concat();
        assert!(!glob.matches(&text));
    }
}
