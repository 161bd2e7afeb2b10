//! A member and an API server that answer by a script.

use std::collections::VecDeque;
use std::sync::Mutex;

use codexstore::format::Lineage;
use codexstore::{Encryption, Options, Store};
use codexstore_api::archive::PieceName;
use codexstore_crds::archive::{Continuous, Record};
use codexstore_crds::{CodexStore, names};
use futures::FutureExt as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::super::super::cluster::Cluster;
use super::super::super::destination::Destination;
use super::super::super::scripted::{Answer, Asked, serve};
use super::super::base::Bases;
use super::super::book::Book;
use super::super::shelf::Shelf;
use super::*;

const LINE: &str = "00000000000000aa";
const DIRECTORY: &str = "shop/orders/_archive";

fn position(revision: u64, first: u64) -> Value {
    json!({"store": "00", "lineage": LINE, "epoch": 1, "revision": revision, "first": first})
}

fn up_to_date(revision: u64) -> Answer {
    (204, Some(position(revision, 0)), Vec::new())
}

fn piece(from: u64, to: u64, key: &str, bytes: &[u8], more: bool) -> Answer {
    let told = json!({"store": "00", "lineage": LINE, "epoch": 1, "from": from, "to": to, "firstMs": to * 10, "lastMs": to * 10,
        "batches": to - from, "cipher": "AES-256-GCM", "keyId": key, "bytes": bytes.len(),
        "sha256": hex(&Sha256::digest(bytes)), "more": more});
    (200, Some(told), bytes.to_vec())
}

fn problem(status: u16, code: &str, mut told: Value) -> Answer {
    told["code"] = json!(code);
    (status, Some(told), b"{}".to_vec())
}

/// An archive in a directory, of a member that answers by a script.
struct Stage {
    archive: Arc<Archive>,
    member: Member,
    asked: Asked,
    api: Asked,
    dir: tempfile::TempDir,
}

