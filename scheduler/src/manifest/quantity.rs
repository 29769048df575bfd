//! Kubernetes' numbers with suffixes: `500m`, `1.5`, `64Mi`, `2e3`.
//!
//! A quantity is a decimal with at most nine places and one suffix, binary
//! (powers of 1024) or decimal (powers of 1000). It is kept in billionths as an
//! integer, because a binary fraction would turn `0.1` into something else.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Billionths in one.
const SCALE: i128 = 1_000_000_000;

/// Suffixes and what they multiply by, in billionths.
const SUFFIXES: [(&str, i128); 16] = [
    ("", SCALE),
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("k", SCALE * 1_000),
    ("M", SCALE * 1_000_000),
    ("G", SCALE * 1_000_000_000),
    ("T", SCALE * 1_000_000_000_000),
    ("P", SCALE * 1_000_000_000_000_000),
    ("E", SCALE * 1_000_000_000_000_000_000),
    ("Ki", SCALE << 10),
    ("Mi", SCALE << 20),
    ("Gi", SCALE << 30),
    ("Ti", SCALE << 40),
    ("Pi", SCALE << 50),
    ("Ei", SCALE << 60),
];

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a quantity: expected a number with a suffix such as 500m, 2, 64Mi or 1G")]
pub struct QuantityError {
    text: String,
}

/// Billionths of a quantity's text.
///
/// # Errors
///
/// When the text has no number, an unknown suffix, or is beyond 2^63.
pub fn parse(text: &str) -> Result<i128, QuantityError> {
    parse_nanos(text).ok_or_else(|| QuantityError {
        text: text.to_owned(),
    })
}

/// The text that Kubernetes writes for a quantity: `1` for `1000m`, `1536Mi` for `1.5Gi`.
///
/// The kind of suffix stays (binary, decimal, exponent), no fraction is left,
/// and the suffix is as large as possible. Nothing, if the text is no quantity.
#[must_use]
pub fn canonical(text: &str) -> Option<String> {
    let nanos = parse_nanos(text)?;
    let binary = text.ends_with('i') && nanos.abs() >= 1024 * SCALE;
    if binary {
        let mut units = nanos.div_euclid(SCALE) + i128::from(nanos.rem_euclid(SCALE) != 0);
        let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter();
        let mut suffix = suffixes.next();
        while units % 1024 == 0 && units != 0 {
            let Some(larger) = suffixes.next() else { break };
            units /= 1024;
            suffix = Some(larger);
        }
        return Some(format!("{units}{}", suffix.unwrap_or(&"")));
    }
    if nanos == 0 {
        return Some("0".to_owned());
    }
    let (mut number, mut exponent) = (nanos, -9);
    while number % 1000 == 0 && exponent < 18 {
        number /= 1000;
        exponent += 3;
    }
    let by_exponent = text.find(['e', 'E']).is_some_and(|at| at + 1 < text.len());
    if by_exponent {
        return Some(match exponent {
            0 => number.to_string(),
            _ => format!("{number}e{exponent}"),
        });
    }
    let place = usize::try_from((exponent + 9) / 3).unwrap_or(0);
    let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"].get(place)?;
    Some(format!("{number}{suffix}"))
}

/// The quantity in whole units, rounded up, as Kubernetes' `Value()`.
///
/// Bytes of memory are read with it. A text that is no quantity counts as zero:
/// manifests were checked when they were read.
pub fn whole(quantity: &Quantity) -> i64 {
    round_up(parse(&quantity.0).unwrap_or(0), SCALE)
}

/// The quantity in thousandths, rounded up, as Kubernetes' `MilliValue()`.
///
/// Processor time is read with it.
pub fn milli(quantity: &Quantity) -> i64 {
    round_up(parse(&quantity.0).unwrap_or(0), SCALE / 1000)
}

fn round_up(nanos: i128, unit: i128) -> i64 {
    let rounded = nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) != 0);
    i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
}

fn parse_nanos(text: &str) -> Option<i128> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned
        .find(|next: char| !next.is_ascii_digit() && next != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let (unit, exponent) = read_suffix(suffix)?;
    // 18 digits on either side of the point are more than 2^63 can hold.
    let fraction = &fraction[..fraction.len().min(18)];
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mut nanos = digits.checked_mul(unit)?;
    let places = i32::try_from(fraction.len()).ok()? - exponent;
    for _ in 0..places.abs() {
        nanos = if places < 0 {
            nanos.checked_mul(10)?
        } else {
            nanos.div_euclid(10) + i128::from(nanos.rem_euclid(10) != 0)
        };
    }
    if nanos > i128::from(i64::MAX) * SCALE {
        return None;
    }
    Some(if text.starts_with('-') { -nanos } else { nanos })
}

/// A suffix's multiplier, and the power of ten of `e3`.
fn read_suffix(suffix: &str) -> Option<(i128, i32)> {
    if let Some((_, unit)) = SUFFIXES.iter().find(|(known, _)| *known == suffix) {
        return Some((*unit, 0));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (exponent.abs() <= 18).then_some((SCALE, exponent))
}

#[cfg(test)]
mod tests {
    use super::{canonical, milli, parse, whole};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use proptest::{prop_assert_eq, proptest};

    #[test]
    fn quantities_of_the_documentation_have_their_values() {
        let table = [
            ("500m", 1, 500),
            ("1.5", 2, 1500),
            ("64Mi", 64 << 20, (64 << 20) * 1000),
            ("1.5Gi", 3 << 29, (3 << 29) * 1000),
            ("2e3", 2000, 2_000_000),
            ("1E3", 1000, 1_000_000),
            ("1E", 1_000_000_000_000_000_000, i64::MAX),
            (".5", 1, 500),
            ("5.", 5, 5000),
            ("0", 0, 0),
            ("-1", -1, -1000),
            ("1n", 1, 1),
        ];
        for (text, units, thousandths) in table {
            let quantity = Quantity(text.to_owned());
            assert_eq!(
                (whole(&quantity), milli(&quantity)),
                (units, thousandths),
                "{text}"
            );
        }
    }

    #[test]
    fn texts_that_are_no_quantity_are_refused() {
        for text in [
            "", "Mi", "1.2.3", "64mb", "64 Mi", "1Kii", "e3", "1e99", "--1", "1e1000", ".",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn canonical_texts_are_those_of_kubernetes() {
        let table = [
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("64Mi", "64Mi"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("2e3", "2e3"),
            ("20e2", "2e3"),
            ("0Mi", "0"),
            ("1", "1"),
            ("-1500m", "-1500m"),
            ("100M", "100M"),
        ];
        for (text, expected) in table {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(canonical("many"), None);
    }

    proptest! {
        #[test]
        fn canonical_texts_have_the_same_value(text in "[1-9][0-9]{0,8}(\\.[0-9]{1,3})?(m|k|M|Mi|Ki|Gi|e3)?") {
            let again = canonical(&text).unwrap();
            prop_assert_eq!(whole(&Quantity(again.clone())), whole(&Quantity(text)));
            prop_assert_eq!(canonical(&again), Some(again));
        }

        #[test]
        fn whole_numbers_survive(value in 0_i64..) {
            prop_assert_eq!(whole(&Quantity(value.to_string())), value);
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.eEkKMiGmnu]{0,40}") {
            let _ = parse(&text);
        }
    }
}
