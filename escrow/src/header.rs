//! The header of an age file (<https://age-encryption.org/v1>): the file's key, wrapped for each recipient, and a MAC over that.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::party::{Ephemeral, Identity, Recipient};
use crate::{Error, FileKey, derive};

/// What an age file begins with.
pub const MAGIC: &[u8] = b"age-encryption.org/v1\n";
const X25519: &str = "X25519";
/// Letters in a line of a body; a shorter one, which may be empty, is its last.
const LINE: usize = 64;
const TAG: usize = 16;

const NOT_WHOLE: Error = Error::Malformed("its header is not whole");

/// The header for these recipients.
pub fn write(key: &FileKey, recipients: &[Recipient]) -> Result<Vec<u8>, Error> {
    let mut header = String::from_utf8_lossy(MAGIC).into_owned();
    for recipient in recipients {
        let (share, wrapping) = Ephemeral::random()?.agree(recipient)?;
        let mut body = key.0.to_vec();
        cipher(&wrapping)?
            .seal_in_place_append_tag(once(), Aad::empty(), &mut body)
            .map_err(|_| Error::Crypto("ChaCha20-Poly1305"))?;
        let (share, body) = (STANDARD_NO_PAD.encode(share), STANDARD_NO_PAD.encode(body));
        header.extend(["-> ", X25519, " ", &share, "\n", &body, "\n"]);
    }
    header += "---";
    let mac = mac(key, header.as_bytes())?.finalize().into_bytes();
    header.extend([" ", &STANDARD_NO_PAD.encode(mac), "\n"]);
    Ok(header.into_bytes())
}

/// The file's key, and what follows the header.
pub fn read<'a>(bytes: &'a [u8], identities: &[Identity]) -> Result<(FileKey, &'a [u8]), Error> {
    let rest = bytes.strip_prefix(MAGIC);
    let mut rest = rest.ok_or(Error::Malformed("it does not begin as an age file"))?;
    let mut found = None;
    loop {
        let (line, after) = line(rest)?;
        if let Some(mac_text) = line.strip_prefix("--- ") {
            let signed = bytes.len() - rest.len() + "---".len();
            let key = found.ok_or(Error::NotForYou)?;
            let told = STANDARD_NO_PAD.decode(mac_text).map_err(|_| NOT_WHOLE)?;
            let signed = bytes.get(..signed).ok_or(NOT_WHOLE)?;
            let verified = mac(&key, signed)?.verify_slice(&told);
            verified.map_err(|_| Error::Forged)?;
            return Ok((key, after));
        }
        let args = line.strip_prefix("-> ").ok_or(NOT_WHOLE)?;
        let (body, after) = body(after)?;
        rest = after;
        if let Some(share) = args.strip_prefix(X25519).and_then(|r| r.strip_prefix(' ')) {
            let share = STANDARD_NO_PAD.decode(share).ok();
            let share = share.and_then(|share| <[u8; 32]>::try_from(share).ok());
            let share = share.ok_or(NOT_WHOLE)?;
            for identity in identities {
                found = found.or(unwrap(identity, &share, &body));
            }
        }
    }
}

/// The file's key, if this identity opens it.
fn unwrap(identity: &Identity, share: &[u8; 32], body: &[u8]) -> Option<FileKey> {
    let wrapping = identity.wrapping(share).ok()?;
    let mut body = Zeroizing::new(<[u8; 16 + TAG]>::try_from(body).ok()?);
    let cipher = cipher(&wrapping).ok()?;
    let opened = cipher.open_in_place(once(), Aad::empty(), body.as_mut());
    let key = <[u8; 16]>::try_from(&*opened.ok()?).ok()?;
    Some(FileKey(Zeroizing::new(key)))
}

/// A wrapping key is used once, so that its nonce may be always the same.
fn once() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// ChaCha20-Poly1305 with this key.
pub fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, Error> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key);
    let key = key.map_err(|_| Error::Crypto("ChaCha20-Poly1305"))?;
    Ok(LessSafeKey::new(key))
}

fn mac(key: &FileKey, header: &[u8]) -> Result<Hmac<Sha256>, Error> {
    let key = derive(key.0.as_ref(), &[], b"header")?;
    let mac = Hmac::<Sha256>::new_from_slice(key.as_ref());
    let mut mac = mac.map_err(|_| Error::Crypto("HMAC"))?;
    mac.update(header);
    Ok(mac)
}

/// The next line, and what follows it.
fn line(bytes: &[u8]) -> Result<(&str, &[u8]), Error> {
    let end = bytes.iter().position(|b| *b == b'\n').ok_or(NOT_WHOLE)?;
    let (line, rest) = bytes.split_at_checked(end).ok_or(NOT_WHOLE)?;
    let line = std::str::from_utf8(line).map_err(|_| NOT_WHOLE)?;
    Ok((line, rest.get(1..).unwrap_or_default()))
}

/// The body of a recipient's part, and what follows it.
fn body(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), Error> {
    let mut text = String::new();
    loop {
        let (line, after) = line(rest)?;
        rest = after;
        text.push_str(line);
        if line.len() > LINE {
            return Err(NOT_WHOLE);
        }
        if line.len() < LINE {
            let body = STANDARD_NO_PAD.decode(text).map_err(|_| NOT_WHOLE)?;
            return Ok((body, rest));
        }
    }
}
