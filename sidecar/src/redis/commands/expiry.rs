//! When keys expire.

use codexstore::Txn;

use super::{NOT_INTEGER, is};
use crate::engine::Look;
use crate::redis::command::Outcome;
use crate::redis::number;
use crate::redis::reply::Reply;
use crate::redis::request::Args;

/// In what a time is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Millis,
}

/// From when a time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// From now on.
    FromNow,
    /// From 1970 on.
    Wall,
}

/// The millisecond since 1970 that an argument means; it may be over.
fn at(time: i64, unit: Unit, clock: Clock, now: u64) -> Option<i64> {
    let millis = match unit {
        Unit::Seconds => time.checked_mul(1000)?,
        Unit::Millis => time,
    };
    match clock {
        Clock::FromNow => millis.checked_add(i64::try_from(now).ok()?),
        Clock::Wall => Some(millis),
    }
}

/// The millisecond since 1970 that an argument means, which must be above zero.
pub fn moment(
    argument: &[u8],
    unit: Unit,
    clock: Clock,
    now: u64,
    name: &str,
) -> Result<u64, Reply> {
    let time = number::integer(argument).ok_or(NOT_INTEGER)?;
    let moment = (time > 0).then(|| at(time, unit, clock, now)).flatten();
    moment
        .and_then(|at| u64::try_from(at).ok())
        .ok_or_else(|| invalid(name))
}

fn invalid(name: &str) -> Reply {
    Reply::Error(format!("ERR invalid expire time in '{name}' command").into())
}

/// `EXPIRE key seconds [NX | XX | GT | LT]`
pub fn expire(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    change(txn, args, Unit::Seconds, Clock::FromNow, "expire")
}

/// `PEXPIRE key milliseconds [NX | XX | GT | LT]`
pub fn pexpire(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    change(txn, args, Unit::Millis, Clock::FromNow, "pexpire")
}

/// `EXPIREAT key second [NX | XX | GT | LT]`
pub fn expire_at(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    change(txn, args, Unit::Seconds, Clock::Wall, "expireat")
}

/// `PEXPIREAT key millisecond [NX | XX | GT | LT]`
pub fn pexpire_at(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    change(txn, args, Unit::Millis, Clock::Wall, "pexpireat")
}

/// Which expiry a new one may replace.
#[derive(Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a word of the command"
)]
struct Only {
    none: bool,
    some: bool,
    later: bool,
    sooner: bool,
}

impl Only {
    fn parse(args: Args<'_>) -> Result<Only, Reply> {
        let mut only = Only::default();
        for word in args.from(3) {
            if is(word, "NX") {
                only.none = true;
            } else if is(word, "XX") {
                only.some = true;
            } else if is(word, "GT") {
                only.later = true;
            } else if is(word, "LT") {
                only.sooner = true;
            } else {
                return Err(Reply::error("ERR Unsupported option"));
            }
        }
        if only.none && (only.some || only.later || only.sooner) {
            return Err(Reply::error(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if only.later && only.sooner {
            return Err(Reply::error(
                "ERR GT and LT options at the same time are not compatible",
            ));
        }
        Ok(only)
    }

    /// True if `new` may replace `old`; a key without expiry lasts for ever.
    fn permits(&self, old: Option<u64>, new: i64) -> bool {
        let old = old.map(|old| i64::try_from(old).unwrap_or(i64::MAX));
        let refused = (self.none && old.is_some())
            || (self.some && old.is_none())
            || (self.later && old.is_none_or(|old| new <= old))
            || (self.sooner && old.is_some_and(|old| new >= old));
        !refused
    }
}

fn change(txn: &mut Txn<'_>, args: Args<'_>, unit: Unit, clock: Clock, name: &str) -> Outcome {
    let only = match Only::parse(args) {
        Ok(only) => only,
        Err(error) => return Ok(error),
    };
    let Some(time) = number::integer(args.get(2)) else {
        return Ok(NOT_INTEGER);
    };
    let now = txn.now_ms();
    let Some(new) = at(time, unit, clock, now) else {
        return Ok(invalid(name));
    };
    let key = args.get(1);
    let Some(entry) = txn.get(key)? else {
        return Ok(Reply::Int(0));
    };
    if !only.permits(entry.expires_at(), new) {
        return Ok(Reply::Int(0));
    }
    match u64::try_from(new) {
        Ok(new) if new > now => txn.expire_at(key, Some(new))?,
        _ => txn.delete(key)?,
    };
    Ok(Reply::Int(1))
}

/// `PERSIST key`
pub fn persist(txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    let key = args.get(1);
    let expires = txn
        .get(key)?
        .is_some_and(|entry| entry.expires_at().is_some());
    if expires {
        txn.expire_at(key, None)?;
    }
    Ok(Reply::flag(expires))
}

/// `TTL key`
pub fn ttl(look: &dyn Look, args: Args<'_>) -> Outcome {
    left(look, args, |at, now| (at.saturating_sub(now) + 500) / 1000)
}

/// `PTTL key`
pub fn pttl(look: &dyn Look, args: Args<'_>) -> Outcome {
    left(look, args, u64::saturating_sub)
}

/// `EXPIRETIME key`
pub fn expire_time(look: &dyn Look, args: Args<'_>) -> Outcome {
    left(look, args, |at, _| at.saturating_add(500) / 1000)
}

/// `PEXPIRETIME key`
pub fn pexpire_time(look: &dyn Look, args: Args<'_>) -> Outcome {
    left(look, args, |at, _| at)
}

/// What to tell of an expiry: -2 without the key, -1 without an expiry.
fn left(look: &dyn Look, args: Args<'_>, tell: impl FnOnce(u64, u64) -> u64) -> Outcome {
    let entry = look.entry(args.get(1))?;
    Ok(match entry.map(|entry| entry.expires_at()) {
        None => Reply::Int(-2),
        Some(None) => Reply::Int(-1),
        Some(Some(at)) => Reply::number(tell(at, look.now_ms())),
    })
}
