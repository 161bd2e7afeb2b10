//! A server process under load, on a Unix socket and a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A server that stops with this value.
pub struct Server {
    child: Child,
    /// Its Unix socket.
    pub socket: PathBuf,
    /// From its start until it was ready.
    pub ready_after: Duration,
}

impl Server {
    /// Starts it and waits until it is ready.
    pub fn start(
        mut command: Command,
        socket: PathBuf,
        ready: impl Fn(&Path) -> bool,
    ) -> Result<Self> {
        let name = command.get_program().display().to_string();
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        while !ready(&socket) {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended at its start: {status}");
            }
            if start.elapsed() > Duration::from_mins(1) {
                bail!("{name} was not ready in 60 s");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self {
            child,
            socket,
            ready_after: start.elapsed(),
        })
    }

    /// Processor time that it has taken, in ticks: only good for comparing.
    #[allow(dead_code, reason = "only the bench over sockets asks for it")]
    pub fn ticks(&self) -> Result<u64> {
        ticks(self.child.id())
    }

    /// The number of its process.
    #[allow(dead_code, reason = "only the bench over sockets asks for it")]
    pub fn process(&self) -> String {
        self.child.id().to_string()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        resident(&self.child.id().to_string())
    }

    /// As [`anonymous`].
    #[allow(dead_code, reason = "only the bench over sockets asks for it")]
    pub fn anonymous(&self) -> Result<u64> {
        anonymous(&self.process())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time that a process has taken, in ticks of its clock.
#[allow(dead_code, reason = "only the bench over sockets asks for it")]
fn ticks(process: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which may hold anything, in brackets.
    let fields = stat.rsplit_once(')').context("no name in stat")?.1;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || -> Result<u64> { Ok(fields.next().context("stat is short")?.parse()?) };
    Ok(next()? + next()?)
}

/// Resident memory of a process (`self`: of this one) in bytes.
pub fn resident(process: &str) -> Result<u64> {
    memory(process, "VmRSS")
}

/// Resident memory of a process in bytes without the pages of files, such as the program's own, which the system drops when it needs
/// them.
#[allow(dead_code, reason = "only the bench over sockets asks for it")]
pub fn anonymous(process: &str) -> Result<u64> {
    memory(process, "RssAnon")
}

/// The most resident memory that a process has had, in bytes.
#[allow(dead_code, reason = "only the bench of the library asks for it")]
pub fn peak(process: &str) -> Result<u64> {
    memory(process, "VmHWM")
}

/// Forgets the most that this process has had.
#[allow(dead_code, reason = "only the bench of the library asks for it")]
pub fn reset_peak() -> Result<()> {
    fs::write("/proc/self/clear_refs", "5").context("forgetting the peak of memory")
}

/// A kind of memory of a process, as `/proc/PID/status` names it, in bytes.
fn memory(process: &str, kind: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, size) = lines
        .find(|(name, _)| *name == kind)
        .with_context(|| format!("no {kind}"))?;
    let kib: u64 = size.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
