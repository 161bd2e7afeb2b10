//! Ciphers, key derivation and randomness: the only module that computes with key bytes.
//!
//! Each file has a random 256-bit data key. HKDF-SHA256 (RFC 5869), salted with the file's id,
//! makes two things of it: the key of the frames' cipher, and a commitment that stands in the
//! header. AES-GCM alone does not commit to a key: a ciphertext can be made that opens under two.
//! With the commitment checked first, a file opens under one data key or not at all.

use aes_gcm::aead::array::Array;
use aes_gcm::aead::consts::U12;
use aes_gcm::{AeadInOut, Aes128Gcm, Aes256Gcm, AesGcm, KeyInit};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::format::Digest;
use crate::keyring::{Key, KeySize};

/// Length of a GCM nonce: 96 bits, drawn at random for each message (NIST SP 800-38D, 8.2.2).
pub(crate) const NONCE: usize = 12;
/// Length of a GCM tag.
pub(crate) const TAG: usize = 16;

const FRAME_KEY: &[u8] = b"codexstore v1 frame key AES-";
const COMMITMENT: &[u8] = b"codexstore v1 key commitment";

/// Where random bytes come from: keys, nonces and ids. The operating system in production
/// ([`OsRandom`]); a seed in simulations, where nothing is secret.
pub trait Random: Send + Sync {
    /// Fills the buffer with random bytes.
    fn fill(&self, out: &mut [u8]) -> Result<()>;
}

/// The operating system's generator (`getrandom(2)`).
#[derive(Debug, Clone, Copy, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        getrandom::fill(out).map_err(|source| {
            Error::new(Code::Io, format!("random bytes from the system: {source}"))
        })
    }
}

/// SHA-256 over parts in a row.
pub(crate) fn sha256(parts: &[&[u8]]) -> Digest {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Equality that takes the same time wherever the difference is.
pub(crate) fn same(a: &Digest, b: &Digest) -> bool {
    a.ct_eq(b).into()
}

/// A file's data key.
pub(crate) struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    pub(crate) fn generate(random: &dyn Random) -> Result<DataKey> {
        let mut bytes = Zeroizing::new([0; 32]);
        random.fill(bytes.as_mut_slice())?;
        Ok(DataKey(bytes))
    }

    fn derive(&self, salt: &[u8; 16], info: &[&[u8]], out: &mut [u8]) -> Result<()> {
        Hkdf::<Sha256>::new(Some(salt), self.0.as_slice())
            .expand_multi_info(info, out)
            .map_err(|_| Error::internal("derive a key: length"))
    }

    /// What the header shows of this key.
    pub(crate) fn commitment(&self, salt: &[u8; 16]) -> Result<Digest> {
        let mut out = [0; 32];
        self.derive(salt, &[COMMITMENT], &mut out)?;
        Ok(out)
    }

    /// The cipher of the file's frames.
    pub(crate) fn frame_cipher(&self, salt: &[u8; 16], size: KeySize) -> Result<FrameCipher> {
        let mut key = Zeroizing::new([0_u8; 32]);
        let key = key.get_mut(..size.bytes()).unwrap_or_default();
        self.derive(salt, &[FRAME_KEY, size.bits().to_string().as_bytes()], key)?;
        Ok(FrameCipher::Aes(Aes::new(key)?))
    }

    /// Encrypts the data key with a key-encryption key, bound to the header: 48 bytes.
    pub(crate) fn wrap(
        &self,
        kek: &Key,
        nonce: &[u8; NONCE],
        header_hash: &Digest,
    ) -> Result<[u8; 48]> {
        let mut out = [0; 48];
        let (text, tag) = out.split_at_mut(32);
        text.copy_from_slice(self.0.as_slice());
        tag.copy_from_slice(&Aes::new(kek.expose())?.seal(nonce, header_hash, text)?);
        Ok(out)
    }

    /// The reverse of [`DataKey::wrap`]; `None` if the key, the header or a byte differs.
    pub(crate) fn unwrap(
        wrapped: &[u8; 48],
        kek: &Key,
        nonce: &[u8; NONCE],
        header_hash: &Digest,
    ) -> Result<Option<DataKey>> {
        let mut key = Zeroizing::new([0; 32]);
        let (text, tag) = wrapped.split_at(32);
        key.copy_from_slice(text);
        let opened = Aes::new(kek.expose())?.open(nonce, header_hash, key.as_mut_slice(), tag);
        Ok(opened.then_some(DataKey(key)))
    }
}

