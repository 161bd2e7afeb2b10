//! The same commands to the sidecar and to a real Redis: the answers are the same.

use crate::script::{Chance, SCRIPT};
use crate::servers::{redis, sidecar};
use crate::wire::{Client, Value};

/// An answer without what may differ: the order of keys, and what an error repeats of its arguments.
fn plain(command: &str, value: Value) -> Value {
    match value {
        Value::Error(text) => {
            let known = text
                .find(" '")
                .filter(|_| text.contains("unknown") || text.contains("Unsupported"));
            let text = text.split(". Try").next().unwrap_or_default();
            // Ours say their code behind the text; theirs, the argument.
            let text = match known {
                Some(at) => &text[..at.min(text.len())],
                None => text.split(" WHAT").next().unwrap_or_default(),
            };
            Value::Error(text.trim_end_matches([':', ' ']).to_owned())
        }
        value if command == "KEYS" => value.sorted(),
        value => value,
    }
}

/// Times to live are told in seconds, and one may pass between the two.
fn same(command: &str, ours: &Value, theirs: &Value) -> bool {
    if command == "TTL" || command == "PTTL" {
        let (Some(ours), Some(theirs)) = (ours.number(), theirs.number()) else {
            return false;
        };
        return (ours < 0 && ours == theirs)
            || (ours >= 0 && theirs >= 0 && (ours - theirs).abs() <= 2);
    }
    ours == theirs
}

struct Both {
    ours: Client,
    theirs: Client,
}

impl Both {
    fn send(&mut self, words: &[impl AsRef<[u8]>]) -> (Value, Value) {
        self.ours.send(words);
        self.theirs.send(words);
        (self.ours.read(), self.theirs.read())
    }

    /// Sends a command to both, and compares.
    #[track_caller]
    fn compare(&mut self, words: &[impl AsRef<[u8]>], before: &str) -> Value {
        let shown: Vec<_> = words
            .iter()
            .map(|w| String::from_utf8_lossy(w.as_ref()))
            .collect();
        let shown = shown.join(" ");
        let command = shown.split(' ').next().unwrap_or_default().to_owned();
        let (ours, theirs) = self.send(words);
        let (ours, theirs) = (plain(&command, ours), plain(&command, theirs));
        assert!(
            same(&command, &ours, &theirs),
            "{before}\n{shown}\n  ours   {ours:?}\n  theirs {theirs:?}"
        );
        ours
    }
}

#[test]
fn what_was_thought_of_is_answered_as_redis_does() {
    let dir = tempfile::tempdir().unwrap();
    let Some(theirs) = redis(dir.path()) else {
        return;
    };
    let ours = sidecar(dir.path());
    for version in ["2", "3"] {
        let mut both = Both {
            ours: ours.client(),
            theirs: theirs.client(),
        };
        let mut count = 0;
        for line in SCRIPT.lines().filter(|line| !line.is_empty()) {
            if count == 0 || line.starts_with("RESET") {
                // What HELLO tells is each server's own.
                both.send(&["HELLO", version]);
            }
            if line.starts_with("RESET") {
                both.send(&["RESET"]);
                both.send(&["HELLO", version]);
            } else {
                let words: Vec<&str> = line.split(' ').collect();
                both.compare(&words, &format!("RESP{version}"));
            }
            count += 1;
        }
        println!("RESP{version}: {count} commands");
    }
}

