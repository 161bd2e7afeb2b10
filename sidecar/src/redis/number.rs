//! Numbers as text, read and written as Redis does.

/// Reads an integer: an optional minus, and digits without zeros in front. Nothing else, not even a
/// space, is taken: `007` is not a number, so that a value that looks like one is the same when it
/// comes back from a counter.
pub fn integer(text: &[u8]) -> Option<i64> {
    let (minus, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !minus => return Some(0),
        [] | [b'0', ..] => return None,
        _ => {}
    }
    let mut number = 0i64;
    for byte in digits {
        let digit = i64::from(byte.checked_sub(b'0').filter(|digit| *digit < 10)?);
        number = number.checked_mul(10)?;
        // Downwards, as there is one more below zero than above it.
        number = number.checked_sub(digit)?;
    }
    if minus {
        Some(number)
    } else {
        number.checked_neg()
    }
}

/// Digits behind the point that are kept.
const PLACES: u32 = 17;

/// A decimal number, exact where it has no more than 17 digits behind the point and 20 before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decimal {
    /// In units of the last place.
    Exact(i128),
    /// Anything else.
    Near(f64),
}

const UNIT: i128 = 10i128.pow(PLACES);

/// From here on a number is not exact any more: so far the sum of two never overflows.
const LIMIT: i128 = UNIT * 10i128.pow(20);

impl Decimal {
    /// Reads a number such as `-1.5`, `3.0e3` or `inf`.
    pub fn parse(text: &[u8]) -> Option<Decimal> {
        let text = std::str::from_utf8(text).ok()?;
        if text.is_empty() || text.len() > 256 {
            return None;
        }
        let near: f64 = text.parse().ok()?;
        if near.is_nan() {
            return None;
        }
        Some(exact(text).map_or(Decimal::Near(near), Decimal::Exact))
    }

    /// The sum; nothing if it is none: infinite, or not a number.
    pub fn plus(self, other: Decimal) -> Option<Decimal> {
        if let (Decimal::Exact(a), Decimal::Exact(b)) = (self, other) {
            return Some(Decimal::Exact(a + b));
        }
        let sum = self.near() + other.near();
        sum.is_finite().then_some(Decimal::Near(sum))
    }

    fn near(self) -> f64 {
        match self {
            #[allow(clippy::cast_precision_loss, reason = "near is what it says")]
            Decimal::Exact(units) => units as f64 / UNIT as f64,
            Decimal::Near(number) => number,
        }
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Decimal::Exact(units) => {
                let sign = if *units < 0 { "-" } else { "" };
                let units = units.unsigned_abs();
                let (whole, part) = (units / UNIT.unsigned_abs(), units % UNIT.unsigned_abs());
                let part = format!("{part:017}");
                match part.trim_end_matches('0') {
                    "" => write!(f, "{sign}{whole}"),
                    part => write!(f, "{sign}{whole}.{part}"),
                }
            }
            Decimal::Near(number) => write!(f, "{number}"),
        }
    }
}

/// The number in units of the last place, if it is one without a rest.
fn exact(text: &str) -> Option<i128> {
    let (minus, text) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (text, exponent) = match text.split_once(['e', 'E']) {
        Some((text, exponent)) => (text, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part = part.trim_end_matches('0');
    let mut number = 0i128;
    for byte in whole.bytes().chain(part.bytes()) {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number = number.checked_mul(10)?.checked_add(i128::from(digit))?;
        if number >= LIMIT {
            return None;
        }
    }
    let places = i32::try_from(part.len()).ok()?.checked_sub(exponent)?;
    let shift = i32::try_from(PLACES).ok()?.checked_sub(places)?;
    let factor = 10i128.checked_pow(shift.unsigned_abs())?;
    let units = if shift >= 0 {
        number.checked_mul(factor)?
    } else if number % factor == 0 {
        number / factor
    } else {
        return None;
    };
    let units = if minus { -units } else { units };
    (units.abs() < LIMIT).then_some(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_they_are_written_and_nothing_else_is() {
        for number in [0, 1, -1, 42, i64::MAX, i64::MIN, 1_000_000] {
            assert_eq!(integer(number.to_string().as_bytes()), Some(number));
        }
        for text in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            "-01",
            " 1",
            "1 ",
            "1.0",
            "0x1",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999",
            "1e3",
        ] {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }

    fn sum(a: &str, b: &str) -> Option<String> {
        let parse = |text: &str| Decimal::parse(text.as_bytes());
        Some(parse(a)?.plus(parse(b)?)?.to_string())
    }

    #[test]
    fn decimals_are_added_without_the_noise_of_binary_fractions() {
        for (a, b, expected) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3", "-5.5", "-2.5"),
            ("-1", "1", "0"),
            (".5", "1.", "1.5"),
            ("1e-17", "0", "0.00000000000000001"),
            ("99999999999999999999", "1", "100000000000000000000"),
        ] {
            assert_eq!(sum(a, b).as_deref(), Some(expected), "{a} + {b}");
        }
        assert_eq!(sum("1e300", "1e300").map(|text| text.len()), Some(301));
        for (a, b) in [
            ("inf", "1"),
            ("1", "-inf"),
            ("nan", "1"),
            ("", "1"),
            ("1", "x"),
            ("1 ", "1"),
            ("1e308", "1e308"),
            ("1", "1e999999999999"),
        ] {
            assert_eq!(sum(a, b), None, "{a} + {b}");
        }
    }
}
