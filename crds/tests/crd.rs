//! The CRD: the files are up to date, the schema is complete, the rules hold.

use std::{fs, path::Path};

use codexstore_crds::{CodexStore, CodexStoreSpec, manifest};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube_cel::{Validator, apply_defaults};
use serde_json::{Value, json};

#[test]
fn the_generated_files_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (path, text) in manifest::files().unwrap() {
        let file = fs::read_to_string(root.join(path)).unwrap();
        assert!(
            file == text,
            "{path} differs from the types: run `make crds`"
        );
    }
}

#[test]
fn the_chart_template_is_switched_and_kept_and_nothing_in_it_is_taken_for_a_template() {
    let template = manifest::chart_template().unwrap();
    assert!(template.contains("{{- if .Values.crds.enabled }}\n"));
    assert!(template.contains("helm.sh/resource-policy: keep"));
    assert_eq!(template.matches("{{").count(), 3, "comment, if and end");
}

fn schema() -> JSONSchemaProps {
    schema_of(manifest::crd())
}

fn schema_of(mut crd: CustomResourceDefinition) -> JSONSchemaProps {
    let version = crd.spec.versions.remove(0);
    let schema = version.schema.and_then(|s| s.open_api_v3_schema);
    schema.expect("a schema")
}

fn schema_value() -> Value {
    serde_json::to_value(schema()).expect("a schema is JSON")
}

/// Calls `visit` for every schema below, with its path.
fn walk(path: &str, schema: &JSONSchemaProps, visit: &mut impl FnMut(&str, &JSONSchemaProps)) {
    visit(path, schema);
    for (name, property) in schema.properties.iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        walk(&format!("{path}[]"), item, visit);
    }
}

#[test]
fn every_field_is_documented_and_every_string_and_list_is_bounded() {
    let mut fields = 0;
    let roots = [
        schema(),
        schema_of(manifest::backup_crd()),
        schema_of(manifest::restore_crd()),
        schema_of(manifest::key_rotation_crd()),
    ];
    for (name, property) in roots
        .iter()
        .flat_map(|root| root.properties.iter().flatten())
    {
        walk(name, property, &mut |path, s| {
            fields += 1;
            assert!(
                s.description.is_some() || path.ends_with("[]"),
                "{path} has no description"
            );
            assert_eq!(s.nullable, None, "{path}");
            match s.type_.as_deref() {
                Some("string") => {
                    let bounded = s.max_length.is_some() || s.enum_.is_some() || s.format.is_some();
                    assert!(bounded, "{path} is unbounded");
                }
                Some("array") => assert!(s.max_items.is_some(), "{path} is unbounded"),
                None => assert!(s.max_length.is_some(), "{path} is unbounded"),
                _ => {}
            }
        });
    }
    assert!(fields > 40, "{fields} fields were visited");
}

#[test]
fn names_columns_and_status_are_as_documented() {
    let crd = manifest::crd();
    let names = &crd.spec.names;
    assert_eq!(names.short_names.as_deref(), Some(&["cxs".to_owned()][..]));
    assert_eq!(
        names.categories.as_deref(),
        Some(&["codexstore".to_owned()][..])
    );
    let version = &crd.spec.versions[0];
    let columns = version.additional_printer_columns.as_ref().unwrap();
    let columns: Vec<_> = columns
        .iter()
        .map(|c| (c.name.as_str(), c.priority.unwrap_or(0)))
        .collect();
    assert_eq!(
        columns,
        [
            ("Ready", 0),
            ("Status", 0),
            ("Key", 0),
            ("Last-Backup", 0),
            ("Age", 0),
            ("Strategy", 1),
            ("Keys", 1),
            ("Bytes", 1)
        ]
    );
    assert!(version.subresources.as_ref().unwrap().status.is_some());
}

/// A store as the API server would have it after defaulting, or as it was before.
fn object(name: &str, spec: Option<&str>) -> Value {
    let mut object = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexStore", "metadata": {"name": name}});
    if let Some(spec) = spec {
        let spec: Value = serde_yaml::from_str(spec).expect("YAML");
        object
            .as_object_mut()
            .expect("an object")
            .insert("spec".to_owned(), spec);
    }
    apply_defaults(&schema_value(), &object)
}

