//! A sandbox whose record is damaged: stopped and removed all the same.
//!
//! A disk that lost a block, or a person with an editor, can make a record
//! unreadable. The pod is left out of lists then and told of in the log, and it
//! runs on; nothing touches it but who names it. What is needed to end it stands
//! elsewhere: its monitor knows its containers, the monitor's own configuration
//! their OCI runtime, and directories their ids.
//!
//! A record of another version of berth is not damaged. It is left to that one.

use std::path::Path;

use super::error::{Error, ErrorKind};
use super::records::lock::LockedPod;
use super::records::{Encoded, NetworkBy, PodPhase, PodRecord};
use super::{Engine, monitor_link};
use crate::v1;

/// A pod's record, or what stands in for it.
#[derive(Debug)]
pub(super) enum Found {
    /// As it was written.
    Whole(PodRecord),
    /// Put together from what else there is; never to be written.
    StandIn(PodRecord),
}

impl Found {
    /// Enough to take a pod down.
    pub(super) fn record(&self) -> &PodRecord {
        match self {
            Found::Whole(record) | Found::StandIn(record) => record,
        }
    }
}

impl Engine {
    /// The pod's record, or a stand-in when it is damaged.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Unsupported` for a record of another version.
    pub(super) fn read_or_salvage(&self, locked: &LockedPod) -> Result<Found, Error> {
        match locked.read() {
            Ok(record) => Ok(Found::Whole(record)),
            Err(error) if error.kind() == ErrorKind::Storage => {
                tracing::warn!(
                    pod = locked.id(),
                    "goes without its record: {}",
                    error.chain()
                );
                Ok(Found::StandIn(self.stand_in(locked.id())))
            }
            Err(error) => Err(error),
        }
    }

    fn stand_in(&self, id: &str) -> PodRecord {
        let monitor = monitor_link::read_configuration(&self.paths().pod(id));
        let own = (self.config().oci_runtime.clone(), Vec::new(), String::new());
        let (oci_runtime, oci_arguments, state) = match monitor {
            Some(config) => {
                let state = handler_of(&config.oci_root);
                (config.oci_runtime, config.oci_arguments, state)
            }
            None => own,
        };
        PodRecord {
            format: PodRecord::format(),
            id: id.to_owned(),
            name: String::new(),
            namespace: String::new(),
            phase: PodPhase::Ready,
            maker_pid: 0,
            created_at: 0,
            config: Encoded(v1::PodSandboxConfig::default()),
            runtime_handler: state,
            oci_runtime,
            oci_arguments,
            oci_state: None,
            cgroup: format!("{}/{id}", self.config().cgroup_parent),
            // What plugins attached, or had begun to, has a record of its own.
            network_by: match self.cni().has_record_of(id) {
                Ok(true) => NetworkBy::Cni,
                _ => NetworkBy::Netd,
            },
            network: None,
            end_failed_at: None,
        }
    }
}

/// The handler whose states are in a directory: the reverse of `Paths::oci_root`.
fn handler_of(oci_root: &Path) -> String {
    let name = oci_root.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("oci-").unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::paths::Paths;

    #[test]
    fn a_state_directory_tells_its_handler() {
        let paths = Paths::new(Path::new("/run/berth"));
        for handler in ["", "runc", "oci-x"] {
            assert_eq!(handler_of(&paths.oci_root(handler)), handler);
        }
    }
}
