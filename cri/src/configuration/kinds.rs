//! What a value must be, and what it means.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use toml::Value;

use crate::engine::spec::capabilities;

/// The shortest time that a key can have. A third of 2ns is nothing, and a timer
/// that is to tick every nothing panics (tokio, `time::interval`).
const SHORTEST: Duration = Duration::from_millis(1);

/// The kind of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// An absolute path, or nothing.
    PathOrNone,
    /// The absolute path of a program.
    Program,
    /// `ADDRESS:PORT`.
    Address,
    /// `ADDRESS:PORT`, or nothing.
    AddressOrNone,
    /// `http://`, or nothing.
    UrlOrNone,
    /// A file's mode in octal digits, as text.
    Mode,
    /// A time with its unit, as text.
    Duration,
    /// A whole number.
    Count {
        /// The largest.
        most: i64,
    },
    /// From 0 to 1.
    Share,
    /// One of some words.
    Choice(&'static [&'static str]),
    /// Yes or no.
    Switch,
    /// Texts.
    Words,
    /// Absolute paths.
    Paths,
    /// Ranges of addresses.
    Subnets,
    /// Names of capabilities(7).
    Capabilities,
}

impl Kind {
    /// Whether a value is of this kind; else what was expected instead.
    pub(super) fn check(self, value: &Value) -> Result<(), String> {
        if self.holds(value) {
            return Ok(());
        }
        Err(format!("expected {}, found {value}", self.expected()))
    }

    fn holds(self, value: &Value) -> bool {
        let text = value.as_str();
        let texts = |sound: fn(&str) -> bool| {
            value
                .as_array()
                .is_some_and(|list| list.iter().all(|one| one.as_str().is_some_and(sound)))
        };
        match self {
            Kind::Text => text.is_some(),
            Kind::PathOrNone => {
                text.is_some_and(|text| text.is_empty() || Path::new(text).is_absolute())
            }
            Kind::Program => text.is_some_and(|text| Path::new(text).is_absolute()),
            Kind::Address => text.is_some_and(|text| text.parse::<SocketAddr>().is_ok()),
            Kind::AddressOrNone => {
                text.is_some_and(|text| text.is_empty() || text.parse::<SocketAddr>().is_ok())
            }
            Kind::UrlOrNone => text.is_some_and(|text| text.is_empty() || is_url(text)),
            Kind::Mode => text.is_some_and(|text| read_mode(text).is_some()),
            Kind::Duration => text.is_some_and(|text| read_duration(text).is_some()),
            Kind::Count { most } => value
                .as_integer()
                .is_some_and(|number| (0..=most).contains(&number)),
            Kind::Share => {
                let whole = value.as_integer().map(|number| number as f64);
                let share = value.as_float().or(whole);
                share.is_some_and(|share| (0.0..=1.0).contains(&share))
            }
            Kind::Choice(words) => text.is_some_and(|text| words.contains(&text)),
            Kind::Switch => value.is_bool(),
            Kind::Words => texts(|_| true),
            Kind::Paths => texts(|text| Path::new(text).is_absolute()),
            Kind::Subnets => texts(|text| text.parse::<IpNet>().is_ok()),
            Kind::Capabilities => texts(|text| capabilities::read_name(text).is_some()),
        }
    }

    fn expected(self) -> String {
        match self {
            Kind::Text => "text in quotes".to_owned(),
            Kind::PathOrNone => "an absolute path, or \"\"".to_owned(),
            Kind::Program => "the absolute path of a program".to_owned(),
            Kind::Address => "ADDRESS:PORT, such as \"127.0.0.1:0\"".to_owned(),
            Kind::AddressOrNone => "ADDRESS:PORT, such as \"127.0.0.1:9478\", or \"\"".to_owned(),
            Kind::UrlOrNone => "http://HOST:PORT, https://HOST:PORT, or \"\"".to_owned(),
            Kind::Mode => "a mode in octal digits and quotes, such as \"0660\"".to_owned(),
            Kind::Duration => {
                "a time with its unit, such as \"500ms\", \"30s\" or \"4h\", of 1ms at least"
                    .to_owned()
            }
            Kind::Count { most } => format!("a whole number from 0 to {most}"),
            Kind::Share => "a number from 0 to 1".to_owned(),
            Kind::Choice(words) => format!("one of \"{}\"", words.join("\", \"")),
            Kind::Switch => "true or false".to_owned(),
            Kind::Words => "a list of texts".to_owned(),
            Kind::Paths => "a list of absolute paths".to_owned(),
            Kind::Subnets => {
                "a list of ranges, such as [\"10.88.64.0/20\", \"fdbe:2788:64::/64\"]".to_owned()
            }
            Kind::Capabilities => {
                "a list of capabilities, such as [\"CHOWN\", \"NET_BIND_SERVICE\"]".to_owned()
            }
        }
    }
}

/// The bits of a mode that is written in octal digits.
pub(super) fn read_mode(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8).ok()?;
    (digits && mode <= 0o777).then_some(mode)
}

/// `90s`, `1h 30m`, `500ms`; not less than [`SHORTEST`].
pub(super) fn read_duration(text: &str) -> Option<Duration> {
    let time = text.parse::<jiff::SignedDuration>().ok()?;
    Duration::try_from(time)
        .ok()
        .filter(|time| *time >= SHORTEST)
}

fn is_url(text: &str) -> bool {
    let schemes = ["http://", "https://"];
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.is_empty() && rest.parse::<http::uri::Authority>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_part_of_the_value() {
        let seconds = |text| read_duration(text).map(|time| time.as_secs_f64());
        assert_eq!(seconds("30s"), Some(30.0));
        assert_eq!(seconds("500ms"), Some(0.5));
        assert_eq!(seconds("1h 30m"), Some(5400.0));
        assert_eq!(seconds("30"), None);
        assert_eq!(seconds("0s"), None);
        assert_eq!(seconds("2ns"), None);
        assert_eq!(seconds("1ms"), Some(0.001));
        assert_eq!(seconds("-1s"), None);
        assert_eq!(read_mode("0660"), Some(0o660));
        assert_eq!(read_mode("0o660"), None);
        assert_eq!(read_mode("1777"), None);
        assert_eq!(read_mode("+660"), None);
    }

    #[test]
    fn a_complaint_says_what_is_expected() {
        let error = Kind::Duration.check(&Value::Integer(30)).unwrap_err();
        assert!(
            error.contains("with its unit") && error.ends_with("found 30"),
            "{error}"
        );
        let error = Kind::Mode.check(&Value::Integer(660)).unwrap_err();
        assert!(error.contains("octal"), "{error}");
        assert!(Kind::Share.check(&Value::Integer(1)).is_ok());
        assert!(Kind::Share.check(&Value::Float(1.5)).is_err());
        assert!(
            Kind::UrlOrNone
                .check(&Value::from("127.0.0.1:4317"))
                .is_err()
        );
        assert!(
            Kind::UrlOrNone
                .check(&Value::from("http://127.0.0.1:4317"))
                .is_ok()
        );
        assert!(
            Kind::Capabilities
                .check(&Value::from(vec!["CHOWN", "nonsense"]))
                .is_err()
        );
    }
}
