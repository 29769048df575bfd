//! Which namespaces are shared and with whom.
//!
//! A pod is what its containers share. The monitor pins the pod's network, IPC
//! and host name namespaces as files, and each container joins them by path, with
//! the user namespace that owns them where the pod has one;
//! mounts (and, unless asked otherwise, process ids) are a container's own.

use std::path::{Path, PathBuf};

use berth_runtime::monitor::protocol::{NAMESPACES_FOLDER, PodNamespace};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType};

use super::user_namespace::{self, PodUsers};
use super::{Privilege, SpecInputs, security_context};
use crate::engine::error::Error;
use crate::engine::records::namespace_options;
use crate::v1;

/// The namespaces that a pod's monitor makes and pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNamespaces {
    directory: PathBuf,
    pinned: Vec<PodNamespace>,
    users: PodUsers,
}

impl PodNamespaces {
    /// Which namespaces the pod has of its own, in the monitor's order.
    ///
    /// # Errors
    ///
    /// `Invalid` for a mode that a sandbox cannot have, and for wrong ids.
    pub fn plan(config: &v1::PodSandboxConfig, pod_dir: &Path) -> Result<Self, Error> {
        let options = namespace_options(config).cloned().unwrap_or_default();
        let users = PodUsers::plan(config)?;
        let mut pinned = Vec::new();
        if users.are_own() {
            pinned.push(PodNamespace::User);
        }
        if pod_or_node("network", options.network)? == v1::NamespaceMode::Pod {
            pinned.push(PodNamespace::Net);
        }
        if pod_or_node("ipc", options.ipc)? == v1::NamespaceMode::Pod {
            pinned.push(PodNamespace::Ipc);
        }
        // A pod on the host's network answers by the host's name.
        if pinned.contains(&PodNamespace::Net) {
            pinned.push(PodNamespace::Uts);
        }
        match mode("pid", options.pid)? {
            v1::NamespaceMode::Pod => pinned.push(PodNamespace::Pid),
            v1::NamespaceMode::Container | v1::NamespaceMode::Node => {}
            v1::NamespaceMode::Target => {
                return Err(Error::invalid(
                    "linux.security_context.namespace_options.pid: TARGET is for containers, \
                     not for sandboxes",
                ));
            }
        }
        Ok(Self {
            directory: pod_dir.join(NAMESPACES_FOLDER),
            pinned,
            users,
        })
    }

    /// Whose users the pod has.
    pub fn users(&self) -> &PodUsers {
        &self.users
    }

    /// Those to make, for the monitor's configuration.
    pub fn pinned(&self) -> &[PodNamespace] {
        &self.pinned
    }

    /// Where a namespace is pinned, if the pod has one of its own.
    pub fn path(&self, namespace: PodNamespace) -> Option<PathBuf> {
        let name = match namespace {
            PodNamespace::User => "user",
            PodNamespace::Net => "net",
            PodNamespace::Ipc => "ipc",
            PodNamespace::Uts => "uts",
            PodNamespace::Pid => "pid",
        };
        self.pinned
            .contains(&namespace)
            .then(|| self.directory.join(name))
    }
}

/// The OCI's `linux.namespaces`: what is absent is shared with the host.
///
/// # Errors
///
/// `Invalid` for a mode that cannot be.
pub fn plan_namespaces(
    inputs: &SpecInputs<'_>,
    privilege: Privilege,
) -> Result<Vec<LinuxNamespace>, Error> {
    let mut list = vec![own(LinuxNamespaceType::Mount)?];
    // A privileged program manages the host's groups, so it sees them all; not
    // where its root is nobody on the host and could mount only groups of its own.
    if privilege == Privilege::Confined || inputs.namespaces.users().are_own() {
        list.push(own(LinuxNamespaceType::Cgroup)?);
    }
    for (kind, namespace) in [
        (LinuxNamespaceType::User, PodNamespace::User),
        (LinuxNamespaceType::Network, PodNamespace::Net),
        (LinuxNamespaceType::Ipc, PodNamespace::Ipc),
        (LinuxNamespaceType::Uts, PodNamespace::Uts),
    ] {
        if let Some(path) = inputs.namespaces.path(namespace) {
            list.push(joined(kind, path)?);
        }
    }
    list.extend(pid_namespace(inputs)?);
    Ok(list)
}

fn pid_namespace(inputs: &SpecInputs<'_>) -> Result<Option<LinuxNamespace>, Error> {
    let options = security_context(inputs.container)
        .namespace_options
        .or_else(|| namespace_options(inputs.sandbox).cloned())
        .unwrap_or_default();
    user_namespace::check_container(inputs.sandbox, &options)?;
    let pid = LinuxNamespaceType::Pid;
    match mode("pid", options.pid)? {
        v1::NamespaceMode::Node if inputs.namespaces.users().are_own() => Err(Error::invalid(
            "linux.security_context.namespace_options.pid: NODE cannot be had in a pod with a \
             user namespace of its own",
        )),
        v1::NamespaceMode::Node => Ok(None),
        v1::NamespaceMode::Container => own(pid).map(Some),
        v1::NamespaceMode::Pod => match inputs.namespaces.path(PodNamespace::Pid) {
            Some(path) => joined(pid, path).map(Some),
            None => Err(Error::invalid(
                "linux.security_context.namespace_options.pid: POD, but the sandbox was made \
                 without a pid namespace of its own",
            )),
        },
        v1::NamespaceMode::Target => match inputs.target_pid {
            Some(target) => joined(pid, format!("/proc/{target}/ns/pid").into()).map(Some),
            None => Err(Error::invalid(
                "linux.security_context.namespace_options.target_id: the container whose pid \
                 namespace is wanted does not run",
            )),
        },
    }
}

