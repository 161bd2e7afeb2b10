//! Commands as programs that the committer runs.

use bytes::Bytes;
use codexstore::{Code, Error, Program, Txn};
use tokio::sync::OwnedSemaphorePermit;

use super::command::{Command, Long, Outcome, Run};
use super::handle::MANY;
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

    fn is_brief(&self) -> bool {
        self.request.args().len() <= MANY
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

    fn is_brief(&self) -> bool {
        let mut arguments = self.watched.len();
        self.steps.iter().all(|step| match step {
            Step::Done(_) => true,
            Step::Run(command, request) => {
                arguments += request.args().len();
                // A flush takes as long as there are keys.
                arguments <= MANY && !matches!(command.run, Run::Long(Long::Flush, _))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::{Span, Spans};
    use super::super::table;
    use super::*;

    fn request(words: &[&str]) -> (&'static Command, Request) {
        let mut data = Vec::new();
        let spans: Spans = words
            .iter()
            .map(|word| {
                let start = u32::try_from(data.len()).unwrap();
                data.extend_from_slice(word.as_bytes());
                let end = u32::try_from(data.len()).unwrap();
                Span { start, end }
            })
            .collect();
        let command = table::find(words[0].as_bytes()).unwrap();
        let data = Bytes::from(data);
        (command, Request { data, spans })
    }

    #[test]
    fn what_takes_long_is_not_for_the_connections_thread() {
        let single = |words: &[&str]| {
            let (command, request) = request(words);
            Single { command, request }.is_brief()
        };
        let transaction = |steps: &[&[&str]]| {
            let run = |words: &&[&str]| {
                let (command, request) = request(words);
                Step::Run(command, request)
            };
            let steps = steps.iter().map(run);
            let steps = steps.chain([Step::Done(Reply::Null)]).collect();
            let transaction = Transaction {
                steps,
                ..Transaction::default()
            };
            transaction.is_brief()
        };
        let many = [&["del"][..], &["k"; MANY]].concat();
        let half = [&["del"][..], &["k"; MANY / 2]].concat();
        assert!(single(&["set", "k", "v"]) && single(&half));
        assert!(!single(&many));
        assert!(transaction(&[&["set", "k", "v"], &["dbsize"], &half]));
        assert!(!transaction(&[&half, &half]));
        assert!(!transaction(&[&["set", "k", "v"], &["flushall"]]));
    }
}
