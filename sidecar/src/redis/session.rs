//! Commands of the connection and the server: the handshake, transactions, and questions about either.

use bytes::Bytes;
use codexstore::Retry;
use tokio::sync::OwnedSemaphorePermit;

use super::command::{Command, Session, flag};
use super::commands::{NOT_INTEGER, SYNTAX, is};
use super::dialogue::{Dialogue, Mode};
use super::handle::wrong_arity;
use super::program::{Step, Transaction, Watched};
use super::reply::{OK, Reply, Version};
use super::request::{Args, Request};
use super::{NO_MEMORY, SMALL, info, introspect, number, table, unserved};
use crate::engine::{Engine, Failure, Sight};
use crate::metrics::Tally;

impl<E: Engine> Dialogue<E> {
    /// Runs a command of the connection.
    pub(super) fn session(
        &mut self,
        which: Session,
        command: &'static Command,
        args: Args<'_>,
        tally: &mut Tally,
    ) {
        let reply = match which {
            Session::Exec => match self.exec() {
                Ok(transaction) => {
                    self.client.about().queued = None;
                    return self.commit(command, transaction);
                }
                Err(error) => error,
            },
            Session::Multi if self.queueing() => Reply::error("ERR MULTI calls can not be nested"),
            Session::Multi => {
                self.mode = Mode::Queueing;
                OK
            }
            Session::Discard if self.queueing() => {
                self.forget();
                OK
            }
            Session::Discard => Reply::error("ERR DISCARD without MULTI"),
            Session::Watch if self.queueing() => {
                Reply::error("ERR WATCH inside MULTI is not allowed")
            }
            Session::Watch => self.watch(args),
            Session::Quit => {
                self.closing = true;
                OK
            }
            Session::Reset => {
                self.forget();
                self.version = Version::Resp2;
                let mut about = self.client.about();
                about.name.clear();
                about.version = Version::Resp2;
                Reply::Simple("RESET")
            }
            which => self.tell(which, args),
        };
        let queued = self.transaction.steps.len();
        self.client.about().queued = self.queueing().then_some(queued);
        self.answer(Some(command), reply, tally);
    }

    /// What can be answered within a transaction, too.
    fn tell(&mut self, which: Session, args: Args<'_>) -> Reply {
        let command = |name: &[u8]| table::find(name).map_or(SYNTAX, wrong_arity);
        match which {
            Session::Ping => match (self.now_ms(), args.len()) {
                (Err(error), _) => error,
                (_, 1) => Reply::Simple("PONG"),
                (_, 2) => Reply::Bulk(Bytes::copy_from_slice(args.get(1))),
                _ => command(b"ping"),
            },
            Session::Echo => Reply::Bulk(Bytes::copy_from_slice(args.get(1))),
            Session::Auth => match args.len() {
                2 => Reply::error(
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                     configuration is correct?",
                ),
                3 => authenticate(args.get(1)),
                _ => SYNTAX,
            },
            Session::Hello => self.hello(args),
            Session::Select => match number::integer(args.get(1)) {
                Some(0) => OK,
                Some(_) => Reply::error("ERR DB index is out of range"),
                None => NOT_INTEGER,
            },
            Session::Client => self.about_client(args),
            Session::Command => introspect::command(args),
            Session::Config => info::config(&self.redis, args),
            Session::Info => info::info(&self.redis, &self.grant, args),
            Session::Time => match self.now_ms() {
                Ok(now) => Reply::Array(vec![
                    Reply::text((now / 1000).to_string()),
                    Reply::text((now % 1000 * 1000).to_string()),
                ]),
                Err(error) => error,
            },
            Session::LastSave => self
                .now_ms()
                .map_or_else(|error| error, |now| Reply::number(now / 1000)),
            Session::BgSave => Reply::Simple("Background saving started"),
            Session::Wait => match (number::integer(args.get(1)), number::integer(args.get(2))) {
                (Some(_), Some(0..)) => Reply::Int(0),
                (Some(_), Some(_)) => Reply::error("ERR timeout is negative"),
                (Some(_), None) => Reply::error("ERR timeout is not an integer or out of range"),
                (None, _) => NOT_INTEGER,
            },
            Session::Unwatch => {
                if !self.queueing() {
                    self.forget();
                }
                OK
            }
            Session::Exec
            | Session::Multi
            | Session::Discard
            | Session::Watch
            | Session::Quit
            | Session::Reset => SYNTAX,
        }
    }

    /// The store's time; an error while it is not open.
    fn now_ms(&self) -> Result<u64, Reply> {
        let engine = &self.redis.app.engine;
        let now = engine.look(Sight::Latest, |look| look.now_ms());
        now.map_err(|failure| unserved(&failure))
    }

