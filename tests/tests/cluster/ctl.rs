//! Backups by codexctl, from outside of the cluster: verified, downloaded and restored.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};

use codexstore_tests::run::{self, Output};
use codexstore_tests::{Namespace, namespace, objects, wait};
use serde_json::{Value, json};

use crate::backups::{backup, backup_is, looker, verified};
use crate::members::{binary, codexctl};
use crate::s3;

/// codexctl, in the namespace.
fn ctl(ns: &Namespace, args: &[&str]) -> Output {
    codexctl(ns.cluster, &[args, &["-n", &ns.name]].concat())
}

#[track_caller]
fn fails(output: &Output, code: i32, words: &str) {
    let last = output.err.lines().last().unwrap_or_default();
    assert!(output.code == code && last.contains(words), "{output:?}");
}

/// A backup that is stored, and which nobody has verified.
fn stored(ns: &Namespace, name: &str) -> Value {
    ns.create(&backup("orders", name));
    backup_is(ns, name, "it is stored", |s| s["phase"] == "Succeeded")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_backup_in_a_claim_is_verified_restored_and_downloaded() {
    let Some(ns) = namespace("ctl") else {
        return;
    };
    ns.create(&objects::claim("backups", "1Gi"));
    ns.store(
        "orders",
        json!({"volume": {"claim": {"size": "64Mi"}},
            "backup": {"destination": {"claim": "backups"}, "verify": "Never"}}),
    );
    ns.create(&objects::pod("app-0", Some("orders")));
    ns.pod_ready("app-0");
    assert_eq!(ns.put("app-0", "k", "before"), 201);
    let status = stored(&ns, "first");
    assert_eq!(verified(&status), None, "{status}");

    // Verified whenever somebody asks, also once more.
    for _ in 0..2 {
        let said = ctl(&ns, &["backup", "verify", "cxb/first"]).success("backup verify");
        assert!(
            said.contains("True") && said.contains("1 members opened"),
            "{said}"
        );
    }
    let first = ns.get("codexbackups/first").unwrap();
    assert_eq!(verified(&first["status"]), Some("True"), "{first}");
    let left = &first["metadata"]["annotations"]["codexstore.dev/verify"];
    assert!(left.is_null(), "{first}");
    fails(
        &ctl(&ns, &["backup", "verify", "second"]),
        3,
        "cxb/second is not there",
    );

    // Restored into members that run.
    assert!(ns.put("app-0", "k", "after") < 300);
    let said = ctl(
        &ns,
        &["restore", "first", "--store", "orders", "-o", "json"],
    );
    assert!(said.err.contains("is created"), "{said:?}");
    let told: Value = serde_json::from_str(&said.success("restore")).unwrap();
    assert_eq!(told["phase"], "Succeeded", "{told}");
    assert_eq!(told["members"][0]["backup"], "first", "{told}");
    assert_eq!(ns.value("app-0", "k"), Some("before".to_owned()));
    let made = ns.get(&format!("codexrestores/{}", told["name"].as_str().unwrap()));
    assert_eq!(made.unwrap()["spec"]["backupRef"]["name"], "first");
    let nothing = ctl(&ns, &["restore", "second", "--store", "orders"]);
    fails(&nothing, 1, "there is no backup second");
    let refused = ctl(
        &ns,
        &[
            "restore",
            "--at",
            "2026-01-01T00:00:00Z",
            "--store",
            "orders",
            "--name",
            "then",
        ],
    );
    fails(&refused, 1, "cxr/then has ended as Failed");
    let again = ctl(
        &ns,
        &["restore", "--latest", "--store", "orders", "--name", "then"],
    );
    fails(&again, 8, "then");

    // What is in a claim is read by a pod, which is gone then.
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("first");
    let download = ["backup", "download", "first", "--to", to.to_str().unwrap()];
    let said = ctl(&ns, &download).success("backup download");
    let file = status["members"][0]["file"].as_str().unwrap();
    assert!(said.contains("app-0") && said.contains(file), "{said}");
    let whole = to.join(file);
    assert_eq!((mode(&to), mode(&whole)), (0o700, 0o600));
    no_reader(&ns);
    let again = ctl(&ns, &download);
    assert!(
        again.ok && again.err.is_empty(),
        "it is there already: {again:?}"
    );
    interrupted(&ns, dir.path());
    ctl(&ns, &["backup", "list", "--store", "orders"]).success("backup list");
    let verify = ["backup", "verify", whole.to_str().unwrap()];
    codexctl(ns.cluster, &verify).success("backup verify FILE");

    // A bit that is flipped where it is stored.
    looker(&ns);
    let flip =
        "f=$(ls /b/*/orders/first/*.backup) && printf X | dd of=$f bs=1 seek=9000 conv=notrunc";
    ns.sh("look", "app", flip).success("flip");
    fails(
        &ctl(&ns, &["backup", "verify", "first"]),
        7,
        "cxb/first is not what was stored",
    );
    let first = ns.get("codexbackups/first").unwrap();
    assert_eq!(verified(&first["status"]), Some("False"), "{first}");
    let to = dir.path().join("flipped");
    let download = ["backup", "download", "first", "--to", to.to_str().unwrap()];
    fails(&ctl(&ns, &download), 7, "not what was stored");
    let gone = "mv /b/*/orders/first/*.backup /b/gone";
    ns.sh("look", "app", gone).success("mv");
    fails(&ctl(&ns, &download), 1, "No such file");
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
    no_reader(&ns);
}

fn readers(ns: &Namespace) -> Vec<String> {
    let pods = ns.list("pods");
    let names = pods.iter().filter_map(|p| p["metadata"]["name"].as_str());
    let readers = names.filter(|name| name.starts_with("cxb-first-read-"));
    readers.map(str::to_owned).collect()
}

#[track_caller]
fn no_reader(ns: &Namespace) {
    wait::until("the pod that read is gone", wait::SHORT, || {
        match readers(ns) {
            none if none.is_empty() => Ok(()),
            some => Err(some.join(" ")),
        }
    });
}

/// Somebody who does not wait until it runs leaves no pod either.
#[track_caller]
fn interrupted(ns: &Namespace, dir: &Path) {
    let to = dir.join("interrupted");
    let args = ["backup", "download", "first", "-n", &ns.name];
    let args = [&args[..], &["--to", to.to_str().unwrap()]].concat();
    let mut command = run::command(&binary(), &args, &ns.cluster.kubeconfig);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    err.read_line(&mut told).unwrap();
    assert!(told.contains("reads the claim"), "{told}");
    let pid = child.id().to_string();
    let kill = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(kill.unwrap().success());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut err, &mut rest).unwrap();
    // It may have been quick.
    let code = child.wait().unwrap().code();
    assert!(
        code == Some(130) && rest.contains("interrupted") || code == Some(0),
        "{code:?}: {rest}"
    );
    no_reader(ns);
    let left = std::fs::read_dir(&to).unwrap().flatten();
    let partial = left.filter(|entry| entry.file_name().to_string_lossy().ends_with(".partial"));
    assert_eq!(partial.count(), 0);
}

