//! All commands: the one place that says what each is called, takes, needs and does.

use super::command::flag::{ADMIN, FAST, GROWS, IN_TURN, LOADING, NO_MULTI, READ, WRITE};
use super::command::{Command, Long, Run, Session, verb};
use super::commands::{counters, expiry, keys, strings};

/// Longest name of a command.
const MAX_NAME: usize = 20;

/// The command of that name, in whatever case.
pub fn find(name: &[u8]) -> Option<&'static Command> {
    let mut lower = [0; MAX_NAME];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let known = |table: &'static [Command]| {
        let at = table.binary_search_by(|command| command.name.as_bytes().cmp(lower));
        at.ok().and_then(|at| table.get(at))
    };
    known(TABLE).or_else(|| {
        super::refused::TABLE
            .iter()
            .find(|c| c.name.as_bytes() == lower)
    })
}

/// The commands that are offered.
pub fn offered() -> impl ExactSizeIterator<Item = &'static Command> {
    TABLE.iter()
}

const NONE: (i8, i8, i8) = (0, 0, 0);
const ONE: (i8, i8, i8) = (1, 1, 1);
const SECOND: (i8, i8, i8) = (2, 2, 1);
const TWO: (i8, i8, i8) = (1, 2, 1);
const ALL: (i8, i8, i8) = (1, -1, 1);
const PAIRS: (i8, i8, i8) = (1, -1, 2);

/// A row: name, arity, keys, flags, verbs, group, since, run, summary.
macro_rules! table {
    ($($name:literal, $arity:literal, $keys:ident, $flags:expr, $verbs:expr, $group:literal, $since:literal, $run:expr, $summary:literal;)*) => {
        static TABLE: &[Command] = &[$(Command {
            name: $name,
            arity: $arity,
            flags: $flags,
            keys: $keys,
            verbs: $verbs,
            group: $group,
            since: $since,
            summary: $summary,
            run: $run,
        },)*];
    };
}

const R: u8 = verb::READ;
const W: u8 = verb::WRITE;
const RW: u8 = verb::READ | verb::WRITE;
const F: u8 = verb::FLUSH;

