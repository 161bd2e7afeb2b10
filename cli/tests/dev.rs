//! `codexctl dev`: the resource of the cluster, on this machine.

use std::{
    fs,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{ORDERS, Ran, Store, codexctl, end, run, sidecar_is_built, signal};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

/// `codexctl dev` on `manifest` in `dir`, with a command.
fn dev(dir: &Path, manifest: &str, command: &[&str]) -> Command {
    sidecar_is_built();
    let file = dir.join("f.yaml");
    fs::write(&file, manifest).unwrap();
    let mut dev = codexctl();
    dev.arg("dev")
        .arg("-f")
        .arg(file)
        .arg("--dir")
        .arg(dir.join("dev"));
    if !command.is_empty() {
        dev.arg("--").args(command);
    }
    dev
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all
}

#[test]
fn data_and_key_survive_a_stop_and_only_ciphertext_is_on_disk() {
    let root = tempfile::tempdir().unwrap();
    let secret = "4 flat whites, paid by card";
    let store = Store::start_in(root.path(), ORDERS);
    let (socket, key) = (store.socket(), store.said["keyId"].clone());
    store.run(["set", "order/1", secret]).ok();
    assert!(store.stop().success());
    assert!(!socket.exists(), "the socket is still there");

    let data = files(&root.path().join("dev/data"));
    assert!(!data.is_empty());
    for path in data {
        let bytes = fs::read(&path).unwrap();
        let plain = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(
            !plain(secret) && !plain("order/1"),
            "plain text in {}",
            path.display()
        );
    }

    let store = Store::start_in(root.path(), ORDERS);
    assert_eq!(store.said["keyId"], key);
    assert_eq!(store.run(["get", "order/1"]).ok(), secret);
}

#[test]
fn keys_data_and_socket_are_for_their_user_alone() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::start_in(root.path(), ORDERS);
    let dir = root.path().join("dev");
    let key = store.said["keyId"].as_str().unwrap().to_owned();
    for path in ["", "keyring", "data"] {
        assert_eq!(mode(&dir.join(path)), 0o700, "{path}");
    }
    assert_eq!(mode(&dir.join("keyring").join(key)), 0o600);
    assert_eq!(mode(&dir.join("keyring/current")), 0o600);
    assert_eq!(mode(&store.socket()), 0o600);
}

#[test]
fn the_settings_of_the_spec_are_those_of_the_store() {
    let root = tempfile::tempdir().unwrap();
    let manifest = ORDERS.replace(
        "spec: {}",
        "spec: {durability: Interval, compression: Snappy, encryption: {keySize: 128}, volume: {claim: {size: 64Mi}}}",
    );
    let store = Store::start_in(root.path(), &manifest);
    let status = store.run(["status", "-o", "json"]).json();
    assert_eq!(status["durability"], "interval");
    assert_eq!(status["compression"], "snappy");
    assert_eq!(status["cipher"], "AES-128-GCM");
    assert_eq!(status["store"], "orders");
    assert_eq!(status["maxDisk"], (64_u64 << 20) * 85 / 100);
}

#[test]
fn a_store_without_encryption_has_no_keyring_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let manifest = ORDERS.replace("{}", "{encryption: {none: {}}}");
    let store = Store::start_in(root.path(), &manifest);
    assert!(store.said.get("keyId").is_none());
    assert_eq!(store.run(["status", "-o", "json"]).json()["cipher"], "none");
    assert!(!root.path().join("dev/keyring").exists());
}

