//! What a command is: its name, its shape, what it needs, and what runs it.

use codexstore::Txn;

use super::commands::is;
use super::reply::Reply;
use super::request::Args;
use crate::engine::Look;
use crate::metrics::Operation;

/// What a command that touches data comes to. An error of the store undoes all that the command, or the
/// transaction it is part of, has done; a [`Reply::Error`] is an answer like others, given before
/// anything was changed.
pub type Outcome = codexstore::Result<Reply>;

/// What runs a command.
#[derive(Clone, Copy)]
pub enum Run {
    /// It reads data.
    Read(Read),
    /// It changes data, in the committer.
    Write(fn(&mut Txn<'_>, Args<'_>) -> Outcome),
    /// It speaks of the connection or the server.
    Session(Session),
    /// It may take long, and runs on a thread of its own; within a transaction it does something
    /// else, or cannot be.
    Long(Long, Option<fn(&mut Txn<'_>, Args<'_>) -> Outcome>),
    /// It is not offered: what to use.
    Refused(&'static str),
}

/// Commands of the connection and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named as the command is")]
pub enum Session {
    Auth,
    Client,
    Command,
    Config,
    Discard,
    Echo,
    Exec,
    Hello,
    Info,
    LastSave,
    Multi,
    Ping,
    Quit,
    Reset,
    BgSave,
    Select,
    Time,
    Unwatch,
    Wait,
    Watch,
}

/// What runs a command that reads.
pub type Read = fn(&dyn Look, Args<'_>) -> Outcome;

/// Commands that may take long.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "each is named as the command is")]
pub enum Long {
    DbSize,
    Flush,
    Keys,
    /// One that reads, of very many keys.
    Many(Read),
    RandomKey,
    Save,
    Scan,
}

/// Properties, as `COMMAND` tells them.
pub mod flag {
    /// It changes data.
    pub const WRITE: u16 = 1;
    /// It reads data.
    pub const READ: u16 = 1 << 1;
    /// It may need more memory.
    pub const GROWS: u16 = 1 << 2;
    /// It takes constant time.
    pub const FAST: u16 = 1 << 3;
    /// It is answered while the store opens.
    pub const LOADING: u16 = 1 << 4;
    /// Not within a transaction.
    pub const NO_MULTI: u16 = 1 << 5;
    /// For those who run the store.
    pub const ADMIN: u16 = 1 << 6;
    /// It goes on when all before it on its connection is answered.
    pub const IN_TURN: u16 = 1 << 7;
}

/// What a caller must be allowed to do with the keys that a command names, or with all keys if it
/// names none.
pub mod verb {
    /// See values.
    pub const READ: u8 = 1;
    /// Change values.
    pub const WRITE: u8 = 2;
    /// Remove everything.
    pub const FLUSH: u8 = 4;
}

/// A command.
pub struct Command {
    /// Its name, in lower case.
    pub name: &'static str,
    /// Number of arguments, the name included; negative: at least so many.
    pub arity: i8,
    /// [`flag`]s.
    pub flags: u16,
    /// Where its keys are: the first, the last (negative: counted from the end), and the step; 0: none.
    pub keys: (i8, i8, i8),
    /// [`verb`]s.
    pub verbs: u8,
    /// Family, as `COMMAND DOCS` tells it.
    pub group: &'static str,
    /// Version of Redis that had it first.
    pub since: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// What runs it.
    pub run: Run,
}

impl Command {
    /// True if it has that property.
    pub fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// True if it takes so many arguments, the name included.
    pub fn takes(&self, arguments: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 {
            arguments >= wanted
        } else {
            arguments == wanted
        }
    }

    /// What it needs to be allowed as it is asked: a condition, or the old value, tells what is there.
    pub fn needs(&self, args: Args<'_>) -> u8 {
        let tells = match self.name {
            "set" => {
                let telling = ["GET", "NX", "XX", "IFEQ"];
                let tells = |word: &[u8]| telling.iter().any(|telling| is(word, telling));
                args.from(3).any(tells)
            }
            // Each option that there is asks for the expiry that a key has.
            "expire" | "pexpire" | "expireat" | "pexpireat" => args.len() > 3,
            _ => false,
        };
        if tells {
            return self.verbs | verb::READ;
        }
        self.verbs
    }

    /// True if it is offered.
    pub fn offered(&self) -> bool {
        !matches!(self.run, Run::Refused(_))
    }

    /// The keys among its arguments.
    pub fn keys_of<'a>(&self, args: Args<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (first, last, step) = self.keys;
        let first = usize::try_from(first).unwrap_or(0);
        let last = match usize::try_from(last) {
            Ok(last) => last,
            Err(_) => args.len().saturating_sub(usize::from(last.unsigned_abs())),
        };
        let count = if first == 0 {
            0
        } else {
            (last + 1).saturating_sub(first)
        };
        let step = usize::try_from(step).unwrap_or(1).max(1);
        args.from(first).take(count).step_by(step)
    }

    /// As which operation it is counted.
    pub fn operation(&self) -> Operation {
        match self.run {
            Run::Read(_) => Operation::Get,
            Run::Write(_) if matches!(self.name, "del" | "unlink" | "getdel") => Operation::Delete,
            Run::Write(_) if matches!(self.name, "mset" | "msetnx") => Operation::Batch,
            Run::Write(_) => Operation::Put,
            Run::Long(Long::Flush, _) => Operation::DeletePrefix,
            Run::Long(Long::DbSize | Long::Save, _) => Operation::Other,
            Run::Long(..) => Operation::List,
            Run::Session(Session::Exec) => Operation::Batch,
            Run::Session(_) | Run::Refused(_) => Operation::Other,
        }
    }

    /// True if it may name several keys, which must be seen at one point in time.
    pub fn several(&self) -> bool {
        self.keys.0 != self.keys.1
    }
}
