//! Parses single values: sizes, durations, addresses, choices.
//!
//! Invariant: every parser is total. Nothing is clamped or guessed; a text that cannot be meant literally is an error that
//! says what is expected.

use std::net::SocketAddr;
use std::time::Duration;

/// Units of a duration, in milliseconds.
const DURATION_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Units of a size, in bytes.
const SIZE_UNITS: &[(&str, u64)] =
    &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

fn scaled(text: &str, units: &[(&str, u64)], plain: u64) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "" => plain,
        unit => units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A size: plain bytes, or with KiB, MiB, GiB, TiB.
pub fn size(text: &str) -> Result<u64, String> {
    scaled(text, SIZE_UNITS, 1)
        .ok_or_else(|| "expected bytes, or a whole number with KiB, MiB, GiB or TiB, such as 256MiB".into())
}

/// A duration: plain seconds, or with ms, s, m, h, d.
pub fn duration(text: &str) -> Result<Duration, String> {
    duration_in(text, 1000)
        .ok_or_else(|| "expected seconds, or a whole number with ms, s, m, h or d, such as 90s".into())
}

/// A duration: plain milliseconds, or with a unit.
pub(crate) fn milliseconds(text: &str) -> Result<Duration, String> {
    duration_in(text, 1)
        .ok_or_else(|| "expected milliseconds, or a whole number with ms, s, m, h or d, such as 1000".into())
}

fn duration_in(text: &str, plain_ms: u64) -> Option<Duration> {
    scaled(text, DURATION_UNITS, plain_ms).map(Duration::from_millis)
}

/// A lifetime: a duration of at least a second (the store counts in seconds), or 0 for never.
pub(crate) fn lifetime(text: &str) -> Result<Option<Duration>, String> {
    match duration(text)? {
        Duration::ZERO => Ok(None),
        some if some < Duration::from_secs(1) => Err("must be at least 1s, or 0 for never".into()),
        some => Ok(Some(some)),
    }
}

/// A duration within bounds.
pub(crate) fn duration_within(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let found = duration(text)?;
    if (min..=max).contains(&found) { Ok(found) } else { Err(format!("must be from {min:?} to {max:?}")) }
}

/// A size within bounds.
pub(crate) fn size_within(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let found = size(text)?;
    if (min..=max).contains(&found) { Ok(found) } else { Err(format!("must be from {min} to {max} bytes")) }
}

/// A count from 1 to `max`.
pub(crate) fn count(text: &str, max: usize) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(found) if (1..=max).contains(&found) => Ok(found),
        _ => Err(format!("expected a whole number from 1 to {max}")),
    }
}

/// An address to listen on.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected an IP address and a port, such as 0.0.0.0:1235, [::]:1235 or 127.0.0.1:1235".to_string()
    })
}

/// One of a few words, in any letter case.
pub(crate) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        format!("expected one of: {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_carry_a_unit() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("256 MiB"), Ok(256 << 20));
        assert_eq!(size("2gib"), Ok(2 << 30));
        for wrong in ["", "-1", "1.5GiB", "MiB", "10MB", "1 2", "99999999999999999999", "99999999TiB"] {
            assert!(size(wrong).is_err(), "{wrong:?} was taken for a size");
        }
    }

    #[test]
    fn durations_are_seconds_or_carry_a_unit() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
        assert_eq!(duration("7d"), Ok(Duration::from_hours(7 * 24)));
        assert_eq!(milliseconds("1000"), Ok(Duration::from_secs(1)));
        assert_eq!(milliseconds("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["", "s", "-5", "1.5h", "5w", "1h30m", "18446744073709551615d"] {
            assert!(duration(wrong).is_err(), "{wrong:?} was taken for a duration");
        }
    }

    #[test]
    fn a_lifetime_of_zero_is_for_ever() {
        assert_eq!(lifetime("0"), Ok(None));
        assert_eq!(lifetime("3600"), Ok(Some(Duration::from_hours(1))));
        assert!(lifetime("10ms").is_err());
    }

    #[test]
    fn bounds_are_kept() {
        assert!(count("0", 10).is_err());
        assert_eq!(count("10", 10), Ok(10));
        assert!(count("11", 10).is_err());
        assert!(size_within("0", 1, 10).is_err());
        assert!(duration_within("0", Duration::from_secs(1), Duration::from_secs(9)).is_err());
        assert!(address("localhost:1235").is_err());
        assert!(address("[::]:1235").is_ok());
    }
}
