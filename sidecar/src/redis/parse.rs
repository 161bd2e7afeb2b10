//! Requests out of what a client sends: arrays of bulk strings, and inline commands.
//!
//! The parser looks at a buffer that begins with a request and remembers how far it came, so that a
//! request of many parts is looked at once. It allocates for nothing that has not come: a length that
//! is announced is asked about first. A request that is larger than allowed is read to its end and
//! thrown away, so that its client, which sends before it reads, gets to see why.

use super::request::{Span, Spans};

/// Most arguments of a request: as many as Redis takes.
const MAX_ARGS: usize = 1 << 20;

/// Longest inline command: as long as Redis takes.
const MAX_INLINE: usize = 64 << 10;

/// Longest line that announces a length.
const MAX_HEADER: usize = 32;

/// Most bytes of one argument that are thrown away: longer ones are a protocol error, as in Redis.
const MAX_BULK: usize = 512 << 20;

/// What to hold the requests to.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Longest argument.
    pub argument: usize,
    /// Most bytes of a request.
    pub request: usize,
}

/// Why a request is thrown away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// An argument is longer than allowed.
    Argument(usize),
    /// All of it is longer than allowed.
    Request,
    /// There is no memory for it.
    Memory,
}

/// What the front of the buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A request of so many bytes, with its arguments in [`Parser::spans`].
    Request(usize),
    /// An inline command of so many bytes, and what it says, with its arguments in [`Parser::spans`].
    Inline(usize, Vec<u8>),
    /// So many bytes that mean nothing.
    Nothing(usize),
    /// More bytes are needed: so many in all, as far as that is known. That is more than was
    /// [allowed](Parser::allow).
    Wants(usize),
    /// More bytes are needed: so many in all, as far as that is known.
    More(usize),
    /// So many bytes are to be thrown away.
    Drop(usize),
    /// The end of a request that was thrown away.
    Dropped(usize, Refused),
    /// Not the protocol.
    Broken(&'static str),
}

/// Looks at requests.
pub struct Parser {
    bounds: Bounds,
    /// Arguments that are missing; 0: between two requests.
    missing: usize,
    /// What of the buffer was looked at.
    at: usize,
    /// The length of the argument that comes.
    bulk: Option<usize>,
    spans: Spans,
    refused: Option<Refused>,
    /// Bytes of an argument, and of the end of its line, that are thrown away.
    skip: Option<usize>,
    /// Bytes that the request may take.
    allowed: usize,
    floor: usize,
}

impl Parser {
    /// A parser. Requests of up to `floor` bytes need not be allowed.
    pub fn new(bounds: Bounds, floor: usize) -> Parser {
        Parser {
            bounds,
            missing: 0,
            at: 0,
            bulk: None,
            spans: Spans::new(),
            refused: None,
            skip: None,
            allowed: floor,
            floor,
        }
    }

    /// The arguments of the request that was found.
    pub fn spans(&mut self) -> &mut Spans {
        &mut self.spans
    }

    /// Allows the request to take so many bytes.
    pub fn allow(&mut self, bytes: usize) {
        self.allowed = bytes;
    }

    /// Throws away the rest of the request.
    pub fn refuse(&mut self, why: Refused) {
        self.refused.get_or_insert(why);
        self.spans = Spans::new();
        self.skip = self.bulk.take().map(|len| len + 2);
    }

    /// Goes on with the next request: what was found is taken off the buffer.
    fn next(&mut self) -> Option<Refused> {
        self.missing = 0;
        self.at = 0;
        self.bulk = None;
        self.allowed = self.floor;
        self.refused.take()
    }

    /// Goes on in the buffer, whose front is where it was, less what a step said to take off.
    pub fn step(&mut self, buf: &[u8]) -> Step {
        if self.missing == 0 {
            self.spans.clear();
            match buf.first() {
                None => return Step::More(1),
                Some(b'*') => {}
                Some(_) => return self.inline(buf),
            }
            match header(buf, 1) {
                Header::Part => return Step::More(buf.len() + 1),
                Header::Long => return Step::Broken("too big mbulk count string"),
                Header::Wrong => return Step::Broken("invalid multibulk length"),
                Header::Is(count, end) => match usize::try_from(count) {
                    Err(_) | Ok(0) => return Step::Nothing(end),
                    Ok(count) if count > MAX_ARGS => {
                        return Step::Broken("invalid multibulk length");
                    }
                    Ok(count) => (self.missing, self.at) = (count, end),
                },
            }
        }
        self.arguments(buf)
    }

    fn arguments(&mut self, buf: &[u8]) -> Step {
        loop {
            // What a request of many arguments takes besides its bytes.
            let places = self.missing.saturating_add(self.spans.len()) * size_of::<Span>();
            if self.refused.is_some() {
                if let Some(step) = self.discard(buf) {
                    return step;
                }
                continue;
            }
            let Some(len) = self.bulk else {
                match self.announced(buf) {
                    Ok(len) => {
                        self.bulk = Some(len);
                        if len > self.bounds.argument {
                            self.refuse(Refused::Argument(len));
                        }
                        continue;
                    }
                    Err(step) => return step,
                }
            };
            let end = self.at + len;
            let total = end + 2 + places;
            if total > self.bounds.request {
                self.refuse(Refused::Request);
                continue;
            }
            if total > self.allowed {
                return Step::Wants(total);
            }
            match buf.get(end..end + 2) {
                Some(b"\r\n") => {}
                Some(_) => return Step::Broken("a bulk string does not end with CRLF"),
                None => return Step::More(end + 2),
            }
            let place = |at| u32::try_from(at).unwrap_or(u32::MAX);
            self.spans.push(Span {
                start: place(self.at),
                end: place(end),
            });
            self.bulk = None;
            self.at = end + 2;
            self.missing -= 1;
            if self.missing == 0 {
                let whole = self.at;
                self.next();
                return Step::Request(whole);
            }
        }
    }

