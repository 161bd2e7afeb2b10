//! The sidecar's service over real stores in this process, on one thread, with deadlines that no run comes to.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use clap::Parser;
use codexstore::{Code, Encryption, Error, Options, Scan, Store};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;

use crate::engine::local::Local;
use crate::flags::{Cli, Command};
use crate::grpc::{self, Grpc};
use crate::http::answer::Body;
use crate::http::{App, answer};
use crate::serve::connections::{Connections, Place};
use crate::serve::guard::Guard;
use crate::serve::protocol::{Protocol, connection_of, protocol};
use crate::settings::Settings;
use codexstore_api::status::State;

/// Longest value.
pub const MAX_VALUE: usize = 2000;

/// Revisions after which a store makes room for a new one: what asks for the past reads all of it.
const REVISIONS: u64 = 2_000;

/// Times that an answer without an end may be looked for before its client goes away.
const PATIENCE: u8 = 8;

/// Longest time for all of a run. What nobody wakes goes on by itself when the guard of its connection ticks, after 5 s.
const LONGEST: Duration = Duration::from_secs(4);

/// A member whose store has one of the strategies.
pub struct Member {
    app: Arc<App<Local>>,
    grpc: Arc<Grpc>,
    local: Arc<Local>,
    protocol: Arc<Protocol>,
    options: Options,
    dir: RefCell<TempDir>,
    left_at: Cell<u64>,
}

/// A request that the service was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// What it was answered, once it was.
    pub status: Option<StatusCode>,
}

/// All that a connection asked, in order, and whether the client went away from an answer that has no end.
#[derive(Default)]
pub struct Heard {
    /// The requests.
    pub asked: Vec<Asked>,
    /// Whether the last of them is a watch.
    pub endless: bool,
}

struct Members {
    runtime: Runtime,
    snapshot: Member,
    ledger: Member,
}

thread_local! {
    static MEMBERS: Members = Members::new();
}

/// Does something with a member of either strategy, whose store is empty and is emptied again.
pub fn with(ledger: bool, act: impl FnOnce(&Runtime, &Member)) {
    MEMBERS.with(|all| {
        let member = if ledger { &all.ledger } else { &all.snapshot };
        act(&all.runtime, member);
        member.clear();
    });
}

/// Waits for what nothing holds up.
pub async fn in_time<T>(run: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(LONGEST, run).await;
    done.expect("nothing is forgotten")
}

impl Members {
    fn new() -> Members {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let (snapshot, ledger) = {
            // The services may look for it.
            let _entered = runtime.enter();
            (Member::new("snapshot"), Member::new("ledger"))
        };
        Members {
            runtime,
            snapshot,
            ledger,
        }
    }
}

/// In memory, where a sync costs nothing.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory")
}

impl Member {
    fn new(strategy: &str) -> Member {
        let dir = directory();
        let flags = format!(
            "sidecar run --no-encryption --strategy {strategy} --data-dir {} --compression none --max-disk 256Mi \
             --max-memory 64Mi --max-value {MAX_VALUE} --request-timeout 1h --io-timeout 1h --idle-timeout 1h --slow-request 1h",
            dir.path().display()
        );
        let Command::Run(flags) = Cli::parse_from(flags.split_whitespace()).command else {
            unreachable!("it says run");
        };
        let settings = Settings::from_flags(*flags).expect("settings");
        let options = settings.options(Encryption::None);
        let local = Arc::new(Local::default());
        local.opened(Store::open(dir.path(), options.clone()).expect("opens"));
        let connections = Connections::new(settings.limits.max_connections);
        let app = App::new(Arc::clone(&local), &settings, connections, None);
        let app = Arc::new(app);
        Member {
            grpc: Arc::new(Grpc::new(&app).expect("services")),
            app,
            local,
            protocol: Arc::new(protocol()),
            options,
            dir: RefCell::new(dir),
            left_at: Cell::new(0),
        }
    }

    /// The store that is served.
    pub fn store(&self) -> Store {
        self.local.store().expect("it is open")
    }

    /// All that is in the store.
    pub fn entries(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let page = self.store().scan(&Scan::all()).expect("scan");
        let entries = page.items.iter();
        entries
            .map(|entry| (entry.key().to_vec(), entry.value().to_vec()))
            .collect()
    }

    /// Empties the store, or begins a new one.
    fn clear(&self) {
        let store = self.store();
        let revision = store.status().revision;
        if revision == self.left_at.get() {
            return;
        }
        if revision > REVISIONS {
            let why = Error::new(Code::Closed, "there is a new one");
            let old = self.local.closed(State::Starting, why);
            drop((store, old.map(Store::close)));
            let dir = directory();
            self.local
                .opened(Store::open(dir.path(), self.options.clone()).expect("opens"));
            self.dir.replace(dir);
        } else {
            store.delete_prefix(b"").expect("it is emptied");
        }
        self.left_at.set(self.store().status().revision);
    }

    /// Serves a client until the connection ends, as [`crate::serve::accept`] does, and says what it asked.
    pub fn serve<S>(&self, stream: S) -> impl Future<Output = Heard> + 'static
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (place, _): (Place, _) = self.app.connections.admit().expect("a place");
        let mut guard = Guard::new(stream, Arc::clone(&place), self.app.limits);
        let heard = Arc::new(Mutex::new(Heard::default()));
        let service = {
            let (app, grpc, heard) = (
                Arc::clone(&self.app),
                Arc::clone(&self.grpc),
                Arc::clone(&heard),
            );
            let grant = Arc::new(app.access.grant(None));
            move |request| {
                let (app, grpc, heard) = (Arc::clone(&app), Arc::clone(&grpc), Arc::clone(&heard));
                let grant = Arc::clone(&grant);
                let (at, watch) = hear(&heard, &request);
                async move {
                    let response = if is_grpc(&request) {
                        grpc::answer(&app, &grpc, &grant, request).await
                    } else {
                        answer(&app, &grant, request).await
                    };
                    answered(&heard, at, watch, &response);
                    response
                }
            }
        };
        let protocol = Arc::clone(&self.protocol);
        async move {
            let mut serving = pin!(connection_of(&protocol, &mut guard, &place, service));
            let mut patience = PATIENCE;
            poll_fn(|cx| {
                if serving.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if lock(&heard).endless {
                    if patience == 0 {
                        return Poll::Ready(());
                    }
                    patience -= 1;
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            })
            .await;
            std::mem::take(&mut *lock(&heard))
        }
    }
}

/// As the sidecar tells one from the other.
fn is_grpc(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(http::header::CONTENT_TYPE);
    request.version() == Version::HTTP_2
        && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Notes a request: its number, and whether it may be answered without an end.
fn hear(heard: &Mutex<Heard>, request: &Request<Incoming>) -> (usize, bool) {
    let mut heard = lock(heard);
    heard.asked.push(Asked {
        method: request.method().clone(),
        status: None,
    });
    // On HTTP/2 the end of the client's side is the end of all.
    let watch =
        request.version() != Version::HTTP_2 && request.uri().path() == codexstore_api::path::WATCH;
    (heard.asked.len() - 1, watch)
}

fn answered(heard: &Mutex<Heard>, at: usize, watch: bool, response: &Response<Body>) {
    let status = response.status();
    // Nothing that a client sends is the sidecar's fault.
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let mut heard = lock(heard);
    heard.asked[at].status = Some(status);
    heard.endless |= watch && status == StatusCode::OK;
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
