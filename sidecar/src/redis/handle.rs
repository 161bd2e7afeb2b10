//! One request: whether it can be run as it is asked, and who runs it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::command::{Command, Long, Run, flag, verb};
use super::dialogue::{Asked, Dialogue, Slot, about, operation};
use super::parse::Refused;
use super::program::{Single, Transaction};
use super::reply::Reply;
use super::request::{Args, Request};
use super::tray::{Order, Work};
use super::{NO_MEMORY, long, table, unserved};
use crate::access::Verb;
use crate::engine::{Engine, Sight};
use crate::http::InWork;
use crate::metrics::{Protocol, Tally};
use crate::trace::Tracer;

/// Keys that are looked up on this thread: it takes less than a millisecond.
pub(super) const MANY: usize = 1024;

impl<E: Engine> Dialogue<E> {
    /// The answer to a request that is too large, or for which there is no memory.
    pub(super) fn too_much(&mut self, why: &Refused) -> Reply {
        self.spoil();
        let most = self.redis.app.limits.max_value;
        match why {
            Refused::Argument(len) => Reply::Error(
                format!("ERR an argument has {len} bytes; at most {most} are allowed (too-large)")
                    .into(),
            ),
            Refused::Request => Reply::error("ERR the request is too large (too-large)"),
            Refused::Memory => NO_MEMORY,
        }
    }

    /// Answers in turn.
    pub(super) fn answer(&mut self, command: Asked, reply: Reply, tally: &mut Tally) {
        if self.pending.is_empty() {
            let operation = operation(command);
            self.count_error(&reply);
            tally.add(operation, reply.outcome());
            let tracer = self.redis.app.tracer.as_ref();
            if let Some(begun) = tracer.and_then(Tracer::root) {
                tally.spans.push((begun, operation, about(command, &reply)));
            }
            self.write(reply);
            return;
        }
        self.pending.push_back(Slot {
            reply: Some(reply),
            command,
            begun: self.now,
        });
    }

    /// Counts an answer that is an error by its code.
    pub(super) fn count_error(&self, reply: &Reply) {
        if let Some(words) = reply.words() {
            self.redis.app.metrics.error(Protocol::Redis, words.code);
        }
    }

    /// Handles one request. `whole` is its bytes, if they can be shared.
    pub(super) fn handle(&mut self, args: Args<'_>, whole: Option<&Bytes>, tally: &mut Tally) {
        let command = match self.check(args) {
            Ok(command) => command,
            Err(error) => {
                self.spoil();
                self.answer(None, error, tally);
                return;
            }
        };
        if self.queues(command) {
            let reply = self.queue(command, request(args, whole));
            self.answer(Some(command), reply, tally);
            return;
        }
        self.last = Some(command.name);
        if command.is(flag::IN_TURN) && !self.pending.is_empty() {
            self.parked = Some(request(args, whole));
            return;
        }
        match command.run {
            Run::Read(read) if self.pending.is_empty() && args.len() > MANY => {
                self.start(Long::Many(read), command, request(args, whole));
            }
            Run::Read(read) if self.pending.is_empty() => {
                let sight = if command.several() {
                    Sight::OnePoint
                } else {
                    Sight::Latest
                };
                let engine = &self.redis.app.engine;
                let reply = match engine.look(sight, |look| read(look, args)) {
                    Ok(Ok(reply)) => reply,
                    Ok(Err(error)) => Reply::failed(&error),
                    Err(failure) => unserved(&failure),
                };
                self.answer(Some(command), reply, tally);
            }
            Run::Read(_) | Run::Write(_) => {
                let request = request(args, whole);
                let shares = self.share.take().into_iter().collect();
                self.order(command, Work::Single(Single { command, request }), shares);
            }
            Run::Long(which, _) => self.start(which, command, request(args, whole)),
            Run::Session(which) => {
                self.note();
                self.session(which, command, args, tally);
            }
            Run::Refused(instead) => {
                let error = refuse(command, instead);
                self.answer(Some(command), error, tally);
            }
        }
    }

