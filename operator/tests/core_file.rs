//! What a crash of the real operator leaves behind: nothing of what was in memory.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// As large a core file as this user may have.
const MAY_DUMP: &str = "ulimit -c \"$(ulimit -H -c)\"; ";

#[test]
fn a_crash_leaves_no_core_file() {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("core-file");
    let _ = std::fs::remove_dir_all(&place);
    std::fs::create_dir_all(&place).unwrap();
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{MAY_DUMP}{script}")]);
        command.current_dir(&place);
        command
    };
    // What is refused below is allowed with any other process of this user.
    let other = shell("kill -s ABRT $$").status().unwrap();
    assert_eq!(other.signal(), Some(6), "{other}");
    if !other.core_dumped() {
        println!("this machine makes no core files at all: nothing can be seen here");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(place.join("kubeconfig"), config.to_string()).unwrap();
    let before = std::fs::read_dir(&place).unwrap().count();
    let mut child =
        shell("exec \"$0\" run --sidecar-image sidecar:1 --no-webhook --http-addr 127.0.0.1:0")
            .arg(env!("CARGO_BIN_EXE_codexstore-operator"))
            .env("KUBECONFIG", place.join("kubeconfig"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
    // It waits for what the API server answers.
    listener.set_nonblocking(true).unwrap();
    let connection = loop {
        if let Ok(connection) = listener.accept() {
            break connection;
        }
        assert_eq!(child.try_wait().unwrap(), None, "it asks nobody");
        std::thread::sleep(Duration::from_millis(10));
    };
    let killed = Command::new("kill")
        .args(["-s", "ABRT", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    let status = child.wait().unwrap();
    drop(connection);
    assert_eq!(status.signal(), Some(6), "{status}");
    assert!(!status.core_dumped(), "{status}");
    let after = std::fs::read_dir(&place).unwrap().count();
    assert_eq!(after, before);
    std::fs::remove_dir_all(&place).unwrap();
}