    /// True if the command waits for EXEC.
    pub(super) fn queues(&self, command: &Command) -> bool {
        self.queueing()
            && !matches!(
                command.name,
                "exec" | "discard" | "multi" | "watch" | "quit" | "reset"
            )
    }

    /// Queues a command.
    pub(super) fn queue(&mut self, command: &'static Command, request: Request) -> Reply {
        if command.is(flag::NO_MULTI) {
            self.mode = Mode::Spoilt;
            let name = command.name.to_uppercase();
            return Reply::Error(
                format!("ERR Command not allowed inside a transaction: {name}").into(),
            );
        }
        if !self.charge(request.cost() + size_of::<Step>()) {
            self.mode = Mode::Spoilt;
            return NO_MEMORY;
        }
        self.transaction.steps.push(Step::Run(command, request));
        Reply::Simple("QUEUED")
    }

    /// Takes memory for what the transaction keeps.
    fn charge(&mut self, bytes: usize) -> bool {
        let transaction = &mut self.transaction;
        transaction.cost += bytes;
        if transaction.cost <= SMALL {
            return true;
        }
        // In steps: a share for each small command would be as large as it.
        let units: usize = transaction
            .shares
            .iter()
            .map(OwnedSemaphorePermit::num_permits)
            .sum();
        let held = units * crate::http::body::UNIT + SMALL;
        let Some(missing) = transaction.cost.checked_sub(held) else {
            return true;
        };
        match self.redis.reserve(missing.next_multiple_of(SMALL)) {
            Some(share) => {
                self.transaction.shares.push(share);
                true
            }
            None => false,
        }
    }

    /// Forgets what is queued and watched.
    fn forget(&mut self) {
        self.transaction = Transaction::default();
        self.mode = Mode::Plain;
    }

    /// `WATCH key …`
    fn watch(&mut self, args: Args<'_>) -> Reply {
        for key in args.from(1) {
            if self.transaction.watched.iter().any(|old| old.key == key) {
                continue;
            }
            if self.transaction.watched.len() >= MOST_WATCHED {
                return Reply::error("ERR at most 1024 keys can be watched at once (too-large)");
            }
            let engine = &self.redis.app.engine;
            let found = engine.look(Sight::Latest, |look| look.entry(key));
            let revision = match found {
                Ok(Ok(entry)) => entry.map(|entry| entry.modified()),
                Ok(Err(error)) => return Reply::failed(&error),
                Err(failure) => return unserved(&failure),
            };
            if !self.charge(key.len() + size_of::<Watched>()) {
                return NO_MEMORY;
            }
            let key = Bytes::copy_from_slice(key);
            self.transaction.watched.push(Watched { key, revision });
        }
        OK
    }

    /// What EXEC commits.
    fn exec(&mut self) -> Result<Transaction, Reply> {
        if !self.queueing() {
            return Err(Reply::error("ERR EXEC without MULTI"));
        }
        let spoilt = self.mode == Mode::Spoilt;
        let mut transaction = std::mem::take(&mut self.transaction);
        self.forget();
        if spoilt {
            return Err(Reply::error(
                "EXECABORT Transaction discarded because of previous errors.",
            ));
        }
        for step in &mut transaction.steps {
            let Step::Run(command, request) = step else {
                continue;
            };
            if let super::command::Run::Session(which) = command.run {
                *step = Step::Done(self.tell(which, request.args()));
            }
        }
        Ok(transaction)
    }

    /// `HELLO [2 | 3 [AUTH user password] [SETNAME name]]`
    fn hello(&mut self, args: Args<'_>) -> Reply {
        let version = match args.len() {
            1 => self.version,
            _ => match number::integer(args.get(1)) {
                Some(2) => Version::Resp2,
                Some(3) => Version::Resp3,
                Some(_) => return Reply::error("NOPROTO unsupported protocol version"),
                None => {
                    return Reply::error("ERR Protocol version is not an integer or out of range");
                }
            },
        };
        let mut name = None;
        let mut rest = args.from(2);
        while let Some(word) = rest.next() {
            if is(word, "AUTH") {
                let (Some(user), Some(_password)) = (rest.next(), rest.next()) else {
                    return BAD_HELLO;
                };
                let answer = authenticate(user);
                if answer.is_error() {
                    return answer;
                }
            } else if is(word, "SETNAME") {
                let Some(given) = rest.next() else {
                    return BAD_HELLO;
                };
                match client_word(given) {
                    Some(given) => name = Some(given),
                    None => return BAD_NAME,
                }
            } else {
                return BAD_HELLO;
            }
        }
        self.version = version;
        let mut about = self.client.about();
        about.version = version;
        if let Some(name) = name {
            about.name = name;
        }
        let number = if version == Version::Resp3 { 3 } else { 2 };
        let facts = [
            ("server", Reply::text("codexstore")),
            ("version", Reply::text(info::LEVEL)),
            ("proto", Reply::Int(number)),
            ("id", Reply::number(self.client.id)),
            ("mode", Reply::text("standalone")),
            ("role", Reply::text("master")),
            ("modules", Reply::Array(Vec::new())),
        ];
        Reply::Map(facts.map(|(name, value)| (Reply::text(name), value)).into())
    }

