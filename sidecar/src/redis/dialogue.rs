//! One connection: what is read, what waits for the committer, what is written, in order.
//!
//! It is one future that is polled, without a task or a channel for a command. While it is idle it holds
//! no buffer: requests are read into memory that all connections of the thread share, and only what
//! is not whole, or waits, is kept.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use super::clients::Client;
use super::command::Command;
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::parse::{Bounds, Parser, Refused, Step};
use super::program::Transaction;
use super::reply::{Reply, Version};
use super::request::{Args, Request};
use super::{NO_MEMORY, Redis, SMALL};
use crate::access::Grant;
use crate::engine::Engine;
use crate::metrics::{Operation, Protocol, Tally, Turned};
use crate::serve::connections::{Connection, Place, Working};
use crate::serve::peer;
use crate::trace::About;

/// Reads in a row before others have their turn.
const ROUNDS: usize = 4;

/// Bytes of answers that may wait for the client before no more of its requests are looked at.
const MOST_UNSENT: usize = 256 << 10;

/// Answers that may be outstanding.
const MOST_PENDING: usize = 1024;

/// Memory that is kept between two turns.
const KEPT: usize = 256 << 10;

/// Memory that all connections of a thread use in turn.
struct Scratch {
    input: Vec<u8>,
    output: Vec<u8>,
    letters: Vec<(u64, Reply)>,
    tally: Tally,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; SMALL],
        output: Vec::new(),
        letters: Vec::new(),
        tally: Tally::default(),
    });
}

/// The command that is answered; none if what came is not one, or not one that may be run as it is asked.
pub type Asked = Option<&'static Command>;

/// As what it is counted.
pub fn operation(command: Asked) -> Operation {
    command.map_or(Operation::Other, Command::operation)
}

/// An answer in its turn.
pub struct Slot {
    /// Once it is there.
    pub reply: Option<Reply>,
    /// What it answers, if that is a command.
    pub command: Asked,
    /// When that came.
    pub begun: Instant,
}

/// What a span tells of an answer.
pub fn about(command: Asked, reply: &Reply) -> About {
    About::Redis {
        command: command.map(|command| command.name),
        error: reply.words(),
    }
}

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is run.
    Plain,
    /// It is queued for EXEC.
    Queueing,
    /// The same, and EXEC will refuse: one could not be queued.
    Spoilt,
}

/// Where requests are taken from.
enum Source<'a> {
    /// Memory that is used again.
    Lent(&'a [u8]),
    /// Memory of the connection.
    Own(BytesMut),
}

impl Source<'_> {
    fn rest(&self) -> &[u8] {
        match self {
            Source::Lent(bytes) => bytes,
            Source::Own(bytes) => bytes,
        }
    }

    fn skip(&mut self, len: usize) {
        match self {
            Source::Lent(bytes) => *bytes = bytes.get(len..).unwrap_or_default(),
            Source::Own(bytes) => drop(bytes.split_to(len.min(bytes.len()))),
        }
    }
}

/// A connection.
pub struct Dialogue<E: Engine> {
    pub(super) redis: Arc<Redis<E>>,
    stream: UnixStream,
    connection: Place,
    /// What it may do.
    pub(super) grant: Arc<Grant>,
    pub(super) client: Arc<Client>,
    pub(super) version: Version,

    parser: Parser,
    /// What has come and is not done: a request that is not whole, or all that must wait.
    partial: BytesMut,
    /// Some of it could be done, as far as it has come.
    held: bool,
    /// Bytes that are needed to go on, as far as is known.
    need: usize,
    /// Memory for the request that comes.
    pub(super) share: Option<OwnedSemaphorePermit>,
    /// A request that waits until all before it is answered.
    pub(super) parked: Option<Request>,

    pub(super) inbox: Arc<Inbox<Reply>>,
    pub(super) pending: VecDeque<Slot>,
    /// Number of the first answer that is pending.
    pub(super) first: u64,
    /// Nothing goes on before all is answered.
    pub(super) barrier: bool,
    out: Outbox,
    /// When what is being done was read.
    pub(super) now: Instant,
    /// The last command since that was noted.
    pub(super) last: Option<&'static str>,

    /// What is queued and watched.
    pub(super) transaction: Transaction,
    pub(super) mode: Mode,

