//! Bech32 (BIP 173) without its limit of 90 characters: how age writes its keys.

use zeroize::Zeroizing;

/// The letters, by value.
const LETTERS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// Letters of the checksum.
const SUM: usize = 6;
/// Letters of 32 bytes.
const DATA: usize = 52;

/// Text of 32 bytes, in lower case.
pub fn encode(prefix: &str, bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut values = Zeroizing::new(Vec::with_capacity(DATA + SUM));
    let (mut held, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        held = (held << 8 | u32::from(*byte)) & 0xfff;
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            values.push(low5(held >> bits));
        }
    }
    values.push(low5(held << (5 - bits)));
    let mut sum = checksum(prefix, values.iter().copied().chain([0; SUM])) ^ 1;
    let mut end = [0; SUM];
    for value in end.iter_mut().rev() {
        *value = low5(sum);
        sum >>= 5;
    }
    values.extend(end);
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + 1 + DATA + SUM));
    text.push_str(prefix);
    text.push('1');
    let letters = values.iter().filter_map(|v| LETTERS.get(usize::from(*v)));
    text.extend(letters.map(|letter| char::from(*letter)));
    text
}

/// The 32 bytes of a text with this prefix (in lower case); the error says what is wrong with it.
pub fn decode(prefix: &str, text: &str) -> Result<Zeroizing<[u8; 32]>, &'static str> {
    if text.bytes().any(|b| b.is_ascii_lowercase()) && text.bytes().any(|b| b.is_ascii_uppercase())
    {
        return Err("upper and lower case are mixed");
    }
    let text = Zeroizing::new(text.to_ascii_lowercase());
    let rest = text
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('1'))
        .ok_or("it begins with something else")?;
    if rest.len() != DATA + SUM {
        return Err("it has another length");
    }
    let value = |letter: u8| {
        let at = LETTERS.iter().position(|l| *l == letter)?;
        u8::try_from(at).ok()
    };
    let values: Option<Vec<u8>> = rest.bytes().map(value).collect();
    let values = Zeroizing::new(values.ok_or("a character in it is none of theirs")?);
    if checksum(prefix, values.iter().copied()) != 1 {
        return Err("its checksum does not match: a character is wrong");
    }
    let mut bytes = Zeroizing::new([0; 32]);
    let (mut held, mut bits) = (0_u32, 0_u32);
    let mut next = bytes.iter_mut();
    for value in values.iter().take(DATA) {
        held = (held << 5 | u32::from(*value)) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            if let Some(byte) = next.next() {
                *byte = u8::try_from(held >> bits & 0xff).unwrap_or_default();
            }
        }
    }
    if held & ((1 << bits) - 1) != 0 {
        return Err("it ends with other bits than zero");
    }
    Ok(bytes)
}

fn low5(value: u32) -> u8 {
    u8::try_from(value & 31).unwrap_or_default()
}

/// BIP 173's checksum over a prefix and values.
fn checksum(prefix: &str, values: impl Iterator<Item = u8>) -> u32 {
    const TAPS: [u32; 5] = [
        0x3b6a_57b2,
        0x2650_8e6d,
        0x1ea1_19fa,
        0x3d42_33dd,
        0x2a14_62b3,
    ];
    let high = prefix.bytes().map(|b| b >> 5);
    let low = prefix.bytes().map(|b| b & 31);
    high.chain([0])
        .chain(low)
        .chain(values)
        .fold(1, |sum, value| {
            let top = sum >> 25;
            let taps = TAPS.iter().enumerate().filter(|(n, _)| top >> n & 1 == 1);
            taps.fold(
                (sum & 0x01ff_ffff) << 5 ^ u32::from(value),
                |sum, (_, tap)| sum ^ tap,
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_in_either_case() {
        for byte in [0, 1, 0x5a, 0xff] {
            let text = encode("age", &[byte; 32]);
            assert_eq!(text.len(), 62);
            assert_eq!(*decode("age", &text).unwrap(), [byte; 32]);
            assert_eq!(*decode("age", &text.to_uppercase()).unwrap(), [byte; 32]);
        }
    }

    #[test]
    fn a_slip_is_found_wherever_it_is() {
        let good = encode("age", &[7; 32]);
        for at in 4..good.len() {
            let mut bad = good.as_bytes().to_vec();
            bad[at] = if bad[at] == b'q' { b'p' } else { b'q' };
            let why = decode("age", std::str::from_utf8(&bad).unwrap()).unwrap_err();
            assert!(why.contains("checksum"), "{at}: {why}");
        }
        for (text, why) in [
            (&good[1..], "begins"),
            (&good[..61], "length"),
            (&good.replacen('1', "b", 1), "begins"),
            (&format!("{}B", &good[..61]), "mixed"),
            (&format!("{}b", &good[..61]), "none of theirs"),
        ] {
            assert!(decode("age", text).unwrap_err().contains(why), "{text}");
        }
    }
}