/// The messages of the rules that an object breaks.
fn broken(new: &Value, old: Option<&Value>) -> Vec<String> {
    broken_in(&schema_value(), new, old)
}

fn broken_in(schema: &Value, new: &Value, old: Option<&Value>) -> Vec<String> {
    match Validator::new().validate(schema, new, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_iter().map(|e| e.to_string()).collect(),
    }
}

#[track_caller]
fn valid(spec: &str) {
    let broken = broken(&object("orders", Some(spec)), None);
    assert!(broken.is_empty(), "{spec}: {broken:?}");
}

#[track_caller]
fn invalid(spec: &str, words: &str) {
    let broken = broken(&object("orders", Some(spec)), None);
    assert!(
        broken.iter().any(|m| m.contains(words)),
        "{spec}: `{words}` is not in {broken:?}"
    );
}

#[test]
fn defaults_of_the_schema_and_of_the_types_are_the_same() {
    let full = serde_json::to_value(CodexStoreSpec::default()).unwrap();
    assert_eq!(object("orders", None)["spec"], full, "no spec");
    assert_eq!(object("orders", Some("{}"))["spec"], full, "an empty spec");
    for spec in [
        "{}",
        "{encryption: {}}",
        "{encryption: {keys: {}}}",
        "{encryption: {keys: {secretRef: {name: mine}}}}",
        "{encryption: {keys: {passphraseRef: {name: mine}}}}",
        "{encryption: {none: {}}}",
        "{volume: {ephemeral: {}}}",
        "{volume: {claim: {size: 1Gi}}}",
        "{backup: {destination: {claim: b}, continuous: {}}}",
        "{resources: {limits: {cpu: 1}}}",
        "{resources: {requests: {}}}",
    ] {
        let by_types: CodexStoreSpec = serde_yaml::from_str(spec).unwrap();
        let by_schema: CodexStore = serde_json::from_value(object("orders", Some(spec))).unwrap();
        assert_eq!(by_types, by_schema.spec, "{spec}");
    }
}

#[test]
fn wrong_combinations_are_refused_with_what_to_write_instead() {
    for spec in [
        "{}",
        "{encryption: {none: {}}}",
        "{encryption: {keySize: 128}}",
        "{volume: {claim: {size: 16Mi}}}",
        "{volume: {podVolume: state}}",
        "{volume: {ephemeral: {sizeLimit: 1073741824}}}",
        "{resources: {requests: {cpu: 1}, limits: {cpu: 1}}}",
        "{encryption: {keys: {managed: {escrow: {recipients: []}}}}}",
        "{encryption: {keys: {managed: {escrow: {recipients: [age1ff0yxkd98qfdk39ml3mnumhcdfe5wc8s0jf8xfngu7dfz5yh2pdqg29u5r]}}}}}",
        "{strategy: Ledger}",
        "{strategy: Ledger, keep: {age: 1h30m}}",
        "{strategy: Ledger, keep: {age: 8760h, revisions: 1}}",
        "{access: [{uids: [1000], prefixes: [a/], verbs: [Read, Write]}, {gids: [0], verbs: [Read]}]}",
        "{restore: {onStart: Never}}",
        "{backup: {destination: {claim: b}, verify: Weekly, serviceAccountAnnotations: {a.b/c: d}}}",
        "{backup: {destination: {s3: {bucket: bkt, serverSideEncryption: AES256}}}}",
        "{backup: {destination: {s3: {bucket: bkt, serverSideEncryption: KMS, kmsKeyId: k}}}}",
        "{restore: {}}",
    ] {
        valid(spec);
    }
    for (spec, words) in [
        (
            "{backup: {destination: {s3: {bucket: bkt, serverSideEncryption: AES256, kmsKeyId: k}}}}",
            "kmsKeyId is for",
        ),
        (
            "{volume: {claim: {size: 1Gi}}, restore: {onStart: IfEmpty}}",
            "needs `backup`",
        ),
        (
            "{restore: {onStart: IfEmpty}, backup: {destination: {claim: b}}}",
            "`volume.claim`",
        ),
        (
            "{backup: {destination: {}}}",
            "backup.destination needs exactly one",
        ),
        (
            "{backup: {destination: {claim: b, gcs: {bucket: bkt}}}}",
            "backup.destination needs exactly one",
        ),
        ("{keep: {revisions: 5}}", "keep is for `strategy: Ledger`"),
        ("{strategy: Ledger, keep: {}}", "keep says nothing"),
        (
            "{strategy: Ledger, keep: {age: 0h}}",
            "write for example 720h",
        ),
        (
            "{strategy: Ledger, keep: {age: ''}}",
            "write for example 720h",
        ),
        ("{access: [{verbs: [Read]}]}", "give it uids, gids or both"),
        (
            "{access: [{uids: [], prefixes: [a], verbs: [Read]}]}",
            "give it uids, gids or both",
        ),
        (
            "{volume: {}}",
            "exactly one of `ephemeral: {sizeLimit: 1Gi}`",
        ),
        (
            "{volume: {claim: {size: 1Gi}, podVolume: x}}",
            "exactly one of",
        ),
        (
            "{volume: {ephemeral: {sizeLimit: 15Mi}}}",
            "write for example 1Gi",
        ),
        ("{volume: {claim: {size: 1Mi}}}", "write for example 1Gi"),
        (
            "{encryption: {none: {}, keys: {managed: {}}}}",
            "write `keys: {managed: {}}`",
        ),
        ("{encryption: {none: {}, keySize: 128}}", "drop `keySize`"),
        (
            "{encryption: {keys: {managed: {escrow: {recipients: [age1ff0yxkd98qfdk39ml3mnumhcdfe5wc8s0jf8xfngu7dfz5yh2pdqg29u5r, ssh-ed25519 AAAA]}}}}}",
            "escrow.recipients are age public keys",
        ),
        (
            "{encryption: {keys: {managed: {escrow: {recipients: [AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQS7N6X8]}}}}}",
            "an AGE-SECRET-KEY belongs nowhere in a cluster",
        ),
        (
            "{resources: {limits: {memory: 63Mi}, requests: {memory: 32Mi}}}",
            "limits.memory is at least 64Mi: write for example 256Mi",
        ),
        (
            "{resources: {requests: {memory: 1Gi}}}",
            "lower the request or raise the limit",
        ),
        (
            "{resources: {requests: {cpu: 2}, limits: {cpu: 1}}}",
            "lower the request or raise the limit",
        ),
    ] {
        invalid(spec, words);
    }
}

