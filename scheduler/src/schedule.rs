//! The grammar of schedules, and their next time.
//!
//! ```text
//!   ┌───────── minute        0-59
//!   │ ┌─────── hour          0-23
//!   │ │ ┌───── day of month  1-31
//!   │ │ │ ┌─── month         1-12 or JAN-DEC
//!   │ │ │ │ ┌─ day of week   0-6 or SUN-SAT
//!   * * * * *       each: * or ?, a, a-b, a-b/step, */step, a/step, and lists of these
//!
//!   @yearly @annually @monthly @weekly @daily @midnight @hourly   @every 1h30m
//! ```
//!
//! Where both days are restricted, one of them suffices. When clocks are put
//! forward, times that do not exist are left out; when they are put back, times
//! that come twice are two times.
//!
//! Read more: crontab(5).

use std::{fmt, time::Duration};

use jiff::{RoundMode, Timestamp, ToSpan, Unit, Zoned, ZonedRound, tz::TimeZone};

/// How far the next time is looked for: the longest gap between two 29ths of
/// February is eight years.
const HORIZON_DAYS: i64 = 9 * 366;

/// When a job is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At certain minutes.
    Times(Times),
    /// Again after each so many seconds.
    Every(Duration),
}

/// Minutes, hours and days, a bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    minutes: u64,
    hours: u64,
    days: Field,
    months: u64,
    weekdays: Field,
}

/// One of both days: its bits, and whether it leaves any out by being written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    bits: u64,
    restricted: bool,
}

/// What of a schedule is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleError(String);

impl fmt::Display for ScheduleError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for ScheduleError {}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What a field may hold.
struct Range {
    what: &'static str,
    first: u32,
    last: u32,
    names: &'static [&'static str],
}

const MINUTE: Range = Range {
    what: "minute",
    first: 0,
    last: 59,
    names: &[],
};
const HOUR: Range = Range {
    what: "hour",
    first: 0,
    last: 23,
    names: &[],
};
const DAY: Range = Range {
    what: "day of month",
    first: 1,
    last: 31,
    names: &[],
};
const MONTH: Range = Range {
    what: "month",
    first: 1,
    last: 12,
    names: &MONTHS,
};
const WEEKDAY: Range = Range {
    what: "day of week",
    first: 0,
    last: 6,
    names: &WEEKDAYS,
};

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    ///
    /// The first field that is wrong, and what it may be.
    pub fn parse(text: &str) -> Result<Schedule, ScheduleError> {
        let text = text.trim();
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            let why = "a schedule names no time zone: that is what spec.timeZone is for";
            return Err(ScheduleError(why.to_owned()));
        }
        if let Some(name) = text.strip_prefix('@') {
            return parse_named(name);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(ScheduleError(format!(
                "expected exactly 5 fields, found {}: {text:?}",
                fields.len()
            )));
        };
        Ok(Schedule::Times(Times {
            minutes: parse_field(minute, &MINUTE)?.bits,
            hours: parse_field(hour, &HOUR)?.bits,
            days: parse_field(day, &DAY)?,
            months: parse_field(month, &MONTH)?.bits,
            weekdays: parse_field(weekday, &WEEKDAY)?,
        }))
    }

    /// The first time after `after`; none if there is none for years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(period) => after.checked_add(*period).ok(),
            Schedule::Times(times) => times.next(&after.to_zoned(zone.clone())),
        }
    }

    /// The last time after `from` and not after `until`.
    ///
    /// The window in front of `until` is doubled until a time is in it, so that a
    /// CronJob that slept for a year does not count through all its minutes.
    pub fn last_between(
        &self,
        from: Timestamp,
        until: Timestamp,
        zone: &TimeZone,
    ) -> Option<Timestamp> {
        if let Schedule::Every(period) = self {
            let passed = Duration::try_from(until.duration_since(from)).ok()?;
            let times = passed.as_secs() / period.as_secs().max(1);
            let whole = period.checked_mul(u32::try_from(times).ok()?)?;
            return (times > 0).then(|| from.checked_add(whole).ok()).flatten();
        }
        let mut window = Duration::from_secs(120);
        loop {
            let start = until.checked_sub(window).ok().filter(|start| *start > from);
            let mut found = None;
            let mut at = start.unwrap_or(from);
            while let Some(next) = self.next(at, zone).filter(|next| *next <= until) {
                found = Some(next);
                at = next;
            }
            if found.is_some() || start.is_none() {
                return found;
            }
            window *= 2;
        }
    }

    /// How many times there are after `from` and not after `until`, up to `most`.
    pub fn count_between(
        &self,
        from: Timestamp,
        until: Timestamp,
        zone: &TimeZone,
        most: usize,
    ) -> usize {
        let mut at = from;
        let times = std::iter::from_fn(|| {
            at = self.next(at, zone).filter(|next| *next <= until)?;
            Some(())
        });
        times.take(most).count()
    }
}