    /// Commits a transaction.
    pub(super) fn commit(&mut self, command: &'static Command, transaction: Transaction) {
        let mut transaction = transaction;
        let shares = std::mem::take(&mut transaction.shares);
        self.order(command, Work::Transaction(transaction), shares);
    }

    /// Has the committer run something.
    fn order(&mut self, command: &'static Command, work: Work, shares: Vec<OwnedSemaphorePermit>) {
        let number = self.expect(command);
        self.redis.tray.lay(Order {
            work,
            inbox: Arc::clone(&self.inbox),
            number,
            held: (shares, InWork::count(&self.redis.app.in_work)),
        });
    }

    /// Starts what may take long; nothing goes on before it is done.
    fn start(&mut self, which: Long, command: &'static Command, request: Request) {
        self.barrier = true;
        let number = self.expect(command);
        let (inbox, redis) = (Arc::clone(&self.inbox), Arc::clone(&self.redis));
        let grant = Arc::clone(&self.grant);
        tokio::spawn(async move {
            inbox.put(number, long::run(redis, grant, which, request).await);
        });
    }

    /// A place for an answer that comes later.
    fn expect(&mut self, command: &'static Command) -> u64 {
        let number = self.first + self.pending.len() as u64;
        self.pending.push_back(Slot {
            reply: None,
            command: Some(command),
            begun: self.now,
        });
        number
    }

    /// The command that is asked for, if it can be run as it is asked, and by whom it is.
    fn check(&self, args: Args<'_>) -> Result<&'static Command, Reply> {
        let name = args.get(0);
        let Some(command) = table::find(name) else {
            return Err(unknown(name));
        };
        if let Run::Refused(instead) = command.run {
            return Err(refuse(command, instead));
        }
        if !command.takes(args.len()) {
            return Err(wrong_arity(command));
        }
        let verbs = command.needs(args);
        for key in command.keys_of(args) {
            if key.is_empty() || key.len() > codexstore_api::MAX_KEY {
                let error = format!(
                    "ERR a key is 1 to {} bytes long, not {} (invalid-key)",
                    codexstore_api::MAX_KEY,
                    key.len()
                );
                return Err(Reply::Error(error.into()));
            }
            let denied = |denied: codexstore::Error| Reply::failed(&denied);
            if verbs & verb::READ != 0 {
                self.grant.check(Verb::Read, key).map_err(denied)?;
            }
            if verbs & verb::WRITE != 0 {
                self.grant.check(Verb::Write, key).map_err(denied)?;
            }
        }
        if matches!(command.run, Run::Long(Long::DbSize, _)) && self.queueing() {
            // There it counts all there are.
            let denied = self.grant.check_prefix(Verb::Read, b"");
            denied.map_err(|denied| Reply::failed(&denied))?;
        }
        if verbs & verb::FLUSH != 0 {
            let denied = self.grant.check_prefix(Verb::Write, b"");
            denied.map_err(|denied| Reply::failed(&denied))?;
        }
        Ok(command)
    }
}

fn request(args: Args<'_>, whole: Option<&Bytes>) -> Request {
    match whole {
        Some(data) => args.sharing(data.clone()),
        None => args.to_request(),
    }
}

fn refuse(command: &Command, instead: &str) -> Reply {
    Reply::Error(
        format!(
            "ERR {} is not offered by this store; use {instead}",
            command.name.to_uppercase()
        )
        .into(),
    )
}

/// The number of arguments does not fit.
pub(super) fn wrong_arity(command: &Command) -> Reply {
    let text = format!(
        "ERR wrong number of arguments for '{}' command",
        command.name
    );
    Reply::Error(text.into())
}

/// What is not a command may be anything, a value too, if a client has lost its place: only what looks
/// like a name is repeated.
fn unknown(name: &[u8]) -> Reply {
    let letters = |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'.' | b'_' | b'-');
    if name.len() <= 24 && name.iter().all(letters) {
        let name = String::from_utf8_lossy(name);
        return Reply::Error(format!("ERR unknown command '{name}'").into());
    }
    Reply::error("ERR unknown command")
}
