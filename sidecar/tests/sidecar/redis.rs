//! The Redis protocol: commands, pipelines, transactions, scans.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::harness::{Place, Sidecar};

/// Sends lines, each as an inline command, and compares all answers with what is expected; there, a bar
/// stands for the end of a line.
#[track_caller]
pub fn check(s: &Sidecar, commands: &str, expected: &str) {
    let lines: Vec<&str> = commands.split('|').map(str::trim).collect();
    let answer = s.redis(format!("{}\r\n", lines.join("\r\n")));
    assert_eq!(answer.replace("\r\n", "|"), expected, "{commands}");
}

#[test]
fn values_are_set_told_and_changed() {
    let place = Place::new();
    let s = place.ready(&[]);
    check(&s, "PING | ping hi | ECHO yo", "+PONG|$2|hi|$2|yo|");
    check(
        &s,
        "SET a 1 | GET a | SET a 2 NX | SET a 2 XX GET | GET a | GET none",
        "+OK|$1|1|$-1|$1|1|$1|2|$-1|",
    );
    check(
        &s,
        "SET a 3 IFEQ 1 | SET a 3 IFEQ 2 | GETSET a 4 | GETDEL a | EXISTS a",
        "$-1|+OK|$1|3|$1|4|:0|",
    );
    check(
        &s,
        "MSET a 1 b 2 | MGET a none b | MSETNX b 3 c 3 | MSETNX c 3 d 4 | MGET a b c d",
        "+OK|*3|$1|1|$-1|$1|2|:0|:1|*4|$1|1|$1|2|$1|3|$1|4|",
    );
    check(
        &s,
        "APPEND e hello | APPEND e ' there' | STRLEN e | GETRANGE e 0 4 | GETRANGE e -5 -1 | SETRANGE e 6 again",
        ":5|:11|:11|$5|hello|$5|there|:11|",
    );
    check(
        &s,
        "GET e | SETRANGE f 2 x | GET f",
        "$11|hello again|:3|$3|\0\0x|",
    );
    check(
        &s,
        "SET n 10 | INCR n | INCRBY n 5 | DECR n | DECRBY n 20 | INCRBYFLOAT n 0.1 | INCR n",
        "+OK|:11|:16|:15|:-5|$4|-4.9|-ERR value is not an integer or out of range|",
    );
    check(
        &s,
        "TYPE n | TYPE none | DEL a b none | UNLINK c | RENAME d g | RENAME d g | RENAMENX g e | COPY g h | GET h | TOUCH g h",
        "+string|+none|:2|:1|+OK|-ERR no such key|:0|:1|$1|4|:2|",
    );
    assert_eq!(s.get("/v1/keys/e").text(), "hello again", "the same keys");
    s.put("over-http", b"1");
    check(&s, "GET over-http | DBSIZE", "$1|1|:6|");
    check(&s, "FLUSHALL | DBSIZE", "+OK|:0|");
}

/// The same where seconds that are left are told, which are others half a second later: once more if it took as long. The
/// commands can be repeated.
#[track_caller]
fn check_in_time(s: &Sidecar, commands: &str, expected: &str) {
    let lines: Vec<&str> = commands.split('|').map(str::trim).collect();
    for _ in 0..20 {
        let begun = Instant::now();
        let answer = s.redis(format!("{}\r\n", lines.join("\r\n")));
        let answer = answer.replace("\r\n", "|");
        if answer == expected || begun.elapsed() < Duration::from_millis(500) {
            assert_eq!(answer, expected, "{commands}");
            return;
        }
    }
    panic!("never within half a second: {commands}");
}

