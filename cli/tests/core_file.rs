//! What a crash leaves behind: nothing of what was in memory.

use std::os::unix::{net::UnixListener, process::ExitStatusExt as _};
use std::process::Command;

use crate::support::{codexctl, signal};

/// As large a core file as this user may have.
const MAY_DUMP: &str = "ulimit -c \"$(ulimit -H -c)\"; ";

#[test]
fn a_crash_leaves_no_core_file() {
    let place = tempfile::tempdir().unwrap();
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{MAY_DUMP}{script}")]);
        command.current_dir(place.path());
        command
    };
    // What is refused below is allowed with any other process of this user.
    let other = shell("kill -s ABRT $$").status().unwrap();
    assert_eq!(other.signal(), Some(6), "{other}");
    if !other.core_dumped() {
        println!("this machine makes no core files at all: nothing can be seen here");
    }
    let socket = place.path().join("s.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let before = std::fs::read_dir(place.path()).unwrap().count();
    let mut child = shell("exec \"$0\" status --socket s.sock")
        .arg(codexctl().get_program())
        .spawn()
        .unwrap();
    // It waits for an answer.
    let connection = listener.accept().unwrap();
    signal(child.id(), "ABRT");
    let status = child.wait().unwrap();
    drop(connection);
    assert_eq!(status.signal(), Some(6), "{status}");
    assert!(!status.core_dumped(), "{status}");
    let after = std::fs::read_dir(place.path()).unwrap().count();
    assert_eq!(after, before);
}