#[test]
fn no_rule_is_for_those_that_the_kernel_cannot_name() {
    valid("{access: [{uids: [65533, 65535], gids: [65533], verbs: [Read]}]}");
    for rules in [
        "[{uids: [1, 65534], verbs: [Read]}]",
        "[{uids: [1], verbs: [Read]}, {gids: [65534], verbs: [Read]}]",
    ] {
        invalid(&format!("{{access: {rules}}}"), "that it cannot name");
    }
}

#[test]
fn a_collector_is_a_host_and_a_port_without_tls_and_nothing_more() {
    let tracing = |endpoint: &str| format!("{{tracing: {{endpoint: \"{endpoint}\"}}}}");
    for endpoint in [
        "http://otel-collector.observability:4317",
        "http://otel-collector.observability.svc.cluster.local:4317",
        "http://10.1.2.3:1",
        "http://[fd00::1]:65535",
    ] {
        valid(&tracing(endpoint));
    }
    for endpoint in [
        "",
        "otel-collector:4317",
        "http://otel-collector",
        "https://otel-collector:4317",
        "http://otel-collector:4317/v1/traces",
        "http://otel-collector:0",
        "http://otel-collector:65536",
        "http://name:password@otel-collector:4317",
        "http://$(HOST):4317",
        "http://:4317",
    ] {
        invalid(
            &tracing(endpoint),
            "write for example http://otel-collector",
        );
    }
    valid("{tracing: {endpoint: \"http://c:4317\", samplingRatePerMillion: 1000000}}");
    let schema = &schema_value()["properties"]["spec"]["properties"]["tracing"];
    let rate = &schema["properties"]["samplingRatePerMillion"];
    assert_eq!(
        (&rate["minimum"], &rate["maximum"]),
        (&json!(0.0), &json!(1_000_000.0))
    );
    assert_eq!(schema["required"], json!(["endpoint"]));
}