#[test]
fn keys_expire_as_they_are_told() {
    let place = Place::new();
    let s = place.ready(&[]);
    check_in_time(
        &s,
        "SET a 1 EX 100 | TTL a | PERSIST a | TTL a | EXPIRE a 50 | SET a 2 KEEPTTL | TTL a | SET a 3 | TTL a | TTL none",
        "+OK|:100|:1|:-1|:1|+OK|:50|+OK|:-1|:-2|",
    );
    check_in_time(
        &s,
        "SET a 3 | EXPIRE a 100 NX | EXPIRE a 50 NX | EXPIRE a 50 GT | EXPIRE a 50 LT | EXPIRE a 90 XX | TTL a | INCR a | TTL a",
        "+OK|:1|:0|:0|:1|:1|:90|:4|:90|",
    );
    check(
        &s,
        "EXPIREAT a 32503680000 | EXPIRETIME a | PEXPIRETIME a | RENAME a b | PEXPIRETIME b | GETEX b PERSIST | PTTL b",
        ":1|:32503680000|:32503680000000|+OK|:32503680000000|$1|4|:-1|",
    );
    check(
        &s,
        "PSETEX c 20 x | SETEX d 0 x | EXPIRE b -1 | EXISTS b | SET e 1 EX 0 | SET e 1 PX x | EXPIRE e 1 NX XX",
        "+OK|-ERR invalid expire time in 'setex' command|:1|:0|-ERR invalid expire time in 'set' command|\
         -ERR value is not an integer or out of range|-ERR NX and XX, GT or LT options at the same time are not compatible|",
    );
    std::thread::sleep(std::time::Duration::from_millis(40));
    check(&s, "GET c | EXISTS c", "$-1|:0|");
}

#[test]
fn a_pipeline_is_answered_in_order_and_its_writes_share_few_groups() {
    let place = Place::new();
    let s = place.ready(&[]);
    let groups = || -> u64 {
        let text = s.get("/metrics").text();
        let line = text
            .lines()
            .find(|l| l.starts_with("codexstore_groups_total "));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    };
    let before = groups();
    let (mut commands, mut expected) = (String::new(), String::new());
    for n in 0..2000 {
        write!(commands, "SET k{n} {n}\r\nGET k{n}\r\nINCR n\r\nPING\r\n").unwrap();
        let digits = n.to_string().len();
        let next = n + 1;
        write!(expected, "+OK\r\n${digits}\r\n{n}\r\n:{next}\r\n+PONG\r\n").unwrap();
    }
    assert_eq!(s.redis(&commands), expected);
    let groups = groups() - before;
    assert!(groups < 1000, "4,000 writes in {groups} groups");
    // However it is cut, and with answers that are larger than the socket's buffer.
    let value = "x".repeat(100_000);
    let set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n{value}\r\n");
    let stream = format!("{set}{}", "GET k\r\n".repeat(20));
    let mut connection = s.connect_redis();
    for part in stream.as_bytes().chunks(7777) {
        connection.write_all(part).unwrap();
    }
    connection.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    connection.read_to_string(&mut answers).unwrap();
    let one = format!("$100000\r\n{value}\r\n");
    assert_eq!(answers, format!("+OK\r\n{}", one.repeat(20)));
}

