//! A fuzzer's bytes as choices, one after the other. When they are used up, every choice is the first one.

/// What is left of them.
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// True when all are used up.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next one.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next one, of `n`.
    pub fn of(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    /// So many bytes, or what is left.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A key of a small space: some are prefixes of others, or have bytes of every kind.
    pub fn key(&mut self) -> Vec<u8> {
        let byte = self.byte();
        let mut key = vec![byte % 5 * 40 + 30; 1 + usize::from(byte / 5 % 3)];
        if byte > 200 {
            key.push(byte);
        }
        key
    }

    /// A value: a few of the bytes, many of one, too many, or what could be mistaken for an answer.
    pub fn value(&mut self, most: usize) -> Vec<u8> {
        let byte = self.byte();
        match byte % 8 {
            0..4 => self.take(usize::from(byte / 8)).to_vec(),
            4 => vec![byte; most / 40 * usize::from(byte / 8)],
            5 => vec![byte; most - 2 + usize::from(byte / 8 % 4)],
            6 => b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec(),
            _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(),
        }
    }

    /// Fields of any number and kind, as protobuf encodes them.
    pub fn message(&mut self, most: usize, depth: u8) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..self.of(6) {
            let field = self.of(8);
            let kind = self.of(8);
            if kind < 3 {
                out.push(field << 3);
                varint(&mut out, self.number());
                continue;
            }
            out.push(field << 3 | 2);
            let bytes = match kind {
                3 | 4 => self.key(),
                5 => self.value(most),
                _ if depth > 0 => self.message(most, depth - 1),
                _ => b"text".to_vec(),
            };
            varint(&mut out, bytes.len() as u64);
            out.extend_from_slice(&bytes);
        }
        out
    }

    /// A number, small ones and bounds the likeliest.
    fn number(&mut self) -> u64 {
        let byte = self.byte();
        match byte {
            0..200 => u64::from(byte % 20),
            200..230 => u64::MAX >> (byte - 200),
            _ => u64::from(self.byte()) << 8 | u64::from(byte),
        }
    }
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
