use std::os::unix::fs::PermissionsExt as _;

use codexstore_crds::codex_backup::{
    BackupMember, CodexBackupSpec, CodexBackupStatus, StoredKeyring, phase,
};
use object_store::{ObjectStoreExt as _, memory::InMemory};

use super::*;

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn member(pod: &str, content: Option<&[u8]>) -> BackupMember {
    BackupMember {
        pod: pod.to_owned(),
        stored: content.is_some(),
        file: content.map(|_| format!("{pod}-1a.backup")),
        bytes: content.map(|bytes| i64::try_from(bytes.len()).unwrap()),
        sha256: content.map(sha256),
        message: content.is_none().then(|| "no answer".to_owned()),
        ..BackupMember::default()
    }
}

fn backup(members: Vec<BackupMember>, keyring: Option<&[u8]>) -> CodexBackup {
    let mut backup = CodexBackup::new("now", CodexBackupSpec::default());
    backup.status = Some(CodexBackupStatus {
        phase: Some(phase::PARTIALLY_FAILED.to_owned()),
        members,
        keyring: keyring.map(|bytes| StoredKeyring {
            file: "keyring-1a.age".to_owned(),
            sha256: sha256(bytes),
            sealed_at: None,
        }),
        ..CodexBackupStatus::default()
    });
    backup
}

fn exit(error: &anyhow::Error) -> u8 {
    crate::failure::report(error).1
}

#[test]
fn the_files_of_all_that_is_stored_are_wanted_or_of_those_that_are_named() {
    let members = vec![
        member("web-0", Some(b"zero")),
        member("web-1", None),
        member("web-2", Some(b"two")),
    ];
    let all = backup(members, Some(b"sealed"));
    let files = |members: &[&str]| {
        let members: Vec<_> = members.iter().map(|m| (*m).to_owned()).collect();
        let found = wanted(&all, &members)?;
        let files = found.into_iter().map(|one| one.file);
        anyhow::Ok(files.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(
        files(&[]).unwrap(),
        "web-0-1a.backup web-2-1a.backup keyring-1a.age"
    );
    assert_eq!(files(&["web-2"]).unwrap(), "web-2-1a.backup keyring-1a.age");
    for (pod, why) in [("web-1", "no answer"), ("web-9", "not among")] {
        let error = files(&["web-0", pod]).unwrap_err();
        assert_eq!(exit(&error), 3);
        assert!(error.to_string().contains(why), "{error}");
    }
    let mut failed = all.clone();
    failed.status.as_mut().unwrap().phase = Some(phase::FAILED.to_owned());
    assert_eq!(exit(&wanted(&failed, &[]).unwrap_err()), 3);
}

#[test]
fn a_status_that_names_a_file_elsewhere_is_refused() {
    for file in ["../web-0.backup", "/etc/passwd", ".bashrc", "a/b"] {
        let mut one = member("web-0", Some(b"zero"));
        one.file = Some(file.to_owned());
        let error = wanted(&backup(vec![one], None), &[]).unwrap_err();
        assert_eq!(exit(&error), 2, "{file}");
    }
    let mut one = member("web-0", Some(b"zero"));
    one.sha256 = None;
    assert!(wanted(&backup(vec![one], None), &[]).is_err());
}

/// A bucket with one file, and a directory to fetch it into.
async fn bucket(content: &[u8]) -> (Place<'static>, tempfile::TempDir) {
    let store = InMemory::new();
    let at = object_store::path::Path::from("team/shop/orders/now/web-0-1a.backup");
    store.put(&at, content.to_vec().into()).await.unwrap();
    let bucket = Destination::Bucket {
        store: std::sync::Arc::new(store),
        prefix: "team/".to_owned(),
    };
    (Place::Bucket(bucket), tempfile::tempdir().unwrap())
}

fn names(dir: &Path) -> Vec<String> {
    let found = std::fs::read_dir(dir).unwrap();
    let found = found.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    found.collect()
}

#[tokio::test]
async fn a_file_arrives_whole_for_its_owner_alone_or_not_at_all() {
    let content: Vec<u8> = (0..3 * PART + 7).map(|n| n.to_le_bytes()[1]).collect();
    let (from, place) = bucket(&content).await;
    let dir = place.path().join("new/dir");
    make_dir(&dir).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(dir.parent().unwrap())), (0o700, 0o700));
    let into = Destination::Dir(dir.clone());
    let all = backup(vec![member("web-0", Some(&content))], None);
    let one = wanted(&all, &[]).unwrap().remove(0);
    let other = Wanted {
        sha256: sha256(b"other"),
        ..one.clone()
    };

    // Not what was stored.
    let fetched = fetch(&from, "shop/orders/now", &other, &into, |_| {}).await;
    assert_eq!(exit(&fetched.unwrap_err()), 7);
    assert_eq!(names(&dir), [""; 0], "nothing is left");
    // Interrupted: what was begun is dropped.
    let endless = tokio::io::repeat(1);
    let mut upload = into.create(&one.file).unwrap();
    {
        let mut endless = endless;
        let passing = pass(&mut endless, async |part| upload.write(part).await);
        let cut = tokio::time::timeout(Duration::from_millis(50), passing).await;
        assert!(cut.is_err());
    }
    assert_eq!(names(&dir).len(), 1);
    drop(upload);
    assert_eq!(names(&dir), [""; 0], "nothing is left");

    assert!(!is_there(&dir, &one).await.unwrap());
    let mut counted = 0;
    fetch(&from, "shop/orders/now", &one, &into, |n| counted += n)
        .await
        .unwrap();
    assert_eq!(counted, content.len() as u64);
    assert_eq!(names(&dir), ["web-0-1a.backup"]);
    let path = dir.join("web-0-1a.backup");
    assert!(std::fs::read(&path).unwrap() == content);
    assert_eq!(mode(&path), 0o600);
    // What is there is not downloaded once more, and nothing else is overwritten.
    assert!(is_there(&dir, &one).await.unwrap());
    assert_eq!(exit(&is_there(&dir, &other).await.unwrap_err()), 8);
    let again = fetch(&from, "shop/orders/now", &one, &into, |_| {}).await;
    assert!(again.is_err(), "a file that came meanwhile");
}

#[test]
fn a_server_is_reached_at_another_address_by_the_same_paths() {
    let s3 = |s3: &str| -> crd::Destination {
        serde_json::from_value(
            json!({"s3": serde_json::from_str::<serde_json::Value>(s3).unwrap()}),
        )
        .unwrap()
    };
    let amazon = reached(s3(r#"{"bucket": "bkt"}"#), Some("http://localhost:7070"));
    let amazon = amazon.s3.unwrap();
    assert_eq!(amazon.virtual_hosted_style, Some(true));
    assert_eq!(amazon.endpoint.as_deref(), Some("http://localhost:7070"));
    let own = s3(r#"{"bucket": "bkt", "endpoint": "http://s3.shop.svc:7070"}"#);
    let moved = reached(own.clone(), Some("http://localhost:7070"))
        .s3
        .unwrap();
    assert_eq!(moved.virtual_hosted_style, Some(false));
    assert_eq!(reached(own.clone(), None), own);
}
