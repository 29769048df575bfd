//! Which namespaces init gets: new ones from `clone3(2)`/`unshare(2)`, or those of a path.

use std::path::PathBuf;

use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use super::SpecError;
use crate::ids::HostPath;

/// New and joined namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespacePlan {
    /// Made for this container.
    pub new: CloneFlags,
    /// Joined, in the order in which `setns(2)` can do it.
    pub joined: Vec<JoinedNamespace>,
}

/// A namespace that exists already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedNamespace {
    /// Its kind, one flag.
    pub kind: CloneFlags,
    /// A file that stands for it.
    pub path: HostPath,
}

impl NamespacePlan {
    /// Whether the container has one of this kind that is not its caller's.
    pub fn has_own(&self, kind: CloneFlags) -> bool {
        self.new.contains(kind) || self.joins(kind)
    }

    /// Whether the container has no mount namespace, so that it is made in a tree of
    /// mounts that no namespace holds; see `stages/bind_root.rs`.
    pub fn shares_mounts(&self) -> bool {
        !self.has_own(CloneFlags::CLONE_NEWNS)
    }

    /// The same of the time namespace, for which nix has no name.
    pub const TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

    /// Whether the namespaces cannot all come with the `clone3(2)` that makes
    /// init, but only with a second one, of a process that has prepared itself:
    ///
    /// - in a user namespace that is joined, the new ones must be made from
    ///   within, so that it owns them; and for one that is new the others must
    ///   be joined before, while the host's rights are still there;
    /// - clocks are set between the making of a time namespace and the birth of
    ///   its first process.
    pub fn takes_two_steps(&self) -> bool {
        let user = CloneFlags::CLONE_NEWUSER;
        let (new, joined) = (self.new.contains(user), self.joins(user));
        joined || (new && !self.joined.is_empty()) || self.new.contains(Self::TIME)
    }

    /// Whether the container shares one of this kind by its path.
    pub fn joins(&self, kind: CloneFlags) -> bool {
        self.joined.iter().any(|joined| joined.kind == kind)
    }
}

/// Decides for each kind.
///
/// # Errors
///
/// A kind that stands twice, and a path that is relative.
pub fn plan_namespaces(wanted: &[LinuxNamespace]) -> Result<NamespacePlan, SpecError> {
    let mut plan = NamespacePlan {
        new: CloneFlags::empty(),
        joined: Vec::new(),
    };
    for (index, namespace) in wanted.iter().enumerate() {
        let kind = flag(namespace.typ());
        if plan.has_own(kind) {
            let field = format!("linux.namespaces[{index}].type");
            return Err(SpecError::new(
                field,
                "each kind may stand once, this is the second",
            ));
        }
        match namespace
            .path()
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty())
        {
            None => plan.new |= kind,
            Some(path) if path.is_absolute() => plan.joined.push(JoinedNamespace {
                kind,
                path: HostPath::new(PathBuf::from(path)),
            }),
            Some(path) => {
                let field = format!("linux.namespaces[{index}].path");
                return Err(SpecError::new(
                    field,
                    format!("expected an absolute path, found {path:?}"),
                ));
            }
        }
    }
    if plan.shares_mounts() && plan.has_own(CloneFlags::CLONE_NEWUSER) {
        let reason = "expected a mount namespace with the user namespace, whose root may not mount in the host's";
        return Err(SpecError::new("linux.namespaces", reason));
    }
    // Once the mount namespace is another, the host's paths of the others are gone:
    // all are opened first, but joined last all the same, for setns(2) of a mount
    // namespace also moves the root and the working directory.
    plan.joined
        .sort_by_key(|joined| joined.kind == CloneFlags::CLONE_NEWNS);
    Ok(plan)
}

/// A name for the UTS namespace, which must then be the container's own.
///
/// # Errors
///
/// A name without a UTS namespace: it would be the host's.
pub fn for_uts(
    plan: &NamespacePlan,
    field: &str,
    name: &Option<String>,
) -> Result<Option<String>, SpecError> {
    let Some(name) = name.clone().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if !plan.has_own(CloneFlags::CLONE_NEWUTS) {
        let reason = "a uts namespace is needed for it, else the host itself would be renamed";
        return Err(SpecError::new(field, reason));
    }
    Ok(Some(name))
}

fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => NamespacePlan::TIME,
    }
}
