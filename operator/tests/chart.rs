//! The chart, rendered by helm: switches that must not contradict each other or the operator. Without a helm, which the tests'
//! cluster brings along, there is nothing to render with, and these tests say so and pass.

use std::path::{Path, PathBuf};
use std::process::Command;

fn helm() -> Option<PathBuf> {
    let cached = |home| Path::new(&home).join(".cache/codexstore-cluster/bin/helm");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("helm"))
        .chain(std::env::var_os("HOME").map(cached))
        .find(|helm| helm.is_file());
    if found.is_none() {
        eprintln!("skipped: there is no helm");
    }
    found
}

/// What the chart renders with these values, or why it does not.
fn render(helm: &Path, values: &[&str]) -> Result<String, String> {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/codexstore");
    let mut command = Command::new(helm);
    command.args(["template", "codexstore", chart, "-n", "codexstore-system"]);
    for value in values {
        command.args(["--set", value]);
    }
    let output = command.output().map_err(|e| e.to_string())?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

/// The document of this kind and name.
fn document(all: &str, kind: &str, name: &str) -> Option<String> {
    let (kind, name) = (format!("\nkind: {kind}\n"), format!("\n  name: {name}\n"));
    all.split("\n---\n")
        .find(|d| d.contains(&kind) && d.contains(&name))
        .map(str::to_owned)
}

#[test]
fn an_upgrade_on_the_nodes_network_makes_room_first() {
    let Some(helm) = helm() else { return };
    let surge = |values: &[&str]| render(&helm, values).unwrap().contains("maxSurge: 1");
    assert!(surge(&[]));
    assert!(!surge(&["webhook.hostNetwork=true"]));
}

#[test]
fn no_disruption_budget_blocks_a_drain_for_ever() {
    let Some(helm) = helm() else { return };
    let budget = |values: &[&str]| {
        let all = render(&helm, values).unwrap();
        all.contains("kind: PodDisruptionBudget")
    };
    assert!(budget(&[]));
    assert!(!budget(&["operator.replicas=1"]));
    for least in ["2", "100%"] {
        let value = format!("operator.podDisruptionBudget.minAvailable={least}");
        assert!(render(&helm, &[&value]).unwrap_err().contains("to spare"));
    }
    assert!(budget(&["operator.podDisruptionBudget.minAvailable=50%"]));
}

#[test]
fn a_lease_that_the_operator_refuses_is_refused_by_the_schema() {
    let Some(helm) = helm() else { return };
    let lease = |text: &str| render(&helm, &[&format!("operator.leaseDuration={text}")]).is_ok();
    for good in ["3s", "3000ms", "15s", "1m"] {
        assert!(lease(good), "{good} was refused");
    }
    for bad in ["2s", "2999ms", "1s", "0s", "15", "200h"] {
        assert!(!lease(bad), "{bad} was taken");
    }
}

#[test]
fn cert_managers_certificate_is_signed_by_an_authority_that_outlives_it() {
    let Some(helm) = helm() else { return };
    let all = render(&helm, &["webhook.certificate.source=CertManager"]).unwrap();
    let issuer = document(&all, "Issuer", "codexstore-webhook").unwrap();
    assert!(
        issuer.contains("secretName: codexstore-webhook-ca"),
        "{issuer}"
    );
    let ca = document(&all, "Certificate", "codexstore-webhook-ca").unwrap();
    assert!(
        ca.contains("isCA: true") && ca.contains("rotationPolicy: Never"),
        "{ca}"
    );
}

#[test]
fn the_operator_may_do_no_more_than_it_does() {
    let Some(helm) = helm() else { return };
    let all = render(&helm, &[]).unwrap();
    let own = document(&all, "Role", "codexstore-operator").unwrap();
    assert!(own.contains("verbs: [get, update]"), "{own}");
    let work = document(&all, "ClusterRole", "codexstore-operator").unwrap();
    assert!(
        work.contains("resources: [pods]\n    verbs: [list, watch]"),
        "{work}"
    );
    assert!(
        work.contains("resources: [secrets]\n    verbs: [get, create, patch]"),
        "{work}"
    );
}
