//! Keys and values of the cases.

/// Bytes of a value where a case does not say otherwise.
pub const VALUE: usize = 100;

/// Characters that values are made of: they carry six bits of eight, so compression saves a
/// quarter, as it may with text and numbers, and not nearly everything, as with a repeated byte.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The n-th key: 16 bytes, in order.
pub fn key(n: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let mut rest = n;
    for digit in key.iter_mut().rev().take(12) {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    key
}

/// The key to visit n-th of `keys`: all over the place, without a generator's state.
pub fn spread(n: u64, keys: u64) -> u64 {
    (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) % keys
}

/// Fills a value of its own for each seed.
pub fn fill(seed: u64, value: &mut [u8]) {
    let mut state = seed;
    for byte in value {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let letter = usize::try_from(state >> 58).unwrap_or_default();
        *byte = LETTERS.get(letter).copied().unwrap_or_default();
    }
}

/// A value of its own for each seed.
pub fn value(seed: u64, len: usize) -> Vec<u8> {
    let mut value = vec![0; len];
    fill(seed, &mut value);
    value
}
