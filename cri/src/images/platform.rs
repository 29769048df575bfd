//! Which machine an image is for.
//!
//! An index holds a manifest for each platform (OCI image-spec,
//! image-index.md). The best match is taken, not the first: a 64-bit ARM
//! machine runs `v8` and, failing that, what carries no variant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::images::error::{Error, ErrorKind};

/// An operating system and a processor, in Go's words, as the OCI uses them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ….
    pub architecture: String,
    /// `v7` of `arm`, `v3` of `amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The machine that this program was built for.
    pub fn of_this_machine() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well an image for `offered` suits this machine; more is better, none
    /// is not at all.
    pub fn suitability(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let wanted = version(&self.architecture, self.variant.as_deref());
        let offered = version(&self.architecture, offered.variant.as_deref());
        // Newer variants hold instructions that an older processor lacks.
        (offered <= wanted).then_some(offered)
    }
}

/// The number in a variant. Without one, it is the architecture's first.
fn version(architecture: &str, variant: Option<&str>) -> u32 {
    let number = variant.and_then(|variant| variant.strip_prefix('v')?.parse().ok());
    number.unwrap_or(match architecture {
        "arm64" => 8,
        "arm" => 7,
        _ => 1,
    })
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Platform, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        let filled = parts.iter().all(|part| !part.is_empty());
        match (&parts[..], filled) {
            ([os, architecture], true) => Ok(Platform {
                os: (*os).to_owned(),
                architecture: (*architecture).to_owned(),
                variant: None,
            }),
            ([os, architecture, variant], true) => Ok(Platform {
                os: (*os).to_owned(),
                architecture: (*architecture).to_owned(),
                variant: Some((*variant).to_owned()),
            }),
            _ => Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "the platform {text:?} must read OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT"
                ),
            )),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(formatter, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn the_newest_variant_that_runs_is_the_best() {
        let machine = platform("linux/arm/v7");
        assert!(machine.suitability(&platform("linux/arm/v8")).is_none());
        let seven = machine.suitability(&platform("linux/arm/v7"));
        assert!(seven > machine.suitability(&platform("linux/arm/v6")));
        assert!(machine.suitability(&platform("linux/arm64")).is_none());
        assert!(machine.suitability(&platform("windows/arm/v7")).is_none());
        let machine = platform("linux/arm64/v8");
        assert!(machine.suitability(&platform("linux/arm64")).is_some());
    }

    #[test]
    fn a_platform_reads_as_it_is_written() {
        for text in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(platform(text).to_string(), text);
        }
        for text in ["", "linux", "linux/", "a/b/c/d"] {
            assert!(text.parse::<Platform>().is_err());
        }
    }
}