impl Stage {
    async fn new(script: Vec<Answer>) -> Stage {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let script = Mutex::new(VecDeque::from(script));
        let next = move |_: &str, _: &str| {
            let next = script.lock().unwrap().pop_front();
            next.unwrap_or_else(|| (500, None, b"the script has ended".to_vec()))
        };
        let (address, asked) = serve(next).await;
        let (api_address, api) = serve(|line, _| {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "cxs-orders-archive", "resourceVersion": "5"}});
            let answer = if line.contains("/events") {
                json!({})
            } else {
                map
            };
            (200, None, answer.to_string().into_bytes())
        })
        .await;
        let config = kube::Config::new(format!("http://{api_address}").parse().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let store = json!({"apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexStore",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u"}, "spec": {}});
        let store: CodexStore = serde_json::from_value(store).unwrap();
        let archive = Arc::new(Archive {
            cluster: Cluster {
                client: kube::Client::try_from(config).unwrap(),
                namespace: "shop".to_owned(),
            },
            store,
            directory: DIRECTORY.to_owned(),
            destination: Destination::Dir(dir.path().to_owned()),
            dial: Box::new(move |_| {
                async move {
                    let stream = TcpStream::connect(address).await?;
                    let client = Client::over(stream, "member").await?;
                    Ok(client.patience(Duration::ZERO))
                }
                .boxed()
            }),
            policy: Continuous::default(),
            holder: "test".to_owned(),
            permits: Semaphore::new(1),
            book: Book::new("orders", "dir"),
            bases: Bases::new(&serde_json::from_value(json!({"claim": "b"})).unwrap()),
        });
        archive.book.read(&archive.cluster).await.unwrap();
        archive.book.begin(1, &Shelf::default());
        let pod = json!({"metadata": {"name": "web-0", "uid": "web-0-uid"}});
        let pod = serde_json::from_value(pod).unwrap();
        Stage {
            member: Member::new(Arc::clone(&archive), pod),
            archive,
            asked,
            api,
            dir,
        }
    }

    /// Steps until there is nothing more for now.
    async fn until_wait(&mut self) {
        while let Next::More = self.member.step().await.unwrap() {}
    }

    /// The names of the pieces that are stored, without their zeros.
    async fn stored(&self) -> Vec<String> {
        let mut all = Vec::new();
        let destination = &self.archive.destination;
        destination
            .walk(DIRECTORY, |path| all.push(path.to_owned()))
            .await
            .unwrap();
        all.sort();
        let short = |path: &String| {
            let name = path.rsplit('/').next().unwrap();
            let name = PieceName::parse(name).unwrap();
            format!("{}-{}", name.from, name.to)
        };
        all.iter().map(short).collect()
    }

    /// What was asked of the member for pieces, each by what it has already.
    fn after(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let after = asked
            .iter()
            .filter_map(|(line, _)| line.split_once("after="));
        after.map(|(_, after)| after.to_owned()).collect()
    }

    /// The records that were written.
    fn records(&self) -> Vec<Record> {
        let api = self.api.lock().unwrap();
        let written = api.iter().filter(|(line, _)| line.starts_with("PATCH"));
        let of = |body: &str| {
            let patch: Value = serde_json::from_str(body).unwrap();
            Record::parse(patch["data"][names::ARCHIVE_RECORD].as_str().unwrap()).unwrap()
        };
        written.map(|(_, body)| of(body)).collect()
    }
}

#[tokio::test]
async fn pieces_are_stored_one_after_the_other_and_each_key_is_on_the_record_before() {
    let mut stage = Stage::new(vec![
        up_to_date(3),
        up_to_date(9),
        piece(3, 7, "k1", b"one", true),
        up_to_date(9),
        piece(3, 7, "k1", b"one", true),
        up_to_date(9),
        piece(7, 9, "k2", b"two", false),
        up_to_date(9),
        piece(7, 9, "k2", b"two", false),
        up_to_date(9),
    ])
    .await;
    // Of a line that is new, with nothing stored and no backup, from now on.
    stage.until_wait().await;
    assert!(matches!(stage.member.step().await.unwrap(), Next::More));
    assert_eq!(
        stage.stored().await,
        [""; 0],
        "what was sealed before its key was on the record is asked for again"
    );
    assert_eq!(stage.records().len(), 1);
    stage.until_wait().await;
    assert_eq!(stage.stored().await, ["3-7", "7-9"]);
    assert_eq!(stage.after(), ["3", "3", "7", "7"]);
    let keys: Vec<_> = stage
        .records()
        .into_iter()
        .map(|r| r.key_ids.unwrap())
        .collect();
    assert_eq!(keys, [vec!["k1"], vec!["k1", "k2"]], "once for each");
    stage.until_wait().await;
    let line = stage.archive.book.live().remove(0);
    assert_eq!((line.revision, line.since, line.pieces), (9, 3, 2));
    assert!(
        line.until_ms > Some(90),
        "nothing more was written until it was asked"
    );
}

#[tokio::test]
async fn one_that_begins_anew_goes_on_where_what_is_stored_ends() {
    let two = || piece(7, 9, "k1", b"two", false);
    let script = vec![up_to_date(9), two(), up_to_date(9), two()];
    let mut stage = Stage::new(script).await;
    for (from, to) in [(3, 5), (5, 7), (0, 2)] {
        let name = format!("{from:020}-{to:020}-{to:015}.k1.piece");
        let path = format!("{DIRECTORY}/web-0/{LINE}/{:020}/{name}", 1);
        let put = stage.archive.destination.put_new(&path, vec![1].into());
        assert!(put.await.unwrap());
    }
    stage.until_wait().await;
    assert_eq!(stage.after(), ["7", "7"]);
    assert_eq!(stage.stored().await, ["0-2", "3-5", "5-7", "7-9"]);
    let line = stage.archive.book.live().remove(0);
    assert_eq!((line.since, line.pieces), (3, 4), "a gap is behind 3");
}

#[tokio::test]
async fn a_past_that_is_gone_is_said_and_what_there_is_goes_on() {
    let mut stage = Stage::new(vec![
        up_to_date(3),
        up_to_date(20),
        problem(410, "past-gone", position(20, 15)),
        up_to_date(20),
        piece(15, 20, "k1", b"later", false),
        up_to_date(20),
        piece(15, 20, "k1", b"later", false),
    ])
    .await;
    stage.until_wait().await;
    stage.until_wait().await;
    assert_eq!(stage.after(), ["3", "15", "15"]);
    let line = stage.archive.book.live().remove(0);
    assert_eq!((line.since, line.revision), (15, 20));
    assert!(!stage.archive.bases.has(&line), "another backup is needed");
    let api = stage.api.lock().unwrap();
    let told = api.iter().any(|(line, body)| {
        line.contains("/events")
            && body.contains("ArchiveGap")
            && body.contains("behind 3 up to 15")
    });
    assert!(told, "{api:?}");
}

#[tokio::test]
async fn another_line_of_history_is_entered_and_one_that_was_put_back_is_not_gone_on_with() {
    let mut other = position(40, 0);
    other["lineage"] = json!("00000000000000bb");
    let mut stage = Stage::new(vec![
        up_to_date(3),
        up_to_date(5),
        problem(409, "lineage-changed", other.clone()),
        (204, Some(other.clone()), Vec::new()),
        up_to_date(2),
    ])
    .await;
    stage.until_wait().await;
    stage.until_wait().await;
    let live = stage.archive.book.live();
    assert_eq!(
        (live.len(), live[0].lineage.as_str()),
        (1, "00000000000000bb")
    );
    assert_eq!(live[0].revision, 40);
    // The first line once more, of which more was archived before. Nothing of it is stored here, so it is one that begins now.
    stage.until_wait().await;
    let name = format!("{:020}-{:020}-{:015}.piece", 2, 9, 9);
    let path = format!("{DIRECTORY}/web-0/{LINE}/{:020}/{name}", 1);
    let mut stage = Stage::new(vec![up_to_date(5)]).await;
    let put = stage.archive.destination.put_new(&path, vec![1].into());
    assert!(put.await.unwrap());
    let why = stage.member.step().await.err().unwrap().to_string();
    assert!(
        why.contains("was put back") && why.contains("CodexRestore"),
        "{why}"
    );
}

#[tokio::test]
async fn what_does_not_arrive_or_come_back_as_told_is_not_archived() {
    let mut cut = piece(3, 7, "k1", b"whole", false);
    cut.1.as_mut().unwrap()["sha256"] = json!("00");
    let mut stage = Stage::new(vec![
        up_to_date(3),
        up_to_date(7),
        cut,
        problem(503, "starting", json!({})),
        up_to_date(7),
        problem(503, "overloaded", json!({})),
        up_to_date(7),
        piece(3, 7, "k1", b"whole", false),
        up_to_date(7),
        piece(3, 7, "k1", b"whole", false),
        up_to_date(7),
        piece(3, 7, "k1", b"whole", false),
    ])
    .await;
    stage.until_wait().await;
    let why = stage.member.step().await.err().unwrap();
    assert!(
        !why.is::<AtDestination>(),
        "the destination is not at fault"
    );
    let why = why.to_string();
    assert!(why.contains("not what the member told of"), "{why}");
    assert_eq!(stage.stored().await, [""; 0]);
    // Not open, and busy: that is waited for.
    stage.until_wait().await;
    stage.until_wait().await;
    assert!(matches!(stage.member.step().await.unwrap(), Next::More));
    // What an archiver of earlier, or somebody else, left there is damaged: it makes room.
    let name = format!("{:020}-{:020}-{:015}.k1.piece", 3, 7, 70);
    let path = format!("{DIRECTORY}/web-0/{LINE}/{:020}/{name}", 1);
    let put = stage.archive.destination.put_new(&path, vec![1].into());
    assert!(put.await.unwrap());
    assert!(matches!(stage.member.step().await.unwrap(), Next::More));
    assert_eq!(stage.stored().await, [""; 0]);
    stage.until_wait().await;
    let kept = std::fs::read(stage.dir.path().join(&path)).unwrap();
    assert_eq!(kept, b"whole");
}

#[tokio::test]
async fn another_piece_that_is_there_and_whole_keeps_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("data"), Options::new(Encryption::None)).unwrap();
    for n in 0..3_u8 {
        store.set(&[n], b"value").unwrap();
    }
    let theirs = match store.archive(Lineage(store.lineage()), 0).unwrap() {
        codexstore::archive::Archived::Piece(piece) => *piece,
        other => panic!("{other:?}"),
    };
    let said = &theirs.info.envelope;
    let at = |revision: u64| {
        let mut position = position(revision, 0);
        position["lineage"] = json!(said.lineage.to_string());
        (204, Some(position), Vec::new())
    };
    let mut ours = piece(said.from, said.to, "k1", b"sealed otherwise", false);
    let told = ours.1.as_mut().unwrap();
    told["lineage"] = json!(said.lineage.to_string());
    told["lastMs"] = json!(said.last_ms);
    told.as_object_mut().unwrap().remove("keyId");
    let script = vec![at(said.from), at(said.to), ours, at(said.to)];
    let mut stage = Stage::new(script).await;
    stage.until_wait().await;
    let path = PiecePath {
        lineage: said.lineage.to_string(),
        epoch: 1,
        name: PieceName {
            from: said.from,
            to: said.to,
            last_ms: said.last_ms,
            key_id: None,
        },
    };
    let path = stored::path(DIRECTORY, "web-0", &path);
    let bytes = Bytes::from(theirs.bytes.clone());
    let put = stage.archive.destination.put_new(&path, bytes);
    assert!(put.await.unwrap());
    assert!(matches!(stage.member.step().await.unwrap(), Next::More));
    let kept = std::fs::read(stage.dir.path().join(&path)).unwrap();
    assert!(kept == theirs.bytes, "nothing takes another's place");
    // It is gone on from, as after a start.
    stage.until_wait().await;
    assert_eq!(stage.archive.book.live()[0].revision, said.to);
}

