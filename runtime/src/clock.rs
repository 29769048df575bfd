//! Wall-clock time as the two forms that callers read: nanoseconds and RFC 3339.

use std::fmt;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// A moment as RFC 3339 writes it, in UTC with nanoseconds: `2026-11-21T07:06:50.000000001Z`.
///
/// Nine digits of a second, always: the kubelet accepts no fewer in a log. The
/// text lies on the stack, because every line of a log begins with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    text: [u8; 30],
}

impl Timestamp {
    /// The moment `nanoseconds` after the epoch.
    pub fn at(nanoseconds: i64) -> Timestamp {
        let seconds = nanoseconds.div_euclid(1_000_000_000);
        let fraction = nanoseconds.rem_euclid(1_000_000_000);
        let (year, month, day) = civil_date(seconds.div_euclid(86_400));
        let second_of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (
            second_of_day / 3600,
            second_of_day / 60 % 60,
            second_of_day % 60,
        );
        let mut text = [0; 30];
        write!(
            &mut text[..],
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z"
        )
        .expect("64 bits of nanoseconds end in the year 2262, so the text has 30 bytes");
        Timestamp { text }
    }

    /// The text's bytes, all of them ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(std::str::from_utf8(&self.text).expect("digits and signs of ASCII"))
    }
}

/// A moment as a [`Timestamp`]'s text.
pub fn rfc3339(moment: SystemTime) -> String {
    Timestamp::at(nanoseconds(moment)).to_string()
}

/// Nanoseconds from the epoch to now, as the CRI counts.
pub fn now_nanoseconds() -> i64 {
    nanoseconds(SystemTime::now())
}

/// Nanoseconds since the epoch; 0 before it, and the largest number after the year 2262.
fn nanoseconds(moment: SystemTime) -> i64 {
    let since_epoch = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

/// Year, month and day of a number of days since 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last of its year
/// and the lengths of months repeat every five: 153 days. A 400-year era has
/// 146 097 days.
fn civil_date(days_since_epoch: i64) -> (i64, i64, i64) {
    // Days from 0000-03-01 to 1970-01-01.
    let days = days_since_epoch + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::{civil_date, rfc3339};
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn known_moments() {
        for (second, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_795_244_810, "2026-11-21T07:06:50.000000000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(second)), text);
        }
    }

    #[test]
    fn dates_are_right_around_leap_days_and_the_epoch() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(-1), (1969, 12, 31));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(11_017), (2000, 3, 1));
        assert_eq!(civil_date(47_541), (2100, 3, 1));
        assert_eq!(civil_date(47_540), (2100, 2, 28));
    }
}