/// AES-GCM with a key of any size. The key schedule is overwritten when dropped.
pub(crate) enum Aes {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<AesGcm<aes::Aes192, U12>>),
    Aes256(Box<Aes256Gcm>),
}

impl Aes {
    fn new(key: &[u8]) -> Result<Aes> {
        let length = |_| Error::internal("a key of another length");
        Ok(match key.len() {
            16 => Aes::Aes128(Box::new(Aes128Gcm::new_from_slice(key).map_err(length)?)),
            24 => Aes::Aes192(Box::new(AesGcm::new_from_slice(key).map_err(length)?)),
            _ => Aes::Aes256(Box::new(Aes256Gcm::new_from_slice(key).map_err(length)?)),
        })
    }

    fn seal(&self, nonce: &[u8; NONCE], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG]> {
        let nonce = Array::from(*nonce);
        let tag = match self {
            Aes::Aes128(aes) => aes.encrypt_inout_detached(&nonce, aad, text.into()),
            Aes::Aes192(aes) => aes.encrypt_inout_detached(&nonce, aad, text.into()),
            Aes::Aes256(aes) => aes.encrypt_inout_detached(&nonce, aad, text.into()),
        };
        tag.map(Into::into)
            .map_err(|_| Error::internal("encrypt: too long for one message"))
    }

    /// False if it does not authenticate; the text is not usable then.
    fn open(&self, nonce: &[u8; NONCE], aad: &[u8], text: &mut [u8], tag: &[u8]) -> bool {
        let nonce = Array::from(*nonce);
        let Ok(tag) = <[u8; TAG]>::try_from(tag) else {
            return false;
        };
        let tag = Array::from(tag);
        match self {
            Aes::Aes128(aes) => aes.decrypt_inout_detached(&nonce, aad, text.into(), &tag),
            Aes::Aes192(aes) => aes.decrypt_inout_detached(&nonce, aad, text.into(), &tag),
            Aes::Aes256(aes) => aes.decrypt_inout_detached(&nonce, aad, text.into(), &tag),
        }
        .is_ok()
    }
}

/// How the bodies of a file's frames are protected.
pub(crate) enum FrameCipher {
    /// Not encrypted, but whitened, so that a sector of zeros in a value is not one on disk:
    /// recovery takes a zero sector for one that was never written.
    None,
    /// Encrypted and authenticated.
    Aes(Aes),
}

impl FrameCipher {
    pub(crate) const fn tag_len(&self) -> usize {
        match self {
            FrameCipher::None => 0,
            FrameCipher::Aes(_) => TAG,
        }
    }

    /// Encrypts a body in place and appends its tag, if the cipher has one.
    pub(crate) fn seal(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        out: &mut Vec<u8>,
        body_at: usize,
    ) -> Result<()> {
        let body = out.get_mut(body_at..).unwrap_or_default();
        match self {
            FrameCipher::None => whiten(nonce, body),
            FrameCipher::Aes(aes) => {
                let tag = aes.seal(nonce, aad, body)?;
                out.extend_from_slice(&tag);
            }
        }
        Ok(())
    }

    /// Decrypts a body with its tag in place; the text without the tag, or `None` if it does not
    /// authenticate.
    pub(crate) fn open<'b>(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        body: &'b mut [u8],
    ) -> Option<&'b [u8]> {
        match self {
            FrameCipher::None => {
                whiten(nonce, body);
                Some(body)
            }
            FrameCipher::Aes(aes) => {
                let (text, tag) = body.split_at_mut(body.len().checked_sub(TAG)?);
                aes.open(nonce, aad, text, tag).then_some(&*text)
            }
        }
    }
}

