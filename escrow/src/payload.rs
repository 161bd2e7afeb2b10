//! What follows the header of an age file: a nonce, then chunks that are sealed one by one, of which the last says that it is.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use zeroize::Zeroizing;

use crate::header::cipher;
use crate::{Error, FileKey, derive, random};

const NONCE: usize = 16;
const CHUNK: usize = 64 << 10;
const TAG: usize = 16;

/// Appends the sealed content, which is not empty.
pub fn write(key: &FileKey, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let nonce = random::<NONCE>()?;
    out.extend(nonce);
    let cipher = cipher_of(key, &nonce)?;
    let chunks = plain.chunks(CHUNK);
    let last = chunks.len();
    for (n, chunk) in chunks.enumerate() {
        let mut sealed = Zeroizing::new(Vec::with_capacity(chunk.len() + TAG));
        sealed.extend(chunk);
        cipher
            .seal_in_place_append_tag(counter(n, n + 1 == last), Aad::empty(), &mut *sealed)
            .map_err(|_| Error::Crypto("ChaCha20-Poly1305"))?;
        out.extend(sealed.iter());
    }
    Ok(())
}

/// Opens the content.
pub fn read(key: &FileKey, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (nonce, sealed) = sealed
        .split_at_checked(NONCE)
        .ok_or(Error::Malformed("it is cut"))?;
    let cipher = cipher_of(key, nonce)?;
    let chunks = sealed.chunks(CHUNK + TAG);
    let last = chunks.len();
    // As much as there can be: nothing is moved to another place in memory.
    let mut plain = Zeroizing::new(Vec::with_capacity(sealed.len()));
    for (n, chunk) in chunks.enumerate() {
        let mut chunk = Zeroizing::new(chunk.to_vec());
        let opened = cipher.open_in_place(counter(n, n + 1 == last), Aad::empty(), &mut chunk);
        plain.extend_from_slice(opened.map_err(|_| Error::Forged)?);
    }
    if plain.is_empty() {
        return Err(Error::Malformed("it is cut, or empty"));
    }
    Ok(plain)
}

fn cipher_of(key: &FileKey, nonce: &[u8]) -> Result<LessSafeKey, Error> {
    cipher(&*derive(key.0.as_ref(), nonce, b"payload")?)
}

/// The nonce of a chunk: its number in 11 bytes, and whether it is the last.
fn counter(n: usize, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    let number = (n as u64).to_be_bytes();
    for (byte, digit) in nonce.iter_mut().skip(3).zip(number) {
        *byte = digit;
    }
    if let Some(flag) = nonce.last_mut() {
        *flag = last.into();
    }
    Nonce::assume_unique_for_key(nonce)
}
