//! A closed-loop HTTP/1.1 load generator for a Unix socket: one thread, one epoll, no allocation per request.
//!
//! It does per request what redis-benchmark does for Redis (one write, one read, no pipelining), so
//! that on two cores the generator costs both sides about the same.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::epoll;

/// What one run of load saw.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Requests answered a second.
    pub rate: f64,
    /// Median and 99th percentile of the time from request to answer.
    pub p50: Duration,
    /// See `p50`.
    pub p99: Duration,
}

struct Connection {
    stream: UnixStream,
    request: Vec<u8>,
    answer: Vec<u8>,
    sent: Instant,
}

/// Sends `total` requests by `connections` connections, each with one request under way, and expects
/// every answer to have `status`. `request` fills the buffer for the n-th request.
pub fn run(
    socket: &Path,
    connections: usize,
    total: usize,
    status: &str,
    mut request: impl FnMut(usize, &mut Vec<u8>),
) -> Result<Outcome> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut all = Vec::with_capacity(connections);
    for number in 0..connections {
        let stream = UnixStream::connect(socket).context("connecting to the sidecar")?;
        stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&poll, &stream, data, epoll::EventFlags::IN)?;
        all.push(Connection {
            stream,
            request: Vec::with_capacity(512),
            answer: Vec::with_capacity(4096),
            sent: Instant::now(),
        });
    }
    let expected = format!("HTTP/1.1 {status}");
    let mut latencies = Vec::with_capacity(total);
    let mut sent = 0;
    let start = Instant::now();
    for connection in &mut all {
        send(connection, sent, &mut request)?;
        sent += 1;
    }
    let mut chunk = [0u8; 16 << 10];
    let mut events = Vec::with_capacity(connections);
    while latencies.len() < total {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let number = usize::try_from(event.data.u64())?;
            let connection = all.get_mut(number).context("an event for no connection")?;
            match connection.stream.read(&mut chunk) {
                Ok(0) => bail!("the sidecar closed a connection"),
                Ok(n) => connection
                    .answer
                    .extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                Err(e) => return Err(e.into()),
            }
            if !complete(&connection.answer)? {
                continue;
            }
            ensure!(
                connection.answer.starts_with(expected.as_bytes()),
                "expected status {status}, got: {}",
                String::from_utf8_lossy(&connection.answer)
            );
            latencies.push(connection.sent.elapsed());
            if sent < total {
                send(connection, sent, &mut request)?;
                sent += 1;
            }
        }
    }
    let rate = total as f64 / start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |share: f64| {
        latencies
            .get(((total - 1) as f64 * share) as usize)
            .copied()
            .unwrap_or_default()
    };
    Ok(Outcome {
        rate,
        p50: at(0.5),
        p99: at(0.99),
    })
}

fn send(
    connection: &mut Connection,
    number: usize,
    request: &mut impl FnMut(usize, &mut Vec<u8>),
) -> Result<()> {
    connection.request.clear();
    connection.answer.clear();
    request(number, &mut connection.request);
    connection.sent = Instant::now();
    // A request is far smaller than a socket's buffer: a short write would be a bug here.
    connection.stream.write_all(&connection.request)?;
    Ok(())
}

/// Whether the answer's head and its `content-length` bytes of body have arrived.
fn complete(answer: &[u8]) -> Result<bool> {
    let Some(head) = answer.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(false);
    };
    let text = std::str::from_utf8(answer.get(..head).unwrap_or_default())?;
    let length = text
        .split("\r\n")
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>())
        })
        .transpose()?
        .unwrap_or(0);
    Ok(answer.len() >= head + 4 + length)
}