    /// The length of the next argument.
    fn announced(&mut self, buf: &[u8]) -> Result<usize, Step> {
        match buf.get(self.at) {
            None => return Err(Step::More(self.at + 1)),
            Some(b'$') => {}
            Some(_) => return Err(Step::Broken("expected '$'")),
        }
        match header(buf, self.at + 1) {
            Header::Part => Err(Step::More(buf.len() + 1)),
            Header::Long => Err(Step::Broken("too big bulk count string")),
            Header::Wrong => Err(Step::Broken("invalid bulk length")),
            Header::Is(len, end) => match usize::try_from(len) {
                Ok(len) if len <= MAX_BULK => {
                    self.at = end;
                    Ok(len)
                }
                _ => Err(Step::Broken("invalid bulk length")),
            },
        }
    }

    /// Takes what is there of a request that is thrown away. Nothing: another look is worth it.
    fn discard(&mut self, buf: &[u8]) -> Option<Step> {
        let Some(skip) = self.skip else {
            return match self.announced(buf) {
                Ok(len) => {
                    self.skip = Some(len + 2);
                    None
                }
                Err(Step::More(_)) if self.at > 0 => Some(Step::Drop(std::mem::take(&mut self.at))),
                Err(step) => Some(step),
            };
        };
        let there = buf.len().saturating_sub(self.at).min(skip);
        self.at += there;
        if there < skip {
            self.skip = Some(skip - there);
            return Some(match std::mem::take(&mut self.at) {
                0 => Step::More(1),
                dropped => Step::Drop(dropped),
            });
        }
        self.skip = None;
        self.missing -= 1;
        if self.missing > 0 {
            return None;
        }
        let whole = self.at;
        let why = self.next().unwrap_or(Refused::Request);
        Some(Step::Dropped(whole, why))
    }

    /// A line of words, as a person types it.
    fn inline(&mut self, buf: &[u8]) -> Step {
        let limit = buf.len().min(MAX_INLINE);
        let head = buf.get(..limit).unwrap_or_default();
        let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
            if buf.len() >= MAX_INLINE {
                return Step::Broken("too big inline request");
            }
            return Step::More(buf.len() + 1);
        };
        let line = head.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut words = Vec::with_capacity(line.len());
        if !split(line, &mut words, &mut self.spans) {
            return Step::Broken("unbalanced quotes in request");
        }
        if self.spans.is_empty() {
            return Step::Nothing(end + 1);
        }
        Step::Inline(end + 1, words)
    }
}

/// A line that says a number.
enum Header {
    /// It is not whole.
    Part,
    /// It does not end in time.
    Long,
    /// It is not a number.
    Wrong,
    /// The number, and where the line ends.
    Is(i64, usize),
}

fn header(buf: &[u8], start: usize) -> Header {
    let line = buf.get(start..).unwrap_or_default();
    let line = line.get(..line.len().min(MAX_HEADER)).unwrap_or_default();
    let Some(len) = line.iter().position(|byte| *byte == b'\r') else {
        return if line.len() == MAX_HEADER {
            Header::Long
        } else {
            Header::Part
        };
    };
    match buf.get(start + len + 1) {
        None => return Header::Part,
        Some(b'\n') => {}
        Some(_) => return Header::Wrong,
    }
    let digits = line.get(..len).unwrap_or_default();
    match super::number::integer(digits) {
        Some(number) => Header::Is(number, start + len + 2),
        None => Header::Wrong,
    }
}

/// Splits a line into words as a shell would: quotes hold a word together, and in double quotes a
/// backslash escapes. False if a quote is not closed, or is followed by something else than a space.
fn split(line: &[u8], words: &mut Vec<u8>, spans: &mut Spans) -> bool {
    let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let mut rest = line;
    loop {
        let word = rest.iter().position(|byte| !space(*byte));
        let Some(first) = word else { return true };
        rest = rest.get(first..).unwrap_or_default();
        let start = words.len();
        loop {
            match rest {
                [] => break,
                [byte, ..] if space(*byte) => break,
                [quote @ (b'"' | b'\''), quoted @ ..] => {
                    let Some(behind) = unquote(*quote, quoted, words) else {
                        return false;
                    };
                    rest = behind;
                    if rest.first().is_some_and(|byte| !space(*byte)) {
                        return false;
                    }
                }
                [byte, behind @ ..] => {
                    words.push(*byte);
                    rest = behind;
                }
            }
        }
        spans.push(Span {
            start: place(start),
            end: place(words.len()),
        });
    }
}

/// What is behind the closing quote; what is before it goes to `words`.
fn unquote<'a>(quote: u8, mut rest: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    let double = quote == b'"';
    loop {
        rest = match rest {
            [b'\\', b'x', high, low, behind @ ..] if double && hex(*high, *low).is_some() => {
                words.extend(hex(*high, *low));
                behind
            }
            [b'\\', escaped, behind @ ..] if double => {
                words.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                behind
            }
            [b'\\', b'\'', behind @ ..] if !double => {
                words.push(b'\'');
                behind
            }
            [byte, behind @ ..] if *byte == quote => return Some(behind),
            [byte, behind @ ..] => {
                words.push(*byte);
                behind
            }
            [] => return None,
        }
    }
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b || byte == 0
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
