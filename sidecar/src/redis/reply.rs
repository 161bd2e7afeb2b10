//! Answers, and how they are written in either version of the protocol.

use std::borrow::Cow;

use bytes::Bytes;
use codexstore::Entry;

use super::outbox::Outbox;
use crate::metrics::Outcome;
use crate::trace::span::RedisError;

/// Version of the protocol that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// What a connection begins with.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// An answer.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A short word, such as `OK`.
    Simple(&'static str),
    /// An integer.
    Int(i64),
    /// Nothing.
    Null,
    /// Nothing, where an array was expected.
    NullArray,
    /// The value of an entry.
    Value(Entry),
    /// Bytes.
    Bulk(Bytes),
    /// Text.
    Text(Cow<'static, str>),
    /// Lines for people.
    Verbatim(String),
    /// An error: its first word is what programs look at.
    Error(Cow<'static, str>),
    /// Several.
    Array(Vec<Reply>),
    /// Several, in no order.
    Set(Vec<Reply>),
    /// Names and what they stand for.
    Map(Vec<(Reply, Reply)>),
}

/// First words of errors that no code of the table has.
const PREFIXES: [&str; 3] = ["EXECABORT", "NOPROTO", "WRONGPASS"];

/// `OK`.
pub const OK: Reply = Reply::Simple("OK");

impl Reply {
    /// An error that is always the same.
    pub const fn error(text: &'static str) -> Reply {
        Reply::Error(Cow::Borrowed(text))
    }

    /// An error of the store: its prefix, its message, its code.
    pub fn failed(error: &codexstore::Error) -> Reply {
        let row = codexstore_api::codes::row(error.code());
        Reply::Error(format!("{} {} ({})", row.redis, error.message(), error.code()).into())
    }

    /// Text.
    pub fn text(text: impl Into<Cow<'static, str>>) -> Reply {
        Reply::Text(text.into())
    }

    /// A count.
    pub fn count(count: usize) -> Reply {
        Reply::Int(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// A number that is never negative.
    pub fn number(number: u64) -> Reply {
        Reply::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }

    /// 1 or 0.
    pub fn flag(flag: bool) -> Reply {
        Reply::Int(i64::from(flag))
    }

    /// The value of an entry, or nothing.
    pub fn value(entry: Option<Entry>) -> Reply {
        entry.map_or(Reply::Null, Reply::Value)
    }

    /// True for an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_))
    }

    /// Of an error, the words that are ours: its first, and its code. The rest may tell what a client sent.
    pub fn words(&self) -> Option<RedisError> {
        let Reply::Error(text) = self else {
            return None;
        };
        let first = text.split(' ').next();
        let code = text
            .strip_suffix(')')
            .and_then(|text| text.rsplit_once('('));
        let code = code.map(|(_, code)| code);
        let table = codexstore_api::codes::TABLE.iter();
        let mut prefixes = table.clone().map(|row| row.redis).chain(PREFIXES);
        let mut codes = table.map(|row| row.code);
        Some(RedisError {
            prefix: prefixes
                .find(|known| Some(*known) == first)
                .unwrap_or("ERR"),
            code: codes.find(|known| Some(*known) == code),
            failed: self.outcome() == Outcome::Failed,
        })
    }

    /// As what it is counted.
    pub fn outcome(&self) -> Outcome {
        match self {
            Reply::Null | Reply::NullArray => Outcome::NotFound,
            Reply::Error(text) if text.ends_with("-unknown)") => Outcome::Failed,
            Reply::Error(text) if text.starts_with("ERR ") => Outcome::Refused,
            Reply::Error(text) if text.starts_with("EXECABORT ") => Outcome::Refused,
            Reply::Error(_) => Outcome::Failed,
            _ => Outcome::Ok,
        }
    }

    /// About how many bytes it takes to write.
    pub fn size(&self) -> usize {
        const HEAD: usize = 16;
        let sum = |replies: &[Reply]| replies.iter().map(Reply::size).sum::<usize>();
        HEAD + match self {
            Reply::Value(entry) => entry.value().len(),
            Reply::Bulk(bytes) => bytes.len(),
            Reply::Text(text) | Reply::Error(text) => text.len(),
            Reply::Verbatim(text) => text.len(),
            Reply::Array(replies) | Reply::Set(replies) => sum(replies),
            Reply::Map(pairs) => pairs.iter().map(|(a, b)| a.size() + b.size()).sum(),
            _ => 0,
        }
    }

    /// Writes it.
    pub fn write(self, version: Version, out: &mut Outbox) {
        let new = version == Version::Resp3;
        match self {
            Reply::Simple(text) => out.parts(&[b"+", text.as_bytes(), b"\r\n"]),
            Reply::Int(number) => head(out, b':', number),
            Reply::Null | Reply::NullArray if new => out.parts(&[b"_\r\n"]),
            Reply::Null => out.parts(&[b"$-1\r\n"]),
            Reply::NullArray => out.parts(&[b"*-1\r\n"]),
            Reply::Value(entry) => {
                length(out, b'$', entry.value().len());
                out.value(entry);
                out.parts(&[b"\r\n"]);
            }
            Reply::Bulk(bytes) => bulk(out, &bytes),
            Reply::Text(text) => bulk(out, text.as_bytes()),
            Reply::Verbatim(text) if new => {
                length(out, b'=', text.len() + 4);
                out.parts(&[b"txt:", text.as_bytes(), b"\r\n"]);
            }
            Reply::Verbatim(text) => bulk(out, text.as_bytes()),
            Reply::Error(text) => error(out, &text),
            Reply::Array(replies) => {
                length(out, b'*', replies.len());
                all(replies, version, out);
            }
            Reply::Set(replies) => {
                length(out, if new { b'~' } else { b'*' }, replies.len());
                all(replies, version, out);
            }
            Reply::Map(pairs) => {
                let (kind, count) = if new {
                    (b'%', pairs.len())
                } else {
                    (b'*', pairs.len() * 2)
                };
                length(out, kind, count);
                for (name, value) in pairs {
                    name.write(version, out);
                    value.write(version, out);
                }
            }
        }
    }
}

fn all(replies: Vec<Reply>, version: Version, out: &mut Outbox) {
    for reply in replies {
        reply.write(version, out);
    }
}

fn bulk(out: &mut Outbox, bytes: &[u8]) {
    length(out, b'$', bytes.len());
    out.parts(&[bytes, b"\r\n"]);
}

/// An error is one line, whatever its text is.
fn error(out: &mut Outbox, text: &str) {
    let line = |c: char| if c.is_control() { ' ' } else { c };
    let clean = if text.contains(char::is_control) {
        Cow::Owned(text.chars().map(line).collect())
    } else {
        Cow::Borrowed(text)
    };
    out.parts(&[b"-", clean.as_bytes(), b"\r\n"]);
}

fn length(out: &mut Outbox, kind: u8, len: usize) {
    head(out, kind, i64::try_from(len).unwrap_or(i64::MAX));
}

fn head(out: &mut Outbox, kind: u8, number: i64) {
    let mut digits = itoa::Buffer::new();
    out.parts(&[&[kind], digits.format(number).as_bytes(), b"\r\n"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reply: &Reply, old: &str, new: &str) {
        for (version, expected) in [(Version::Resp2, old), (Version::Resp3, new)] {
            let mut out = Outbox::default();
            reply.clone().write(version, &mut out);
            assert_eq!(String::from_utf8(out.bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn each_kind_of_answer_in_both_versions() {
        check(&OK, "+OK\r\n", "+OK\r\n");
        check(&Reply::Int(-7), ":-7\r\n", ":-7\r\n");
        check(&Reply::Null, "$-1\r\n", "_\r\n");
        check(&Reply::NullArray, "*-1\r\n", "_\r\n");
        let bulk = Reply::Bulk(Bytes::from_static(b"a\r\n"));
        check(&bulk, "$3\r\na\r\n\r\n", "$3\r\na\r\n\r\n");
        check(
            &Reply::Verbatim("hi".to_owned()),
            "$2\r\nhi\r\n",
            "=6\r\ntxt:hi\r\n",
        );
        check(
            &Reply::Error("ERR a\r\nb".into()),
            "-ERR a  b\r\n",
            "-ERR a  b\r\n",
        );
        let pair = (Reply::text("a"), Reply::Int(1));
        check(
            &Reply::Map(vec![pair]),
            "*2\r\n$1\r\na\r\n:1\r\n",
            "%1\r\n$1\r\na\r\n:1\r\n",
        );
        let set = Reply::Set(vec![Reply::Array(vec![])]);
        check(&set, "*1\r\n*0\r\n", "~1\r\n*0\r\n");
    }

    #[test]
    fn of_an_error_only_words_that_are_ours_are_told() {
        use codexstore::{Code, Error};
        let words = |reply: Reply| {
            let words = reply.words()?;
            Some((words.prefix, words.code, words.failed))
        };
        let failed = |code| words(Reply::failed(&Error::new(code, "canary (x)")));
        assert_eq!(
            failed(Code::DiskFull),
            Some(("MISCONF", Some("disk-full"), true))
        );
        assert_eq!(
            failed(Code::OutcomeUnknown),
            Some(("ERR", Some("outcome-unknown"), true))
        );
        for (text, prefix) in [
            ("ERR unknown command 'canary'", "ERR"),
            ("ERR canary (canary)", "ERR"),
            ("EXECABORT canary", "EXECABORT"),
        ] {
            assert_eq!(
                words(Reply::error(text)),
                Some((prefix, None, false)),
                "{text}"
            );
        }
        let odd = words(Reply::error("canary"));
        assert_eq!(odd.map(|odd| odd.0), Some("ERR"));
        assert_eq!(words(OK), None);
        assert_eq!(words(Reply::Null), None);
    }

    #[test]
    fn an_error_of_the_store_says_its_code_behind_a_word_that_clients_know() {
        use codexstore::{Code, Error};
        let text = |code| match Reply::failed(&Error::new(code, "why")) {
            Reply::Error(text) => text.into_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(text(Code::MemoryFull), "OOM why (memory-full)");
        assert_eq!(text(Code::DiskFull), "MISCONF why (disk-full)");
        assert_eq!(text(Code::Poisoned), "MISCONF why (poisoned)");
        assert_eq!(text(Code::Overloaded), "BUSY why (overloaded)");
        assert_eq!(text(Code::OutcomeUnknown), "ERR why (outcome-unknown)");
    }
}
