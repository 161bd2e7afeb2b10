//! Workers: starting one, reading what it says, ending it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use codexstore_proof::work::Ack;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Writers of each worker.
pub const WRITERS: usize = 6;

/// How many rounds: `base`, times `PROOF_SCALE`.
pub fn rounds(base: usize) -> usize {
    base * std::env::var("PROOF_SCALE").map_or(1, |scale| scale.parse().unwrap())
}

/// The random numbers of a test.
pub fn random(test: u64) -> fastrand::Rng {
    let seed = std::env::var("PROOF_SEED").map_or(1, |seed| seed.parse().unwrap());
    fastrand::Rng::with_seed(test << 32 ^ seed)
}

/// Says a counter.
pub fn counted(what: &str) {
    println!("{what}");
}

/// Says that a test cannot run here: with `CI=true` that is a failure.
pub fn not_run(what: &str, why: &str) {
    println!("*** NOT RUN: {what}: {why}");
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "NOT RUN with CI=true: {what}: {why}"
    );
    if let Ok(path) = std::env::var("PROOF_NOT_RUN") {
        use std::io::Write;
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path);
        writeln!(file.unwrap(), "{what}\t{why}").unwrap();
    }
}

/// True for root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a command that must succeed; an error says what it printed.
pub fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_string());
    }
    Err(format!(
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// What is known of a store whose workers come and go.
pub struct History {
    pub dir: PathBuf,
    pub acks: Vec<Ack>,
    /// Batches that were acknowledged in all.
    pub acknowledged: u64,
    /// Workers that were ended while they opened.
    pub unopened: u64,
    strategy: &'static str,
    round: u64,
}

/// Both.
pub const STRATEGIES: [&str; 2] = ["snapshot", "ledger"];

impl History {
    pub fn new(dir: &Path, strategy: &'static str) -> History {
        History {
            strategy,
            dir: dir.to_path_buf(),
            acks: vec![Ack::default(); WRITERS],
            acknowledged: 0,
            unopened: 0,
            round: 0,
        }
    }

    /// The next worker, which takes `hog` MiB of memory each 10 ms; `prefix` is a command that runs it.
    pub fn worker(&mut self, hog: u32, prefix: &[&str]) -> Worker {
        const WORKER: &str = env!("CARGO_BIN_EXE_store-worker");
        self.round += 1;
        let mut command = Command::new(prefix.first().unwrap_or(&WORKER));
        if let [_, rest @ ..] = prefix {
            command.args(rest).arg(WORKER);
        }
        command
            .arg(&self.dir)
            .arg(self.strategy)
            .arg(self.round.to_string())
            .arg(hog.to_string());
        command.args(
            self.acks
                .iter()
                .map(|ack| format!("{}:{}", ack.n, ack.revision)),
        );
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Worker {
            child,
            out,
            lines: Vec::new(),
        }
    }

    /// Opens once more and checks, after the last round.
    #[track_caller]
    pub fn finish(&mut self) {
        let mut worker = self.worker(0, &[]);
        let open = worker.until("open", 1);
        assert!(open, "{:?}", worker.lines);
        worker.child.kill().unwrap();
        self.learn(worker);
    }

    /// Takes what an ended worker said; panics if the store was wrong. Codes of writes that failed.
    #[track_caller]
    pub fn learn(&mut self, mut worker: Worker) -> Vec<String> {
        worker.child.wait().unwrap();
        while let Some(line) = worker.line() {
            worker.lines.push(line);
        }
        self.unopened += u64::from(!worker.lines.iter().any(|line| line.starts_with("open")));
        self.hear(&worker.lines)
    }

    /// Takes what a worker said so far.
    #[track_caller]
    pub fn hear(&mut self, lines: &[String]) -> Vec<String> {
        let mut codes = Vec::new();
        for line in lines {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["open", ref words @ ..] => {
                    self.acks = words.iter().map(|word| ack(word)).collect();
                }
                ["ack", writer, word] => {
                    let writer: usize = writer.parse().unwrap();
                    let ack = ack(word);
                    assert_eq!(ack.n, self.acks[writer].n + 1, "round {}", self.round);
                    self.acks[writer] = ack;
                    self.acknowledged += 1;
                }
                ["end", code] => codes.push(code.to_string()),
                _ => panic!("round {}: {line}", self.round),
            }
        }
        codes
    }
}

fn ack(word: &str) -> Ack {
    let (n, revision) = word.split_once(':').unwrap();
    Ack {
        n: n.parse().unwrap(),
        revision: revision.parse().unwrap(),
    }
}

/// A running worker.
pub struct Worker {
    pub child: Child,
    out: BufReader<ChildStdout>,
    pub lines: Vec<String>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    /// The next whole line; `None` at the end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.pop().filter(|end| *end == '\n').map(|_| line)
    }

    /// Reads on, up to `count` lines that begin with `word`. False at the end of all lines.
    pub fn until(&mut self, word: &str, count: usize) -> bool {
        let mut seen = 0;
        while seen < count {
            let Some(line) = self.line() else {
                return false;
            };
            seen += usize::from(line.starts_with(word));
            self.lines.push(line);
        }
        true
    }

    /// Stops it, and reads all that it has said.
    pub fn stop(&mut self) {
        self.signal(Signal::STOP);
        let pid = Pid::from_child(&self.child);
        // Returns when every thread has stopped.
        let stopped = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
        assert!(
            stopped.is_some_and(|(_, status)| status.stopped()),
            "{stopped:?}"
        );
        while !self.out.buffer().is_empty()
            || rustix::io::ioctl_fionread(self.out.get_ref()).unwrap() > 0
        {
            assert!(self.until("", 1));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}