impl Times {
    fn next(&self, after: &Zoned) -> Option<Timestamp> {
        let down = |unit| ZonedRound::new().smallest(unit).mode(RoundMode::Trunc);
        let end = after.checked_add(HORIZON_DAYS.days()).ok()?;
        let mut at = after
            .round(down(Unit::Minute))
            .ok()?
            .checked_add(1.minute())
            .ok()?;
        while at < end {
            at = if !has(self.months, at.month()) {
                // Days differ in length, and where clocks are put back at midnight
                // a day may begin at one: always by the zone's own rules.
                at.first_of_month()
                    .ok()?
                    .checked_add(1.month())
                    .ok()?
                    .start_of_day()
                    .ok()?
            } else if !self.is_day(&at) {
                at.checked_add(1.day()).ok()?.start_of_day().ok()?
            } else if !has(self.hours, at.hour()) {
                // An hour of time, not of the clock: the clock may skip one.
                at.round(down(Unit::Hour))
                    .ok()?
                    .checked_add(1.hour())
                    .ok()?
            } else if !has(self.minutes, at.minute()) {
                at.checked_add(1.minute()).ok()?
            } else {
                return Some(at.timestamp());
            };
        }
        None
    }

    fn is_day(&self, at: &Zoned) -> bool {
        let day = has(self.days.bits, at.day());
        let weekday = has(self.weekdays.bits, at.weekday().to_sunday_zero_offset());
        match self.days.restricted && self.weekdays.restricted {
            true => day || weekday,
            false => day && weekday,
        }
    }
}

fn has(bits: u64, at: i8) -> bool {
    u32::try_from(at).is_ok_and(|at| bits >> at & 1 == 1)
}

fn parse_named(name: &str) -> Result<Schedule, ScheduleError> {
    if let Some(period) = name.strip_prefix("every ") {
        let period = parse_period(period.trim()).filter(|period| period.as_secs() > 0);
        return period.map(Schedule::Every).ok_or_else(|| {
            ScheduleError(format!("@{name} is not of a form like @every 1h30m10s"))
        });
    }
    let text = match name {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        _ => {
            return Err(ScheduleError(format!(
                "@{name} is none of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, @every"
            )));
        }
    };
    Schedule::parse(text)
}

