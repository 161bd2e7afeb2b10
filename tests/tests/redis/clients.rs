//! Real clients: redis-cli and redis-py.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use codexstore_tests::run;

use crate::servers::{missing, sidecar, there};

#[test]
fn redis_cli_talks_to_it() {
    if !there("redis-cli", "redis-tools") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = sidecar(dir.path());
    let cli = |arguments: &[&str]| {
        let output = Command::new("redis-cli")
            .arg("-s")
            .arg(&server.socket)
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    };
    assert_eq!(
        cli(&["SET", "order/1", "2 flat whites", "EX", "3600"]),
        "OK"
    );
    assert_eq!(cli(&["GET", "order/1"]), "2 flat whites");
    assert_eq!(cli(&["-3", "MGET", "order/1", "none"]), "2 flat whites");
    assert_eq!(cli(&["--scan", "--pattern", "order*"]), "order/1");
    assert!(cli(&["HGETALL", "h"]).contains("HGETALL is not offered"));
    assert!(cli(&["INFO", "server"]).contains("codexstore_version:"));
    // Its way to load much at once: a pipe of raw requests.
    let mut pipe = Command::new("redis-cli")
        .arg("-s")
        .arg(&server.socket)
        .arg("--pipe")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sets: Vec<String> = (0..5000).map(|n| format!("SET bulk{n} {n}\r\n")).collect();
    let mut stdin = pipe.stdin.take().unwrap();
    stdin.write_all(sets.concat().as_bytes()).unwrap();
    drop(stdin);
    let said = pipe.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("errors: 0, replies: 5000"), "{said}");
    assert_eq!(cli(&["DBSIZE"]), "5001");
}

#[test]
fn redis_py_works_with_its_pools_pipelines_transactions_and_reconnects() {
    let python = run::root().join("target/test/python/bin/python");
    if !python.exists() {
        missing("redis-py");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for version in ["2", "3"] {
        let mut server = sidecar(dir.path());
        let mut child = Command::new(&python)
            .arg(run::root().join("tests/tests/redis/client.py"))
            .arg(&server.socket)
            .arg(version)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut done = false;
        for line in BufReader::new(stdout).lines() {
            match line.unwrap().as_str() {
                "restart" => {
                    drop(server);
                    server = sidecar(dir.path());
                    stdin.write_all(b"go on\n").unwrap();
                }
                "done" => done = true,
                other => println!("{other}"),
            }
        }
        assert!(child.wait().unwrap().success() && done, "RESP{version}");
    }
}
