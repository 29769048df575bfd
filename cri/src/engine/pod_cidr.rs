//! The node's range of pod addresses, told by the kubelet.
//!
//! A cluster gives each node a range (`Node.spec.podCIDRs`), and the kubelet
//! passes it on by `UpdateRuntimeConfig` whenever it starts. It is kept in the
//! data directory and stands above the configured one from then on, for every
//! engine that is opened there.
//!
//! A network has one bridge with one gateway in each subnet, so the range
//! cannot change below pods that have addresses of the old one.

use std::path::{Path, PathBuf};

use berth_netd::netd::Netd;
use berth_netd::network::NetworkConfig;
use berth_runtime::monitor::protocol::PodNamespace;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::error::{Error, ErrorKind};
use super::monitor_link::blocking;
use super::records::{NetworkBy, PodPhase, PodRecord, files as record_files};
use super::sandbox::network_error;
use super::spec::namespaces::PodNamespaces;

const FILE: &str = "pod-cidr.json";
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    subnets: Vec<IpNet>,
}

/// Puts what a kubelet said last into a configuration.
///
/// # Errors
///
/// `Storage` for a file that cannot be read or is damaged.
pub(super) fn apply_kept(data_dir: &Path, network: &mut NetworkConfig) -> Result<(), Error> {
    if let Some(subnets) = read_kept(data_dir)? {
        network.subnets = subnets;
    }
    Ok(())
}

/// The ranges that a kubelet said last, if one ever did.
///
/// # Errors
///
/// `Storage` for a file that cannot be read or is damaged.
pub(super) fn read_kept(data_dir: &Path) -> Result<Option<Vec<IpNet>>, Error> {
    let path = place(data_dir);
    let Some(kept): Option<Kept> = record_files::read_plain_json(&path)? else {
        return Ok(None);
    };
    if kept.format != FORMAT {
        let text = format!(
            "{}: expected format {FORMAT}, found {}",
            path.display(),
            kept.format
        );
        return Err(Error::new(ErrorKind::Storage, text));
    }
    Ok(Some(kept.subnets))
}

impl Engine {
    /// Has sandboxes that are made from now on take addresses of these ranges.
    /// The range that is in use already is accepted as it is.
    ///
    /// # Errors
    ///
    /// `Invalid` for what are no ranges, `WrongState` while pods have addresses
    /// of another range.
    pub async fn set_pod_cidr(&self, text: &str) -> Result<(), Error> {
        let mut network = self.netd().config().clone();
        let subnets = parse(text)?;
        if network.subnets == subnets {
            return Ok(());
        }
        network.subnets = subnets;
        let state_dir = self.config().data_dir.join("net");
        let netd = Netd::open(&state_dir, network.clone()).map_err(|error| {
            let field = "runtime_config.network_config.pod_cidr";
            Error::caused(ErrorKind::Invalid, field, network_error(error))
        })?;
        let engine = self.clone();
        blocking(move || {
            // Whoever makes a sandbox takes this lock first.
            let _names = engine.records().lock_names()?;
            engine.refuse_while_used()?;
            let path = place(&engine.config().data_dir);
            let kept = Kept {
                format: FORMAT,
                subnets: network.subnets,
            };
            record_files::replace_json(&path, &kept)?;
            engine.replace_netd(netd);
            Ok(())
        })
        .await
    }

    fn refuse_while_used(&self) -> Result<(), Error> {
        let has_network = |pod: &PodRecord| {
            let namespaces = PodNamespaces::plan(&pod.config.0, &self.paths().pod(&pod.id));
            // Plugins are told the range of each pod and have no gateway of ours.
            pod.phase != PodPhase::Stopped
                && pod.network_by == NetworkBy::Netd
                && namespaces.is_ok_and(|plan| plan.pinned().contains(&PodNamespace::Net))
        };
        let pods = self.records().list_pods()?.records;
        match pods.iter().filter(|pod| has_network(pod)).count() {
            0 => Ok(()),
            count => {
                let in_use: Vec<String> = self
                    .netd()
                    .config()
                    .subnets
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                let text = format!(
                    "runtime_config.network_config.pod_cidr: {count} pods have addresses of {}; \
                     stop them first; nothing was changed",
                    in_use.join(",")
                );
                Err(Error::new(ErrorKind::WrongState, text))
            }
        }
    }
}

/// One range of a family, or one of each with a comma between.
fn parse(text: &str) -> Result<Vec<IpNet>, Error> {
    text.split(',')
        .map(|part| {
            let part = part.trim();
            let range: IpNet = part.parse().map_err(|error| {
                let text = format!(
                    "runtime_config.network_config.pod_cidr: {part:?}: expected ADDRESS/LENGTH"
                );
                Error::caused(ErrorKind::Invalid, text, error)
            })?;
            Ok(range.trunc())
        })
        .collect()
}

fn place(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_each_family_is_read() {
        let both = parse("10.9.0.0/24, fd00:9::/64").unwrap();
        assert_eq!(both.len(), 2);
        let error = parse("10.9.0.0").unwrap_err();
        assert!(error.chain().contains("pod_cidr: \"10.9.0.0\""));
        assert!(parse("").is_err());
    }

    #[test]
    fn what_was_kept_stands_above_the_configured_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut network = NetworkConfig::default();
        apply_kept(folder.path(), &mut network).unwrap();
        assert_eq!(network, NetworkConfig::default());
        let kept = Kept {
            format: FORMAT,
            subnets: parse("10.9.0.0/24").unwrap(),
        };
        record_files::replace_json(&place(folder.path()), &kept).unwrap();
        apply_kept(folder.path(), &mut network).unwrap();
        assert_eq!(network.subnets, kept.subnets);
        std::fs::write(place(folder.path()), b"{\"format\":1").unwrap();
        let error = apply_kept(folder.path(), &mut network).unwrap_err();
        assert!(error.chain().contains(FILE), "{}", error.chain());
    }
}
