//! Sizes, durations and modes as they are written in flags.

use std::time::Duration;

/// A size, or a part of something in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// Such a part, 1 to 100.
    Percent(u8),
}

impl Size {
    /// The size in bytes; `whole` is what a percentage is of.
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Size::Bytes(bytes) => bytes,
            // Divided first: no overflow, and a hundred bytes more or less do not matter.
            Size::Percent(percent) => (whole / 100).saturating_mul(u64::from(percent)),
        }
    }
}

/// Parses `1048576`, `512Ki`, `8Mi`, `1Gi`, `1Ti`, `8M`, `1G`, or `85%`.
pub fn parse_size(text: &str) -> Result<Size, String> {
    let wrong = || {
        "a size is a number of bytes, or one with Ki, Mi, Gi, Ti, k, M, G or T after it, or a percentage such as 85%"
            .to_string()
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit {
        "" => 1,
        "%" => {
            return match u8::try_from(number) {
                Ok(percent @ 1..=100) => Ok(Size::Percent(percent)),
                _ => Err("a percentage is 1% to 100%".to_string()),
            };
        }
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(factor)
        .map(Size::Bytes)
        .ok_or_else(|| "this size does not fit 64 bits".to_string())
}

/// Parses a duration above zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    codexstore_api::time::parse_duration(text)
        .filter(|duration| !duration.is_zero() && *duration <= Duration::from_hours(24))
        .ok_or_else(|| {
            "a duration here is above zero and at most a day, such as 500ms, 30s, 5m or 1h30m"
                .to_string()
        })
}

/// Parses an age, which may be of years.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    codexstore_api::time::parse_duration(text)
        .filter(|age| !age.is_zero())
        .ok_or_else(|| "an age is above zero, such as 90s, 24h or 720h".to_string())
}

/// Parses permissions in octal.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) => Ok(mode),
        _ => Err("a mode is octal, 0 to 0777, such as 0660".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_as_kubernetes_writes_them() {
        assert_eq!(parse_size("512Mi"), Ok(Size::Bytes(512 << 20)));
        assert_eq!(parse_size("1G"), Ok(Size::Bytes(1_000_000_000)));
        assert_eq!(parse_size("1048576"), Ok(Size::Bytes(1 << 20)));
        assert_eq!(parse_size("85%"), Ok(Size::Percent(85)));
        for bad in [
            "",
            "Mi",
            "1.5Gi",
            "-1",
            "1mi",
            "0%",
            "101%",
            "99999999999Gi",
            "1 Gi",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(Size::Percent(85).of(1000), 850);
        assert_eq!(Size::Percent(100).of(u64::MAX), u64::MAX / 100 * 100);
    }

    #[test]
    fn modes_are_octal_and_durations_above_zero() {
        assert_eq!(parse_mode("0660"), Ok(0o660));
        assert!(parse_mode("888").is_err() && parse_mode("1777").is_err());
        assert!(parse_duration("0s").is_err() && parse_duration("2d").is_err());
    }
}
