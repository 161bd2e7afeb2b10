//! JSON Lines.

use std::io::{BufRead, Read};

use super::{Record, Records};
use crate::offline::line::decode;

/// Longest line: the largest value with each byte escaped.
const MAX_LINE: u64 = 420 << 20;

/// One entry per line; empty lines are none.
pub fn read(mut input: Box<dyn BufRead>) -> Records {
    let mut number = 0;
    let mut line = Vec::new();
    let mut failed = false;
    Box::new(std::iter::from_fn(move || {
        loop {
            if failed {
                return None;
            }
            number += 1;
            line.clear();
            let read = (&mut input).take(MAX_LINE).read_until(b'\n', &mut line);
            match read {
                Err(e) => {
                    failed = true;
                    return Some((number, Err(format!("cannot be read: {e}"))));
                }
                Ok(0) => return None,
                Ok(len) if len as u64 == MAX_LINE && line.last() != Some(&b'\n') => {
                    failed = true;
                    return Some((number, Err("is longer than any value".to_owned())));
                }
                Ok(_) if line.trim_ascii().is_empty() => {}
                Ok(_) => return Some((number, take(&line))),
            }
        }
    }))
}

fn take(line: &[u8]) -> Result<Record, String> {
    decode(line.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_and_empty_ones_are_no_entries() {
        let text = b"{\"key\":\"a\",\"text\":\"1\"}\r\n\n {\"key\":\"b\",\"value\":\"/w==\"}\nx";
        let found: Vec<_> = read(Box::new(&text[..])).collect();
        assert_eq!(found[0].0, 1);
        assert_eq!(found[1].0, 3);
        assert_eq!(found[1].1.as_ref().unwrap().value, [0xff]);
        assert!(found[2].0 == 4 && found[2].1.is_err());
        assert_eq!(found.len(), 3);
    }
}
