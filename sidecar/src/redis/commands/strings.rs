//! Values: set, told, and changed in part.

use bytes::Bytes;
use codexstore::Txn;

use super::expiry::{Clock, Unit, moment};
use super::{NOT_INTEGER, SYNTAX, Until, is, put};
use crate::engine::Look;
use crate::redis::command::Outcome;
use crate::redis::number;
use crate::redis::reply::{OK, Reply};
use crate::redis::request::Args;

/// `GET key`
pub fn get(look: &dyn Look, args: Args<'_>) -> Outcome {
    Ok(Reply::value(look.entry(args.get(1))?))
}

/// `MGET key …`
pub fn mget(look: &dyn Look, args: Args<'_>) -> Outcome {
    let one = |key| Ok(Reply::value(look.entry(key)?));
    let values: codexstore::Result<Vec<Reply>> = args.from(1).map(one).collect();
    Ok(Reply::Array(values?))
}

/// `STRLEN key`
pub fn strlen(look: &dyn Look, args: Args<'_>) -> Outcome {
    let entry = look.entry(args.get(1))?;
    Ok(Reply::count(entry.map_or(0, |entry| entry.value().len())))
}

/// `GETRANGE key start end`: both ends included, negative ones counted from the end.
pub fn get_range(look: &dyn Look, args: Args<'_>) -> Outcome {
    let (Some(start), Some(end)) = (number::integer(args.get(2)), number::integer(args.get(3)))
    else {
        return Ok(NOT_INTEGER);
    };
    let empty = Reply::Bulk(Bytes::new());
    let Some(entry) = look.entry(args.get(1))? else {
        return Ok(empty);
    };
    let value = entry.bytes();
    let len = i64::try_from(value.len()).unwrap_or(i64::MAX);
    if start < 0 && end < 0 && start > end {
        return Ok(empty);
    }
    let place = |at: i64| if at < 0 { (len + at).max(0) } else { at };
    let (start, end) = (place(start), place(end).min(len - 1));
    if start > end || len == 0 {
        return Ok(empty);
    }
    let range = usize::try_from(start).unwrap_or(0)..usize::try_from(end + 1).unwrap_or(0);
    Ok(Reply::Bulk(value.slice(range)))
}

/// When to set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum If<'a> {
    Always,
    Absent,
    Present,
    /// The value is this.
    Is(&'a [u8]),
}

/// What follows key and value in `SET`.
struct Options<'a> {
    condition: If<'a>,
    tell: bool,
    until: Until,
}