#[tokio::test]
async fn a_destination_that_is_gone_is_no_members_fault() {
    let mut stage = Stage::new(vec![up_to_date(3)]).await;
    std::fs::remove_dir_all(stage.dir.path()).unwrap();
    let why = stage.member.step().await.err().unwrap();
    assert!(why.is::<AtDestination>(), "{why:#}");
}

#[tokio::test]
async fn a_record_that_was_not_read_or_cannot_be_is_not_written_over() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let broken = Arc::new(Mutex::new(true));
    let answers = Arc::clone(&broken);
    let (address, api) = serve(move |line, _| {
        let text = if *answers.lock().unwrap() { "{" } else { "{}" };
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {names::ARCHIVE_RECORD: text},
            "metadata": {"name": "cxs-orders-archive", "resourceVersion": "5"}});
        let conflict = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409,
            "message": "the object has been modified"});
        if line.starts_with("PATCH") {
            (409, None, conflict.to_string().into_bytes())
        } else {
            (200, None, map.to_string().into_bytes())
        }
    })
    .await;
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let cluster = Cluster {
        client: kube::Client::try_from(config).unwrap(),
        namespace: "shop".to_owned(),
    };
    let written = || {
        let api = api.lock().unwrap();
        api.iter()
            .filter(|(line, _)| line.starts_with("PATCH"))
            .count()
    };
    let book = Book::new("orders", "dir");
    assert!(book.read(&cluster).await.is_err());
    book.failed("it cannot be read");
    let why = book.write(&cluster).await.unwrap_err().to_string();
    assert!(why.contains("was not read"), "{why}");
    assert_eq!(written(), 0);
    *broken.lock().unwrap() = false;
    book.read(&cluster).await.unwrap();
    // Another one wrote what nobody can read: that is looked at, and stays.
    *broken.lock().unwrap() = true;
    let why = book.write(&cluster).await.unwrap_err().to_string();
    assert!(why.contains("is no record of an archive"), "{why}");
    assert_eq!(written(), 1);
    assert!(
        book.is_due(Duration::ZERO, Duration::MAX),
        "it is tried again"
    );
}
