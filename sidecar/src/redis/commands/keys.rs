//! Keys as such: whether they are there, under which name, and how large they are.

use codexstore::{Entry, Scan, Txn};

use super::{SYNTAX, Until, is, put};
use crate::engine::Look;
use crate::redis::command::Outcome;
use crate::redis::number;
use crate::redis::reply::{OK, Reply};
use crate::redis::request::Args;

/// `DEL key …`, `UNLINK key …`
pub fn del(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let mut count = 0;
    for key in args.from(1) {
        count += usize::from(txn.delete(key)?);
    }
    Ok(Reply::count(count))
}

/// `EXISTS key …`, `TOUCH key …`: a key that is named twice counts twice.
pub fn exists(look: &dyn Look, args: Args<'_>) -> Outcome {
    let mut count = 0;
    for key in args.from(1) {
        count += usize::from(look.entry(key)?.is_some());
    }
    Ok(Reply::count(count))
}

/// `TYPE key`
pub fn kind(look: &dyn Look, args: Args<'_>) -> Outcome {
    let there = look.entry(args.get(1))?.is_some();
    Ok(Reply::Simple(if there { "string" } else { "none" }))
}

/// `DBSIZE` within a transaction, for who may see every key.
#[allow(clippy::unnecessary_wraps, reason = "it has the form of all commands")]
pub fn dbsize(txn: &mut Txn<'_>, _: Args<'_>) -> Outcome {
    Ok(Reply::number(txn.len()))
}

const NO_KEY: Reply = Reply::error("ERR no such key");

/// `RENAME key newkey`
pub fn rename(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let (from, to) = (args.get(1), args.get(2));
    let Some(entry) = txn.get(from)? else {
        return Ok(NO_KEY);
    };
    if from != to {
        shift(txn, &entry, to)?;
        txn.delete(from)?;
    }
    Ok(OK)
}

/// `RENAMENX key newkey`
pub fn rename_nx(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let (from, to) = (args.get(1), args.get(2));
    let Some(entry) = txn.get(from)? else {
        return Ok(NO_KEY);
    };
    if txn.get(to)?.is_some() {
        return Ok(Reply::Int(0));
    }
    shift(txn, &entry, to)?;
    txn.delete(from)?;
    Ok(Reply::Int(1))
}

/// `COPY source destination [DB 0] [REPLACE]`
pub fn copy(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let (from, to) = (args.get(1), args.get(2));
    let mut replace = false;
    let mut rest = args.from(3);
    while let Some(word) = rest.next() {
        if is(word, "REPLACE") {
            replace = true;
        } else if is(word, "DB") {
            match rest.next().map(number::integer) {
                None => return Ok(SYNTAX),
                Some(Some(0)) => {}
                Some(_) => return Ok(Reply::error("ERR DB index is out of range")),
            }
        } else {
            return Ok(SYNTAX);
        }
    }
    if from == to {
        return Ok(Reply::error(
            "ERR source and destination objects are the same",
        ));
    }
    let Some(entry) = txn.get(from)? else {
        return Ok(Reply::Int(0));
    };
    if !replace && txn.get(to)?.is_some() {
        return Ok(Reply::Int(0));
    }
    shift(txn, &entry, to)?;
    Ok(Reply::Int(1))
}

/// Sets a key to another's value and expiry.
fn shift(txn: &mut Txn<'_>, from: &Entry, to: &[u8]) -> codexstore::Result<()> {
    let until = from.expires_at().map_or(Until::Always, Until::At);
    put(txn, to, from.value(), until)
}

/// `FLUSHALL`, `FLUSHDB` within a transaction: everything, if it fits one.
pub fn flush(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    if !flush_takes(args) {
        return Ok(SYNTAX);
    }
    loop {
        let page = txn.scan(&Scan {
            limit: 1000,
            ..Scan::default()
        })?;
        for entry in &page.items {
            txn.delete(entry.key())?;
        }
        if page.cursor.is_none() {
            return Ok(OK);
        }
    }
}

/// True if the arguments are those of a flush.
pub fn flush_takes(args: Args<'_>) -> bool {
    match args.len() {
        1 => true,
        2 => is(args.get(1), "SYNC") || is(args.get(1), "ASYNC"),
        _ => false,
    }
}

/// `OBJECT ENCODING key`, `OBJECT REFCOUNT key`
pub fn object(look: &dyn Look, args: Args<'_>) -> Outcome {
    if args.len() != 3 {
        return Ok(Reply::error(
            "ERR OBJECT takes ENCODING or REFCOUNT, and a key",
        ));
    }
    let encoding = is(args.get(1), "ENCODING");
    if !encoding && !is(args.get(1), "REFCOUNT") {
        return Ok(Reply::error(
            "ERR this subcommand of OBJECT is not offered; ENCODING and REFCOUNT are",
        ));
    }
    let Some(entry) = look.entry(args.get(2))? else {
        return Ok(Reply::Null);
    };
    if !encoding {
        return Ok(Reply::Int(1));
    }
    let value = entry.value();
    Ok(Reply::text(if number::integer(value).is_some() {
        "int"
    } else if value.len() <= 44 {
        "embstr"
    } else {
        "raw"
    }))
}

/// `MEMORY USAGE key [SAMPLES count]`
pub fn memory(look: &dyn Look, args: Args<'_>) -> Outcome {
    let samples = args.len() == 5
        && is(args.get(3), "SAMPLES")
        && number::integer(args.get(4)).is_some_and(|count| count >= 0);
    if !is(args.get(1), "USAGE") || !(args.len() == 3 || samples) {
        return Ok(Reply::error(
            "ERR MEMORY takes USAGE and a key; INFO tells about the memory of all",
        ));
    }
    let Some(entry) = look.entry(args.get(2))? else {
        return Ok(Reply::Null);
    };
    // As the store accounts it: its place in a block, or a block of its own.
    let bytes = entry.key().len() + entry.value().len();
    let own = if bytes < 512 { 32 } else { 96 };
    let expiry = entry.expires_at().map_or(0, |_| 128 + entry.key().len());
    Ok(Reply::count(bytes + own + expiry))
}
