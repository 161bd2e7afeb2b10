//! `COMMAND`: the table, told to those who ask.

use super::command::flag::{ADMIN, FAST, GROWS, LOADING, NO_MULTI, READ, WRITE};
use super::command::{Command, verb};
use super::commands::{SYNTAX, is};
use super::reply::Reply;
use super::request::Args;
use super::table;

/// `COMMAND [COUNT | LIST | INFO name … | DOCS name … | GETKEYS command …]`
pub fn command(args: Args<'_>) -> Reply {
    let what = args.get(1);
    let names = args.from(2);
    if args.len() == 1 {
        return Reply::Array(table::offered().map(shape).collect());
    }
    if is(what, "COUNT") && args.len() == 2 {
        return Reply::count(table::offered().len());
    }
    if is(what, "LIST") && args.len() == 2 {
        return Reply::Array(table::offered().map(|c| Reply::text(c.name)).collect());
    }
    if is(what, "INFO") {
        if args.len() == 2 {
            return Reply::Array(table::offered().map(shape).collect());
        }
        let known = |name| known(name).map_or(Reply::NullArray, shape);
        return Reply::Array(names.map(known).collect());
    }
    if is(what, "DOCS") {
        if args.len() == 2 {
            return Reply::Map(table::offered().map(document).collect());
        }
        return Reply::Map(names.filter_map(known).map(document).collect());
    }
    if is(what, "GETKEYS") && args.len() > 2 {
        return keys(args);
    }
    SYNTAX
}

fn known(name: &[u8]) -> Option<&'static Command> {
    table::find(name).filter(|command| command.offered())
}

fn keys(args: Args<'_>) -> Reply {
    let inner = args.behind(2);
    let Some(command) = known(inner.get(0)) else {
        return Reply::error("ERR Invalid command specified");
    };
    if !command.takes(inner.len()) {
        return Reply::error("ERR Invalid number of arguments specified for command");
    }
    let keys: Vec<Reply> = command
        .keys_of(inner)
        .map(|key| Reply::Bulk(bytes::Bytes::copy_from_slice(key)))
        .collect();
    if keys.is_empty() {
        return Reply::error("ERR The command has no key arguments");
    }
    Reply::Array(keys)
}

/// Name, arity, flags, keys, categories; what Redis 7 adds behind them is empty.
fn shape(command: &'static Command) -> Reply {
    let (first, last, step) = command.keys;
    Reply::Array(vec![
        Reply::text(command.name),
        Reply::Int(command.arity.into()),
        Reply::Set(flags(command)),
        Reply::Int(first.into()),
        Reply::Int(last.into()),
        Reply::Int(step.into()),
        Reply::Set(categories(command)),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
    ])
}

fn flags(command: &Command) -> Vec<Reply> {
    let names = [
        (WRITE, "write"),
        (READ, "readonly"),
        (GROWS, "denyoom"),
        (ADMIN, "admin"),
        (LOADING, "loading"),
        (NO_MULTI, "no_multi"),
        (FAST, "fast"),
    ];
    let is = names.iter().filter(|(flag, _)| command.is(*flag));
    is.map(|(_, name)| Reply::Simple(name)).collect()
}

/// What a caller must be allowed, in the words of Redis.
fn categories(command: &Command) -> Vec<Reply> {
    let group = match command.group {
        "string" => "@string",
        "generic" => "@keyspace",
        "connection" => "@connection",
        "transactions" => "@transaction",
        _ => "@server",
    };
    let all = [
        (command.verbs & verb::READ != 0, "@read"),
        (command.verbs & (verb::WRITE | verb::FLUSH) != 0, "@write"),
        (command.verbs & verb::FLUSH != 0, "@dangerous"),
        (command.is(ADMIN), "@admin"),
        (command.is(FAST), "@fast"),
        (!command.is(FAST), "@slow"),
        (true, group),
    ];
    let is = all.iter().filter(|(is, _)| *is);
    is.map(|(_, name)| Reply::Simple(name)).collect()
}

fn document(command: &'static Command) -> (Reply, Reply) {
    let facts = [
        ("summary", command.summary),
        ("since", command.since),
        ("group", command.group),
    ];
    let facts = facts.map(|(name, value)| (Reply::text(name), Reply::text(value)));
    (Reply::text(command.name), Reply::Map(facts.into()))
}