#[test]
fn a_transaction_is_there_as_a_whole_or_not_at_all() {
    let place = Place::new();
    let s = place.ready(&[]);
    check(
        &s,
        "MULTI | SET a 1 | INCR a | GET a | PING | EXEC | GET a",
        "+OK|+QUEUED|+QUEUED|+QUEUED|+QUEUED|*4|+OK|:2|$1|2|+PONG|$1|2|",
    );
    // A wrong command spoils it; a wrong value is an answer like others, as in Redis.
    check(
        &s,
        "MULTI | SET a | SET a 3 | EXEC | GET a",
        "+OK|-ERR wrong number of arguments for 'set' command|+QUEUED|-EXECABORT Transaction discarded because of previous errors.|$1|2|",
    );
    check(
        &s,
        "SET b x | MULTI | INCR b | SET b y | EXEC | GET b | MULTI | SET b z | DISCARD | GET b",
        "+OK|+OK|+QUEUED|+QUEUED|*2|-ERR value is not an integer or out of range|+OK|$1|y|+OK|+QUEUED|+OK|$1|y|",
    );
    check(
        &s,
        "EXEC | DISCARD | MULTI | MULTI | WATCH a | KEYS * | EXEC",
        "-ERR EXEC without MULTI|-ERR DISCARD without MULTI|+OK|-ERR MULTI calls can not be nested|-ERR WATCH inside MULTI is not allowed|\
         -ERR Command not allowed inside a transaction: KEYS|-EXECABORT Transaction discarded because of previous errors.|",
    );
    // What the store refuses undoes all of it.
    let long = "x".repeat(5 << 20);
    check(
        &s,
        &format!(
            "MULTI | SET a 9 | APPEND c {} | EXEC | GET a",
            "x".repeat(1000)
        ),
        "+OK|+QUEUED|+QUEUED|*2|+OK|:1000|$1|9|",
    );
    let append = format!(
        "*3\r\n$6\r\nAPPEND\r\n$1\r\nd\r\n${}\r\n{long}\r\n",
        long.len()
    );
    let answer = s.redis(format!(
        "MULTI\r\nSET a 10\r\n{append}{append}EXEC\r\nGET a\r\n"
    ));
    assert!(
        answer.contains("-EXECABORT Transaction discarded because of: ")
            && answer.contains("(too-large)\r\n$1\r\n9\r\n"),
        "{answer}"
    );
}

/// Sends a line and reads answers of so many lines.
fn ask(stream: &UnixStream, line: &str, lines: usize) -> String {
    (&*stream)
        .write_all(format!("{line}\r\n").as_bytes())
        .unwrap();
    let mut reader = BufReader::with_capacity(1, stream);
    let mut answer = String::new();
    for _ in 0..lines {
        reader.read_line(&mut answer).unwrap();
    }
    answer.replace("\r\n", "|")
}

#[test]
fn a_watched_key_that_changes_lets_the_transaction_fail() {
    let place = Place::new();
    let s = place.ready(&[]);
    check(&s, "SET a 1", "+OK|");
    let one = s.connect_redis();
    for (change, expected) in [
        ("GET a", "*1|+OK|"),
        ("SET a 1", "*-1|"),
        ("DEL a", "*-1|"),
        ("SET none 1", "*-1|"),
        ("EXPIRE a 100", "*-1|"),
    ] {
        s.redis("DEL none\r\nSET a 1\r\n");
        assert_eq!(ask(&one, "WATCH a none", 1), "+OK|");
        s.redis(format!("{change}\r\n"));
        assert_eq!(ask(&one, "MULTI", 1), "+OK|");
        assert_eq!(ask(&one, "SET b 1", 1), "+QUEUED|");
        let lines = if expected.starts_with("*1") { 2 } else { 1 };
        assert_eq!(ask(&one, "EXEC", lines), expected, "{change}");
    }
    assert_eq!(ask(&one, "WATCH a", 1), "+OK|");
    s.redis("SET a 5\r\n");
    assert_eq!(ask(&one, "UNWATCH", 1), "+OK|");
    assert_eq!(ask(&one, "MULTI", 1), "+OK|");
    assert_eq!(ask(&one, "PING", 1), "+QUEUED|");
    assert_eq!(ask(&one, "EXEC", 2), "*1|+PONG|");
}

#[test]
fn a_counter_of_many_clients_loses_no_step() {
    let place = Place::new();
    let s = place.ready(&[]);
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let stream = s.connect_redis();
                for _ in 0..50 {
                    assert!(ask(&stream, "INCR n", 1).starts_with(':'));
                }
            });
        }
    });
    check(&s, "GET n", "$4|1600|");
}

