//! Compression of frame payloads: only where it helps, and bounded when reading.

use std::io::{Read, Write};

use crate::error::{Error, Result};

/// How payloads are compressed, where it helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Never.
    None,
    /// Zstandard, the default (RFC 8878).
    #[default]
    Zstd,
    /// DEFLATE in a gzip wrapper (RFC 1952).
    Gzip,
    /// Snappy, raw format.
    Snappy,
}

impl Compression {
    /// All kinds.
    pub const ALL: [Compression; 4] = [
        Compression::None,
        Compression::Zstd,
        Compression::Gzip,
        Compression::Snappy,
    ];

    /// `none`, `zstd`, `gzip` or `snappy`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
        }
    }
}

/// A journal's frame is on its way to a sync: the fast levels cost microseconds and get most of
/// what the slow ones do on small records.
const ZSTD_LEVEL: i32 = 1;
const GZIP_LEVEL: flate2::Compression = flate2::Compression::fast();

/// Compresses payload after payload with state and buffer that are kept.
pub(crate) struct Compressor {
    method: Method,
    buffer: Vec<u8>,
}

enum Method {
    None,
    Zstd(zstd::bulk::Compressor<'static>),
    Gzip,
    Snappy(Box<snap::raw::Encoder>),
}

impl Compressor {
    pub(crate) fn new(compression: Compression) -> Result<Compressor> {
        let method = match compression {
            Compression::None => Method::None,
            Compression::Zstd => Method::Zstd(
                zstd::bulk::Compressor::new(ZSTD_LEVEL)
                    .map_err(|e| Error::internal(format!("start zstd: {e}")))?,
            ),
            Compression::Gzip => Method::Gzip,
            Compression::Snappy => Method::Snappy(Box::new(snap::raw::Encoder::new())),
        };
        Ok(Compressor {
            method,
            buffer: Vec::new(),
        })
    }

    /// The compressed payload, if it has at most `limit` bytes.
    pub(crate) fn compress(&mut self, payload: &[u8], limit: usize) -> Option<&[u8]> {
        let buffer = &mut self.buffer;
        buffer.clear();
        match &mut self.method {
            Method::None => return None,
            Method::Zstd(zstd) => {
                // A result that does not fit the limit ends early, as an error.
                buffer.reserve_exact(limit);
                zstd.compress_to_buffer(payload, buffer).ok()?;
            }
            Method::Gzip => {
                let mut gzip = flate2::write::GzEncoder::new(&mut *buffer, GZIP_LEVEL);
                gzip.write_all(payload).ok()?;
                gzip.finish().ok()?;
            }
            Method::Snappy(snappy) => {
                buffer.resize(snap::raw::max_compress_len(payload.len()), 0);
                let len = snappy.compress(payload, buffer).ok()?;
                buffer.truncate(len);
            }
        }
        (self.buffer.len() <= limit).then_some(self.buffer.as_slice())
    }
}

/// Decompresses payload after payload with state that is kept.
#[derive(Default)]
pub(crate) struct Decompressor {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Decompressor {
    /// Decompresses to exactly `len` bytes; anything else, shorter, longer or malformed, is
    /// `None`. Allocates no more than `len` bytes and what the method's window takes.
    pub(crate) fn decompress(
        &mut self,
        compression: Compression,
        bytes: &[u8],
        len: usize,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        out.clear();
        match compression {
            Compression::None => return None,
            Compression::Zstd => {
                if self.zstd.is_none() {
                    self.zstd = zstd::bulk::Decompressor::new().ok();
                }
                out.reserve_exact(len);
                self.zstd.as_mut()?.decompress_to_buffer(bytes, out).ok()?;
            }
            Compression::Gzip => {
                let mut rest = bytes;
                let gzip = flate2::bufread::GzDecoder::new(&mut rest);
                gzip.take(len as u64 + 1).read_to_end(out).ok()?;
                if !rest.is_empty() {
                    return None;
                }
            }
            Compression::Snappy => {
                if snap::raw::decompress_len(bytes).ok()? != len {
                    return None;
                }
                out.resize(len, 0);
                snap::raw::Decoder::new().decompress(bytes, out).ok()?;
            }
        }
        (out.len() == len).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compresses_comes_back_and_what_does_not_is_left_alone() {
        let text = b"abcabcabcabd".repeat(200);
        let noise: Vec<u8> = (0_u32..2400)
            .map(|i| (i.wrapping_mul(2_654_435_761).rotate_left(9) ^ (i * i)).to_le_bytes()[0])
            .collect();
        for compression in Compression::ALL {
            let mut compressor = Compressor::new(compression).unwrap();
            if compression == Compression::None {
                assert!(compressor.compress(&text, text.len()).is_none());
                continue;
            }
            for _ in 0..2 {
                let small = compressor.compress(&text, text.len() - 1).unwrap().to_vec();
                assert!(
                    small.len() < text.len() / 3,
                    "{compression:?}: {}",
                    small.len()
                );
                let mut out = Vec::new();
                assert!(
                    Decompressor::default()
                        .decompress(compression, &small, text.len(), &mut out)
                        .is_some(),
                    "{compression:?}"
                );
                assert_eq!(out, text);
            }
            assert!(
                compressor.compress(&noise, noise.len() / 2).is_none(),
                "{compression:?}"
            );
        }
    }

    #[test]
    fn a_bomb_or_a_wrong_length_is_refused() {
        let zeros = vec![0; 1 << 20];
        for compression in [Compression::Zstd, Compression::Gzip, Compression::Snappy] {
            let mut compressor = Compressor::new(compression).unwrap();
            let bomb = compressor.compress(&zeros, zeros.len()).unwrap().to_vec();
            let mut out = Vec::new();
            for wrong in [0, 1, 1000, zeros.len() - 1, zeros.len() + 1] {
                assert!(
                    Decompressor::default()
                        .decompress(compression, &bomb, wrong, &mut out)
                        .is_none()
                );
                assert!(out.capacity() <= zeros.len() * 2);
            }
            let cut = &bomb[..bomb.len() - 1];
            assert!(
                Decompressor::default()
                    .decompress(compression, cut, zeros.len(), &mut out)
                    .is_none()
            );
            let longer = [&bomb[..], &[0]].concat();
            assert!(
                Decompressor::default()
                    .decompress(compression, &longer, zeros.len(), &mut out)
                    .is_none()
            );
        }
    }
}
