//! The text form of an age file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Error;
use crate::header::MAGIC;

const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const END: &str = "-----END AGE ENCRYPTED FILE-----";
const LINE: usize = 64;

/// As text.
pub fn write(bytes: &[u8]) -> String {
    let base64 = STANDARD.encode(bytes);
    let mut text = format!("{BEGIN}\n");
    let mut rest = base64.as_str();
    while let Some((line, after)) = rest.split_at_checked(LINE) {
        text += line;
        text += "\n";
        rest = after;
    }
    if !rest.is_empty() {
        text += rest;
        text += "\n";
    }
    text + END + "\n"
}

/// From text; what is not text is returned as it is.
pub fn read(file: &[u8]) -> Result<Vec<u8>, Error> {
    if file.starts_with(MAGIC) {
        return Ok(file.to_vec());
    }
    let text = std::str::from_utf8(file).map_err(|_| Error::Malformed("it is no age file"))?;
    let inner = text
        .trim()
        .strip_prefix(BEGIN)
        .ok_or(Error::Malformed("it does not begin as an age file"))?;
    let inner = inner
        .strip_suffix(END)
        .ok_or(Error::Malformed("its last line is not there: it is cut"))?;
    let base64: String = inner.lines().collect();
    STANDARD
        .decode(base64)
        .map_err(|_| Error::Malformed("what is between its first and last line is not base64"))
}
