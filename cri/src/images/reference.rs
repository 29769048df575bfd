//! What an image is called: `nginx` means `docker.io/library/nginx:latest`.
//!
//! ```text
//! 127.0.0.1:5000 / team/web : 1.2 @ sha256:…
//! registry         repository  tag   digest
//! ```
//!
//! The first part is a registry only if it has a dot or a colon or is
//! `localhost`; otherwise it belongs to a repository of Docker Hub. A digest
//! names the content itself, so a tag beside it is only a note to the reader.
//! The grammar is that of the distribution project's `reference` package.

use std::fmt;
use std::str::FromStr;

use crate::images::digest::Digest;
use crate::images::error::{Error, ErrorKind};

/// The registry that names without one mean.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag that names without one mean.
pub const DEFAULT_TAG: &str = "latest";

/// An image's name in full.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// `docker.io`, `ghcr.io`, `127.0.0.1:5000`.
    pub registry: String,
    /// `library/nginx`.
    pub repository: String,
    /// Absent only beside a digest.
    pub tag: Option<String>,
    /// Wins over the tag.
    pub digest: Option<Digest>,
}

impl Reference {
    /// `REGISTRY/REPOSITORY`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `NAME:TAG`, if there is a tag.
    pub fn tagged(&self) -> Option<String> {
        Some(format!("{}:{}", self.name(), self.tag.as_deref()?))
    }

    /// What a registry is asked for: the digest, else the tag.
    pub fn version(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference, Error> {
        let invalid = |why: &str| {
            Error::new(
                ErrorKind::InvalidInput,
                format!("{text:?} is not the name of an image: {why}"),
            )
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon behind the last slash starts a tag; one before it, a port.
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        let (registry, repository) = split_registry(path);
        if !is_registry(&registry) {
            return Err(invalid("the registry must be a host with an optional port"));
        }
        if let Err(why) = check_repository(&repository) {
            return Err(invalid(why));
        }
        if registry.len() + repository.len() > 255 {
            return Err(invalid("it is longer than 255 characters"));
        }
        if !tag.is_none_or(is_tag) {
            return Err(invalid(
                "a tag has 1 to 128 letters, digits, dots, dashes and underscores",
            ));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Reference {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

fn split_registry(path: &str) -> (String, String) {
    let is_host = |part: &str| {
        part.contains(['.', ':']) || part == "localhost" || part != part.to_lowercase()
    };
    let (registry, repository) = match path.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, path),
    };
    match registry {
        // The old name of the same place.
        DEFAULT_REGISTRY | "index.docker.io" if !repository.contains('/') => {
            (DEFAULT_REGISTRY.to_owned(), format!("library/{repository}"))
        }
        "index.docker.io" => (DEFAULT_REGISTRY.to_owned(), repository.to_owned()),
        _ => (registry.to_owned(), repository.to_owned()),
    }
}

/// A host name, an IPv4 address or an IPv6 address in brackets, and a port.
fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    if let Some(address) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

/// Lower-case words that dots, dashes or up to two underscores join, between
/// slashes.
fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.is_empty() || repository == "library/" {
        return Err("the repository is missing");
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("a repository is written in lower case");
    }
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    for part in repository.split('/') {
        let starts_and_ends = part.bytes().next().is_some_and(is_word)
            && part.bytes().next_back().is_some_and(is_word);
        let known = part
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'-' | b'_'));
        let doubled = ["..", "___", "._", "_.", ".-", "-.", "_-", "-_"]
            .iter()
            .any(|pair| part.contains(pair));
        if !starts_and_ends || !known || doubled {
            return Err("a repository has words of letters and digits, \
                 joined by a dot, dashes or at most two underscores, between slashes");
        }
    }
    Ok(())
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(is_word)
        && tag
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn short_names_mean_docker_hub() {
        let digest = format!("nginx@sha256:{HEX}");
        let canonical = format!("docker.io/library/nginx@sha256:{HEX}");
        let cases = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("team/web", "docker.io/team/web:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/team/web:1", "docker.io/team/web:1"),
            ("localhost/web", "localhost/web:latest"),
            ("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x"),
            ("[::1]:5000/web", "[::1]:5000/web:latest"),
            ("ghcr.io/o/w__x-y.z", "ghcr.io/o/w__x-y.z:latest"),
            (&digest, &canonical),
        ];
        for (short, full) in cases {
            let reference: Reference = short.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            // A canonical name means itself.
            assert_eq!(full.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn a_digest_wins_over_the_tag() {
        let reference: Reference = format!("web:1@sha256:{HEX}").parse().unwrap();
        assert_eq!(reference.version(), format!("sha256:{HEX}"));
        assert_eq!(reference.tagged().unwrap(), "docker.io/library/web:1");
    }

    #[test]
    fn names_that_are_none_are_refused_with_the_reason() {
        for (text, why) in [
            ("", "missing"),
            ("Nginx", "lower case"),
            ("nginx:", "tag"),
            ("nginx:a b", "tag"),
            ("a//b", "words"),
            ("../etc", "registry"),
            ("a/../etc", "words"),
            ("ghcr.io/", "missing"),
            ("host:99999/web", "registry"),
            ("a_.b", "words"),
            ("nginx@sha256:12", "64"),
            ("nginx@sha512:12", "only kind"),
        ] {
            let message = text.parse::<Reference>().unwrap_err().to_string();
            assert!(message.contains(why), "{text}: {message}");
        }
        assert!("a".repeat(256).parse::<Reference>().is_err());
    }
}