#[test]
fn a_rotation_says_why_and_after_a_compromise_it_is_no_rewrap() {
    let schema = serde_json::to_value(schema_of(manifest::key_rotation_crd())).unwrap();
    let rotation = |spec: &str| {
        let spec: Value = serde_yaml::from_str(spec).unwrap();
        let object = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexKeyRotation",
            "metadata": {"name": "now"}, "spec": spec});
        apply_defaults(&schema, &object)
    };
    let plain = rotation("{storeRef: {name: orders}}");
    assert_eq!(
        plain["spec"],
        json!({"storeRef": {"name": "orders"}, "reason": "Manual"})
    );
    for spec in [
        "{storeRef: {name: orders}, mode: Rewrap}",
        "{storeRef: {name: orders}, reason: Compromise}",
        "{storeRef: {name: orders}, mode: Reencrypt, reason: Compromise}",
    ] {
        let broken = broken_in(&schema, &rotation(spec), None);
        assert!(broken.is_empty(), "{spec}: {broken:?}");
    }
    let wrong = rotation("{storeRef: {name: orders}, mode: Rewrap, reason: Compromise}");
    let said = broken_in(&schema, &wrong, None).join(" ");
    assert!(said.contains("write `mode: Reencrypt`"), "{said}");
    let said = broken_in(&schema, &wrong, Some(&plain)).join(" ");
    assert!(said.contains("create another one"), "{said}");
}

#[test]
fn keys_come_from_one_place() {
    valid("{encryption: {keys: {secretRef: {name: my.keys}}, keySize: 128}}");
    valid("{encryption: {keys: {passphraseRef: {name: mine, key: words}}}}");
    for (spec, words) in [
        (
            "{encryption: {none: {}, keys: {secretRef: {name: mine}}}}",
            "write `keys: {managed: {}}`",
        ),
        (
            "{encryption: {keys: {managed: {}, secretRef: {name: mine}}}}",
            "`keys: {secretRef: {name: NAME}}`",
        ),
        (
            "{encryption: {keys: {secretRef: {name: mine}, passphraseRef: {name: mine}}}}",
            "more than one source",
        ),
        (
            "{encryption: {keys: {passphraseRef: {name: cxs-orders-ca}}}}",
            "Secret of another name",
        ),
        (
            "{encryption: {keys: {secretRef: {name: cxs-other-keyring}}}}",
            "Secret of another name",
        ),
    ] {
        invalid(spec, words);
    }
}

#[test]
fn names_have_at_most_40_characters() {
    assert!(broken(&object(&"a".repeat(40), None), None).is_empty());
    let messages = broken(&object(&"a".repeat(41), None), None);
    assert!(
        messages.iter().any(|m| m.contains("at most 40 characters")),
        "{messages:?}"
    );
}

#[test]
fn a_copy_is_of_another_store_and_asked_for_by_somebody() {
    let schema = serde_json::to_value(schema_of(manifest::restore_crd())).unwrap();
    let check = |spec: &str| {
        let spec: Value = serde_yaml::from_str(spec).unwrap();
        let restore = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore",
            "metadata": {"name": "r"}, "spec": spec});
        broken_in(&schema, &apply_defaults(&schema, &restore), None).join("; ")
    };
    assert_eq!(check("{storeRef: {name: a}}"), "");
    assert_eq!(check("{storeRef: {name: a}, onStart: true}"), "");
    assert_eq!(check("{storeRef: {name: a}, fromStoreRef: {name: b}}"), "");
    let same = check("{storeRef: {name: a}, fromStoreRef: {name: a}}");
    assert!(same.contains("names the store itself"), "{same}");
    let start = check("{storeRef: {name: a}, fromStoreRef: {name: b}, onStart: true}");
    assert!(start.contains("drop fromStoreRef"), "{start}");
}

#[test]
fn an_archive_takes_lasting_members_and_times_that_make_sense() {
    let spec = |volume: &str, continuous: &str| {
        format!(
            "{{volume: {{{volume}}}, backup: {{destination: {{claim: b}}, continuous: {{{continuous}}}}}}}"
        )
    };
    let claim = "claim: {size: 1Gi}";
    valid(&spec(claim, ""));
    valid(&spec(claim, "interval: 1h, keep: 1h"));
    let lasting = "backup.continuous needs `volume.claim`";
    invalid(&spec("ephemeral: {}", ""), lasting);
    invalid(&spec("podVolume: work", ""), lasting);
    for (continuous, words) in [
        ("interval: 0s", "write for example 5s"),
        ("interval: 61m", "write for example 5s"),
        ("interval: ''", "write for example 5s"),
        ("keep: 59m", "write for example 168h"),
    ] {
        invalid(&spec(claim, continuous), words);
    }
}