#[test]
fn thousands_of_keys_are_read_at_one_point_in_time_and_not_too_many_are_watched() {
    let place = Place::new();
    let s = place.ready(&[]);
    let list = |command: &str, count: usize| {
        let mut line = format!("*{}\r\n${}\r\n{command}\r\n", count + 1, command.len());
        for n in 0..count {
            write!(line, "$5\r\nk{n:04}\r\n").unwrap();
        }
        line
    };
    let mut sets = format!("*{}\r\n$4\r\nMSET\r\n", 6001);
    for n in 0..3000 {
        write!(sets, "$5\r\nk{n:04}\r\n$4\r\n{n:04}\r\n").unwrap();
    }
    let mut expected = "+OK\r\n:3000\r\n*5000\r\n".to_owned();
    for n in 0..3000 {
        write!(expected, "$4\r\n{n:04}\r\n").unwrap();
    }
    expected.push_str(&"$-1\r\n".repeat(2000));
    expected.push_str("+PONG\r\n");
    let answer = s.redis(
        [
            sets,
            list("EXISTS", 5000),
            list("MGET", 5000),
            "PING\r\n".to_owned(),
        ]
        .concat(),
    );
    assert_eq!(answer, expected);
    check(&s, &list("WATCH", 1024).replace("\r\n", "|"), "+OK|");
    let answer = s.redis(list("WATCH", 1025));
    assert!(answer.starts_with("-ERR at most 1024 keys"), "{answer}");
}

/// All keys that a scan tells, by cursors that are each used once.
fn scan(s: &Sidecar, options: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let answer = s.redis(format!("SCAN {cursor} {options}\r\n"));
        let mut lines = answer
            .split("\r\n")
            .filter(|line| !line.starts_with(['$', '*']));
        lines.next().unwrap().clone_into(&mut cursor);
        keys.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
        if cursor == "0" {
            return keys;
        }
    }
}

#[test]
fn a_scan_tells_each_key_once_by_cursors_that_any_connection_may_use() {
    let place = Place::new();
    let mut s = place.ready(&[]);
    let sets: Vec<String> = (0..500).map(|n| format!("SET k{n:03} v\r\n")).collect();
    s.redis(sets.concat());
    let all: Vec<String> = (0..500).map(|n| format!("k{n:03}")).collect();
    assert_eq!(scan(&s, ""), all);
    assert_eq!(scan(&s, "COUNT 7"), all);
    assert_eq!(scan(&s, "COUNT 5000"), all);
    assert_eq!(scan(&s, "MATCH k1* COUNT 30"), all[100..200]);
    assert_eq!(scan(&s, "TYPE string MATCH *9 COUNT 100").len(), 50);
    assert!(scan(&s, "TYPE hash").is_empty());
    let answer = s.redis("KEYS k12?\r\n");
    assert!(answer.starts_with("*10\r\n$4\r\nk120\r\n"), "{answer}");
    assert!(s.redis("RANDOMKEY\r\n").starts_with("$4\r\nk"));
    for wrong in [
        "SCAN 12345",
        "SCAN x",
        "SCAN 0 COUNT 0",
        "SCAN 0 COUNT",
        "SCAN 0 MATCH [",
    ] {
        let answer = s.redis(format!("{wrong}\r\n"));
        assert!(answer.starts_with("-ERR "), "{wrong}: {answer}");
    }
    // A cursor of before a restart is not taken for one of after it.
    let answer = s.redis("SCAN 0\r\n");
    let cursor = answer.split("\r\n").nth(2).unwrap().to_owned();
    s.terminate();
    let s = place.ready(&[]);
    let answer = s.redis(format!("SCAN {cursor}\r\n"));
    assert!(answer.contains("unknown cursor"), "{answer}");
    check(&s, "FLUSHDB ASYNC | RANDOMKEY | KEYS *", "+OK|$-1|*0|");
}

