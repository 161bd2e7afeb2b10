use serde_json::json;

use super::*;

const LINE: &str = "00000000000000aa";

fn told(from: u64, to: u64, key: Option<&str>) -> PieceTold {
    PieceTold {
        lineage: LINE.to_owned(),
        from,
        to,
        last_ms: to * 10,
        key_id: key.map(str::to_owned),
        ..PieceTold::default()
    }
}

fn map(record: &Record) -> ConfigMap {
    let text = serde_json::to_string(record).unwrap();
    serde_json::from_value(
        json!({"metadata": {"resourceVersion": "7"}, "data": {names::ARCHIVE_RECORD: text}}),
    )
    .unwrap()
}

fn book() -> Book {
    Book::new("orders", "pvc/backups:/shop/orders/_archive")
}

#[test]
fn a_line_that_is_left_is_not_live_and_the_one_entered_is() {
    let book = book();
    book.begin(&Shelf::default());
    book.enter("web-0", LINE, 5, 5, None);
    book.current("web-0", LINE, 100);
    book.stored("web-0", &told(5, 9, None));
    let (record, _) = book.page();
    let line = record.live("web-0").unwrap();
    assert_eq!((line.revision, line.since, line.pieces), (9, 5, 1));
    assert_eq!((line.until_ms, line.last_ms), (Some(100), Some(90)));
    book.enter("web-0", "bb", 7, 7, None);
    let (record, _) = book.page();
    assert_eq!(record.live("web-0").unwrap().lineage, "bb");
    assert!(!record.line("web-0", LINE).unwrap().live);
    book.left(|pod| pod != "web-0");
    let (record, _) = book.page();
    assert_eq!(record.live("web-0"), None);
    assert_eq!(record.lines.len(), 2, "what is stored of it stays known");
    book.forget(100);
    assert_eq!(book.page().0.lines.len(), 2, "it was heard of after that");
    book.forget(u64::MAX);
    let lines = book.page().0.lines;
    assert_eq!(lines.len(), 1, "bb has nothing, and never had");
}

#[test]
fn what_is_stuck_says_why_until_it_goes_on() {
    let book = book();
    book.begin(&Shelf::default());
    // It never said where it is.
    book.stuck("web-1", None, "no answer");
    let (record, _) = book.page();
    let line = record.live("web-1").unwrap();
    assert_eq!(line.message.as_deref(), Some("no answer"));
    assert!(
        line.heard_ms.is_some(),
        "it is behind since it was heard of"
    );
    assert_eq!(line.until_ms, None, "nobody knows what was written to it");
    assert!(
        book.without_base(|_| false).is_empty(),
        "a backup would not help it"
    );
    book.enter("web-1", LINE, 3, 3, None);
    assert_eq!(book.without_base(|_| false), ["web-1"]);
    assert!(book.without_base(|_| true).is_empty());
    book.stuck("web-1", Some(LINE), "disk");
    book.current("web-1", LINE, 5);
    let (record, _) = book.page();
    let line = record.live("web-1").unwrap();
    assert_eq!((line.message.as_deref(), line.based), (None, true));
    book.left(|_| true);
    assert_eq!(book.page().0.lines.len(), 1);
}

#[test]
fn keys_are_those_of_what_is_stored_and_never_fewer() {
    let book = book();
    assert_eq!(book.page().0.key_ids, None, "nobody has looked yet");
    let shelf = Shelf {
        keys: [("k1".to_owned(), 2)].into(),
        ..Shelf::default()
    };
    book.begin(&shelf);
    let keys = || book.page().0.key_ids.unwrap().join(" ");
    assert_eq!(keys(), "k1");
    book.pages()
        .keys
        .as_mut()
        .unwrap()
        .insert("k2".to_owned(), 1);
    book.deleted("web-0", LINE, Some("k1"));
    assert_eq!(keys(), "k1 k2", "one piece needs it still");
    book.deleted("web-0", LINE, Some("k1"));
    assert_eq!(keys(), "k2");
    // What another one wrote down meanwhile.
    let theirs = Record {
        location: "elsewhere".to_owned(),
        key_ids: Some(vec!["k3".to_owned()]),
        ..Record::default()
    };
    book.join(&map(&theirs));
    assert_eq!(keys(), "k2", "of another place");
    let theirs = Record {
        location: book.page().0.location,
        ..theirs
    };
    book.join(&map(&theirs));
    assert_eq!(keys(), "k2 k3");
}