impl<'a> Options<'a> {
    fn parse(args: Args<'a>, now: u64) -> Result<Options<'a>, Reply> {
        let mut options = Options {
            condition: If::Always,
            tell: false,
            until: Until::Always,
        };
        // Looked at last, as in Redis: that all of it can be read is more than that it means something.
        let mut expiry = None;
        let mut rest = args.from(3);
        while let Some(word) = rest.next() {
            let condition = if is(word, "NX") {
                If::Absent
            } else if is(word, "XX") {
                If::Present
            } else if is(word, "IFEQ") {
                If::Is(rest.next().ok_or(SYNTAX)?)
            } else if is(word, "GET") {
                options.tell = true;
                continue;
            } else if is(word, "KEEPTTL") && expiry.is_none() {
                options.until = Until::AsBefore;
                continue;
            } else {
                let kind = expiry_word(word).ok_or(SYNTAX)?;
                let another = expiry.is_some_and(|(_, before)| before != kind);
                if another || options.until == Until::AsBefore {
                    return Err(SYNTAX);
                }
                expiry = Some((rest.next().ok_or(SYNTAX)?, kind));
                continue;
            };
            if options.condition != If::Always && options.condition != condition {
                return Err(SYNTAX);
            }
            options.condition = condition;
        }
        if let Some((time, (unit, clock))) = expiry {
            options.until = Until::At(moment(time, unit, clock, now, "set")?);
        }
        Ok(options)
    }
}

/// The words that say when something expires.
fn expiry_word(word: &[u8]) -> Option<(Unit, Clock)> {
    if is(word, "EX") {
        Some((Unit::Seconds, Clock::FromNow))
    } else if is(word, "PX") {
        Some((Unit::Millis, Clock::FromNow))
    } else if is(word, "EXAT") {
        Some((Unit::Seconds, Clock::Wall))
    } else if is(word, "PXAT") {
        Some((Unit::Millis, Clock::Wall))
    } else {
        None
    }
}

/// `SET key value [NX | XX | IFEQ value] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]`
pub fn set(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let (key, value) = (args.get(1), args.get(2));
    if args.len() == 3 {
        txn.set(key, value)?;
        return Ok(OK);
    }
    let options = match Options::parse(args, txn.now_ms()) {
        Ok(options) => options,
        Err(error) => return Ok(error),
    };
    let old = txn.get(key)?;
    let holds = match options.condition {
        If::Always => true,
        If::Absent => old.is_none(),
        If::Present => old.is_some(),
        If::Is(wanted) => old.as_ref().is_some_and(|entry| entry.value() == wanted),
    };
    if holds {
        put(txn, key, value, options.until)?;
    }
    Ok(match (options.tell, holds) {
        (true, _) => Reply::value(old),
        (false, true) => OK,
        (false, false) => Reply::Null,
    })
}

/// `SETNX key value`
pub fn set_nx(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let free = txn.get(args.get(1))?.is_none();
    if free {
        txn.set(args.get(1), args.get(2))?;
    }
    Ok(Reply::flag(free))
}

/// `SETEX key seconds value`
pub fn set_ex(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    set_for(txn, args, Unit::Seconds, "setex")
}

/// `PSETEX key milliseconds value`
pub fn pset_ex(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    set_for(txn, args, Unit::Millis, "psetex")
}

fn set_for(txn: &mut Txn<'_>, args: Args<'_>, unit: Unit, name: &str) -> Outcome {
    match moment(args.get(2), unit, Clock::FromNow, txn.now_ms(), name) {
        Ok(at) => {
            put(txn, args.get(1), args.get(3), Until::At(at))?;
            Ok(OK)
        }
        Err(error) => Ok(error),
    }
}

/// `GETSET key value`
pub fn get_set(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let old = txn.get(args.get(1))?;
    txn.set(args.get(1), args.get(2))?;
    Ok(Reply::value(old))
}

/// `GETDEL key`
pub fn get_del(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let old = txn.get(args.get(1))?;
    txn.delete(args.get(1))?;
    Ok(Reply::value(old))
}

/// `GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]`
pub fn get_ex(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let key = args.get(1);
    let until = match args.len() {
        2 => None,
        3 if is(args.get(2), "PERSIST") => Some(Until::Always),
        4 => {
            let Some((unit, clock)) = expiry_word(args.get(2)) else {
                return Ok(SYNTAX);
            };
            match moment(args.get(3), unit, clock, txn.now_ms(), "getex") {
                Ok(at) => Some(Until::At(at)),
                Err(error) => return Ok(error),
            }
        }
        _ => return Ok(SYNTAX),
    };
    let Some(entry) = txn.get(key)? else {
        return Ok(Reply::Null);
    };
    match until {
        None => {}
        Some(Until::Always) if entry.expires_at().is_none() => {}
        Some(until) => put(txn, key, entry.value(), until)?,
    }
    Ok(Reply::Value(entry))
}

/// `MSET key value …`
pub fn mset(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    if args.len().is_multiple_of(2) {
        return Ok(Reply::error(
            "ERR wrong number of arguments for 'mset' command",
        ));
    }
    set_all(txn, args)?;
    Ok(OK)
}

/// `MSETNX key value …`
pub fn mset_nx(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    if args.len().is_multiple_of(2) {
        return Ok(Reply::error(
            "ERR wrong number of arguments for 'msetnx' command",
        ));
    }
    for key in args.from(1).step_by(2) {
        if txn.get(key)?.is_some() {
            return Ok(Reply::Int(0));
        }
    }
    set_all(txn, args)?;
    Ok(Reply::Int(1))
}

fn set_all(txn: &mut Txn<'_>, args: Args<'_>) -> codexstore::Result<()> {
    let values = args.from(2).step_by(2);
    for (key, value) in args.from(1).step_by(2).zip(values) {
        txn.set(key, value)?;
    }
    Ok(())
}

/// `APPEND key value`
pub fn append(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let key = args.get(1);
    let whole = match txn.get(key)? {
        Some(entry) => [entry.value(), args.get(2)].concat(),
        None => args.get(2).to_vec(),
    };
    put(txn, key, &whole, Until::AsBefore)?;
    Ok(Reply::count(whole.len()))
}

/// `SETRANGE key offset value`: what lies before it and is not there becomes zero bytes.
pub fn set_range(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let (key, part) = (args.get(1), args.get(3));
    let Some(offset) = number::integer(args.get(2)) else {
        return Ok(NOT_INTEGER);
    };
    let Ok(offset) = usize::try_from(offset) else {
        return Ok(Reply::error("ERR offset is out of range"));
    };
    let old = txn.get(key)?;
    let old = old.as_ref().map_or(&[][..], |entry| entry.value());
    if part.is_empty() {
        return Ok(Reply::count(old.len()));
    }
    // Looked at before there is memory for it.
    let most = txn.max_value();
    let Some(end) = offset.checked_add(part.len()).filter(|end| *end <= most) else {
        return Ok(Reply::error(
            "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
        ));
    };
    let mut whole = old.to_vec();
    whole.resize(whole.len().max(end), 0);
    if let Some(place) = whole.get_mut(offset..end) {
        place.copy_from_slice(part);
    }
    put(txn, key, &whole, Until::AsBefore)?;
    Ok(Reply::count(whole.len()))
}
