//! Very many connections: watchers that wait for one event, and those that are idle.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::epoll;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::results::{Row, median};
use crate::server::Server;
use crate::{ROUNDS, limit, mib};

const WATCHERS: usize = 1_000;
const IDLE: usize = 10_000;
/// Descriptors for all else.
const OTHERS: u64 = 500;

/// Both cases, of a server that takes so many connections.
pub fn rows(server: &Server) -> Result<Vec<Row>> {
    raise_descriptors()?;
    let reached = watchers(&server.socket).context("watchers")?;
    let idle = (0..IDLE).map(|_| served(&server.socket));
    let idle: Vec<UnixStream> = idle.collect::<Result<_>>().context("idle connections")?;
    let memory = server.anonymous()?;
    drop(idle);
    Ok(vec![
        limit("http.watch.1k", "ms", reached * 1e3, 50.0),
        limit("sidecar.memory.idle.10k", "MiB", mib(memory), 60.0),
    ])
}

fn raise_descriptors() -> Result<()> {
    let most = getrlimit(Resource::Nofile).maximum;
    let wanted = IDLE as u64 + OTHERS;
    ensure!(
        most.is_none_or(|most| most >= wanted),
        "this machine allows a process fewer than {wanted} descriptors: see `ulimit -Hn`"
    );
    let raised = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, raised).context("raising the limit of descriptors")
}

/// A connection that has got an answer.
fn served(socket: &Path) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: b\r\n\r\n")?;
    let mut answer = [0; 4096];
    let read = stream.read(&mut answer)?;
    let answer = answer.get(..read).unwrap_or_default();
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "not answered with 200");
    Ok(stream)
}

struct Watcher {
    stream: UnixStream,
    seen: Vec<u8>,
    waits: bool,
}

/// From the write of one key until the last watcher has read of it, in seconds: the median of the rounds.
fn watchers(socket: &Path) -> Result<f64> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut all = Vec::with_capacity(WATCHERS);
    for number in 0..WATCHERS {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(b"GET /v1/watch?prefix=crowd HTTP/1.1\r\nhost: b\r\n\r\n")?;
        stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&poll, &stream, data, epoll::EventFlags::IN)?;
        all.push(Watcher {
            stream,
            seen: Vec::new(),
            waits: false,
        });
    }
    wait_for(&poll, &mut all, b"HTTP/1.1 200")?;
    let mut writer = UnixStream::connect(socket)?;
    let mut times = Vec::new();
    for round in 0..=ROUNDS {
        let key = format!("crowd-{round}");
        let put = format!("PUT /v1/keys/{key} HTTP/1.1\r\nhost: b\r\ncontent-length: 1\r\n\r\nv");
        let start = Instant::now();
        writer.write_all(put.as_bytes())?;
        wait_for(&poll, &mut all, format!("\"{key}\"").as_bytes())?;
        times.push(start.elapsed().as_secs_f64());
        let read = writer.read(&mut [0; 4096])?;
        ensure!(read > 0, "the sidecar closed a connection");
    }
    // The first one warms up.
    times.remove(0);
    Ok(median(times))
}

/// Reads from all until each has got this.
fn wait_for(poll: &OwnedFd, all: &mut [Watcher], wanted: &[u8]) -> Result<()> {
    let mut left = all.len();
    for watcher in all.iter_mut() {
        watcher.seen.clear();
        watcher.waits = true;
    }
    let mut chunk = [0; 16 << 10];
    let mut events = Vec::with_capacity(WATCHERS);
    while left > 0 {
        events.clear();
        epoll::wait(poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let number = usize::try_from(event.data.u64())?;
            let watcher = all.get_mut(number).context("an event for no connection")?;
            match watcher.stream.read(&mut chunk) {
                Ok(0) => bail!("the sidecar closed a watcher's connection"),
                Ok(n) => watcher
                    .seen
                    .extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                Err(e) => return Err(e.into()),
            }
            let found = watcher.seen.windows(wanted.len()).any(|w| w == wanted);
            left -= usize::from(watcher.waits && found);
            watcher.waits &= !found;
        }
    }
    Ok(())
}