#[test]
fn people_are_told_the_socket_and_what_to_type() {
    let root = tempfile::tempdir().unwrap();
    let said = root.path().join("said");
    let mut child = dev(root.path(), ORDERS, &[])
        .stdout(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let socket = root.path().join("dev/codexstore.sock");
    wait_until("the socket answers", || {
        UnixStream::connect(&socket).is_ok()
    });
    // What it says comes when the store is open, a little later than the socket.
    wait_until("all is said", || {
        let said = fs::read_to_string(&said).unwrap();
        said.contains("Ctrl-C stops it")
    });
    signal(child.id(), "INT");
    let status = end(&mut child);
    let text = fs::read_to_string(&said).unwrap();
    assert!(status.success(), "{text}");
    let curl = format!(
        "curl --unix-socket {}",
        socket.canonicalize().unwrap_or(socket).display()
    );
    assert!(
        text.contains("store orders is ready, encrypted with key"),
        "{text}"
    );
    assert!(
        text.contains(&curl) && text.contains("export CODEXSTORE_SOCKET="),
        "{text}"
    );
    assert!(
        text.contains("redis-cli -s ") && text.contains("export CODEXSTORE_REDIS_SOCKET="),
        "{text}"
    );
}

#[test]
fn a_command_runs_with_the_store_and_its_code_is_ours() {
    let root = tempfile::tempdir().unwrap();
    let ctl = env!("CARGO_BIN_EXE_codexctl");
    let script = format!("{ctl} set k v && {ctl} get k && exit 7");
    let ran = run(&mut dev(root.path(), ORDERS, &["sh", "-c", &script]));
    assert_eq!(
        (ran.code, ran.out.as_slice()),
        (Some(7), b"v".as_slice()),
        "{}",
        ran.err
    );
    assert!(!root.path().join("dev/codexstore.sock").exists());
    run(&mut dev(root.path(), ORDERS, &["true"])).ok();
    run(&mut dev(root.path(), ORDERS, &["/no/such/command"])).fails(2);
    let killed = run(&mut dev(root.path(), ORDERS, &["sh", "-c", "kill -9 $$"]));
    assert_eq!(killed.code, Some(137));
}

#[test]
fn a_stop_ends_the_command_first_and_then_the_store() {
    let root = tempfile::tempdir().unwrap();
    let ctl = env!("CARGO_BIN_EXE_codexctl");
    // Its last act uses the store.
    let script = format!(
        "trap '{ctl} set last words && exit 5' TERM; touch {}/up; for i in $(seq 200); do sleep 0.05; done",
        root.path().display()
    );
    let mut child = dev(root.path(), ORDERS, &["sh", "-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the command runs", || root.path().join("up").exists());
    signal(child.id(), "TERM");
    end(&mut child);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(5), "{ran:?}");
    let store = Store::start_in(root.path(), ORDERS);
    assert_eq!(store.run(["get", "last"]).ok(), "words");
}

#[test]
fn a_directory_that_is_long_still_has_a_socket() {
    let root = tempfile::tempdir().unwrap();
    let deep = root.path().join("x".repeat(100)).join("y".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    let store = Store::start_in(&deep, ORDERS);
    assert!(store.socket().as_os_str().len() < 108);
    store.run(["set", "k", "v"]).ok();
    let parent = store.socket().parent().unwrap().to_owned();
    drop(store);
    fs::remove_dir(parent).unwrap();
}

#[test]
fn two_at_once_in_one_directory_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let _store = Store::start_in(root.path(), ORDERS);
    let error = run(&mut dev(root.path(), ORDERS, &["true"])).fails(8);
    assert!(error.contains("another `codexctl dev`"), "{error}");
}

#[test]
fn a_wrong_key_is_an_encryption_error_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::start_in(root.path(), ORDERS);
    store.run(["set", "k", "v"]).ok();
    let key = root
        .path()
        .join("dev/keyring")
        .join(store.said["keyId"].as_str().unwrap());
    assert!(store.stop().success());
    let right = fs::read(&key).unwrap();
    fs::write(&key, [7; 32]).unwrap();
    let ran = run(&mut dev(root.path(), ORDERS, &["true"]));
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert!(ran.err.contains("the store does not open"), "{ran:?}");
    fs::write(&key, right).unwrap();
    assert_eq!(
        Store::start_in(root.path(), ORDERS).run(["get", "k"]).ok(),
        "v"
    );
}

#[test]
fn a_lost_keyring_is_not_replaced_while_there_are_data() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::start_in(root.path(), ORDERS);
    store.run(["set", "k", "v"]).ok();
    assert!(store.stop().success());
    fs::rename(
        root.path().join("dev/keyring"),
        root.path().join("elsewhere"),
    )
    .unwrap();
    let error = run(&mut dev(root.path(), ORDERS, &["true"])).fails(2);
    assert!(error.contains("put the keyring back"), "{error}");
    fs::rename(
        root.path().join("elsewhere"),
        root.path().join("dev/keyring"),
    )
    .unwrap();
    assert_eq!(
        Store::start_in(root.path(), ORDERS).run(["get", "k"]).ok(),
        "v"
    );
}

#[test]
fn a_wrong_file_is_refused_before_anything_is_made() {
    let root = tempfile::tempdir().unwrap();
    let manifest = ORDERS.replace("{}", "{volum: {}, encryption: {keySize: 1}}");
    let error = run(&mut dev(root.path(), &manifest, &[])).fails(2);
    assert!(
        error.contains("spec.volum is no field") && error.contains("keySize is 1"),
        "{error}"
    );
    let error = run(codexctl().args(["dev", "-f", "/no/such.yaml"])).fails(2);
    assert!(error.contains("/no/such.yaml"), "{error}");
    assert!(!root.path().join("dev").exists());
}

#[test]
fn a_sidecar_that_is_not_there_is_named() {
    let root = tempfile::tempdir().unwrap();
    let error = run(dev(root.path(), ORDERS, &[]).args(["--sidecar", "/no/sidecar"])).fails(3);
    assert!(error.contains("/no/sidecar"), "{error}");
    let error = run(dev(root.path(), ORDERS, &[]).args(["--sidecar", "/bin/false"])).fails(9);
    assert!(error.contains("the sidecar ended"), "{error}");
}

#[test]
fn a_sidecar_that_dies_ends_the_run_with_an_error() {
    let store = Store::start();
    let children = format!("/proc/{0}/task/{0}/children", store.pid());
    let sidecar: u32 = fs::read_to_string(children)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    signal(sidecar, "KILL");
    assert_eq!(store.wait().code(), Some(9));
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_command_that_ignores_being_asked_does_not_outlive_a_sidecar_that_died() {
    let root = tempfile::tempdir().unwrap();
    let script = "trap '' TERM; while :; do sleep 0.1; done";
    let mut child = dev(root.path(), ORDERS, &["sh", "-c", script])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let listed = format!("/proc/{0}/task/{0}/children", child.id());
    let children = || -> Vec<u32> {
        let text = fs::read_to_string(&listed).unwrap_or_default();
        text.split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect()
    };
    wait_until("both run", || children().len() == 2);
    std::thread::sleep(Duration::from_millis(300));
    signal(children()[0], "KILL");
    wait_until("it is over", || child.try_wait().unwrap().is_some());
}

#[test]
fn a_signal_ends_it_while_it_waits_for_its_file_on_stdin() {
    sidecar_is_built();
    let root = tempfile::tempdir().unwrap();
    let mut child = codexctl()
        .args(["dev", "-f", "-"])
        .current_dir(root.path())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    // Not INT: what a shell starts in the background, as this test may be, has it ignored.
    signal(child.id(), "TERM");
    wait_until("it is over", || child.try_wait().unwrap().is_some());
}