#[test]
fn a_point_in_time_is_one_and_chooses_its_backup_itself() {
    let schema = serde_json::to_value(schema_of(manifest::restore_crd())).unwrap();
    let check = |spec: &str| {
        let spec: Value =
            serde_yaml::from_str(&format!("{{storeRef: {{name: a}}, {spec}}}")).unwrap();
        let restore = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexRestore",
            "metadata": {"name": "r"}, "spec": spec});
        broken_in(&schema, &apply_defaults(&schema, &restore), None).join("; ")
    };
    let time = "pointInTime: {time: '2026-11-30T12:00:00Z'}";
    let revision = "pointInTime: {revision: 7}";
    assert_eq!(check(time), "");
    assert_eq!(check(&format!("{revision}, members: [{{pod: web-0}}]")), "");
    for (spec, words) in [
        ("pointInTime: {}".to_owned(), "exactly one of"),
        (
            "pointInTime: {time: '2026-11-30T12:00:00Z', revision: 7}, members: [{pod: web-0}]"
                .to_owned(),
            "exactly one of",
        ),
        (revision.to_owned(), "a revision is one member's"),
        (
            format!("{revision}, members: [{{pod: web-0}}, {{pod: web-1}}]"),
            "a revision is one member's",
        ),
        (format!("{time}, backupRef: {{name: b}}"), "drop backupRef"),
        (
            format!("{time}, onStart: true"),
            "onStart restores the latest",
        ),
        (
            format!("{time}, fromStoreRef: {{name: b}}"),
            "a copy is of one backup",
        ),
    ] {
        let said = check(&spec);
        assert!(said.contains(words), "{spec}: {said}");
    }
}

#[test]
fn what_cannot_change_is_refused_also_where_it_was_a_default() {
    let change =
        |old: &str, new: &str| broken(&object("o", Some(new)), Some(&object("o", Some(old))));
    for (old, new, words) in [
        (
            "{}",
            "{encryption: {none: {}}}",
            "encryption cannot be turned on or off",
        ),
        (
            "{encryption: {none: {}}}",
            "{}",
            "encryption cannot be turned on or off",
        ),
        (
            "{}",
            "{encryption: {keys: {secretRef: {name: mine}}}}",
            "between `managed`, `secretRef`",
        ),
        (
            "{encryption: {keys: {secretRef: {name: mine}}}}",
            "{encryption: {keySize: 256}}",
            "between `managed`, `secretRef`",
        ),
        (
            "{encryption: {keys: {passphraseRef: {name: mine}}}}",
            "{encryption: {keys: {secretRef: {name: mine}}}}",
            "and `passphraseRef`",
        ),
        (
            "{}",
            "{volume: {claim: {size: 1Gi}}}",
            "kind of volume cannot be changed",
        ),
        (
            "{volume: {claim: {size: 1Gi}}}",
            "{}",
            "kind of volume cannot be changed",
        ),
        (
            "{volume: {podVolume: a}}",
            "{volume: {ephemeral: {}}}",
            "kind of volume cannot be changed",
        ),
        (
            "{volume: {claim: {size: 2Gi}}}",
            "{volume: {claim: {size: 1Gi}}}",
            "can grow but not shrink",
        ),
        (
            "{strategy: Snapshot}",
            "{strategy: Ledger}",
            "strategy cannot be changed",
        ),
    ] {
        let messages = change(old, new);
        assert!(
            messages.iter().any(|m| m.contains(words)),
            "{old} to {new}: {messages:?}"
        );
    }
    for (old, new) in [
        (
            "{}",
            "{durability: Interval, compression: None, encryption: {keySize: 128}}",
        ),
        ("{encryption: {}}", "{encryption: {keys: {managed: {}}}}"),
        (
            "{encryption: {keys: {secretRef: {name: mine}}}}",
            "{encryption: {keys: {secretRef: {name: mine-2}}}}",
        ),
        (
            "{volume: {claim: {size: 1Gi}}}",
            "{volume: {claim: {size: 1.5Gi, reclaimPolicy: Delete}}}",
        ),
    ] {
        assert_eq!(change(old, new), Vec::<String>::new(), "{old} to {new}");
    }
}
