//! Opening the frames of one file, wherever their bytes come from: decryption, unpacking, sums.

use super::close::{Tally, Totals};
use super::file::OpenFile;
use super::frame::{self, HEAD, Head, INNER};
use super::seal::{COMPRESSED, STORED};
use super::wire::Fields;
use super::{Digest, MAX_PAYLOAD};
use crate::compress::Decompressor;
use crate::crypto::{same, sha256};

/// Opens one file's frames in order and adds them up.
pub(crate) struct Opener {
    pub(crate) file: OpenFile,
    pub(crate) tally: Tally,
    /// It was read past damage, so what the closing frame adds up cannot be checked, but for the
    /// number of frames.
    pub(crate) jumped: bool,
    unpacked: Vec<u8>,
    decompressor: Decompressor,
}

/// What is inside a frame's body.
#[derive(Clone, Copy)]
pub(crate) struct Inner<'a> {
    /// SHA-256 of the payload.
    pub sum: Digest,
    /// How it is stored.
    pub encoding: u8,
    /// Its length.
    pub len: usize,
    /// The payload as it is stored.
    pub data: &'a [u8],
}

/// Decrypts a frame in place, given from its head to the end of its body. `None`: there is no key.
pub(crate) fn decrypt<'b>(
    file: &OpenFile,
    head: &Head,
    previous: &Digest,
    bytes: &'b mut [u8],
) -> Result<Option<Inner<'b>>, &'static str> {
    let Some(cipher) = &file.cipher else {
        return Ok(None);
    };
    let (fields, body) = bytes
        .split_at_mut_checked(HEAD)
        .ok_or("it is shorter than its head")?;
    let bound = fields.get(..frame::BOUND).unwrap_or_default();
    let aad = frame::associated(&file.hash, previous, bound);
    let Some(text) = cipher.open(&head.nonce, &aad, body) else {
        return Err("it does not authenticate");
    };
    let mut inner = Fields::new(text);
    let parsed = (|| {
        let sum: Digest = inner.array()?;
        let encoding = inner.u8()?;
        let zero = inner.array()? == [0; 3];
        let len = usize::try_from(inner.u32()?).ok()?;
        let data = inner.bytes(text.len() - INNER)?;
        (zero && len <= MAX_PAYLOAD).then_some(Inner {
            sum,
            encoding,
            len,
            data,
        })
    })();
    parsed.map(Some).ok_or("its inner fields are malformed")
}

/// Where a payload stands once its frame is verified and opened.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// Nowhere: there is no key.
    Sealed,
    /// In the frame's bytes, not compressed.
    Frame { at: usize, len: usize },
    /// In the buffer that holds what was decompressed.
    Unpacked,
}

impl Opener {
    pub(crate) fn new(file: OpenFile) -> Opener {
        Opener {
            file,
            tally: Tally::default(),
            jumped: false,
            unpacked: Vec::new(),
            decompressor: Decompressor::default(),
        }
    }

    /// Decrypts a frame in place, given from its head to the end of its body, unpacks its payload
    /// and checks its sum. `previous` is the chain's end before it.
    pub(crate) fn open(
        &mut self,
        head: &Head,
        previous: &Digest,
        bytes: &mut [u8],
    ) -> Result<(Place, Digest), &'static str> {
        let Some(inner) = decrypt(&self.file, head, previous, bytes)? else {
            return Ok((Place::Sealed, [0; 32]));
        };
        let Inner {
            sum,
            encoding,
            len,
            data,
        } = inner;
        let (place, payload) = match encoding {
            STORED if data.len() == len => {
                let at = HEAD + INNER;
                (Place::Frame { at, len }, data)
            }
            COMPRESSED => {
                let method = self.file.header.compression;
                let unpacked = &mut self.unpacked;
                if self
                    .decompressor
                    .decompress(method, data, len, unpacked)
                    .is_none()
                {
                    return Err("its payload does not decompress");
                }
                (Place::Unpacked, &self.unpacked[..])
            }
            _ => return Err("its payload has an unknown encoding"),
        };
        if !same(&sha256(&[payload]), &sum) {
            return Err("its payload does not have its sum");
        }
        Ok((place, sum))
    }

    /// The payload of a frame whose bytes are given as they were to [`Opener::open`].
    pub(crate) fn payload<'a>(&'a self, place: Place, bytes: &'a [u8]) -> &'a [u8] {
        match place {
            Place::Sealed => &[],
            Place::Frame { at, len } => bytes.get(at..at + len).unwrap_or_default(),
            Place::Unpacked => &self.unpacked,
        }
    }

    /// What a closing frame's payload must say after `frames` frames. Without a key only those
    /// are known.
    pub(crate) fn check_totals(
        &self,
        place: Place,
        payload: &[u8],
        frames: u64,
    ) -> Result<Totals, &'static str> {
        if matches!(place, Place::Sealed) {
            return Ok(Totals {
                frames,
                ..Totals::default()
            });
        }
        let totals = self.tally.totals();
        let stated = Totals::decode(payload);
        if let Some(stated) = stated.filter(|stated| self.jumped && stated.frames == frames) {
            return Ok(stated);
        }
        if stated != Some(totals) {
            return Err("the frames before this closing one do not add up to it");
        }
        Ok(totals)
    }
}
