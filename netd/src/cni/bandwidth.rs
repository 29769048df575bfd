//! Limits of a pod's bandwidth, from its annotations.
//!
//! Kubernetes has no field for it: `kubernetes.io/ingress-bandwidth: 10M` is a
//! quantity of bits a second, which the plugin `bandwidth` takes as numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Kubernetes' own limits, in bits a second.
const LEAST: u64 = 1_000;
const MOST: u64 = 1_000_000_000_000_000;
/// A bucket below this would drop what the kernel hands over in one piece.
const LEAST_BURST_BITS: u64 = 1 << 20;

/// Bits a second, and the size of the bucket in bits; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// Towards the pod.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ingress_rate: u64,
    /// Of that, at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ingress_burst: u64,
    /// From the pod.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub egress_rate: u64,
    /// Of that, at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub egress_burst: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Bandwidth {
    /// The limits that a pod's annotations ask for.
    ///
    /// # Errors
    ///
    /// `Invalid`, with the annotation.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Option<Self>, Error> {
        let rate = |name: &str| match annotations.get(name) {
            None => Ok(0),
            Some(text) => read_rate(text).ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "annotations[{name}]: {text:?}: expected bits a second from 1k to 1P, \
                         as in 10M"
                    ),
                )
            }),
        };
        let (ingress_rate, egress_rate) = (rate(INGRESS)?, rate(EGRESS)?);
        let limits = Self {
            ingress_rate,
            ingress_burst: burst(ingress_rate),
            egress_rate,
            egress_burst: burst(egress_rate),
        };
        Ok((limits != Self::default()).then_some(limits))
    }
}

/// One second's worth. The plugin takes at most 32 bits of bytes.
fn burst(rate: u64) -> u64 {
    match rate {
        0 => 0,
        rate => rate.clamp(LEAST_BURST_BITS, u64::from(u32::MAX)),
    }
}

/// A quantity of Kubernetes (`resource.Quantity`), rounded up to whole bits.
fn read_rate(text: &str) -> Option<u64> {
    let end = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || fraction.len() > 9 {
        return None;
    }
    let (numerator, denominator) = scale(suffix)?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let parts = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let bits = digits
        .checked_mul(numerator)?
        .div_ceil(parts.checked_mul(denominator)?);
    let bits = u64::try_from(bits).ok()?;
    (LEAST..=MOST).contains(&bits).then_some(bits)
}

fn scale(suffix: &str) -> Option<(u128, u128)> {
    let binary = |power: u32| 1_u128 << (10 * power);
    let decimal = |power: u32| 10_u128.checked_pow(power);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, decimal(9)?),
        "u" => (1, decimal(6)?),
        "m" => (1, decimal(3)?),
        "k" => (decimal(3)?, 1),
        "M" => (decimal(6)?, 1),
        "G" => (decimal(9)?, 1),
        "T" => (decimal(12)?, 1),
        "P" => (decimal(15)?, 1),
        "E" => (decimal(18)?, 1),
        "Ki" => (binary(1), 1),
        "Mi" => (binary(2), 1),
        "Gi" => (binary(3), 1),
        "Ti" => (binary(4), 1),
        "Pi" => (binary(5), 1),
        "Ei" => (binary(6), 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            match power {
                0..=18 => (decimal(power.unsigned_abs())?, 1),
                -18..=-1 => (1, decimal(power.unsigned_abs())?),
                _ => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn quantities_of_kubernetes_are_bits_a_second() {
        for (text, bits) in [
            ("1k", 1_000),
            ("10M", 10_000_000),
            ("1.5M", 1_500_000),
            (".5M", 500_000),
            ("1Mi", 1 << 20),
            ("2e6", 2_000_000),
            ("2E3", 2_000),
            ("1000000m", 1_000),
            ("1000.1", 1_001),
            ("1P", MOST),
        ] {
            assert_eq!(read_rate(text), Some(bits), "{text}");
        }
        for wrong in [
            "", ".", "M", "-1M", "10 M", "10MB", "1.2.3k", "999", "2P", "1e99", "1Ki1",
        ] {
            assert_eq!(read_rate(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn annotations_make_limits_or_are_refused_by_name() {
        let annotations = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            pairs.iter().map(own).collect()
        };
        assert_eq!(
            Bandwidth::from_annotations(&annotations(&[])).unwrap(),
            None
        );
        let limits = Bandwidth::from_annotations(&annotations(&[(INGRESS, "10M")]));
        let text = serde_json::to_string(&limits.unwrap().unwrap()).unwrap();
        assert_eq!(text, r#"{"ingressRate":10000000,"ingressBurst":10000000}"#);
        let error = Bandwidth::from_annotations(&annotations(&[(EGRESS, "fast")])).unwrap_err();
        assert!(
            error.to_string().contains("egress-bandwidth]: \"fast\""),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fall_over(text in any::<String>()) {
            let _ = read_rate(&text);
        }

        #[test]
        fn plain_numbers_are_themselves(bits in LEAST..=MOST) {
            prop_assert_eq!(read_rate(&bits.to_string()), Some(bits));
        }
    }
}
