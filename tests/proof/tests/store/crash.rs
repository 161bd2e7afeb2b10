//! Processes that end at once, and kernels that do.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::{History, STRATEGIES, counted, is_root, not_run, random, rounds, run};

#[test]
fn kill_9_under_load_loses_nothing() {
    let mut random = random(1);
    for strategy in STRATEGIES {
        let place = tempfile::tempdir().unwrap();
        let mut history = History::new(&place.path().join("data"), strategy);
        let count = rounds(100);
        for _ in 0..count {
            let mut worker = history.worker(0, &[]);
            // A fifth while it opens, the others under load.
            if random.u32(..5) == 0 {
                std::thread::sleep(Duration::from_micros(random.u64(500..15_000)));
            } else {
                worker.until("ack", random.usize(1..60));
                std::thread::sleep(Duration::from_micros(random.u64(..2000)));
            }
            worker.child.kill().unwrap();
            history.learn(worker);
        }
        history.finish();
        assert!(history.acknowledged > 10 * count as u64, "too little load");
        counted(&format!(
            "kill -9 rounds: {count} ({strategy}), batches acknowledged: {}, killed while opening: {}",
            history.acknowledged, history.unopened
        ));
    }
}

/// An ext4 file system on a file, mounted.
struct Ext4 {
    image: PathBuf,
    at: PathBuf,
}

impl Ext4 {
    fn new(place: &std::path::Path) -> Result<Ext4, String> {
        let ext4 = Ext4 {
            image: place.join("image"),
            at: place.join("mount"),
        };
        std::fs::create_dir(&ext4.at).unwrap();
        std::fs::File::create(&ext4.image)
            .unwrap()
            .set_len(96 << 20)
            .unwrap();
        run("mkfs.ext4", &["-q", "-F", ext4.image.to_str().unwrap()])?;
        ext4.mount()?;
        Ok(ext4)
    }

    fn mount(&self) -> Result<(), String> {
        run(
            "mount",
            &[
                "-o",
                "loop",
                self.image.to_str().unwrap(),
                self.at.to_str().unwrap(),
            ],
        )
        .map(drop)
    }

    /// Ends the file system as a crash of the kernel does: nothing of its journal that is still in memory reaches the disk
    /// (`EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`). In Perl, which each Debian has: an ioctl is not safe Rust.
    fn shut_down(&self) -> Result<(), String> {
        let script =
            "open(F,'<',$ARGV[0]) or die $!; $f=pack('L',2); ioctl(F,0x8004587d,$f) or die $!";
        run("perl", &["-e", script, self.at.to_str().unwrap()]).map(drop)
    }

    fn unmount(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match run("umount", &[self.at.to_str().unwrap()]) {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() > deadline => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", self.at.to_str().unwrap()]);
    }
}

#[test]
fn a_kernel_that_crashes_loses_nothing() {
    const WHAT: &str = "kernel crash (ext4 shut down without a flush of its journal)";
    if !is_root() {
        return not_run(WHAT, "needs root");
    }
    let place = tempfile::tempdir().unwrap();
    let ext4 = match Ext4::new(place.path()) {
        Ok(ext4) => ext4,
        Err(why) => return not_run(WHAT, &why),
    };
    let mut random = random(2);
    for strategy in STRATEGIES {
        let mut history = History::new(&ext4.at.join(strategy), strategy);
        let count = rounds(25);
        let mut failed = 0;
        for _ in 0..count {
            let mut worker = history.worker(0, &[]);
            if random.u32(..8) == 0 {
                std::thread::sleep(Duration::from_micros(random.u64(500..20_000)));
            } else {
                worker.until("ack", random.usize(1..80));
            }
            ext4.shut_down().unwrap();
            // It may say a last word: an error, and never an acknowledgement that is not true.
            std::thread::sleep(Duration::from_millis(random.u64(..5)));
            worker.child.kill().unwrap();
            failed += learn_of_a_crash(&mut history, worker);
            ext4.unmount().unwrap();
            ext4.mount().unwrap();
        }
        history.finish();
        assert!(history.acknowledged > 5 * count as u64, "too little load");
        assert!(failed > 0, "no writer saw the file system end");
        counted(&format!(
            "kernel crashes: {count} ({strategy}), batches acknowledged: {}, writes of unknown outcome: {failed}",
            history.acknowledged
        ));
    }
}

/// As [`History::learn`]; an open that the crash made fail is none of ours. After it, ext4 answers EIO, and EROFS once it has
/// found its journal gone.
fn learn_of_a_crash(history: &mut History, mut worker: crate::harness::Worker) -> usize {
    worker.child.wait().unwrap();
    while worker.until("", 1) {}
    worker.lines.retain(|line| {
        let crashed = ["(os error 5)", "(os error 30)"];
        !(line.starts_with("failed io ") && crashed.iter().any(|end| line.ends_with(end)))
    });
    let codes = history.learn(worker);
    assert!(
        codes
            .iter()
            .all(|code| ["outcome-unknown", "poisoned", "io"].contains(&code.as_str())),
        "{codes:?}"
    );
    codes.len()
}
