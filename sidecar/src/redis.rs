//! The Redis protocol, RESP2 and RESP3, on a socket of its own: the same keys as over HTTP.
//!
//! - [`parse`], [`request`]: requests out of bytes; [`reply`], [`outbox`]: answers into bytes.
//! - [`table`], [`command`]: what commands there are; [`commands`], [`long`], [`session`], [`info`]: what
//!   they do; [`refused`]: what to use for those that there are not.
//! - [`dialogue`], [`handle`]: one connection. [`tray`], [`inbox`]: how writes go to the committer, and
//!   its answers come back.
//!
//! All that a read brings is parsed, and all answers that are ready are one write. A read is looked up at
//! once, on this thread. Writes go to the committer without waiting for one another, so that a
//! pipeline, and all connections together, share the sync of a group; reads behind them go the same
//! way, in order. Why the codec is our own: docs/decisions/0011.

mod clients;
mod command;
mod commands;
mod cursors;
mod dialogue;
mod handle;
mod inbox;
mod info;
mod introspect;
mod long;
mod number;
mod outbox;
mod parse;
mod program;
mod refused;
mod reply;
mod request;
mod session;
mod table;
mod tray;

use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::OwnedSemaphorePermit;

use crate::engine::{Engine, Failure};
use crate::http::{App, body};
use crate::serve;
use crate::serve::connections::Connections;
use crate::settings::Settings;
use clients::Clients;
use cursors::Cursors;
use inbox::Bell;
use reply::Reply;
use tray::Tray;

/// Requests and answers up to this size are not counted as in flight: the bounds on connections and on
/// requests in work bound them. A read brings as much.
const SMALL: usize = body::SMALL;

/// What `INFO` and `CONFIG` tell besides numbers.
struct Facts {
    durability: &'static str,
    socket: String,
    socket_mode: u32,
}

/// What all connections share.
pub struct Redis<E> {
    app: Arc<App<E>>,
    clients: Arc<Clients>,
    cursors: Cursors,
    bell: Arc<Bell>,
    tray: Tray,
    facts: Facts,
}

impl<E: Engine> Redis<E> {
    /// The protocol for an app, which HTTP shares.
    pub fn new(app: Arc<App<E>>, settings: &Settings) -> Redis<E> {
        let socket = settings.redis_socket.as_ref();
        Redis {
            app,
            clients: Arc::default(),
            cursors: Cursors::default(),
            bell: Arc::default(),
            tray: Tray::default(),
            facts: Facts {
                durability: settings.durability.as_str(),
                socket: socket.map_or_else(String::new, |path| path.display().to_string()),
                socket_mode: settings.socket_mode,
            },
        }
    }

    /// A share of the memory for what is in flight, if there is one now. What is larger than all there
    /// is goes alone.
    fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = bytes.min(self.app.limits.in_flight_bytes) / body::UNIT;
        let units = u32::try_from(units).ok()?;
        let in_flight = Arc::clone(&self.app.in_flight);
        in_flight.try_acquire_many_owned(units).ok()
    }
}

/// Accepts connections until they are told to stop.
pub async fn accept<E: Engine>(
    listener: UnixListener,
    redis: Arc<Redis<E>>,
    all: Arc<Connections>,
) {
    let ringing = {
        let bell = Arc::clone(&redis.bell);
        tokio::spawn(async move { bell.run().await })
    };
    let carrying = {
        let redis = Arc::clone(&redis);
        tokio::spawn(async move { redis.tray.run(&*redis.app.engine).await })
    };
    let app = Arc::clone(&redis.app);
    let refusal = b"-ERR max number of clients reached\r\n";
    serve::accept_each(listener, &app.metrics, &all, refusal, |stream, place| {
        let redis = Arc::clone(&redis);
        tokio::spawn(dialogue::Dialogue::new(redis, stream, place).run());
    })
    .await;
    // Those that are open still get their answers.
    all.empty().await;
    ringing.abort();
    carrying.abort();
}

/// Why there is no memory for it.
const NO_MEMORY: Reply =
    Reply::error("BUSY requests and answers in flight take all of their memory (overloaded)");

/// The answer where there is none.
fn unserved(failure: &Failure) -> Reply {
    match failure {
        Failure::Failed(error) => Reply::failed(error),
        Failure::NotOpen(None) => Reply::error("LOADING the store is being opened (starting)"),
        Failure::NotOpen(Some(why)) => Reply::Error(
            format!(
                "LOADING the store is not open: {} ({})",
                why.message(),
                why.code()
            )
            .into(),
        ),
    }
}