    /// It ends when all is answered.
    pub(super) closing: bool,
    working: Option<Working>,
    /// When a request that is not whole began to come, and when a part of it last did.
    coming: Option<(Instant, Instant)>,
    /// When the client last took bytes, while some wait for it.
    stuck: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<E: Engine> Dialogue<E> {
    /// A connection that has just been made.
    pub fn new(redis: Arc<Redis<E>>, stream: UnixStream, connection: Place) -> Dialogue<E> {
        let limits = redis.app.limits;
        let bounds = Bounds {
            argument: limits.max_value,
            // As much as a batch over HTTP, and never more than there is.
            request: (2 * limits.max_value + (1 << 20)).min(limits.in_flight_bytes),
        };
        Dialogue {
            grant: Arc::new(redis.app.access.grant(peer(&stream))),
            client: redis.clients.join(),
            version: Version::Resp2,
            parser: Parser::new(bounds, SMALL),
            partial: BytesMut::new(),
            held: false,
            need: 0,
            share: None,
            parked: None,
            inbox: Arc::new(Inbox::new(Arc::clone(&redis.bell))),
            pending: VecDeque::new(),
            first: 0,
            barrier: false,
            out: Outbox::default(),
            now: Instant::now(),
            last: None,
            transaction: Transaction::default(),
            mode: Mode::Plain,
            closing: false,
            working: None,
            coming: None,
            stuck: None,
            timer: None,
            redis,
            stream,
            connection,
        }
    }

    /// Serves it until it ends.
    pub async fn run(mut self) {
        let redis = Arc::clone(&self.redis);
        let _counted = redis.app.metrics.connection();
        poll_fn(|cx| SCRATCH.with_borrow_mut(|scratch| self.poll(cx, scratch))).await;
        if let Some(why) = self.connection.ended() {
            redis.app.metrics.turned(why);
        }
    }

    /// Notes the last command for those who list connections.
    pub(super) fn note(&mut self) {
        if let Some(last) = self.last.take() {
            let mut about = self.client.about();
            about.last = last;
            about.seen = self.now;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<()> {
        self.connection.remember(cx.waker());
        self.out.lend(std::mem::take(&mut scratch.output));
        let turn = self.turn(cx, scratch);
        self.note();
        let back = self.out.give_back();
        if back.capacity() <= KEPT {
            scratch.output = back;
        }
        let busy = !self.pending.is_empty() || !self.out.is_empty() || self.parked.is_some();
        match (busy, &self.working) {
            (true, None) => self.working = Some(Connection::begin(&self.connection)),
            (false, Some(_)) => self.working = None,
            _ => {}
        }
        turn
    }

    fn turn(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Poll<()> {
        for _ in 0..ROUNDS {
            if self.connection.evicted() {
                return Poll::Ready(());
            }
            self.collect(scratch);
            if self.may_go_on() && (self.parked.is_some() || self.held) {
                self.go_on(scratch);
            }
            if !scratch.tally.is_empty() {
                self.count(&mut scratch.tally);
            }
            if !self.send(cx) || self.over() {
                return Poll::Ready(());
            }
            if self.may_read() {
                match self.read(cx, scratch) {
                    Poll::Ready(Ok(0)) => self.closing = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending if self.wait(cx) => return self.overdue(cx),
                    Poll::Ready(Ok(_)) | Poll::Pending => {}
                }
            } else if self.wait(cx) {
                return self.overdue(cx);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Counts what was answered together.
    fn count(&self, tally: &mut Tally) {
        let app = &self.redis.app;
        let took = self.now.elapsed();
        if let Some(tracer) = &app.tracer {
            for (begun, operation, about) in tally.spans.drain(..) {
                tracer.end(begun, took, operation, about, None);
            }
        }
        app.metrics.add(tally, took);
    }

    /// Waits for answers of the committer; false if there are some.
    fn wait(&self, cx: &mut Context<'_>) -> bool {
        self.pending.is_empty() || self.inbox.wait(cx.waker())
    }

    /// True if more requests may be looked at.
    fn may_go_on(&self) -> bool {
        let room = self.pending.is_empty()
            || (self.pending.len() < MOST_PENDING
                && self
                    .redis
                    .app
                    .in_work
                    .load(std::sync::atomic::Ordering::Relaxed)
                    < self.redis.app.limits.max_requests);
        room && !self.barrier
            && !self.closing
            && self.out.len() < MOST_UNSENT
            && (self.parked.is_none() || self.pending.is_empty())
    }

    fn may_read(&self) -> bool {
        self.may_go_on() && self.parked.is_none() && !self.connection.stopping()
    }

    /// True when there is nothing more to do.
    fn over(&self) -> bool {
        let ending = self.closing || (self.connection.stopping() && self.parked.is_none());
        ending && self.pending.is_empty() && self.out.is_empty()
    }

    /// Takes the committer's answers, and writes those whose turn it is.
    fn collect(&mut self, scratch: &mut Scratch) {
        if self.pending.is_empty() {
            return;
        }
        self.inbox.take(&mut scratch.letters);
        for (number, reply) in scratch.letters.drain(..) {
            let place = usize::try_from(number.wrapping_sub(self.first)).unwrap_or(usize::MAX);
            if let Some(slot) = self.pending.get_mut(place) {
                slot.reply = Some(reply);
            }
        }
        while let Some(slot) = self.pending.front_mut() {
            let Some(reply) = slot.reply.take() else {
                break;
            };
            let (command, took) = (slot.command, slot.begun.elapsed());
            self.pending.pop_front();
            self.first += 1;
            let (operation, outcome) = (operation(command), reply.outcome());
            let app = &self.redis.app;
            if let Some(tracer) = &app.tracer
                && let Some(begun) = tracer.root()
            {
                tracer.end(begun, took, operation, about(command, &reply), None);
            }
            app.metrics
                .count(Protocol::Redis, operation, outcome, took, None);
            self.count_error(&reply);
            self.write(reply);
        }
        if self.pending.is_empty() {
            self.barrier = false;
            if self.pending.capacity() > 64 {
                self.pending = VecDeque::new();
            }
        }
    }

    /// True between MULTI and EXEC.
    pub(super) fn queueing(&self) -> bool {
        self.mode != Mode::Plain
    }

    /// A command could not be queued, if they are queued.
    pub(super) fn spoil(&mut self) {
        if self.queueing() {
            self.mode = Mode::Spoilt;
        }
    }

    /// Writes an answer, if there is memory for it.
    pub(super) fn write(&mut self, mut reply: Reply) {
        let size = reply.size();
        if size > SMALL {
            match self.redis.reserve(size) {
                Some(share) => self.out.hold(share),
                None => reply = NO_MEMORY,
            }
        }
        reply.write(self.version, &mut self.out);
    }

    /// Sends what can be sent; false when the client is gone.
    fn send(&mut self, cx: &mut Context<'_>) -> bool {
        if self.out.is_empty() {
            return true;
        }
        let before = self.out.len();
        match self.out.poll_send(&mut self.stream, cx) {
            Poll::Ready(Err(_)) => return false,
            Poll::Ready(Ok(())) => self.stuck = None,
            Poll::Pending if self.stuck.is_none() || self.out.len() < before => {
                self.stuck = Some(Instant::now());
            }
            Poll::Pending => {}
        }
        true
    }

    /// Reads, and handles what came: as much as one read brings.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Poll<std::io::Result<usize>> {
        let kept = self.partial.len();
        let read = if kept >= SMALL || self.need > SMALL {
            // A large request has memory of its own, as much as it was allowed.
            let more = self.need.saturating_sub(kept).max(SMALL / 4);
            self.partial.reserve(more);
            let mut reading = std::pin::pin!(self.stream.read_buf(&mut self.partial));
            let read = ready!(reading.as_mut().poll(cx))?;
            if read > 0 {
                self.arrived();
                let own = Source::Own(std::mem::take(&mut self.partial));
                self.consume(own, &mut scratch.tally);
            }
            read
        } else {
            let Some((front, space)) = scratch.input.split_at_mut_checked(kept) else {
                return Poll::Ready(Ok(0));
            };
            front.copy_from_slice(&self.partial);
            let mut buf = ReadBuf::new(space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            let read = buf.filled().len();
            if read > 0 {
                self.arrived();
                self.partial = BytesMut::new();
                let all = scratch.input.get(..kept + read).unwrap_or_default();
                self.consume(Source::Lent(all), &mut scratch.tally);
            }
            read
        };
        if read > 0 {
            self.coming = match self.coming {
                _ if self.partial.is_empty() => None,
                Some((begun, _)) => Some((begun, self.now)),
                None => Some((self.now, self.now)),
            };
        }
        Poll::Ready(Ok(read))
    }

    fn arrived(&mut self) {
        self.now = Instant::now();
        self.connection.seen();
    }

    /// Handles what waited.
    fn go_on(&mut self, scratch: &mut Scratch) {
        if let Some(parked) = self.parked.take() {
            self.handle(parked.args(), Some(&parked.data), &mut scratch.tally);
            self.share = None;
        }
        if self.may_go_on() && self.held {
            let own = Source::Own(std::mem::take(&mut self.partial));
            self.consume(own, &mut scratch.tally);
            // It was not the client for whom this waited.
            let now = Instant::now();
            self.coming = (!self.partial.is_empty()).then_some((now, now));
        }
    }

    /// Handles the requests of a source, and keeps what is left of it.
    fn consume(&mut self, mut source: Source<'_>, tally: &mut Tally) {
        self.need = 0;
        self.held = true;
        while self.may_go_on() {
            match self.parser.step(source.rest()) {
                Step::Request(len) => self.take(&mut source, len, tally),
                Step::Inline(len, line) => {
                    let spans = std::mem::take(self.parser.spans());
                    self.handle(Args::new(&line, &spans), None, tally);
                    source.skip(len);
                }
                Step::Nothing(len) | Step::Drop(len) => source.skip(len),
                Step::Dropped(len, why) => {
                    source.skip(len);
                    self.share = None;
                    let error = self.too_much(&why);
                    self.answer(None, error, tally);
                }
                Step::Wants(bytes) => self.allow(bytes),
                Step::More(need) => {
                    self.need = need;
                    self.held = false;
                    break;
                }
                Step::Broken(why) => {
                    let error = Reply::Error(format!("ERR Protocol error: {why}").into());
                    self.answer(None, error, tally);
                    self.connection.end(Turned::Malformed);
                    self.closing = true;
                }
            }
        }
        if self.closing {
            return;
        }
        self.partial = match source {
            Source::Own(left) if left.is_empty() => BytesMut::new(),
            // A few bytes behind a large request must not keep its memory.
            Source::Own(left) if self.need <= SMALL => BytesMut::from(&left[..]),
            Source::Own(left) => left,
            Source::Lent([]) => return,
            Source::Lent(left) => {
                let room = if self.need > SMALL { self.need } else { 0 };
                let mut kept = BytesMut::with_capacity(room.max(left.len()));
                kept.extend_from_slice(left);
                kept
            }
        };
    }

    /// Handles one request at the front.
    fn take(&mut self, source: &mut Source<'_>, len: usize, tally: &mut Tally) {
        let spans = std::mem::take(self.parser.spans());
        match source {
            Source::Own(bytes) if len > SMALL => {
                // The request keeps these bytes; nothing is copied.
                let data = bytes.split_to(len.min(bytes.len())).freeze();
                self.handle(Args::new(&data, &spans), Some(&data), tally);
            }
            source => {
                let data = source.rest().get(..len).unwrap_or_default();
                self.handle(Args::new(data, &spans), None, tally);
                source.skip(len);
            }
        }
        if self.parked.is_none() {
            self.share = None;
        }
        *self.parser.spans() = spans;
    }

    /// Asks whether there is memory for the request that comes.
    fn allow(&mut self, bytes: usize) {
        // In steps, so that many small arguments do not ask one by one.
        let bytes = bytes.next_multiple_of(SMALL);
        let units = self
            .share
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let held = units * crate::http::body::UNIT;
        match self.redis.reserve(bytes.saturating_sub(held)) {
            Some(share) => {
                match &mut self.share {
                    Some(held) => held.merge(share),
                    none => *none = Some(share),
                }
                self.parser.allow(bytes);
            }
            None => self.parser.refuse(Refused::Memory),
        }
    }

    /// Ends the connection when a client takes too long. Called when there is nothing else to do.
    fn overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limits = &self.redis.app.limits;
        let coming = self.coming.filter(|_| self.may_read());
        let whole = coming.map(|(begun, last)| (begun + limits.request).min(last + limits.io));
        let taken = self.stuck.map(|since| since + limits.io);
        let Some(due) = [whole, taken].into_iter().flatten().min() else {
            self.timer = None;
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
        if timer.deadline() != due.into() {
            timer.as_mut().reset(due.into());
        }
        ready!(timer.as_mut().poll(cx));
        self.connection.end(match taken {
            Some(taken) if taken == due => Turned::SlowReader,
            _ => Turned::SlowHeader,
        });
        Poll::Ready(())
    }
}
