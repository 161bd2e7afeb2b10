//! The protocol as a client sees it: enough to send what is wanted and to compare what comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Simple(String),
    Error(String),
    Int(i64),
    Null,
    Bulk(Vec<u8>),
    Verbatim(Vec<u8>),
    Array(Vec<Value>),
    Set(Vec<Value>),
    Map(Vec<Value>),
}

impl Value {
    /// Its parts in an order that is the same wherever they come from.
    pub fn sorted(mut self) -> Value {
        if let Value::Array(parts) = &mut self {
            parts.sort();
        }
        self
    }

    /// What a number, or text of one, says.
    pub fn number(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }
}

/// A connection.
pub struct Client(BufReader<UnixStream>);

impl Client {
    pub fn connect(socket: &Path) -> Client {
        let stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Client(BufReader::new(stream))
    }

    /// Sends words that are divided by spaces, and reads the answer.
    pub fn ask(&mut self, line: &str) -> Value {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.send(&words);
        self.read()
    }

    pub fn send(&mut self, words: &[impl AsRef<[u8]>]) {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let word = word.as_ref();
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&bytes).unwrap();
    }

    pub fn read(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let line = line
            .strip_suffix("\r\n")
            .unwrap_or_else(|| panic!("{line:?}"));
        let (kind, rest) = line.split_at(1);
        let number = || -> i64 { rest.parse().unwrap_or_else(|_| panic!("{line:?}")) };
        match kind {
            "+" => Value::Simple(rest.to_owned()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Int(number()),
            "_" => Value::Null,
            "$" | "*" if rest == "-1" => Value::Null,
            "$" => Value::Bulk(self.bytes(number())),
            "=" => Value::Verbatim(self.bytes(number())),
            "*" => Value::Array(self.values(number())),
            "~" => Value::Set(self.values(number())),
            "%" => Value::Map(self.values(2 * number())),
            _ => panic!("{line:?}"),
        }
    }

    fn bytes(&mut self, len: i64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).unwrap() + 2];
        self.0.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes.split_off(bytes.len() - 2), b"\r\n");
        bytes
    }

    fn values(&mut self, count: i64) -> Vec<Value> {
        (0..count).map(|_| self.read()).collect()
    }
}