#[test]
fn what_chance_makes_is_answered_as_redis_does() {
    let dir = tempfile::tempdir().unwrap();
    let Some(theirs) = redis(dir.path()) else {
        return;
    };
    let ours = sidecar(dir.path());
    let number = |name, or| std::env::var(name).map_or(or, |text| text.parse().unwrap());
    let (first, count): (u64, u64) = (number("REDIS_SEED", 0), number("REDIS_SEEDS", 40));
    for seed in first..first + count {
        let mut both = Both {
            ours: ours.client(),
            theirs: theirs.client(),
        };
        let mut chance = Chance::new(seed);
        both.compare(&["FLUSHALL"], "");
        let mut queued = false;
        for n in 0..600 {
            let before = format!("seed {seed}, command {n}");
            // Some of them within a transaction, some watched.
            match chance.below(30) {
                0 if !queued => {
                    // Nothing that comes and goes: that is where the two differ.
                    both.compare(&["WATCH", "k1", "k2"], &before);
                    let between = [&["GET", "k1"][..], &["INCR", "k1"], &["SET", "k2", "1"]];
                    both.compare(between[chance.below(3)], &before);
                    both.compare(&["MULTI"], &before);
                    queued = true;
                }
                1 if !queued => {
                    both.compare(&["MULTI"], &before);
                    queued = true;
                }
                2..=4 if queued => {
                    let end = ["EXEC", "EXEC", "DISCARD"][chance.below(3)];
                    both.compare_exec(end, &before);
                    queued = false;
                }
                _ => {
                    let words = chance.command();
                    if queued && (words[0] == "KEYS" || words[0] == "TTL") {
                        continue;
                    }
                    both.compare(&words, &before);
                }
            }
        }
        if queued {
            both.compare_exec("EXEC", "the end");
        }
        // What is there in the end is the same, too.
        for n in 1..=5 {
            both.compare(
                &["GET".to_owned(), format!("k{n}")],
                &format!("seed {seed}"),
            );
            both.compare(
                &["TTL".to_owned(), format!("k{n}")],
                &format!("seed {seed}"),
            );
        }
        both.compare(&["KEYS", "*"], &format!("seed {seed}"));
    }
}

impl Both {
    /// Ends a transaction; its answers may hold errors, which are compared as others.
    #[track_caller]
    fn compare_exec(&mut self, end: &str, before: &str) {
        let (ours, theirs) = self.send(&[end]);
        let parts = |value: Value| match value {
            Value::Array(parts) => parts.into_iter().map(|part| plain("", part)).collect(),
            value => vec![plain("", value)],
        };
        assert_eq!(parts(ours), parts(theirs), "{before}\n{end}");
    }
}

#[test]
fn a_scan_tells_what_redis_tells() {
    let dir = tempfile::tempdir().unwrap();
    let Some(theirs) = redis(dir.path()) else {
        return;
    };
    let ours = sidecar(dir.path());
    let mut both = Both {
        ours: ours.client(),
        theirs: theirs.client(),
    };
    for n in 0..300 {
        both.compare(&["SET".to_owned(), format!("key:{n}"), "v".to_owned()], "");
    }
    for options in [
        &[][..],
        &["MATCH", "key:1*"],
        &["COUNT", "100"],
        &["TYPE", "string"],
        &["MATCH", "none"],
    ] {
        let scan = |client: &mut Client| {
            let mut keys = Vec::new();
            let mut cursor = "0".to_owned();
            loop {
                let words = [&["SCAN", &cursor][..], options].concat();
                client.send(&words);
                let Value::Array(mut parts) = client.read() else {
                    panic!("{words:?}")
                };
                let (Some(Value::Array(found)), Some(Value::Bulk(next))) =
                    (parts.pop(), parts.pop())
                else {
                    panic!("{words:?}")
                };
                keys.extend(found);
                cursor = String::from_utf8(next).unwrap();
                if cursor == "0" {
                    keys.sort();
                    keys.dedup();
                    return keys;
                }
            }
        };
        assert_eq!(scan(&mut both.ours), scan(&mut both.theirs), "{options:?}");
    }
}

#[test]
fn commands_have_the_shape_that_redis_says() {
    let dir = tempfile::tempdir().unwrap();
    let Some(theirs) = redis(dir.path()) else {
        return;
    };
    let ours = sidecar(dir.path());
    let mut both = Both {
        ours: ours.client(),
        theirs: theirs.client(),
    };
    let Value::Array(names) = both.ours.ask("COMMAND LIST") else {
        panic!()
    };
    assert!(names.len() > 60);
    for name in names {
        let Value::Bulk(name) = name else { panic!() };
        let name = String::from_utf8(name).unwrap();
        // With subcommands, theirs has the shape of these in it.
        if ["memory", "object"].contains(&name.as_str()) {
            continue;
        }
        let shape = |value: Value| {
            let Value::Array(mut all) = value else {
                panic!()
            };
            let Some(Value::Array(one)) = all.pop() else {
                panic!("{name}: {all:?}")
            };
            // Name, arity, and where the keys are.
            vec![
                one[0].clone(),
                one[1].clone(),
                one[3].clone(),
                one[4].clone(),
                one[5].clone(),
            ]
        };
        let (ours, theirs) = both.send(&["COMMAND", "INFO", &name]);
        assert_eq!(shape(ours), shape(theirs), "{name}");
    }
}
