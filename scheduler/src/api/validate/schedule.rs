//! Whether a text is a schedule: five fields, or a word with an `@`.
//!
//! ```text
//! minute 0-59 │ hour 0-23 │ day 1-31 │ month 1-12 or JAN │ day of week 0-6 or SUN
//! field = part { "," part }      part = ( "*" | "?" | value [ "-" value ] ) [ "/" step ]
//! ```

/// The fields in order: what they are, their limits, and names for values.
const FIELDS: [(&str, u32, u32, &[&str]); 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of month", 1, 31, &[]),
    ("month", 1, 12, MONTHS),
    ("day of week", 0, 6, DAYS),
];
const MONTHS: &[&str] = &[
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const DAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const WORDS: [&str; 7] = [
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];

/// Why a text is no schedule.
#[must_use]
pub fn problem(text: &str) -> Option<String> {
    if let Some(every) = text.strip_prefix("@every ") {
        return (!is_duration(every)).then(|| format!("failed to parse duration {every:?}"));
    }
    if text.starts_with('@') {
        return (!WORDS.contains(&text)).then(|| format!("unrecognized descriptor: {text}"));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Some(format!(
            "expected exactly 5 fields, found {}: {fields:?}",
            fields.len()
        ));
    }
    fields
        .iter()
        .zip(FIELDS)
        .find_map(|(field, rule)| field.split(',').find_map(|part| part_problem(part, rule)))
}

fn part_problem(
    part: &str,
    (what, least, most, names): (&str, u32, u32, &[&str]),
) -> Option<String> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    if let Some(step) = step {
        match step.parse::<u32>() {
            Ok(0) => return Some(format!("step of range should be a positive number: {part}")),
            Ok(_) => {}
            Err(_) => return Some(format!("failed to parse int from {step}: {what}")),
        }
    }
    if range == "*" || range == "?" {
        return None;
    }
    let value = |text: &str| -> Result<u32, String> {
        let named = names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text));
        let number = match named {
            Some(place) => u32::try_from(place).unwrap_or(0) + least,
            None => text
                .parse()
                .map_err(|_| format!("failed to parse int from {text}: {what}"))?,
        };
        match number {
            number if number < least => Err(format!(
                "beginning of range ({number}) below minimum ({least}): {part}"
            )),
            number if number > most => Err(format!(
                "end of range ({number}) above maximum ({most}): {part}"
            )),
            number => Ok(number),
        }
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (value(first), value(last)) {
        (Err(why), _) | (_, Err(why)) => Some(why),
        (Ok(first), Ok(last)) => (first > last)
            .then(|| format!("beginning of range ({first}) beyond end of range ({last}): {part}")),
    }
}

/// A duration such as `1h30m`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.trim();
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|next: char| !next.is_ascii_digit() && next != '.')
            .unwrap_or(0);
        let unit = rest[digits..]
            .find(|next: char| next.is_ascii_digit())
            .unwrap_or(rest.len() - digits);
        let (number, tail) = rest.split_at(digits);
        let (unit, tail) = tail.split_at(unit);
        if number.parse::<f64>().is_err() || !["h", "m", "s", "ms", "us", "ns"].contains(&unit) {
            return false;
        }
        rest = tail;
        parts += 1;
    }
    parts > 0
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn schedules_and_texts_that_are_none() {
        for right in [
            "* * * * *",
            "*/5 0-6,12 1 JAN-mar SUN",
            "0 0 1 1 ?",
            "@hourly",
            "@every 1h30m",
            "1-30/7 * * * 1-5",
        ] {
            assert_eq!(problem(right), None, "{right}");
        }
        for wrong in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 7",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "@sometimes",
            "@every soon",
            "@every 5",
            "*/x * * * *",
            ", * * * *",
        ] {
            assert!(problem(wrong).is_some(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-zA-Zä*/,@ .-]{0,24}") {
            let _ = problem(&text);
            let _ = problem(&format!("@every {text}"));
        }
    }
}