/// Combines the bytes with a stream that the nonce decides (`SplitMix64`). Its own inverse. This
/// hides nothing from anyone: the nonce stands beside it.
fn whiten(nonce: &[u8; NONCE], bytes: &mut [u8]) {
    let mut state = nonce.iter().fold(0_u64, |state, byte| {
        (state ^ u64::from(*byte))
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23)
    });
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let (words, rest) = bytes.as_chunks_mut();
    for word in words {
        *word = (u64::from_le_bytes(*word) ^ next()).to_le_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(next().to_le_bytes()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    /// Test cases 4, 10 and 16 of the GCM specification (`McGrew` and `Viega`): one per key size.
    #[test]
    fn each_key_size_agrees_with_the_published_test_vectors() {
        let key = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
        let plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c9\
                     5956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39";
        let plain = hex(&plain.replace(' ', ""));
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let nonce: [u8; 12] = hex("cafebabefacedbaddecaf888").try_into().unwrap();
        for (bytes, first, tag) in [
            (16, "42831ec221777424", "5bc94fbc3221a5db94fae95ae7121a47"),
            (24, "3980ca0b3c00e841", "2519498e80f1478f37ba55bd6d27618c"),
            (32, "522dc1f099567d07", "76fc6ece0f4e1768cddf8853bb2d551b"),
        ] {
            let aes = Aes::new(&hex(key)[..bytes]).unwrap();
            let mut text = plain.clone();
            assert_eq!(
                aes.seal(&nonce, &aad, &mut text).unwrap().to_vec(),
                hex(tag)
            );
            assert_eq!(text[..8], hex(first));
            assert!(aes.open(&nonce, &aad, &mut text, &hex(tag)));
            assert_eq!(text, plain);
        }
    }

    #[test]
    fn a_wrapped_key_opens_only_with_its_key_and_its_header() {
        let data = DataKey::generate(&OsRandom).unwrap();
        let nonce = [7; NONCE];
        for bytes in [16, 24, 32] {
            let kek = Key::new(&vec![1; bytes]).unwrap();
            let wrapped = data.wrap(&kek, &nonce, &[2; 32]).unwrap();
            let opened = DataKey::unwrap(&wrapped, &kek, &nonce, &[2; 32])
                .unwrap()
                .unwrap();
            assert_eq!(opened.0, data.0);
            let other = Key::new(&vec![3; bytes]).unwrap();
            assert!(
                DataKey::unwrap(&wrapped, &other, &nonce, &[2; 32])
                    .unwrap()
                    .is_none()
            );
            assert!(
                DataKey::unwrap(&wrapped, &kek, &nonce, &[4; 32])
                    .unwrap()
                    .is_none()
            );
        }
    }

    #[test]
    fn frame_key_and_commitment_differ_by_purpose_size_and_file() {
        let data = DataKey(Zeroizing::new([9; 32]));
        let mut seen = std::collections::HashSet::new();
        for salt in [[1; 16], [2; 16]] {
            assert!(seen.insert(data.commitment(&salt).unwrap()[..16].to_vec()));
            for size in KeySize::ALL {
                let mut key = vec![0; size.bytes()];
                let bits = size.bits().to_string();
                data.derive(&salt, &[FRAME_KEY, bits.as_bytes()], &mut key)
                    .unwrap();
                assert!(seen.insert(key[..16].to_vec()));
            }
        }
    }

    #[test]
    fn a_key_or_a_tag_of_another_length_is_an_error_and_not_a_panic() {
        let data = DataKey(Zeroizing::new([9; 32]));
        // RFC 5869: at most 255 blocks of the hash.
        let derived = |len| data.derive(&[1; 16], &[FRAME_KEY], &mut vec![0; len]);
        derived(255 * 32).unwrap();
        assert!(derived(255 * 32 + 1).unwrap_err().is(Code::Internal));
        for len in [0, 15, 17, 31, 33] {
            let made = Aes::new(&vec![1; len]).err();
            assert!(made.is_some_and(|error| error.is(Code::Internal)), "{len}");
        }
        let aes = Aes::new(&[1; 16]).unwrap();
        let nonce = [7; NONCE];
        for len in [0, TAG - 1, TAG + 1] {
            assert!(!aes.open(&nonce, &[], &mut [], &vec![0; len]), "{len}");
        }
        let cipher = FrameCipher::Aes(aes);
        for len in 0..TAG {
            assert!(cipher.open(&nonce, &[], &mut vec![0; len]).is_none());
        }
    }

    #[test]
    fn whitening_is_its_own_inverse_and_leaves_no_zero_sector() {
        let mut bytes = vec![0; 4096 + 5];
        whiten(&[3; NONCE], &mut bytes);
        assert!(
            bytes
                .chunks(512)
                .all(|sector| sector.iter().any(|b| *b != 0))
        );
        whiten(&[3; NONCE], &mut bytes);
        assert!(bytes.iter().all(|b| *b == 0));
    }
}
