//! The kernel takes a worker's life because its memory group is full.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use crate::harness::{History, counted, is_root, not_run, rounds};

/// Bytes that a worker may have.
const LIMIT: &str = "50331648";

/// A memory control group of version 1 or 2, removed at the end.
struct Group(PathBuf);

impl Group {
    fn new() -> Result<Group, String> {
        let name = format!("codexstore-proof-{}", std::process::id());
        for (root, limits) in [
            (
                "/sys/fs/cgroup/memory",
                &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"][..],
            ),
            ("/sys/fs/cgroup", &["memory.max", "memory.swap.max"][..]),
        ] {
            let group = Path::new(root).join(&name);
            if std::fs::create_dir(&group).is_err() {
                continue;
            }
            let group = Group(group);
            if std::fs::write(group.0.join(limits[0]), LIMIT).is_ok() {
                // Where there is no swap there may be no file for it.
                let _ = std::fs::write(
                    group.0.join(limits[1]),
                    if limits[1].ends_with("max") {
                        "0"
                    } else {
                        LIMIT
                    },
                );
                return Ok(group);
            }
        }
        Err("no memory control group can be made".to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_process_that_runs_out_of_memory_loses_nothing() {
    const WHAT: &str = "OOM kill (memory control group)";
    if !is_root() {
        return not_run(WHAT, "needs root");
    }
    let group = match Group::new() {
        Ok(group) => group,
        Err(why) => return not_run(WHAT, &why),
    };
    let place = tempfile::tempdir().unwrap();
    let mut history = History::new(&place.path().join("data"), "snapshot");
    let count = rounds(10);
    for round in 0..count {
        let enter = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", group.0.display());
        let mut worker = history.worker(2, &["sh", "-c", &enter, "sh"]);
        while worker.until("", 1) {}
        let ended = worker.child.wait().unwrap();
        assert_eq!(
            ended.signal(),
            Some(9),
            "round {round}: {ended:?}: {:?}",
            worker.lines.last()
        );
        history.learn(worker);
    }
    history.finish();
    assert!(history.acknowledged > 10 * count as u64, "too little load");
    counted(&format!(
        "OOM kills: {count}, batches acknowledged: {}",
        history.acknowledged
    ));
}
