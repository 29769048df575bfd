//! Containers of an ordinary user: what differs, decided in one place.
//!
//! Who is not root can make a user namespace and is root in there; all else of a
//! container follows (`user_namespace.rs` has the ids). Two things remain that
//! are the machine's: where the state lies, and cgroups, which a user has only as
//! far as somebody handed a part of the tree over (cgroups(7), "delegation").
//!
//! Read more: user_namespaces(7), docs/oci.md.

use std::path::{Path, PathBuf};

use crate::arguments::{Global, Rootless};
use crate::cgroup::error::CgroupError;
use crate::cgroup::plan::{CgroupManager, CgroupPlan, CgroupRequest, plan_cgroup};
use crate::cgroup::tree::CgroupTree;

/// Where root's containers are.
const ROOTS_STATE: &str = "/run/berth/oci";

/// Where the state is kept when nobody says: a user's in their own runtime
/// folder, as runc and crun have it.
pub fn default_root() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return ROOTS_STATE.into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => Path::new(&folder).join("berth/oci"),
        // It cannot be written, and that error says more than a folder in /tmp,
        // where anybody could have made it before.
        None => ROOTS_STATE.into(),
    }
}

/// Whether the caller is to be taken for an ordinary user.
pub fn applies(global: &Global) -> bool {
    match global.rootless {
        Rootless::True => true,
        Rootless::False => false,
        Rootless::Auto => !nix::unistd::geteuid().is_root(),
    }
}

/// The cgroups that an ordinary user can have: in the hierarchies in which the
/// place for them may be written. Where the configuration names no place it is
/// beside the caller's own group, the only one that may be theirs.
///
/// # Errors
///
/// A limit that none of those can hold.
pub fn plan_delegated(
    request: &CgroupRequest<'_>,
    mut tree: CgroupTree,
) -> Result<Option<CgroupPlan>, CgroupError> {
    let beside = Path::new("berth").join(request.id);
    let named = request
        .cgroups_path
        .filter(|path| !path.as_os_str().is_empty());
    let request = CgroupRequest {
        cgroups_path: Some(named.unwrap_or(&beside)),
        ..*request
    };
    let places = plan_cgroup(
        &CgroupRequest {
            resources: None,
            ..request
        },
        &tree,
    )?;
    let mut writable = places
        .hierarchies
        .iter()
        .map(|hierarchy| is_writable(&hierarchy.directory()));
    tree.hierarchies.retain(|_| writable.next() == Some(true));
    if !tree.hierarchies.is_empty() {
        return plan_cgroup(&request, &tree).map(Some).map_err(explain);
    }
    let none = CgroupRequest {
        manager: CgroupManager::Disabled,
        ..request
    };
    plan_cgroup(&none, &tree).map_err(explain)?;
    eprintln!(
        "berth-oci: warning: no cgroup was delegated to this user, so the container is neither \
         limited nor counted; `pause`, `update` and `ps` will not work"
    );
    Ok(None)
}

/// Whether a folder could be made there: what is there already of the way to it
/// may be written.
fn is_writable(directory: &Path) -> bool {
    let there = directory.ancestors().find(|path| path.exists());
    there.is_some_and(|path| {
        rustix::fs::accessat(
            rustix::fs::CWD,
            path,
            rustix::fs::Access::WRITE_OK,
            rustix::fs::AtFlags::EACCESS,
        )
        .is_ok()
    })
}

fn explain(error: CgroupError) -> CgroupError {
    match error {
        CgroupError::NoController { field, controller } => {
            let reason = format!(
                "no cgroup with the controller {controller:?} was delegated to this user, so the \
                 limit could not be kept"
            );
            CgroupError::Invalid { field, reason }
        }
        other => other,
    }
}
