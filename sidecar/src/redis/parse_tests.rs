use super::*;

const BOUNDS: Bounds = Bounds {
    argument: 100,
    request: 400,
};

/// What came of a stream.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Found {
    Request(Vec<Vec<u8>>),
    Refused(Refused),
    Broken(&'static str),
}

fn words(data: &[u8], spans: &Spans) -> Vec<Vec<u8>> {
    spans
        .iter()
        .map(|s| data[s.start as usize..s.end as usize].to_vec())
        .collect()
}

/// Reads a stream that comes in these parts.
fn read(parts: &[&[u8]], memory: usize) -> Vec<Found> {
    let mut parser = Parser::new(BOUNDS, 64);
    let (mut buf, mut found) = (Vec::new(), Vec::new());
    for part in parts {
        buf.extend_from_slice(part);
        loop {
            match parser.step(&buf) {
                Step::Request(len) => {
                    found.push(Found::Request(words(&buf, parser.spans())));
                    buf.drain(..len);
                }
                Step::Inline(len, line) => {
                    found.push(Found::Request(words(&line, parser.spans())));
                    buf.drain(..len);
                }
                Step::Nothing(len) => drop(buf.drain(..len)),
                Step::Drop(len) => {
                    assert!(len > 0);
                    buf.drain(..len);
                }
                Step::Wants(bytes) if bytes > memory => parser.refuse(Refused::Memory),
                Step::Wants(bytes) => parser.allow(bytes),
                Step::More(need) => {
                    assert!(need > buf.len(), "{need} of {}", buf.len());
                    break;
                }
                Step::Dropped(len, why) => {
                    found.push(Found::Refused(why));
                    buf.drain(..len);
                }
                Step::Broken(why) => {
                    found.push(Found::Broken(why));
                    return found;
                }
            }
        }
    }
    found
}

fn check(stream: &[u8], memory: usize, expected: &[Found]) {
    assert_eq!(read(&[stream], memory), expected, "{stream:?}");
    for at in 0..=stream.len() {
        let (head, tail) = stream.split_at(at);
        assert_eq!(read(&[head, tail], memory), expected, "cut at {at}");
    }
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(read(&bytes, memory), expected, "byte by byte");
}

fn request(words: &[&str]) -> Found {
    Found::Request(words.iter().map(|word| word.as_bytes().to_vec()).collect())
}

#[test]
fn a_pipeline_is_the_same_wherever_it_is_cut() {
    let stream =
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nb\0\r\n*1\r\n$4\r\nPING\r\n*0\r\n*-1\r\n\
        \r\nGET  k\r\nSET 'a b' \"c\\x41\\n\"\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n";
    let expected = [
        request(&["SET", "k", "a\r\nb\0"]),
        request(&["PING"]),
        request(&["GET", "k"]),
        request(&["SET", "a b", "cA\n"]),
        request(&["GET", ""]),
    ];
    check(stream, 400, &expected);
}

#[test]
fn what_is_too_large_is_read_to_its_end_and_the_next_request_is_served() {
    let long = "x".repeat(101);
    let stream = format!("*3\r\n$3\r\nSET\r\n$101\r\n{long}\r\n$1\r\nv\r\n*1\r\n$4\r\nPING\r\n");
    let expected = [Found::Refused(Refused::Argument(101)), request(&["PING"])];
    check(stream.as_bytes(), 400, &expected);

    let part = format!("$100\r\n{}\r\n", "y".repeat(100));
    let stream = format!("*5\r\n{}$1\r\nz\r\nPING\r\n", part.repeat(4));
    let expected = [Found::Refused(Refused::Request), request(&["PING"])];
    check(stream.as_bytes(), 400, &expected);
}

#[test]
fn what_there_is_no_memory_for_is_refused_before_it_is_kept() {
    let stream = format!("*2\r\n$4\r\nECHO\r\n$90\r\n{}\r\nPING\r\n", "x".repeat(90));
    check(
        stream.as_bytes(),
        100,
        &[Found::Refused(Refused::Memory), request(&["PING"])],
    );
    check(
        stream.as_bytes(),
        400,
        &[request(&["ECHO", &"x".repeat(90)]), request(&["PING"])],
    );
    // Many arguments take memory before the first of them is there.
    let all = read(&[b"*1000\r\n$1\r\nx\r\n"], 400);
    assert_eq!(all, []);
}

#[test]
fn what_is_not_the_protocol_is_told_from_what_is_not_whole() {
    for (stream, why) in [
        (&b"*x\r\n"[..], "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\rx", "invalid multibulk length"),
        (
            b"*111111111111111111111111111111111",
            "too big mbulk count string",
        ),
        (b"*1\r\n+OK\r\n", "expected '$'"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (
            b"*1\r\n$00000000000000000000000000000000000",
            "too big bulk count string",
        ),
        (b"*1\r\n$1\r\nabc", "a bulk string does not end with CRLF"),
        (b"SET \"k\r\n", "unbalanced quotes in request"),
        (b"SET 'k'v\r\n", "unbalanced quotes in request"),
    ] {
        check(stream, 400, &[Found::Broken(why)]);
    }
    let long = vec![b'x'; MAX_INLINE];
    assert_eq!(
        read(&[&long], 400),
        [Found::Broken("too big inline request")]
    );
}

#[test]
fn random_bytes_are_an_answer_or_a_wait_and_never_a_panic() {
    let mut state = 1u32;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        usize::try_from(state).unwrap() % below
    };
    let alphabet = b"*$\r\n0123456789-+GETS '\"\\x";
    for _ in 0..20_000 {
        let len = random(80);
        let mut stream: Vec<u8> = Vec::new();
        for _ in 0..len {
            match random(8) {
                0 => stream.extend_from_slice(b"\r\n"),
                1 => stream.extend_from_slice(b"*2\r\n$3\r\nGET\r\n"),
                2 => stream.push(u8::try_from(random(256)).unwrap()),
                _ => stream.push(alphabet[random(alphabet.len())]),
            }
        }
        let whole = read(&[&stream], 200);
        let bytes: Vec<&[u8]> = stream.chunks(1 + random(9)).collect();
        assert_eq!(read(&bytes, 200), whole, "{stream:?}");
    }
}