fn own(kind: LinuxNamespaceType) -> Result<LinuxNamespace, Error> {
    Ok(LinuxNamespaceBuilder::default().typ(kind).build()?)
}

fn joined(kind: LinuxNamespaceType, path: PathBuf) -> Result<LinuxNamespace, Error> {
    Ok(LinuxNamespaceBuilder::default()
        .typ(kind)
        .path(path)
        .build()?)
}

fn mode(field: &str, value: i32) -> Result<v1::NamespaceMode, Error> {
    v1::NamespaceMode::try_from(value).map_err(|_| {
        Error::invalid(format!(
            "linux.security_context.namespace_options.{field}: {value} is not a mode of the CRI"
        ))
    })
}

fn pod_or_node(field: &str, value: i32) -> Result<v1::NamespaceMode, Error> {
    match mode(field, value)? {
        known @ (v1::NamespaceMode::Pod | v1::NamespaceMode::Node) => Ok(known),
        other => Err(Error::invalid(format!(
            "linux.security_context.namespace_options.{field}: expected POD or NODE, got {}",
            other.as_str_name()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::error::ErrorKind;
    use crate::engine::spec::tests::{Fixture, sandbox_with};

    fn types(fixture: &Fixture, privilege: Privilege) -> Vec<(LinuxNamespaceType, String)> {
        plan_namespaces(&fixture.inputs(), privilege)
            .unwrap()
            .iter()
            .map(|namespace| {
                let path = namespace.path().as_ref();
                (
                    namespace.typ(),
                    path.map(|path| path.display().to_string())
                        .unwrap_or_default(),
                )
            })
            .collect()
    }

    fn options(network: i32, pid: i32, ipc: i32) -> v1::NamespaceOption {
        v1::NamespaceOption {
            network,
            pid,
            ipc,
            ..Default::default()
        }
    }

    const POD: i32 = v1::NamespaceMode::Pod as i32;
    const CONTAINER: i32 = v1::NamespaceMode::Container as i32;
    const NODE: i32 = v1::NamespaceMode::Node as i32;
    const TARGET: i32 = v1::NamespaceMode::Target as i32;

    #[test]
    fn a_kubelets_pod_shares_all_but_mounts_and_processes() {
        let fixture = Fixture::with_sandbox(sandbox_with(options(POD, CONTAINER, POD)));
        let list = types(&fixture, Privilege::Confined);
        assert!(list.contains(&(LinuxNamespaceType::Network, "/run/pod/ns/net".to_owned())));
        assert!(list.contains(&(LinuxNamespaceType::Ipc, "/run/pod/ns/ipc".to_owned())));
        assert!(list.contains(&(LinuxNamespaceType::Uts, "/run/pod/ns/uts".to_owned())));
        assert!(list.contains(&(LinuxNamespaceType::Pid, String::new())));
        assert!(list.contains(&(LinuxNamespaceType::Cgroup, String::new())));
    }

    #[test]
    fn the_hosts_network_brings_the_hosts_name() {
        let fixture = Fixture::with_sandbox(sandbox_with(options(NODE, NODE, NODE)));
        assert!(fixture.namespaces.pinned().is_empty());
        let list = types(&fixture, Privilege::Privileged);
        assert_eq!(list, [(LinuxNamespaceType::Mount, String::new())]);
    }

    #[test]
    fn processes_are_shared_by_path() {
        let fixture = Fixture::with_sandbox(sandbox_with(options(POD, POD, POD)));
        let list = types(&fixture, Privilege::Confined);
        assert!(list.contains(&(LinuxNamespaceType::Pid, "/run/pod/ns/pid".to_owned())));
    }

    #[test]
    fn a_debug_container_joins_its_target() {
        let mut fixture = Fixture::with_sandbox(sandbox_with(options(POD, CONTAINER, POD)));
        fixture.context().namespace_options = Some(options(POD, TARGET, POD));
        let error = plan_namespaces(&fixture.inputs(), Privilege::Confined).unwrap_err();
        assert!(error.to_string().contains("target_id"), "{error}");
        fixture.target_pid = Some(42);
        let list = types(&fixture, Privilege::Confined);
        assert!(list.contains(&(LinuxNamespaceType::Pid, "/proc/42/ns/pid".to_owned())));
    }

    #[test]
    fn modes_that_cannot_be_are_refused() {
        for wrong in [
            options(CONTAINER, CONTAINER, POD),
            options(POD, TARGET, POD),
            options(POD, CONTAINER, TARGET),
            options(9, CONTAINER, POD),
        ] {
            let error =
                PodNamespaces::plan(&sandbox_with(wrong), Path::new("/run/pod")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn a_user_namespace_is_joined_with_the_pods_others() {
        let mut with_users = options(POD, CONTAINER, POD);
        let ids = vec![v1::IdMapping {
            host_id: 65_536,
            container_id: 0,
            length: 65_536,
        }];
        with_users.userns_options = Some(v1::UserNamespace {
            mode: POD,
            uids: ids.clone(),
            gids: ids,
        });
        let mut fixture = Fixture::with_sandbox(sandbox_with(with_users));
        assert_eq!(fixture.namespaces.pinned()[0], PodNamespace::User);
        for privilege in [Privilege::Confined, Privilege::Privileged] {
            let list = types(&fixture, privilege);
            assert!(list.contains(&(LinuxNamespaceType::User, "/run/pod/ns/user".to_owned())));
            assert!(list.contains(&(LinuxNamespaceType::Cgroup, String::new())));
        }
        fixture.context().namespace_options = Some(options(POD, NODE, POD));
        let error = plan_namespaces(&fixture.inputs(), Privilege::Confined).unwrap_err();
        assert!(error.to_string().contains("pid: NODE"), "{error}");
    }
}
