//! A request in memory: its bytes, and where its arguments lie in them.

use bytes::Bytes;
use smallvec::SmallVec;

/// Where an argument lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first byte.
    pub start: u32,
    /// The byte behind its last.
    pub end: u32,
}

/// Where the arguments of one request lie: most have few, which then take no memory of their own.
pub type Spans = SmallVec<[Span; 6]>;

/// The arguments of a request, its command's name first.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    data: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// The arguments that lie in `data`.
    pub fn new(data: &'a [u8], spans: &'a [Span]) -> Args<'a> {
        Args { data, spans }
    }

    /// How many there are, the name included.
    pub fn len(self) -> usize {
        self.spans.len()
    }

    /// The argument of that number; empty if there are fewer.
    pub fn get(self, number: usize) -> &'a [u8] {
        self.spans
            .get(number)
            .map_or(&[], |span| slice(self.data, *span))
    }

    /// All from that number on.
    pub fn from(self, number: usize) -> impl Iterator<Item = &'a [u8]> + Clone {
        let spans = self.spans.get(number..).unwrap_or_default();
        spans.iter().map(move |span| slice(self.data, *span))
    }

    /// These without the first ones.
    pub fn behind(self, number: usize) -> Args<'a> {
        let spans = self.spans.get(number..).unwrap_or_default();
        Args { spans, ..self }
    }

    /// The same, keeping `data`, of which these are the arguments.
    pub fn sharing(self, data: Bytes) -> Request {
        Request {
            data,
            spans: Spans::from_slice(self.spans),
        }
    }

    /// A copy that owns its bytes.
    pub fn to_request(self) -> Request {
        Request {
            data: Bytes::copy_from_slice(self.data),
            spans: Spans::from_slice(self.spans),
        }
    }
}

fn slice(data: &[u8], span: Span) -> &[u8] {
    data.get(span.start as usize..span.end as usize)
        .unwrap_or_default()
}

/// A request that owns its bytes.
#[derive(Debug, Clone)]
pub struct Request {
    /// As it came.
    pub data: Bytes,
    /// Its arguments.
    pub spans: Spans,
}

impl Request {
    /// Its arguments.
    pub fn args(&self) -> Args<'_> {
        Args::new(&self.data, &self.spans)
    }

    /// Bytes of memory that it takes.
    pub fn cost(&self) -> usize {
        self.data.len() + self.spans.len() * size_of::<Span>()
    }
}
