//! The parser of the Redis protocol: whatever a client sends is a request, a refusal or a wait, the same however it is cut, and takes no
//! more memory than was allowed.

#[path = "../../src/redis/number.rs"]
#[allow(dead_code)]
mod number;
#[path = "../../src/redis/parse.rs"]
#[allow(dead_code)]
mod parse;
#[path = "../../src/redis/request.rs"]
#[allow(dead_code)]
mod request;

use number::Decimal;
use parse::{Bounds, Parser, Refused, Step};
use request::Args;

/// Bytes of a request that need not be asked for.
const FLOOR: usize = 64;

/// What came of a stream.
#[derive(Debug, PartialEq)]
enum Found {
    Request(Vec<Vec<u8>>),
    Refused(Refused),
    Broken(&'static str),
}

/// A stream of the Redis protocol: the first two bytes say how it is cut, and how much memory there is.
pub fn redis(data: &[u8]) {
    let [cut, memory, stream @ ..] = data else {
        return;
    };
    let memory = usize::from(*memory) * 4;
    let whole = read([stream].into_iter(), memory);
    let parts = read(stream.chunks(1 + usize::from(*cut)), memory);
    assert_eq!(whole, parts);
    let tenth = Decimal::parse(b"0.1").expect("a number");
    if let Some(sum) = Decimal::parse(stream).and_then(|number| number.plus(tenth)) {
        // It can be counted on from there.
        let text = sum.to_string();
        assert!(
            Decimal::parse(text.as_bytes()).is_some() || text.len() > 256,
            "{text}"
        );
    }
    if let Some(number) = number::integer(stream) {
        assert_eq!(number.to_string().as_bytes(), stream);
    }
}

fn read<'a>(parts: impl Iterator<Item = &'a [u8]>, memory: usize) -> Vec<Found> {
    let bounds = Bounds {
        argument: 200,
        request: 800,
    };
    let mut parser = Parser::new(bounds, FLOOR);
    let (mut buf, mut found) = (Vec::new(), Vec::new());
    let words = |args: Args<'_>| args.from(0).map(<[u8]>::to_vec).collect();
    for part in parts {
        buf.extend_from_slice(part);
        loop {
            let step = parser.step(&buf);
            let taken = match step {
                Step::Request(len) => {
                    assert!(len <= FLOOR.max(memory));
                    found.push(Found::Request(words(Args::new(&buf, parser.spans()))));
                    len
                }
                Step::Inline(len, line) => {
                    found.push(Found::Request(words(Args::new(&line, parser.spans()))));
                    len
                }
                Step::Dropped(len, why) => {
                    found.push(Found::Refused(why));
                    len
                }
                Step::Nothing(len) | Step::Drop(len) => {
                    assert!(len > 0);
                    len
                }
                Step::Wants(bytes) => {
                    if bytes > memory {
                        parser.refuse(Refused::Memory);
                    } else {
                        parser.allow(bytes);
                    }
                    continue;
                }
                Step::More(need) => {
                    assert!(need > buf.len());
                    break;
                }
                Step::Broken(why) => {
                    found.push(Found::Broken(why));
                    return found;
                }
            };
            assert!(taken <= buf.len());
            buf.drain(..taken);
        }
    }
    found
}
