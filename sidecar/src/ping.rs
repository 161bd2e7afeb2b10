//! `ping`: one HTTP request over the socket, for exec probes. Plain blocking calls and no runtime:
//! a kubelet runs it every second.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use codexstore_api::Problem;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::flags::PingFlags;

/// Longest answer that is read: a problem is shorter.
const MAX_ANSWER: u64 = 64 << 10;

/// Asks; an error says what the sidecar said, or why it did not.
pub fn ping(flags: &PingFlags) -> Result<()> {
    let path = if flags.ready { "/readyz" } else { "/healthz" };
    let answer = ask(&flags.socket, path, flags.timeout)
        .with_context(|| format!("no answer from {}", flags.socket.display()))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    // Alive is who answers at all: a refusal for overload must not make the kubelet end it.
    if status == "200" || (!flags.ready && head.starts_with("HTTP/1.1 ")) {
        return Ok(());
    }
    match serde_json::from_str::<Problem>(body) {
        Ok(problem) => bail!("{}: {} ({})", problem.title, problem.detail, problem.code),
        Err(_) => bail!("HTTP status {status:?}"),
    }
}

fn ask(socket: &Path, path: &str, timeout: Duration) -> Result<String> {
    let deadline = Instant::now() + timeout;
    let mut stream = connect(socket, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    match stream.write_all(request.as_bytes()) {
        // Refused before it was read: the answer is there all the same.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
        written => written?,
    }
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    // A deadline for the whole answer: one that drips would pass each read's own timeout.
    while Instant::now() < deadline && (answer.len() as u64) < MAX_ANSWER {
        match stream.read(&mut part) {
            Ok(0) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
            Ok(n) => answer.extend_from_slice(part.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            // Closed without having read the request, after it was refused.
            Err(e) if e.kind() == ErrorKind::ConnectionReset && !answer.is_empty() => {
                return Ok(String::from_utf8_lossy(&answer).into_owned());
            }
            Err(e) => return Err(e.into()),
        }
    }
    bail!("not answered within {timeout:?}")
}

/// Connects with a timeout for reads, writes and the connecting itself, which blocks while the
/// listener's backlog is full.
fn connect(socket: &Path, timeout: Duration) -> Result<UnixStream> {
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(timeout))?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(socket)?)?;
    Ok(UnixStream::from(fd))
}
