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

/// One of which nothing was written yet.
fn fresh() -> Book {
    let book = book();
    book.take(&map(&Record::default())).unwrap();
    book
}

/// A walk that finds these.
fn walked(book: &Book, keys: &[&str]) {
    let walk = book.walk();
    book.walked(walk, keys.iter().map(|id| (*id).to_owned()).collect());
}

fn key_ids(book: &Book) -> String {
    book.page().0.key_ids.unwrap().join(" ")
}

#[test]
fn members_are_where_they_were_until_they_or_their_pods_say_otherwise() {
    let earlier = book();
    earlier.begin(1, &Shelf::default());
    earlier.enter("web-0", LINE, 5, 5, None);
    earlier.current("web-0", LINE, 100);
    earlier.stuck("web-1", Some(LINE), "it was put back", false);
    let book = book();
    book.take(&map(&earlier.page().0)).unwrap();
    book.begin(book.walk(), &Shelf::default());
    let (record, version) = book.page();
    assert_eq!(version.as_deref(), Some("7"));
    assert_eq!(
        record.live("web-0").unwrap().until_ms,
        Some(100),
        "it is behind since then"
    );
    assert_eq!(book.without_base(|_| false), ["web-0"]);
    book.left(|pod| pod != "web-0");
    assert_eq!(book.page().0.live("web-0"), None);
    assert!(book.page().0.live("web-1").is_some());
}

#[test]
fn a_record_that_cannot_be_read_is_no_record_to_write_over() {
    let book = book();
    let mut broken = map(&Record::default());
    let data = broken.data.as_mut().unwrap();
    data.insert(names::ARCHIVE_RECORD.to_owned(), "{".to_owned());
    let why = book.take(&broken).unwrap_err().to_string();
    assert!(why.contains("is no record of an archive"), "{why}");
    assert_eq!(book.page().1, None, "none was read");
    book.take(&map(&Record::default())).unwrap();
    assert!(book.join(&broken).is_err());
    assert_eq!(book.page().1.as_deref(), Some("7"));
    broken.data = None;
    book.take(&broken).unwrap();
}

#[test]
fn only_what_fails_at_the_destination_is_a_reason_to_begin_anew() {
    let book = book();
    book.begin(1, &Shelf::default());
    let stuck = || {
        std::thread::sleep(Duration::from_millis(2));
        book.is_stuck_for(Duration::from_millis(1))
    };
    book.stuck("web-0", Some(LINE), "it was put back", false);
    assert!(!stuck(), "nothing that a new process would do better");
    book.stuck("web-1", Some(LINE), "no bucket", true);
    assert!(stuck());
    book.current("web-1", LINE, 5);
    assert!(stuck(), "nothing was stored since");
    book.stored("web-1", &told(5, 9, None));
    assert!(!stuck());
    book.stuck("web-1", Some(LINE), "no bucket", true);
    book.left(|_| false);
    assert!(!stuck(), "nobody waits for it");
}

#[test]
fn a_line_that_is_left_is_not_live_and_the_one_entered_is() {
    let book = book();
    book.begin(1, &Shelf::default());
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
    book.forget(100, |_| false);
    assert_eq!(book.page().0.lines.len(), 2, "it was heard of after that");
    book.forget(u64::MAX, |line| line.lineage == "bb");
    assert_eq!(book.page().0.lines.len(), 2, "there is a backup of it");
    book.forget(u64::MAX, |_| false);
    let lines = book.page().0.lines;
    assert_eq!(lines.len(), 1, "bb has nothing, and never had");
}

#[test]
fn what_is_stuck_says_why_until_it_goes_on() {
    let book = book();
    book.begin(1, &Shelf::default());
    // It never said where it is.
    book.stuck("web-1", None, "no answer", false);
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
    book.stuck("web-1", Some(LINE), "disk", false);
    assert!(
        book.without_base(|_| false).is_empty(),
        "no piece would follow it"
    );
    assert!(book.without_base(|_| true).is_empty());
    book.current("web-1", LINE, 5);
    let (record, _) = book.page();
    let line = record.live("web-1").unwrap();
    assert_eq!((line.message.as_deref(), line.based), (None, true));
    book.left(|_| true);
    assert_eq!(book.page().0.lines.len(), 1);
}

#[test]
fn keys_are_those_of_what_is_stored_and_never_fewer() {
    let book = fresh();
    assert_eq!(book.page().0.key_ids, None, "nobody has looked yet");
    let shelf = Shelf {
        keys: [("k1".to_owned(), 2)].into(),
        ..Shelf::default()
    };
    book.begin(book.walk(), &shelf);
    assert_eq!(key_ids(&book), "k1");
    // What another one wrote down meanwhile.
    let theirs = Record {
        location: book.page().0.location,
        key_ids: Some(vec!["k3".to_owned()]),
        ..Record::default()
    };
    book.join(&map(&theirs)).unwrap();
    walked(&book, &["k1"]);
    assert_eq!(key_ids(&book), "k1 k3");
    walked(&book, &[]);
    assert_eq!(key_ids(&book), "");
}

#[test]
fn what_another_one_writes_of_another_place_is_needed_there() {
    let book = fresh();
    book.begin(1, &Shelf::default());
    let place = book.page().0.location;
    let theirs = Record {
        location: "elsewhere".to_owned(),
        key_ids: Some(vec!["k3".to_owned()]),
        elsewhere: vec![Elsewhere {
            location: place,
            key_ids: Some(vec!["k4".to_owned()]),
        }],
        ..Record::default()
    };
    book.join(&map(&theirs)).unwrap();
    assert_eq!(key_ids(&book), "k4");
    let record = book.page().0;
    assert!(record.needs("k3") && !record.needs("k5"));
    assert_eq!(record.elsewhere.len(), 1);
    // One that was made anew says nothing.
    book.join(&map(&Record::default())).unwrap();
    assert_eq!(book.page().0.elsewhere.len(), 1);
    let unknown = Record {
        key_ids: None,
        ..theirs
    };
    book.join(&map(&unknown)).unwrap();
    assert!(book.page().0.needs("k5"));
}

#[test]
fn a_key_that_goes_is_written_down_again_before_it_is_used() {
    let book = book();
    let of = |ids: &[&str]| Record {
        location: book.location.clone(),
        key_ids: Some(ids.iter().map(|id| (*id).to_owned()).collect()),
        ..Record::default()
    };
    book.take(&map(&of(&["k1", "k2"]))).unwrap();
    let written = || book.pages().written_keys.join(" ");
    assert_eq!(written(), "k1 k2");
    walked(&book, &["k2"]);
    walked(&book, &["k2"]);
    // From when it is being written, which takes a while.
    assert_eq!(book.page().0.key_ids.unwrap(), ["k2"]);
    assert_eq!(written(), "k2");
    // Another one wrote, who does not know of it.
    book.join(&map(&of(&["k3"]))).unwrap();
    assert_eq!(written(), "");
}
