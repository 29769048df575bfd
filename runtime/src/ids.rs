//! Names that cannot be mixed up: containers, and the two sides of a path.
//!
//! A container's id becomes a folder's name below `--root` and a part of its
//! cgroup's path, so whatever could climb out of either is refused here, once.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The longest id that a folder of Linux can be named by, in bytes (`NAME_MAX`).
const LIMIT_BYTES: usize = 255;

/// A container's name within one `--root`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// Why a text is not a container's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid container id {0:?}: expected 1 to 255 of letters, digits, `_`, `+`, `-` and `.`, and neither `.` nor `..`"
)]
pub struct InvalidId(String);

impl ContainerId {
    /// Checks a text.
    ///
    /// # Errors
    ///
    /// [`InvalidId`] for anything that is not the name of a folder that runc
    /// would take too.
    pub fn parse(text: &str) -> Result<ContainerId, InvalidId> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        let sound = (1..=LIMIT_BYTES).contains(&text.len())
            && text.bytes().all(known)
            && text != "."
            && text != "..";
        if sound {
            Ok(ContainerId(text.to_owned()))
        } else {
            Err(InvalidId(text.to_owned()))
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<ContainerId, InvalidId> {
        ContainerId::parse(&text)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> String {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A path as the host sees it. It means nothing once the container's root is `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostPath(PathBuf);

impl HostPath {
    /// Says that a path is the host's.
    pub fn new(path: impl Into<PathBuf>) -> HostPath {
        HostPath(path.into())
    }

    /// The path, to hand to the kernel before `enter-root`.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// A path as the container sees it: looked up below its root, with every
/// symbolic link on the way resolved as if that root were `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerPath(PathBuf);

impl ContainerPath {
    /// Says that a path is the container's.
    pub fn new(path: impl Into<PathBuf>) -> ContainerPath {
        ContainerPath(path.into())
    }

    /// The path, to hand to a confined lookup.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::ContainerId;

    #[test]
    fn ids_are_names_of_folders() {
        for good in ["a", "web-1", "k8s.io_x+y", &"x".repeat(255)] {
            assert!(ContainerId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "é", &"x".repeat(256)] {
            let error = ContainerId::parse(bad).expect_err(bad);
            assert!(error.to_string().starts_with("invalid container id"));
        }
    }
}