#[test]
fn the_handshakes_of_clients_are_understood() {
    let place = Place::new();
    let s = place.ready(&[]);
    let hello = s.redis(
        "HELLO 3 AUTH default x SETNAME me\r\nGET none\r\nCLIENT GETNAME\r\nRESET\r\nGET none\r\n",
    );
    assert!(
        hello.starts_with("%7\r\n$6\r\nserver\r\n$10\r\ncodexstore\r\n")
            && hello.ends_with("_\r\n$2\r\nme\r\n+RESET\r\n$-1\r\n"),
        "{hello}"
    );
    check(
        &s,
        "HELLO 4 | HELLO x",
        "-NOPROTO unsupported protocol version|-ERR Protocol version is not an integer or out of range|",
    );
    check(
        &s,
        "SELECT 0 | SELECT 1",
        "+OK|-ERR DB index is out of range|",
    );
    check(
        &s,
        "CLIENT SETINFO LIB-NAME lib | CLIENT SETNAME a | CLIENT GETNAME | CLIENT NO-EVICT ON | WAIT 1 0 | SAVE | BGSAVE",
        "+OK|+OK|$1|a|+OK|:0|+OK|+Background saving started|",
    );
    let auth = s.redis("AUTH secret\r\nAUTH other secret\r\n");
    assert!(auth.starts_with("-ERR AUTH <password> called without any password"));
    assert!(auth.contains("-WRONGPASS"));
    let list = s.redis("CLIENT SETNAME watcher\r\nCLIENT LIST\r\n");
    assert!(
        list.contains(" name=watcher ") && list.contains(" cmd=client "),
        "{list}"
    );
    let info = s.redis("INFO\r\n");
    for line in [
        "# Server",
        "redis_version:7.2.4",
        "# Keyspace",
        "aof_last_write_status:ok",
        "loading:0",
    ] {
        assert!(info.contains(line), "{line}: {info}");
    }
    assert!(!s.redis("INFO memory\r\n").contains("# Server"));
    let config = s.redis("CONFIG GET max*\r\n");
    assert!(
        config.starts_with("*6\r\n$10\r\nmaxclients\r\n$4\r\n1024\r\n"),
        "{config}"
    );
    let count = s.redis("COMMAND COUNT\r\n");
    let listed = s.redis("COMMAND\r\n");
    assert_eq!(
        listed.split("\r\n").next(),
        Some(count.replace(':', "*").trim())
    );
    assert!(s.redis("COMMAND DOCS get\r\n").contains("summary"));
    check(&s, "COMMAND GETKEYS MSET a 1 b 2", "*2|$1|a|$1|b|");
    check(&s, "COMMAND INFO nothing", "*1|*-1|");
    let time = s.redis("TIME\r\nLASTSAVE\r\n");
    assert!(
        time.starts_with("*2\r\n$10\r\n") && time.contains("\r\n:1"),
        "{time}"
    );
}

#[test]
fn what_is_not_offered_says_what_to_use() {
    let place = Place::new();
    let s = place.ready(&[]);
    for (command, says) in [
        (
            "HSET h f v",
            "HSET is not offered by this store; use a key for each field",
        ),
        ("LPUSH l v", "LPUSH is not offered"),
        ("ZADD z 1 m", "ZADD is not offered"),
        ("EVAL x 0", "MULTI with WATCH"),
        ("SUBSCRIBE c", "SUBSCRIBE is not offered"),
        ("OBJECT FREQ k", "ENCODING"),
        ("CONFIG SET a b", "flags of codexstore-sidecar"),
        ("nonsense", "unknown command 'nonsense'"),
        ("no{sense}", "-ERR unknown command\r\n"),
        ("GET", "wrong number of arguments for 'get' command"),
        ("GET ''", "(invalid-key)"),
    ] {
        let answer = s.redis(format!("{command}\r\nPING\r\n"));
        assert!(
            answer.starts_with("-ERR ") && answer.contains(says) && answer.ends_with("+PONG\r\n"),
            "{command}: {answer}"
        );
    }
}
