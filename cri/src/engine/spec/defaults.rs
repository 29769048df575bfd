//! What a container gets that states nothing, by the operator's choice.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Capability, LinuxSeccomp};

use super::capabilities;
use crate::engine::error::{Error, ErrorKind};

/// Choices of the operator, read and checked at the start.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerDefaults {
    /// Processes and threads of one container; none is no limit.
    pub pids_limit: Option<i64>,
    /// The filter that `RuntimeDefault` means; none is berth's own.
    pub seccomp: Option<Box<LinuxSeccomp>>,
    /// What a request adds to and drops from.
    pub capabilities: HashSet<Capability>,
}

impl Default for ContainerDefaults {
    fn default() -> Self {
        Self {
            pids_limit: None,
            seccomp: None,
            capabilities: capabilities::DEFAULT.into_iter().collect(),
        }
    }
}

impl ContainerDefaults {
    /// The choices of a file; a limit of 0 is none.
    ///
    /// # Errors
    ///
    /// `Invalid` for a name that is no capability, or a profile that cannot be read.
    pub fn read(
        pids_limit: i64,
        seccomp: Option<&Path>,
        names: &[String],
    ) -> Result<ContainerDefaults, Error> {
        let parse = |name: &String| {
            capabilities::read_name(name).ok_or_else(|| {
                Error::invalid(format!(
                    "defaults.capabilities: {name:?} is not a capability"
                ))
            })
        };
        Ok(ContainerDefaults {
            pids_limit: (pids_limit > 0).then_some(pids_limit),
            seccomp: seccomp.map(read_profile).transpose()?,
            capabilities: names.iter().map(parse).collect::<Result<_, _>>()?,
        })
    }
}

fn read_profile(path: &Path) -> Result<Box<LinuxSeccomp>, Error> {
    let failed = |error: std::io::Error| {
        Error::caused(
            ErrorKind::Invalid,
            format!("defaults.seccomp_profile: {}", path.display()),
            error,
        )
    };
    let bytes = std::fs::read(path).map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))
}
