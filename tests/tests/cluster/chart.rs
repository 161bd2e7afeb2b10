//! The chart: it renders the same twice, and asks for no more than it needs.

use codexstore_tests::{Cluster, RELEASE, SYSTEM, cluster, namespace, path_of, wait};
use serde_json::{Value, json};

use crate::own_keys;
use crate::rotation::{rotation, rotation_is};

/// Every switch on, so that each template is looked at.
const ALL: &[&str] = &[
    "--set=networkPolicy.enabled=true,metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true,metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true",
    "--set=webhook.certificate.source=CertManager",
];

fn render(cluster: &Cluster, args: &[&str]) -> Vec<Value> {
    let base = [
        "template",
        RELEASE,
        "charts/codexstore",
        "-n",
        SYSTEM,
        "--kube-version=1.34.0",
    ];
    let text = cluster
        .helm(&[&base, args].concat())
        .success("helm template");
    let again = cluster
        .helm(&[&base, args].concat())
        .success("helm template");
    assert_eq!(text, again, "two renders differ");
    let objects = text
        .split("\n---")
        .map(|d| serde_yaml::from_str(d).expect("YAML"));
    objects.filter(|o: &Value| !o.is_null()).collect()
}

#[test]
fn lint_is_strict_and_two_renders_are_identical() {
    let Some(cluster) = cluster() else { return };
    cluster
        .helm(&["lint", "--strict", "charts/codexstore"])
        .success("helm lint");
    for args in [&[][..], ALL, &["--set=operator.namespaces={a,b}"]] {
        assert!(render(cluster, args).len() > 10);
    }
}

#[test]
fn misspelt_and_impossible_values_are_refused() {
    let Some(cluster) = cluster() else { return };
    for (set, part) in [
        ("operator.replica=2", "replica"),
        (
            "webhook.certificate.source=ExistingSecret",
            "existingSecret",
        ),
        ("operator.image.digest=latest", "digest"),
        ("operator.namespaces={codexstore-system}", "own namespace"),
        ("tests.namespace=codexstore-system", "tests.namespace"),
    ] {
        let set = format!("--set={set}");
        let refused = cluster.helm(&["template", RELEASE, "charts/codexstore", "-n", SYSTEM, &set]);
        assert!(!refused.ok, "{set} was accepted");
        assert!(refused.err.contains(part), "{set}: {}", refused.err);
    }
    let old = cluster.helm(&[
        "template",
        RELEASE,
        "charts/codexstore",
        "--kube-version=1.28.9",
    ]);
    assert!(old.err.contains("1.29"), "{}", old.err);
}

#[test]
fn the_operator_may_do_no_more_than_it_needs() {
    let Some(cluster) = cluster() else { return };
    for args in [&[][..], &["--set=operator.namespaces={a,b}"]] {
        let objects = render(cluster, args);
        let mut secrets = 0;
        for object in objects
            .iter()
            .filter(|o| o["kind"].as_str().is_some_and(|k| k.ends_with("Role")))
        {
            let name = &object["metadata"]["name"];
            for rule in object["rules"].as_array().expect("rules") {
                for field in ["apiGroups", "resources", "verbs"] {
                    let all = rule[field].as_array().expect("a list");
                    assert!(
                        !all.iter().any(|v| v == "*"),
                        "{name}: a wildcard in {rule}"
                    );
                }
                assert!(expected(rule), "{name}: more than it needs: {rule}");
                if rule["resources"]
                    .as_array()
                    .is_some_and(|r| r.iter().any(|r| r == "secrets"))
                {
                    secrets += 1;
                    let verbs = rule["verbs"].as_array().expect("verbs");
                    for verb in ["list", "watch", "delete", "deletecollection"] {
                        assert!(
                            !verbs.iter().any(|v| v == verb),
                            "{name}: {verb} on secrets"
                        );
                    }
                    let cluster_wide = object["kind"] == "ClusterRole";
                    assert!(
                        !(cluster_wide && args.len() == 1),
                        "{name}: secrets of all namespaces"
                    );
                }
            }
        }
        assert!(secrets > 1, "no rule on secrets was seen");
    }
}

/// Whether a rule is among those that the operator, its users and its test are known to need.
fn expected(rule: &Value) -> bool {
    let words = |field: &str| -> Vec<&str> {
        let all = rule[field].as_array().into_iter().flatten();
        all.filter_map(Value::as_str).collect()
    };
    let verbs = words("verbs");
    words("resources").iter().all(|resource| {
        let most: &[&str] = match *resource {
            "codexstores" | "codexbackups" | "codexrestores" | "codexkeyrotations" => &[
                "get",
                "list",
                "watch",
                "create",
                "update",
                "patch",
                "delete",
                "deletecollection",
            ],
            "codexstores/status"
            | "codexbackups/status"
            | "codexrestores/status"
            | "codexkeyrotations/status" => &["get", "list", "watch", "patch"],
            "codexstores/finalizers" | "codexbackups/finalizers" | "codexrestores/finalizers" => {
                &["update"]
            }
            "jobs" => &["get", "list", "watch", "create", "delete"],
            "cronjobs" | "deployments" => &["get", "create", "patch", "delete"],
            // Of the one that Jobs' accounts are bound to.
            "clusterroles" => &["bind"],
            "pods" => &["list", "watch"],
            "secrets" | "serviceaccounts" | "roles" | "rolebindings" => &["get", "create", "patch"],
            "configmaps" | "persistentvolumeclaims" => &["get", "list", "watch", "create", "patch"],
            "events" => &["create", "patch"],
            "leases" => &["get", "create", "update"],
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => {
                &["get", "patch"]
            }
            _ => &[],
        };
        let by_name = resource.ends_with("webhookconfigurations") || *resource == "clusterroles";
        let named = !by_name || !words("resourceNames").is_empty();
        named && verbs.iter().all(|verb| most.contains(verb))
    })
}

