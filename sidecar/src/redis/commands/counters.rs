//! Counters. They are programs in the committer: a counter that many write needs no second try.

use codexstore::Txn;

use super::{NOT_INTEGER, Until, put};
use crate::redis::command::Outcome;
use crate::redis::number::{self, Decimal};
use crate::redis::reply::Reply;
use crate::redis::request::Args;

const OVERFLOW: Reply = Reply::error("ERR increment or decrement would overflow");

/// `INCR key`
pub fn incr(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    add(txn, args.get(1), 1)
}

/// `DECR key`
pub fn decr(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    add(txn, args.get(1), -1)
}

/// `INCRBY key number`
pub fn incr_by(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    match number::integer(args.get(2)) {
        Some(by) => add(txn, args.get(1), by),
        None => Ok(NOT_INTEGER),
    }
}

/// `DECRBY key number`
pub fn decr_by(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let Some(by) = number::integer(args.get(2)) else {
        return Ok(NOT_INTEGER);
    };
    match by.checked_neg() {
        Some(by) => add(txn, args.get(1), by),
        None => Ok(Reply::error("ERR decrement would overflow")),
    }
}

fn add(txn: &mut Txn<'_>, key: &[u8], by: i64) -> Outcome {
    let old = match txn.get(key)? {
        Some(entry) => number::integer(entry.value()),
        None => Some(0),
    };
    let Some(old) = old else {
        return Ok(NOT_INTEGER);
    };
    let Some(new) = old.checked_add(by) else {
        return Ok(OVERFLOW);
    };
    let mut digits = itoa::Buffer::new();
    put(txn, key, digits.format(new).as_bytes(), Until::AsBefore)?;
    Ok(Reply::Int(new))
}

/// `INCRBYFLOAT key number`
pub fn incr_by_float(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    const NO_FLOAT: Reply = Reply::error("ERR value is not a valid float");
    let key = args.get(1);
    let old = match txn.get(key)? {
        Some(entry) => Decimal::parse(entry.value()),
        None => Some(Decimal::Exact(0)),
    };
    let (Some(old), Some(by)) = (old, Decimal::parse(args.get(2))) else {
        return Ok(NO_FLOAT);
    };
    let Some(new) = old.plus(by) else {
        return Ok(Reply::error("ERR increment would produce NaN or Infinity"));
    };
    let text = new.to_string();
    put(txn, key, text.as_bytes(), Until::AsBefore)?;
    Ok(Reply::text(text))
}