/// A port of this machine that leads to the S3 server, as long as this lives.
struct Forward {
    kubectl: Child,
    address: String,
}

impl Forward {
    fn start(ns: &Namespace) -> Forward {
        let args = ["-n", &ns.name, "port-forward", "svc/s3", ":7070"];
        let mut command = run::command("kubectl", &args, &ns.cluster.kubeconfig);
        let mut kubectl = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        let mut out = BufReader::new(kubectl.stdout.take().unwrap());
        out.read_line(&mut first).unwrap();
        let port = first.split_whitespace().nth(2);
        let port = port.unwrap_or_else(|| panic!("kubectl port-forward says {first:?}"));
        let address = format!("http://{port}");
        // It goes on to tell of each connection.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        Forward { kubectl, address }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

#[test]
fn a_backup_in_a_bucket_is_downloaded_with_the_secret_or_with_ones_own_credentials() {
    let Some(ns) = namespace("ctl-s3") else {
        return;
    };
    s3::server(&ns);
    let mut spec = s3::destination(&ns, "backups", false)["spec"].take();
    spec["backup"]["verify"] = json!("Never");
    ns.store("orders", spec);
    for pod in ["app-0", "app-1"] {
        ns.create(&objects::pod(pod, Some("orders")));
        ns.pod_ready(pod);
        assert_eq!(ns.put(pod, "k", "v"), 201);
    }
    let status = stored(&ns, "now");
    let file = |n: usize| status["members"][n]["file"].as_str().unwrap();
    let s3 = Forward::start(&ns);
    let dir = tempfile::tempdir().unwrap();
    let to = |name: &str| dir.path().join(name);
    let download = |name: &str, more: &[&str]| {
        let to = to(name);
        let args = ["backup", "download", "now", "--to", to.to_str().unwrap()];
        ctl(
            &ns,
            &[&args[..], &["--endpoint", s3.address.as_str()], more].concat(),
        )
    };
    let rows: Value =
        serde_json::from_str(&download("all", &["-o", "json"]).success("download")).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 2, "{rows}");
    assert_eq!(mode(&to("all")), 0o700);
    for n in 0..2 {
        let path = to("all").join(file(n));
        assert_eq!(mode(&path), 0o600);
        let verify = ["backup", "verify", path.to_str().unwrap(), "-o", "json"];
        let told: Value =
            serde_json::from_str(&codexctl(ns.cluster, &verify).success("verify")).unwrap();
        assert_eq!(told["sha256"], status["members"][n]["sha256"]);
    }
    download("one", &["--member", "app-1"]).success("download of one");
    assert!(to("one").join(file(1)).is_file() && !to("one").join(file(0)).exists());
    fails(
        &download("none", &["--member", "app-7"]),
        3,
        "not among its members",
    );

    // Who may not read the Secret has credentials of his own.
    let secret = ns.get("secrets/s3").unwrap();
    ns.delete("secrets/s3");
    fails(&download("own", &[]), 4, "AWS_SECRET_ACCESS_KEY");
    let own = to("own");
    let args = [
        "backup",
        "download",
        "now",
        "-n",
        &ns.name,
        "--to",
        own.to_str().unwrap(),
    ];
    let args = [&args[..], &["--endpoint", &s3.address]].concat();
    let mut command = run::command(&binary(), &args, &ns.cluster.kubeconfig);
    for (name, value) in secret["data"].as_object().unwrap() {
        let value = crate::backups::unbase64(value.as_str().unwrap());
        command.env(name, String::from_utf8(value).unwrap());
    }
    let said = run::run(&mut command);
    assert!(
        said.ok && said.err.contains("there is no Secret s3"),
        "{said:?}"
    );

    // What is there is not what is stored: nothing of it is left.
    let flip = format!(
        "printf X | dd of=/data/backups/team/a/{}/orders/now/{} bs=1 seek=9000 conv=notrunc",
        ns.name,
        file(0)
    );
    ns.sh("s3", "app", &flip).success("flip");
    ns.create(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "data": secret["data"]}));
    fails(
        &download("flipped", &["--member", "app-0"]),
        7,
        "not what was stored",
    );
    assert_eq!(std::fs::read_dir(to("flipped")).unwrap().count(), 0);
}
