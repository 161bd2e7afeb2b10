//! Commands as programs that the committer runs.

use bytes::Bytes;
use codexstore::{Code, Error, Program, Txn};
use tokio::sync::OwnedSemaphorePermit;

use super::command::{Command, Outcome, Run};
use super::reply::Reply;
use super::request::{Args, Request};

/// One command, in its turn behind the writes before it.
pub struct Single {
    /// The command.
    pub command: &'static Command,
    /// What it was asked with.
    pub request: Request,
}

impl Program for Single {
    type Output = Reply;

    fn run(self, txn: &mut Txn<'_>) -> Outcome {
        run(self.command, txn, self.request.args())
    }

    fn size_hint(&self) -> usize {
        self.request.cost()
    }
}

fn run(command: &Command, txn: &mut Txn<'_>, args: Args<'_>) -> Outcome {
    match command.run {
        Run::Read(read) => read(&*txn, args),
        Run::Write(write) | Run::Long(_, Some(write)) => write(txn, args),
        Run::Session(_) | Run::Long(_, None) | Run::Refused(_) => Err(Error::new(
            Code::Internal,
            format!("{} is not a program", command.name),
        )),
    }
}

/// A part of a transaction.
pub enum Step {
    /// It is answered already: it has nothing to do with the store.
    Done(Reply),
    /// It works on the store.
    Run(&'static Command, Request),
}

/// A key that a transaction depends on, and the revision that last set it.
pub struct Watched {
    /// The key.
    pub key: Bytes,
    /// `None`: it was not there.
    pub revision: Option<u64>,
}

/// What stands between MULTI and EXEC: one program, so that it is there as a whole or not at all, and
/// what it reads stays true until it has written.
#[derive(Default)]
pub struct Transaction {
    /// What must be as it was.
    pub watched: Vec<Watched>,
    /// Its parts.
    pub steps: Vec<Step>,
    /// Bytes of memory that they take.
    pub cost: usize,
    /// Shares of the memory for what is in flight.
    pub shares: Vec<OwnedSemaphorePermit>,
}

impl Program for Transaction {
    type Output = Reply;

    fn run(self, txn: &mut Txn<'_>) -> Outcome {
        for watched in &self.watched {
            let found = txn.get(&watched.key)?.map(|entry| entry.modified());
            if found != watched.revision {
                return Ok(Reply::NullArray);
            }
        }
        let mut replies = Vec::with_capacity(self.steps.len());
        for step in self.steps {
            replies.push(match step {
                Step::Done(reply) => reply,
                Step::Run(command, request) => run(command, txn, request.args())?,
            });
        }
        Ok(Reply::Array(replies))
    }

    fn size_hint(&self) -> usize {
        self.cost
    }
}
