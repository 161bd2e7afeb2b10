//! The chart's switches: none may contradict another, or the operator.

use codexstore_tests::{Cluster, RELEASE, SYSTEM, cluster};

/// What the chart renders with these values, or why it does not.
fn render(cluster: &Cluster, values: &[&str]) -> Result<String, String> {
    let mut args = vec!["template", RELEASE, "charts/codexstore", "-n", SYSTEM];
    for value in values {
        args.extend(["--set", value]);
    }
    let output = cluster.helm(&args);
    if output.ok {
        Ok(output.out)
    } else {
        Err(output.err)
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
    let Some(cluster) = cluster() else { return };
    let surge = |values: &[&str]| render(cluster, values).unwrap().contains("maxSurge: 1");
    assert!(surge(&[]));
    assert!(!surge(&["webhook.hostNetwork=true"]));
}

#[test]
fn no_disruption_budget_blocks_a_drain_for_ever() {
    let Some(cluster) = cluster() else { return };
    let budget = |values: &[&str]| {
        let all = render(cluster, values).unwrap();
        all.contains("kind: PodDisruptionBudget")
    };
    assert!(budget(&[]));
    assert!(!budget(&["operator.replicas=1"]));
    for least in ["2", "100%"] {
        let value = format!("operator.podDisruptionBudget.minAvailable={least}");
        assert!(render(cluster, &[&value]).unwrap_err().contains("to spare"));
    }
    assert!(budget(&["operator.podDisruptionBudget.minAvailable=50%"]));
}

#[test]
fn a_lease_that_the_operator_refuses_is_refused_by_the_schema() {
    let Some(cluster) = cluster() else { return };
    let lease = |text: &str| render(cluster, &[&format!("operator.leaseDuration={text}")]).is_ok();
    for good in ["3s", "3000ms", "15s", "1m"] {
        assert!(lease(good), "{good} was refused");
    }
    for bad in ["2s", "2999ms", "1s", "0s", "15", "200h"] {
        assert!(!lease(bad), "{bad} was taken");
    }
}

#[test]
fn cert_managers_certificate_is_signed_by_an_authority_that_outlives_it() {
    let Some(cluster) = cluster() else { return };
    let all = render(cluster, &["webhook.certificate.source=CertManager"]).unwrap();
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