#[test]
fn no_template_selects_app_pods_or_names_a_ca() {
    let Some(cluster) = cluster() else { return };
    let objects = render(cluster, ALL);
    let of = |kind: &str| {
        objects
            .iter()
            .filter(|o| o["kind"] == kind)
            .collect::<Vec<_>>()
    };
    let policies = of("NetworkPolicy");
    assert_eq!(policies.len(), 1);
    let selected = &policies[0]["spec"]["podSelector"]["matchLabels"];
    assert_eq!(selected["app.kubernetes.io/component"], "operator");
    for hook in of("MutatingWebhookConfiguration")
        .iter()
        .chain(&of("ValidatingWebhookConfiguration"))
    {
        for webhook in hook["webhooks"].as_array().expect("webhooks") {
            assert!(
                webhook["clientConfig"]["caBundle"].is_null(),
                "the operator puts it there"
            );
            assert_eq!(webhook["failurePolicy"], "Fail");
            let narrow =
                !webhook["objectSelector"].is_null() || !webhook["matchConditions"].is_null();
            assert!(narrow, "asked about all pods: {webhook}");
            let except = &webhook["namespaceSelector"]["matchExpressions"][0];
            assert_eq!(except["operator"], "NotIn");
            assert!(
                except["values"]
                    .as_array()
                    .expect("names")
                    .iter()
                    .any(|v| v == SYSTEM)
            );
        }
    }
    let crd = of("CustomResourceDefinition");
    assert_eq!(
        crd[0]["metadata"]["annotations"]["helm.sh/resource-policy"],
        "keep"
    );
}

#[test]
fn the_server_accepts_each_manifest_of_the_chart() {
    let Some(cluster) = cluster() else { return };
    let base = [
        "template",
        RELEASE,
        "charts/codexstore",
        "-n",
        SYSTEM,
        "--no-hooks",
    ];
    for args in [
        &[][..],
        &["--set=networkPolicy.enabled=true,operator.replicas=3"],
    ] {
        let text = cluster
            .helm(&[&base, args].concat())
            .success("helm template");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let path = file.path().to_string_lossy().into_owned();
        let args = [
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-n",
            SYSTEM,
            "-f",
            path.as_str(),
        ];
        cluster
            .kubectl(&args)
            .success("kubectl apply --dry-run=server");
    }
}

#[test]
fn dashboard_and_alerts_name_only_metrics_that_the_operator_has() {
    let Some(ns) = namespace("dashboard") else {
        return;
    };
    // A family without a sample is not printed: a store, a pod and a rotation that waits give each of them one, the store's on the
    // leader.
    ns.create(&codexstore_tests::objects::claim("backups", "64Mi"));
    own_keys::write(&ns, "k1", &["k1"]);
    let mut archived = own_keys::spec("mine");
    archived["backup"]["continuous"] = json!({});
    ns.store("orders", archived);
    ns.create(&codexstore_tests::objects::pod("app", Some("orders")));
    ns.status("orders", "its member is ready", |s| s["ready"] == "1/1");
    // The archiver asks for a backup.
    ns.status("orders", "it is archived and backed up", |s| {
        s["archive"].is_object() && s["lastBackup"].is_object()
    });
    let mut waits = rotation("waits");
    waits["spec"]["reason"] = json!("Compromise");
    ns.create(&waits);
    rotation_is(&ns, "waits", "it waits for a key", |s| {
        s["phase"] == "Adding"
    });
    let metrics = || -> Result<String, String> {
        let pods = ns.cluster.operator_pods();
        pods.iter()
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .map(|pod| path_of(SYSTEM, &format!("pods/{pod}:8080/proxy/metrics")))
            .map(|path| ns.cluster.text(&path).map_err(|e| e.to_string()))
            .collect()
    };
    let mut named = std::collections::BTreeSet::new();
    for object in render(ns.cluster, ALL) {
        let text = object.to_string();
        for (at, prefix) in text.match_indices("codexstore_operator_") {
            let rest = &text[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
            named.insert(format!("{prefix}{}", &rest[..end.unwrap_or(rest.len())]));
        }
    }
    assert!(named.len() >= 8, "{named:?}");
    // What a look found is shown behind what it wrote.
    wait::until("all of them are there", wait::SHORT, || {
        let metrics = metrics()?;
        let unknown = named.iter().find(|name| {
            let family = name.trim_end_matches("_total").trim_end_matches("_bucket");
            ![name.as_str(), family]
                .iter()
                .any(|n| metrics.contains(&format!("# TYPE {n} ")))
        });
        unknown.map_or(Ok(()), |name| Err(format!("{name} is not in:\n{metrics}")))
    });
}