    /// `CLIENT …`
    fn about_client(&mut self, args: Args<'_>) -> Reply {
        let what = args.get(1);
        let client = &self.client;
        match args.len() {
            2 if is(what, "ID") => return Reply::number(client.id),
            2 if is(what, "INFO") => return Reply::Verbatim(client.line()),
            2 if is(what, "GETNAME") => {
                let name = client.about().name.clone();
                return if name.is_empty() {
                    Reply::Null
                } else {
                    Reply::text(name)
                };
            }
            3 if is(what, "SETNAME") => {
                return match client_word(args.get(2)) {
                    Some(name) => {
                        client.about().name = name;
                        OK
                    }
                    None => BAD_NAME,
                };
            }
            4 if is(what, "SETINFO") => {
                let Some(value) = client_word(args.get(3)) else {
                    return Reply::error(
                        "ERR lib-name and lib-ver cannot contain spaces, newlines or special characters.",
                    );
                };
                let mut about = client.about();
                if is(args.get(2), "LIB-NAME") {
                    about.library = value;
                } else if is(args.get(2), "LIB-VER") {
                    about.library_version = value;
                } else {
                    return Reply::error("ERR Unrecognized option of CLIENT SETINFO");
                }
                return OK;
            }
            3 if is(what, "NO-EVICT") || is(what, "NO-TOUCH") => {
                return if is(args.get(2), "ON") || is(args.get(2), "OFF") {
                    OK
                } else {
                    SYNTAX
                };
            }
            _ if is(what, "LIST") => return self.client_list(args),
            _ => {}
        }
        Reply::error(
            "ERR unknown subcommand of CLIENT, or wrong number of arguments; there are ID, INFO, LIST, GETNAME, SETNAME, \
             SETINFO, NO-EVICT and NO-TOUCH",
        )
    }

    fn client_list(&self, args: Args<'_>) -> Reply {
        let all = self.redis.clients.list();
        if args.len() == 2 {
            return Reply::Verbatim(all);
        }
        if args.len() == 4 && is(args.get(2), "TYPE") {
            let normal = is(args.get(3), "normal");
            return Reply::Verbatim(if normal { all } else { String::new() });
        }
        if args.len() > 3 && is(args.get(2), "ID") {
            let ids: Option<Vec<i64>> = args.from(3).map(number::integer).collect();
            let Some(ids) = ids else {
                return Reply::error("ERR Invalid client ID");
            };
            let wanted = |line: &&str| {
                let heads = ids.iter().map(|id| format!("id={id} "));
                heads.into_iter().any(|head| line.starts_with(&head))
            };
            let lines = all.split_inclusive('\n').filter(wanted);
            return Reply::Verbatim(lines.collect());
        }
        SYNTAX
    }
}

/// Most keys that a connection watches: each is compared with each when it is added.
const MOST_WATCHED: usize = 1024;

const BAD_HELLO: Reply = Reply::error("ERR Syntax error in HELLO option");

const BAD_NAME: Reply =
    Reply::error("ERR Client names cannot contain spaces, newlines or special characters.");

/// Anyone is the default user, who has no password.
fn authenticate(user: &[u8]) -> Reply {
    if user == b"default" {
        OK
    } else {
        Reply::error("WRONGPASS invalid username-password pair or user is disabled.")
    }
}

/// A word that a client says about itself: printable, and of a length that can be kept.
fn client_word(word: &[u8]) -> Option<String> {
    let printable = word.iter().all(|byte| (b'!'..=b'~').contains(byte));
    let word = std::str::from_utf8(word).ok()?;
    (printable && word.len() <= 256).then(|| word.to_owned())
}

/// Why a transaction was not committed. Where it may have been, this does not say that it was not.
pub(super) fn aborted(failure: &Failure) -> Reply {
    match failure {
        Failure::Failed(error) if error.retry() != Retry::Unknown => Reply::Error(
            format!(
                "EXECABORT Transaction discarded because of: {} ({})",
                error.message(),
                error.code()
            )
            .into(),
        ),
        failure => unserved(failure),
    }
}
