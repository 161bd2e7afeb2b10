//! Durations as people write them, and points in time as RFC 3339.

use std::time::Duration;

/// Parses a duration: `1h30m`, `30s`, `500ms`, or a bare number of seconds. Units are `ms`, `s`,
/// `m`, `h` and `d`. Zero is allowed here; who forbids it says so.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text.is_empty() {
        return None;
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = tail;
    }
    Some(total)
}

/// Milliseconds since 1970 as RFC 3339 in UTC, such as `2026-11-23T08:00:00.250Z`.
/// `None` beyond the year 9999.
pub fn rfc3339(unix_ms: u64) -> Option<String> {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()?;
    Some(time.to_string())
}

/// The inverse of [`rfc3339`]; any offset is accepted.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_as_people_write_them() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("30"), Some(30_000));
        assert_eq!(ms("30s"), Some(30_000));
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("2d"), Some(172_800_000));
        for bad in [
            "",
            "s",
            "1x",
            "1 s",
            "-1s",
            "1.5s",
            "99999999999999999999d",
            "5s3",
        ] {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn points_in_time_go_both_ways() {
        assert_eq!(rfc3339(0).unwrap(), "1970-01-01T00:00:00Z");
        let text = rfc3339(1_795_472_736_123).unwrap();
        assert_eq!(parse_rfc3339(&text), Some(1_795_472_736_123));
        assert_eq!(rfc3339(u64::MAX), None);
    }
}
