//! `key derive`: a key that can be made again from a passphrase.

use std::{ops::RangeInclusive, path::PathBuf};

use anyhow::{Result, anyhow};
use clap::Args;
use codexstore::{KeyId, KeySize, Passphrase};
use codexstore_api::encoding::hex;
use serde_json::json;

use super::key::{is_empty, key_id, put};
use super::keys::{ask_twice, key_size, read};
use crate::keyring::Fresh;
use crate::output::{self, Format};

/// How a key is derived.
const FUNCTION: &str = "PBKDF2-HMAC-SHA256";
/// How often it is iterated, at least and at most.
const ITERATIONS: RangeInclusive<i64> =
    Passphrase::MIN_ITERATIONS as i64..=Passphrase::MAX_ITERATIONS as i64;
/// Bytes of a salt (NIST SP 800-132, 5.1).
const SALT: usize = 16;

/// `key derive`.
#[derive(Debug, Args)]
pub struct Derive {
    /// Directory of the keyring, which is made if it is not there
    pub dir: PathBuf,
    /// File with the passphrase, of 12 to 1,024 bytes; one newline at its end does not count. Asked for on the terminal otherwise
    #[arg(long, value_name = "FILE", env = "CODEXSTORE_PASSPHRASE_FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The salt, as 32 hexadecimal digits, to make a key again; by default a random one
    #[arg(long, value_name = "HEX", value_parser = salt)]
    pub salt: Option<Salt>,
    /// Iterations of PBKDF2-HMAC-SHA256: 100,000 to 10,000,000
    #[arg(long, value_name = "N", default_value_t = Passphrase::ITERATIONS, value_parser = clap::value_parser!(u32).range(ITERATIONS))]
    pub iterations: u32,
    /// Its size in bits: 128, 192 or 256
    #[arg(long, value_name = "BITS", default_value = "256", value_parser = key_size)]
    pub bits: KeySize,
    /// Its id; by default `derived-` and half of the salt
    #[arg(long, value_name = "ID", value_parser = key_id)]
    pub id: Option<KeyId>,
}

/// A salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt([u8; SALT]);

fn salt(text: &str) -> Result<Salt, String> {
    let wrong = || format!("a salt has {} hexadecimal digits", 2 * SALT);
    if text.len() != 2 * SALT || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut bytes = [0; SALT];
    for (n, byte) in bytes.iter_mut().enumerate() {
        let digits = text.get(2 * n..2 * n + 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(Salt(bytes))
}

/// `key derive`.
pub fn derive(args: &Derive, format: Format) -> Result<()> {
    let Salt(salt) = match args.salt {
        Some(salt) => salt,
        None => random()?,
    };
    let first = is_empty(&args.dir)?;
    let fresh = put(&args.dir, first, || {
        let file = args.passphrase_file.as_deref();
        // One that is to be remembered is not mistyped; one that makes a key again is tried out.
        let passphrase = match (file, args.salt) {
            (None, None) => ask_twice()?,
            _ => read(file, "Passphrase: ")?,
        };
        let passphrase = passphrase.with_iterations(args.iterations)?;
        let half = salt.get(..SALT / 2).unwrap_or_default();
        let id = match &args.id {
            Some(id) => id.clone(),
            None => KeyId::new(format!("derived-{}", hex(half)))?,
        };
        Ok(Fresh::of(id, passphrase.keyring_key(&salt, args.bits)))
    })?;
    let (id, bits, iterations) = (fresh.id.as_str(), args.bits.bits(), args.iterations);
    let salt = hex(&salt);
    if format == Format::Json {
        return output::json(&json!({
            "id": id, "bits": bits, "current": first,
            "derivation": {"function": FUNCTION, "iterations": iterations, "salt": salt},
        }));
    }
    let then = if first {
        "and current".to_owned()
    } else {
        format!(
            "`codexctl key use {id} {}` makes it current",
            args.dir.display()
        )
    };
    output::line(&format!("{id} is made; {then}"))?;
    output::line(&format!(
        "to make it again: codexctl key derive DIR --id {id} --bits {bits} --iterations {iterations} --salt {salt}"
    ))
}

fn random() -> Result<Salt> {
    let mut bytes = [0; SALT];
    getrandom::fill(&mut bytes).map_err(|e| anyhow!("random bytes for the salt: {e}"))?;
    Ok(Salt(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_sixteen_bytes_in_hexadecimal() {
        let bytes: Vec<u8> = (0..16).map(|n| n * 17).collect();
        assert_eq!(salt("00112233445566778899aabbccddeeFF").unwrap().0, *bytes);
        for wrong in [
            "",
            "00",
            "+0112233445566778899aabbccddeeff",
            &"é".repeat(16),
            &"0".repeat(33),
        ] {
            assert!(salt(wrong).is_err(), "{wrong}");
        }
    }
}
