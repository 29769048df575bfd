//! Versions of the CNI specification, and what came with which.
//!
//! A network's configuration names the version that it is written in, and all
//! of its plugins are spoken to in that one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// What a configuration without a version means.
    pub const FIRST: Self = Self::of(0, 1, 0);
    /// Results hold lists of interfaces and addresses from here on.
    pub const WITH_INTERFACES: Self = Self::of(0, 3, 0);
    /// CHECK exists, and DEL is told the result of ADD.
    pub const WITH_CHECK: Self = Self::of(0, 4, 0);
    /// GC and STATUS exist.
    pub const WITH_STATUS: Self = Self::of(1, 1, 0);
    /// The newest that this crate speaks.
    pub const NEWEST: Self = Self::of(1, 1, 0);

    /// Every version that this crate speaks, oldest first.
    pub const SPOKEN: [Self; 7] = [
        Self::FIRST,
        Self::of(0, 2, 0),
        Self::WITH_INTERFACES,
        Self::of(0, 3, 1),
        Self::WITH_CHECK,
        Self::of(1, 0, 0),
        Self::NEWEST,
    ];

    const fn of(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// Whether this crate speaks it.
    pub fn is_spoken(self) -> bool {
        Self::SPOKEN.contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut numbers = text.split('.').map(|word| {
            // `parse` alone would take "+1".
            let plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| word.parse().ok()).flatten()
        });
        let read = |number: Option<Option<u32>>| number.flatten();
        match (
            read(numbers.next()),
            read(numbers.next()),
            read(numbers.next()),
            numbers.next(),
        ) {
            (Some(major), Some(minor), Some(patch), None) => Ok(Self::of(major, minor, patch)),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!("{text:?}: expected a version, as in 1.1.0"),
            )),
        }
    }
}

impl TryFrom<String> for Version {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_ordered_and_written() {
        let read = |text: &str| text.parse::<Version>();
        assert_eq!(read("1.1.0").unwrap(), Version::NEWEST);
        assert!(read("0.10.0").unwrap() > read("0.4.0").unwrap());
        for version in Version::SPOKEN {
            assert_eq!(read(&version.to_string()).unwrap(), version);
        }
        for wrong in [
            "",
            "1",
            "1.1",
            "1.1.0.0",
            "v1.1.0",
            "1.+1.0",
            "1..0",
            "1.1.99999999999",
        ] {
            assert!(
                read(wrong).unwrap_err().to_string().contains("1.1.0"),
                "{wrong}"
            );
        }
        assert!(!read("1.2.0").unwrap().is_spoken());
    }
}
