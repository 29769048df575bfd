//! Sizes, times and names as people write and read them.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use strsim::levenshtein;

/// `512`, `512k`, `64m`, `1g`, with or without `b` or `iB`: docker's powers of 1024.
///
/// # Errors
///
/// The text as it is not a size.
pub fn read_size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let factor: u64 = match unit {
        "" | "b" => 1,
        "k" | "kb" | "ki" | "kib" => 1 << 10,
        "m" | "mb" | "mi" | "mib" => 1 << 20,
        "g" | "gb" | "gi" | "gib" => 1 << 30,
        "t" | "tb" | "ti" | "tib" => 1 << 40,
        _ => {
            return Err(format!(
                "{text:?} is no size: expected a number with b, k, m, g or t"
            ));
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no size: expected a number with a unit"))?;
    Ok((number * factor as f64) as u64)
}

/// Three figures and a unit of 1024: `7.5MiB`.
pub fn write_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes}B"),
        _ if amount < 10.0 => format!("{amount:.2}{}", UNITS[unit]),
        _ if amount < 100.0 => format!("{amount:.1}{}", UNITS[unit]),
        _ => format!("{amount:.0}{}", UNITS[unit]),
    }
}

/// The two greatest units of a span, as kubectl shows an age: `5m10s`, `3h`, `9d`.
pub fn write_age(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => join(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => join(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => join(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

fn join(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    }
}

/// How long ago something was, from nanoseconds since the epoch.
pub fn write_age_since(nanoseconds: i64, now: Timestamp) -> String {
    let span = now.as_nanosecond() - i128::from(nanoseconds);
    write_age(Duration::from_nanos(u64::try_from(span).unwrap_or(0)))
}

/// A time for `--since`: a moment (RFC 3339) or how long before `now` (`90s`, `1h30m`).
///
/// # Errors
///
/// The text as it is neither.
pub fn read_moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let span: SignedDuration = text
        .parse()
        .map_err(|_| format!("{text:?} is no time: expected 10m, 1h30m or 2026-01-31T12:00:00Z"))?;
    now.checked_sub(span)
        .map_err(|_| format!("{text:?} is before all time"))
}

/// `30`, `30s`, `1m`: seconds unless a unit is given.
///
/// # Errors
///
/// The text as it is not a span.
pub fn read_seconds(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    text.parse::<SignedDuration>()
        .ok()
        .and_then(|span| Duration::try_from(span).ok())
        .ok_or_else(|| format!("{text:?} is no time: expected seconds, or 30s, 5m, 1h"))
}

/// Those of `known` that a typing mistake may have made of `name`, nearest first.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut close: Vec<(usize, &str)> = known
        .into_iter()
        .map(|candidate| (levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= 1 + name.len() / 3 || candidate.starts_with(name)
        })
        .collect();
    close.sort();
    close.dedup();
    close
        .into_iter()
        .map(|(_, candidate)| candidate)
        .take(3)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64m", 64 << 20),
            ("1.5g", 3 << 29),
            ("2KiB", 2048),
        ] {
            assert_eq!(read_size(text), Ok(bytes), "{text}");
        }
        assert!(read_size("many").is_err());
        assert!(read_size("5x").is_err());
    }

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!(write_size(999), "999B");
        assert_eq!(write_size(7_864_320), "7.50MiB");
        assert_eq!(write_size(200 << 20), "200MiB");
        for (seconds, text) in [
            (5, "5s"),
            (310, "5m10s"),
            (3600, "60m"),
            (14_400, "4h"),
            (864_000, "10d"),
        ] {
            assert_eq!(write_age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn moments_are_absolute_or_ago() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        assert_eq!(
            read_moment("1h30m", now),
            Ok("2026-01-01T10:30:00Z".parse().unwrap())
        );
        assert_eq!(
            read_moment("2025-01-01T00:00:00Z", now),
            Ok("2025-01-01T00:00:00Z".parse().unwrap())
        );
        assert!(read_moment("yesterday", now).is_err());
    }

    #[test]
    fn a_name_that_is_close_is_found() {
        assert_eq!(nearest("wbe", ["web", "database", "we"]), ["we", "web"]);
        assert_eq!(nearest("nginx", ["postgres"]), Vec::<&str>::new());
    }
}