// In the order of their names, as they are searched.
table! {
    "append", 3, ONE, WRITE | GROWS | FAST, RW, "string", "2.0.0", Run::Write(strings::append), "Appends to a value";
    "auth", -2, NONE, FAST | LOADING | NO_MULTI, 0, "connection", "1.0.0", Run::Session(Session::Auth), "There is no password";
    "bgsave", -1, NONE, ADMIN | IN_TURN, 0, "server", "1.0.0", Run::Session(Session::BgSave), "Answers: what is acknowledged is on disk";
    "client", -2, NONE, LOADING, 0, "connection", "2.4.0", Run::Session(Session::Client), "Names and lists connections";
    "command", -1, NONE, LOADING, 0, "server", "2.8.13", Run::Session(Session::Command), "Tells the commands that there are";
    "config", -2, NONE, ADMIN | LOADING, 0, "server", "2.0.0", Run::Session(Session::Config), "Tells settings";
    "copy", -3, TWO, WRITE | GROWS, RW, "generic", "6.2.0", Run::Write(keys::copy), "Copies a key with its expiry";
    "dbsize", 1, NONE, READ | FAST | IN_TURN, R, "server", "1.0.0", Run::Long(Long::DbSize, Some(keys::dbsize)), "Counts the keys";
    "decr", 2, ONE, WRITE | GROWS | FAST, RW, "string", "1.0.0", Run::Write(counters::decr), "Subtracts one";
    "decrby", 3, ONE, WRITE | GROWS | FAST, RW, "string", "1.0.0", Run::Write(counters::decr_by), "Subtracts a number";
    "del", -2, ALL, WRITE, W, "generic", "1.0.0", Run::Write(keys::del), "Deletes keys";
    "discard", 1, NONE, FAST | LOADING, 0, "transactions", "2.0.0", Run::Session(Session::Discard), "Forgets a transaction";
    "echo", 2, NONE, FAST | LOADING, 0, "connection", "1.0.0", Run::Session(Session::Echo), "Answers what it is given";
    "exec", 1, NONE, 0, 0, "transactions", "1.2.0", Run::Session(Session::Exec), "Commits a transaction";
    "exists", -2, ALL, READ | FAST, R, "generic", "1.0.0", Run::Read(keys::exists), "Counts the keys that are there";
    "expire", -3, ONE, WRITE | FAST, W, "generic", "1.0.0", Run::Write(expiry::expire), "Lets a key expire after seconds";
    "expireat", -3, ONE, WRITE | FAST, W, "generic", "1.2.0", Run::Write(expiry::expire_at), "Lets a key expire at a second";
    "expiretime", 2, ONE, READ | FAST, R, "generic", "7.0.0", Run::Read(expiry::expire_time), "Tells at which second a key expires";
    "flushall", -1, NONE, WRITE, F, "server", "1.0.0", Run::Long(Long::Flush, Some(keys::flush)), "Deletes everything";
    "flushdb", -1, NONE, WRITE, F, "server", "1.0.0", Run::Long(Long::Flush, Some(keys::flush)), "Deletes everything";
    "get", 2, ONE, READ | FAST, R, "string", "1.0.0", Run::Read(strings::get), "Tells a value";
    "getdel", 2, ONE, WRITE | FAST, RW, "string", "6.2.0", Run::Write(strings::get_del), "Tells a value and deletes its key";
    "getex", -2, ONE, WRITE | FAST, RW, "string", "6.2.0", Run::Write(strings::get_ex), "Tells a value and changes its expiry";
    "getrange", 4, ONE, READ, R, "string", "2.4.0", Run::Read(strings::get_range), "Tells a part of a value";
    "getset", 3, ONE, WRITE | GROWS | FAST, RW, "string", "1.0.0", Run::Write(strings::get_set), "Sets a value and tells the old one";
    "hello", -1, NONE, FAST | LOADING | NO_MULTI | IN_TURN, 0, "connection", "6.0.0", Run::Session(Session::Hello), "Chooses the version of the protocol";
    "incr", 2, ONE, WRITE | GROWS | FAST, RW, "string", "1.0.0", Run::Write(counters::incr), "Adds one";
    "incrby", 3, ONE, WRITE | GROWS | FAST, RW, "string", "1.0.0", Run::Write(counters::incr_by), "Adds a number";
    "incrbyfloat", 3, ONE, WRITE | GROWS | FAST, RW, "string", "2.6.0", Run::Write(counters::incr_by_float), "Adds a decimal number";
    "info", -1, NONE, LOADING, 0, "server", "1.0.0", Run::Session(Session::Info), "Tells about this server";
    "keys", 2, NONE, READ | NO_MULTI | IN_TURN, R, "generic", "1.0.0", Run::Long(Long::Keys, None), "Tells the keys that match a pattern";
    "lastsave", 1, NONE, FAST | ADMIN | IN_TURN, 0, "server", "1.0.0", Run::Session(Session::LastSave), "Tells when what is acknowledged was on disk";
    "memory", -2, SECOND, READ, R, "server", "4.0.0", Run::Read(keys::memory), "Tells about how much memory a key takes";
    "mget", -2, ALL, READ | FAST, R, "string", "1.0.0", Run::Read(strings::mget), "Tells several values at one point in time";
    "mset", -3, PAIRS, WRITE | GROWS, W, "string", "1.0.1", Run::Write(strings::mset), "Sets several values, all or none";
    "msetnx", -3, PAIRS, WRITE | GROWS, RW, "string", "1.0.1", Run::Write(strings::mset_nx), "Sets several values if none of the keys is there";
    "multi", 1, NONE, FAST | LOADING, 0, "transactions", "1.2.0", Run::Session(Session::Multi), "Begins a transaction";
    "object", -2, SECOND, READ, R, "generic", "2.2.3", Run::Read(keys::object), "Tells how a value looks";
    "persist", 2, ONE, WRITE | FAST, RW, "generic", "2.2.0", Run::Write(expiry::persist), "Keeps a key for ever";
    "pexpire", -3, ONE, WRITE | FAST, W, "generic", "2.6.0", Run::Write(expiry::pexpire), "Lets a key expire after milliseconds";
    "pexpireat", -3, ONE, WRITE | FAST, W, "generic", "2.6.0", Run::Write(expiry::pexpire_at), "Lets a key expire at a millisecond";
    "pexpiretime", 2, ONE, READ | FAST, R, "generic", "7.0.0", Run::Read(expiry::pexpire_time), "Tells at which millisecond a key expires";
    "ping", -1, NONE, FAST, 0, "connection", "1.0.0", Run::Session(Session::Ping), "Answers";
    "psetex", 4, ONE, WRITE | GROWS, W, "string", "2.6.0", Run::Write(strings::pset_ex), "Sets a value that expires after milliseconds";
    "pttl", 2, ONE, READ | FAST, R, "generic", "2.6.0", Run::Read(expiry::pttl), "Tells the milliseconds that a key has left";
    "quit", -1, NONE, FAST | LOADING | NO_MULTI, 0, "connection", "1.0.0", Run::Session(Session::Quit), "Ends the connection";
    "randomkey", 1, NONE, READ | NO_MULTI | IN_TURN, R, "generic", "1.0.0", Run::Long(Long::RandomKey, None), "Tells one of the keys";
    "rename", 3, TWO, WRITE, RW, "generic", "1.0.0", Run::Write(keys::rename), "Renames a key";
    "renamenx", 3, TWO, WRITE | FAST, RW, "generic", "1.0.0", Run::Write(keys::rename_nx), "Renames a key if the new name is free";
    "reset", 1, NONE, FAST | LOADING | IN_TURN, 0, "connection", "6.2.0", Run::Session(Session::Reset), "Puts the connection back to its beginning";
    "save", 1, NONE, ADMIN | NO_MULTI | IN_TURN, 0, "server", "1.0.0", Run::Long(Long::Save, None), "Answers: what is acknowledged is on disk";
    "scan", -2, NONE, READ | NO_MULTI | IN_TURN, R, "generic", "2.8.0", Run::Long(Long::Scan, None), "Tells the keys, some at a time";
    "select", 2, NONE, FAST | LOADING, 0, "connection", "1.0.0", Run::Session(Session::Select), "Takes database 0, which is the only one";
    "set", -3, ONE, WRITE | GROWS, W, "string", "1.0.0", Run::Write(strings::set), "Sets a value";
    "setex", 4, ONE, WRITE | GROWS, W, "string", "2.0.0", Run::Write(strings::set_ex), "Sets a value that expires after seconds";
    "setnx", 3, ONE, WRITE | GROWS | FAST, RW, "string", "1.0.0", Run::Write(strings::set_nx), "Sets a value if the key is not there";
    "setrange", 4, ONE, WRITE | GROWS, RW, "string", "2.2.0", Run::Write(strings::set_range), "Overwrites a part of a value";
    "strlen", 2, ONE, READ | FAST, R, "string", "2.2.0", Run::Read(strings::strlen), "Tells a value's length";
    "substr", 4, ONE, READ, R, "string", "1.0.0", Run::Read(strings::get_range), "Tells a part of a value";
    "time", 1, NONE, FAST | LOADING, 0, "server", "2.6.0", Run::Session(Session::Time), "Tells the store's time";
    "touch", -2, ALL, READ | FAST, R, "generic", "3.2.1", Run::Read(keys::exists), "Counts the keys that are there";
    "ttl", 2, ONE, READ | FAST, R, "generic", "1.0.0", Run::Read(expiry::ttl), "Tells the seconds that a key has left";
    "type", 2, ONE, READ | FAST, R, "generic", "1.0.0", Run::Read(keys::kind), "Tells that a value is a string";
    "unlink", -2, ALL, WRITE | FAST, W, "generic", "4.0.0", Run::Write(keys::del), "Deletes keys";
    "unwatch", 1, NONE, FAST | LOADING, 0, "transactions", "2.2.0", Run::Session(Session::Unwatch), "Watches no keys any more";
    "wait", 3, NONE, IN_TURN, 0, "generic", "3.0.0", Run::Session(Session::Wait), "Answers 0: there are no replicas";
    "watch", -2, ALL, FAST | LOADING | IN_TURN, R, "transactions", "2.2.0", Run::Session(Session::Watch), "Lets the next transaction fail if a key changes";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::request::{Args, Span, Spans};

    #[test]
    fn the_table_is_in_order_and_says_what_each_command_needs() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
        for command in TABLE {
            assert!(command.name.len() <= MAX_NAME);
            let writes = command.verbs & (verb::WRITE | verb::FLUSH) != 0;
            assert_eq!(command.is(WRITE), writes, "{}", command.name);
            let touches = matches!(command.run, Run::Read(_) | Run::Write(_) | Run::Long(..));
            let needs = command.verbs != 0;
            let apart = matches!(command.name, "watch" | "save");
            assert!(needs == touches || apart, "{}", command.name);
            // What an option or the old value tells is read, too.
            if command.summary.contains("old") {
                assert_eq!(command.verbs, RW, "{}", command.name);
            }
        }
        assert_eq!(find(b"GeT").unwrap().name, "get");
        assert!(find(b"").is_none() && find(&[b'x'; 1000]).is_none());
    }

    /// Runs `check` with the command of a line, and its arguments.
    fn with<T>(line: &str, check: impl FnOnce(&Command, Args<'_>) -> T) -> T {
        let mut spans = Spans::new();
        let mut at = 0;
        for word in line.split(' ') {
            let end = at + u32::try_from(word.len()).unwrap();
            spans.push(Span { start: at, end });
            at = end + 1;
        }
        let args = Args::new(line.as_bytes(), &spans);
        check(find(args.get(0)).unwrap(), args)
    }

    #[test]
    fn what_tells_what_is_there_wants_to_read_as_well() {
        let needs = |line| with(line, Command::needs);
        for line in [
            "set k v nx",
            "set k v PX 5 get",
            "expire k 10 NX",
            "pexpire k 10 xx",
            "expireat k 10 gt",
            "pexpireat k 10 LT",
            "persist k",
            "getex k",
        ] {
            assert_eq!(needs(line), RW, "{line}");
        }
        for line in ["set k v", "set k v EX 5 KEEPTTL", "expire k 10", "del k"] {
            assert_eq!(needs(line), W, "{line}");
        }
    }

    #[test]
    fn keys_are_found_among_the_arguments() {
        let keys = |line: &str| -> String {
            with(line, |command, args| {
                let keys = command.keys_of(args);
                let keys: Vec<_> = keys.map(String::from_utf8_lossy).collect();
                keys.join(" ")
            })
        };
        assert_eq!(keys("get a"), "a");
        assert_eq!(keys("mset a 1 b 2"), "a b");
        assert_eq!(keys("del a b c"), "a b c");
        assert_eq!(keys("copy a b replace"), "a b");
        assert_eq!(keys("ping a"), "");
        assert_eq!(keys("set"), "");
    }
}