/// A duration as "1h30m10s".
fn parse_period(text: &str) -> Option<Duration> {
    let mut seconds: u64 = 0;
    let mut number = String::new();
    for letter in text.chars() {
        if letter.is_ascii_digit() {
            number.push(letter);
            continue;
        }
        let unit = match letter {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        let count: u64 = number.parse().ok()?;
        seconds = seconds.checked_add(count.checked_mul(unit)?)?;
        number.clear();
    }
    number.is_empty().then(|| Duration::from_secs(seconds))
}

fn parse_field(text: &str, range: &Range) -> Result<Field, ScheduleError> {
    let mut field = Field {
        bits: 0,
        restricted: true,
    };
    for part in text.split(',') {
        let (bits, all) = parse_part(part, range)?;
        field.bits |= bits;
        field.restricted &= !all;
    }
    Ok(field)
}

/// One part of a list; says too whether it is `*`, with whatever step.
fn parse_part(part: &str, range: &Range) -> Result<(u64, bool), ScheduleError> {
    let wrong = |why: String| ScheduleError(format!("{}: {part:?} {why}", range.what));
    let (span, step) = match part.split_once('/') {
        Some((span, step)) => {
            let step: u32 = step
                .parse()
                .map_err(|_| wrong("has a step that is no number".to_owned()))?;
            (span, Some(step))
        }
        None => (part, None),
    };
    if step == Some(0) {
        return Err(wrong("has a step of 0, which gets nowhere".to_owned()));
    }
    let value = |text: &str| {
        let name = range
            .names
            .iter()
            .position(|name| text.eq_ignore_ascii_case(name));
        let number = match name {
            Some(at) => u32::try_from(at).ok().map(|at| at + range.first),
            None => text.parse().ok(),
        };
        number
            .filter(|number| (range.first..=range.last).contains(number))
            .ok_or_else(|| wrong(format!("is not in {} to {}", range.first, range.last)))
    };
    let all = matches!(span, "*" | "?");
    let (first, last) = match span.split_once('-') {
        _ if all => (range.first, range.last),
        Some((first, last)) => (value(first)?, value(last)?),
        // "a/step" goes on to the end.
        None if step.is_some() => (value(span)?, range.last),
        None => (value(span)?, value(span)?),
    };
    if first > last {
        return Err(wrong("ends before it begins".to_owned()));
    }
    let step = usize::try_from(step.unwrap_or(1)).unwrap_or(usize::MAX);
    let bits = (first..=last)
        .step_by(step)
        .fold(0, |bits, at| bits | 1 << at);
    Ok((bits, all && step == 1))
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};

    use super::Schedule;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        let schedule = Schedule::parse(schedule).unwrap();
        schedule.next(at(after), &zone).unwrap().to_string()
    }

    #[test]
    fn the_next_time_is_found() {
        for (schedule, after, expected) in [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "2026-01-01T00:00:59Z", "2026-01-01T00:01:00Z"),
            (
                "*/15 * * * *",
                "2026-01-01T00:46:00Z",
                "2026-01-01T01:00:00Z",
            ),
            (
                "5/20 * * * *",
                "2026-01-01T00:26:00Z",
                "2026-01-01T00:45:00Z",
            ),
            (
                "0 3-5,22 * * *",
                "2026-01-01T05:00:00Z",
                "2026-01-01T22:00:00Z",
            ),
            ("0 0 31 * *", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            (
                "0 0 29 FEB ?",
                "2096-03-01T00:00:00Z",
                "2104-02-29T00:00:00Z",
            ),
            (
                "30 9 * * mon-FRI",
                "2026-01-02T10:00:00Z",
                "2026-01-05T09:30:00Z",
            ),
            ("0 0 * * 0", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            // Both days restricted: one suffices.
            ("0 0 13 * 5", "2026-01-03T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("0 0 13 * 5", "2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            (
                "@every 1h30m",
                "2026-01-01T00:00:30Z",
                "2026-01-01T01:30:30Z",
            ),
        ] {
            assert_eq!(
                next(schedule, after, "UTC"),
                expected,
                "{schedule} after {after}"
            );
        }
    }

    #[test]
    fn times_are_those_of_the_zone() {
        for (schedule, after, zone, expected) in [
            (
                "0 9 * * *",
                "2026-01-15T00:00:00Z",
                "Europe/Berlin",
                "2026-01-15T08:00:00Z",
            ),
            (
                "0 9 * * *",
                "2026-07-15T00:00:00Z",
                "Europe/Berlin",
                "2026-07-15T07:00:00Z",
            ),
            (
                "0 0 * * *",
                "2026-01-15T00:00:00Z",
                "Asia/Kolkata",
                "2026-01-15T18:30:00Z",
            ),
            // 02:30 does not exist on 2026-03-29 there.
            (
                "30 2 * * *",
                "2026-03-28T12:00:00Z",
                "Europe/Berlin",
                "2026-03-30T00:30:00Z",
            ),
            // 02:30 comes twice on 2026-10-25.
            (
                "30 2 * * *",
                "2026-10-24T12:00:00Z",
                "Europe/Berlin",
                "2026-10-25T00:30:00Z",
            ),
            (
                "30 2 * * *",
                "2026-10-25T00:30:00Z",
                "Europe/Berlin",
                "2026-10-25T01:30:00Z",
            ),
            (
                "30 * * * *",
                "2026-03-29T00:30:00Z",
                "Europe/Berlin",
                "2026-03-29T01:30:00Z",
            ),
        ] {
            assert_eq!(
                next(schedule, after, zone),
                expected,
                "{schedule} after {after}"
            );
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (schedule, expected) in [
            ("* * * *", "5 fields"),
            ("60 * * * *", "minute: \"60\" is not in 0 to 59"),
            ("* 5-3 * * *", "ends before it begins"),
            ("*/0 * * * *", "step of 0"),
            ("* * 0 * *", "day of month"),
            ("* * * foo *", "month"),
            ("* * * * 7", "day of week"),
            ("* * * * 8", "day of week"),
            ("* * * * * *", "found 6"),
            ("* 24 * * *", "hour"),
            ("* * * 13 *", "month"),
            ("a * * * *", "minute"),
            ("*/x * * * *", "step that is no number"),
            (", * * * *", "minute"),
            ("@every 5", "@every 1h30m10s"),
            ("@every 0s", "@every 1h30m10s"),
            ("TZ=UTC * * * * *", "spec.timeZone"),
            ("@often", "@often is none of"),
            ("@every day", "@every 1h30m10s"),
            ("", "5 fields"),
        ] {
            let error = Schedule::parse(schedule).unwrap_err().to_string();
            assert!(error.contains(expected), "{schedule}: {error}");
        }
    }

    #[test]
    fn all_forms_are_read() {
        for right in ["*/5 0-6,12 1 JAN-mar SUN", "0 0 1 1 ?", "1-30/7 * * * 1-5"] {
            assert!(Schedule::parse(right).is_ok(), "{right}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-zA-Zä*/,@ .-]{0,24}") {
            let _ = Schedule::parse(&text);
            let _ = Schedule::parse(&format!("@every {text}"));
        }
    }

    #[test]
    fn what_never_comes_is_none() {
        let never = Schedule::parse("0 0 30 2 *").unwrap();
        assert_eq!(never.next(at("2026-01-01T00:00:00Z"), &TimeZone::UTC), None);
    }

    #[test]
    fn the_last_time_is_found_without_counting_all() {
        let zone = TimeZone::UTC;
        let (from, until) = (at("2020-01-01T00:00:00Z"), at("2026-01-01T00:00:30Z"));
        for (schedule, expected) in [
            ("* * * * *", Some("2026-01-01T00:00:00Z")),
            ("0 0 31 * *", Some("2025-12-31T00:00:00Z")),
            ("0 0 29 2 *", Some("2024-02-29T00:00:00Z")),
            ("0 0 30 2 *", None),
            ("@every 1h", Some("2026-01-01T00:00:00Z")),
        ] {
            let schedule = Schedule::parse(schedule).unwrap();
            let found = schedule.last_between(from, until, &zone);
            assert_eq!(found, expected.map(at), "{schedule:?}");
        }
        let minutes = Schedule::parse("* * * * *").unwrap();
        assert_eq!(minutes.count_between(from, until, &zone, 101), 101);
        assert_eq!(minutes.last_between(until, until, &zone), None);
    }
}
