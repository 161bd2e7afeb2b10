//! What goes to the committer, all together.
//!
//! One turn of the I/O thread finds many connections with a write each. The first write wakes the committer; handed over at
//! once, it would be a group of its own, or with the few that made it in time, and the others would wait for a
//! whole sync. So writes are laid on a tray, and the tray is emptied when all connections that
//! had something were looked at: they are one group.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use codexstore::{Program, Txn};
use tokio::sync::OwnedSemaphorePermit;

use super::command::Outcome;
use super::inbox::Inbox;
use super::program::{Single, Transaction};
use super::reply::Reply;
use super::{session, unserved};
use crate::engine::{Engine, Result};
use crate::http::InWork;

/// What the committer runs.
pub enum Work {
    /// One command.
    Single(Single),
    /// A transaction.
    Transaction(Transaction),
}

impl Program for Work {
    type Output = Reply;

    fn run(self, txn: &mut Txn<'_>) -> Outcome {
        match self {
            Work::Single(single) => single.run(txn),
            Work::Transaction(transaction) => transaction.run(txn),
        }
    }

    fn size_hint(&self) -> usize {
        match self {
            Work::Single(single) => single.size_hint(),
            Work::Transaction(transaction) => transaction.size_hint(),
        }
    }

    fn is_brief(&self) -> bool {
        match self {
            Work::Single(single) => single.is_brief(),
            Work::Transaction(transaction) => transaction.is_brief(),
        }
    }
}

/// Something for the committer, and where its answer goes.
pub struct Order {
    /// What to run.
    pub work: Work,
    /// Who waits.
    pub inbox: Arc<Inbox<Reply>>,
    /// The number of the answer.
    pub number: u64,
    /// Given back when it is decided.
    pub held: (Vec<OwnedSemaphorePermit>, InWork),
}

/// What waits to be handed over.
#[derive(Default)]
pub struct Tray {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    orders: Vec<Order>,
    carrier: Option<Waker>,
}

impl Tray {
    /// Lays something on it.
    pub fn lay(&self, order: Order) {
        let mut state = self.lock();
        state.orders.push(order);
        let carrier = state.carrier.take();
        drop(state);
        if let Some(carrier) = carrier {
            carrier.wake();
        }
    }

    /// Empties it whenever something is on it, for ever. It belongs on the connections' thread.
    pub async fn run<E: Engine>(&self, engine: &E) {
        let mut orders = Vec::new();
        poll_fn::<(), _>(|cx| {
            let mut state = self.lock();
            std::mem::swap(&mut state.orders, &mut orders);
            state.carrier = Some(cx.waker().clone());
            drop(state);
            if !orders.is_empty() {
                engine.submit_all(orders.drain(..).map(handed_over));
            }
            Poll::Pending
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the committer runs, and what becomes of its answer.
fn handed_over(order: Order) -> (Work, impl FnOnce(Result<Reply>) + Send + 'static) {
    let Order {
        work,
        inbox,
        number,
        held,
    } = order;
    let transaction = matches!(work, Work::Transaction(_));
    let done = move |result: Result<Reply>| {
        drop(held);
        let reply = result.unwrap_or_else(|failure| {
            if transaction {
                session::aborted(&failure)
            } else {
                unserved(&failure)
            }
        });
        inbox.put(number, reply);
    };
    (work, done)
}
