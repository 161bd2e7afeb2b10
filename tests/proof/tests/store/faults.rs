//! Errors of the disk under the real sidecar: `strace` makes the Nth call of a kind fail; a small tmpfs is full.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{counted, is_root, not_run, rounds, run};
use crate::sidecar::{Place, Written, load};

/// Calls that the store makes while it is open, and at which of them there is an error: those of a commit, and those of a fold.
const CALLS: [(&str, &[&str]); 7] = [
    ("pwrite64", &["1", "2", "5", "3+"]),
    ("fdatasync", &["1", "2", "5", "3+"]),
    ("statx", &["1", "2", "5", "3+"]),
    ("fsync", &["1", "2", "1+"]),
    ("openat", &["1", "2", "1+"]),
    ("rename", &["1", "1+"]),
    ("unlink", &["1", "1+"]),
];

const WRITERS: usize = 3;

/// A strace that makes calls of a running process fail.
struct Strace {
    child: Child,
    logs: tempfile::TempDir,
}

impl Strace {
    fn attach(pid: u32, call: &str, when: &str) -> Strace {
        let logs = tempfile::tempdir().unwrap();
        let child = Command::new("strace")
            .args(["-q", "-ff", "-ttt", "-y", "-o"])
            .arg(logs.path().join("log"))
            .args(["-e", &format!("trace=fdatasync,fsync,{call}")])
            .args(["-e", &format!("inject={call}:error=EIO:when={when}")])
            .args(["-p", &pid.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let strace = Strace { child, logs };
        // Every thread of the process has a tracer.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !traced(pid) {
            assert!(Instant::now() < deadline, "strace does not attach");
            std::thread::sleep(Duration::from_millis(1));
        }
        strace
    }

    /// Every call, in order of time: its line.
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<(String, String)> = Vec::new();
        for file in std::fs::read_dir(self.logs.path()).unwrap() {
            let text = std::fs::read(file.unwrap().path()).unwrap();
            for line in String::from_utf8_lossy(&text).lines() {
                if let Some((time, call)) = line.split_once(' ') {
                    lines.push((time.to_string(), call.to_string()));
                }
            }
        }
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn traced(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    tasks.flatten().all(|task| {
        std::fs::read_to_string(task.path().join("status")).is_ok_and(|status| {
            status.contains("TracerPid:") && !status.contains("TracerPid:\t0\n")
        })
    })
}

/// The file of an `fsync` or `fdatasync`.
fn synced(line: &str) -> Option<&str> {
    let (call, rest) = line.split_once('(')?;
    ["fsync", "fdatasync"].contains(&call).then_some(())?;
    rest.split_once('<')?
        .1
        .split_once('>')
        .map(|(file, _)| file)
}

/// One fault: errors injected, and syncs that were looked at.
fn fault(call: &str, when: &str) -> (usize, usize) {
    let place = Place::new();
    let mut sidecar = place.start("s.sock", &[]);
    assert!(sidecar.ready(Duration::from_secs(20)));
    let mut writers: Vec<Written> = (0..WRITERS).map(Written::new).collect();
    assert!(!load(&sidecar, &mut writers, Duration::from_millis(30)));
    let strace = Strace::attach(sidecar.child.id(), call, when);
    let failed = load(&sidecar, &mut writers, Duration::from_millis(1500));
    let mut connection = sidecar.connection();
    if failed {
        // Poisoned: refused for as long as the store is not opened anew, which is 5 s; reads go on.
        for n in 0..5 {
            let answer = connection.put("after", b"the error").unwrap();
            assert!(
                !answer.done(),
                "{call} {when}: write {n} after the error was acknowledged"
            );
            assert!(
                answer.is("poisoned"),
                "{call} {when}: {}",
                String::from_utf8_lossy(&answer.body)
            );
        }
        assert_eq!(connection.get("after"), None, "{call} {when}");
    }
    for written in &writers {
        written.check(&mut connection);
    }
    sidecar.kill();
    let lines = strace.lines();
    drop(strace);
    let injected = lines
        .iter()
        .filter(|line| line.contains("(INJECTED)"))
        .count();
    let mut broken = BTreeSet::new();
    let mut syncs = 0;
    for line in &lines {
        let Some(file) = synced(line) else { continue };
        syncs += 1;
        assert!(
            !broken.contains(file),
            "{call} {when}: synced again after a failed sync: {line}"
        );
        if line.contains("= -1 ") {
            broken.insert(file);
        }
    }
    let sidecar = place.start("s.sock", &[]);
    assert!(
        sidecar.ready(Duration::from_secs(20)),
        "{call} {when}: does not open"
    );
    let mut connection = sidecar.connection();
    for written in &writers {
        written.check(&mut connection);
    }
    assert!(
        injected == 0 || failed || !["pwrite64", "fdatasync", "statx"].contains(&call),
        "{call} {when}: nothing failed"
    );
    (injected, syncs)
}

#[test]
fn an_error_of_the_disk_poisons_the_store_and_loses_nothing() {
    const WHAT: &str = "disk errors by strace";
    if let Err(why) = run("strace", &["-f", "true"]) {
        return not_run(WHAT, &why);
    }
    let mut cases: Vec<(&str, String)> = Vec::new();
    for (call, places) in CALLS {
        cases.extend(places.iter().map(|when| (call, (*when).to_string())));
        cases.extend((1..rounds(1)).map(|n| (call, (n + 2).to_string())));
    }
    let (mut injected, mut hit, mut syncs) = (0, 0, 0);
    for (call, when) in &cases {
        let (errors, seen) = fault(call, when);
        if errors == 0 {
            counted(&format!("EIO by strace: not reached: {call} {when}"));
        }
        injected += errors;
        hit += usize::from(errors > 0);
        syncs += seen;
    }
    assert!(
        hit > cases.len() / 2,
        "only {hit} of {} places were reached",
        cases.len()
    );
    counted(&format!(
        "EIO by strace: {}, reached: {hit}, errors: {injected}, syncs looked at: {syncs}, second syncs of a file: 0",
        cases.len()
    ));
}

struct Tmpfs<'a>(&'a Path);

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_full_disk_refuses_writes_reads_on_and_takes_deletes() {
    const WHAT: &str = "full disk (small tmpfs)";
    if !is_root() {
        return not_run(WHAT, "needs root");
    }
    let mut refused = 0;
    let sizes = ["3m", "5m", "9m"];
    for size in sizes {
        let mut place = Place::new();
        let volume = place.dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        let options = format!("size={size}");
        if let Err(why) = run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &options,
                "none",
                volume.to_str().unwrap(),
            ],
        ) {
            return not_run(WHAT, &why);
        }
        place.data = volume.join("data");
        let volume = Tmpfs(&volume);
        let mut sidecar = place.start("s.sock", &[]);
        assert!(sidecar.ready(Duration::from_secs(20)), "{size}");
        let mut connection = sidecar.connection();
        let value = |n: usize| {
            let mut value = vec![0; 20_000];
            fastrand::Rng::with_seed(n as u64).fill(&mut value);
            value
        };
        let mut full = None;
        for n in 0..1000 {
            let answer = connection.put(&format!("k{n}"), &value(n)).unwrap();
            if !answer.done() {
                assert!(
                    answer.is("disk-full"),
                    "{size}: {}",
                    String::from_utf8_lossy(&answer.body)
                );
                full = Some(n);
                break;
            }
        }
        let full = full.expect("the disk is never full");
        assert!(full >= 10, "{size}: full after {full} values");
        for n in 0..full {
            assert!(
                connection.get(&format!("k{n}")) == Some(value(n)),
                "{size}: k{n}"
            );
        }
        refused += 1;
        // Killed while full, it opens again.
        sidecar.kill();
        let mut sidecar = place.start("s.sock", &[]);
        assert!(
            sidecar.ready(Duration::from_secs(20)),
            "{size}: does not open on a full disk"
        );
        let mut connection = sidecar.connection();
        let kept = full / 2;
        for n in kept..full {
            assert!(
                connection.get(&format!("k{n}")) == Some(value(n)),
                "{size}: k{n}"
            );
            let answer = connection
                .request("DELETE", &format!("/v1/keys/k{n}"), b"")
                .unwrap();
            assert!(
                answer.done(),
                "{size}: a delete is refused: {}",
                String::from_utf8_lossy(&answer.body)
            );
        }
        // The room that they made can be used.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !connection.put("again", &value(0)).unwrap().done() {
            assert!(Instant::now() < deadline, "{size}: deletes made no room");
            std::thread::sleep(Duration::from_millis(20));
        }
        sidecar.kill();
        let sidecar = place.start("s.sock", &[]);
        assert!(sidecar.ready(Duration::from_secs(20)));
        let mut connection = sidecar.connection();
        assert!(connection.get("again") == Some(value(0)));
        for n in 0..full {
            let found = connection.get(&format!("k{n}"));
            assert!(found == (n < kept).then(|| value(n)), "{size}: k{n}");
        }
        drop(sidecar);
        drop(volume);
    }
    counted(&format!("small disks filled: {refused}"));
}
