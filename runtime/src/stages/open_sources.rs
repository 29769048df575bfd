//! Stage `open-sources`: what init could not reach from a user namespace is open already.
//!
//! Root of a user namespace is nobody on the host, and may not pass through the
//! folders that lead to an image or a volume, nor join a cgroup. So the runtime
//! takes copies of those mounts here, with its own rights, and init, a copy of
//! it, finds them among its descriptors. Owners are moved here too
//! (`MOUNT_ATTR_IDMAP`): only who may mount the filesystem itself may do that.
//!
//! An ordinary user has no rights to lend; init then opens all by itself, with
//! the same ones.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sched::CloneFlags;

use super::clone_init::open_namespace;
use crate::creation::Creation;
use crate::plan::CreatePlan;
use crate::plan::idmap::IdmapPlan;
use crate::plan::mappings::Mappings;
use crate::plan::mounts::MountKind;
use crate::stage::{Run, Stage, StageError};
use crate::sys::call::SyscallError;
use crate::sys::mount::{self, AttributeChange, Depth};
use crate::sys::path;
use crate::user_namespace;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "open-sources",
    effect: "mounts that init could not reach or map itself are open, for user namespaces and id maps",
    after: &["create-v2"],
    see: &[
        "open_tree(2)",
        "mount_setattr(2)",
        "OCI config.md#mounts",
        "docs/oci.md",
    ],
    run: Run::RuntimeIf(lends_mounts, open_sources),
};

/// For user namespaces, and for mounts whose owners are moved.
fn lends_mounts(creation: &Creation) -> bool {
    let plan = &creation.plan;
    plan.mappings.is_some() || plan.mounts.iter().any(|mount| mount.idmap.is_some())
}

fn open_sources(creation: &mut Creation) -> Result<(), StageError> {
    let plan = &creation.plan;
    if plan.namespaces.joins(CloneFlags::CLONE_NEWNS) {
        // The paths are those of that mount namespace, where init looks them up.
        return refuse_idmaps(plan);
    }
    let isolated = plan.mappings.is_some();
    if isolated {
        creation.handed.root = clone_tree(plan, plan.rootfs.as_path(), Depth::Recursive)?;
    }
    let mut maps = Maps::default();
    for (index, planned) in plan.mounts.iter().enumerate() {
        let MountKind::Bind { source, depth } = &planned.kind else {
            continue;
        };
        if !isolated && planned.idmap.is_none() {
            continue;
        }
        let opened = clone_tree(plan, source.as_path(), *depth).and_then(|tree| {
            match (&tree, &planned.idmap) {
                (Some(tree), Some(idmap)) => {
                    let namespace = maps.find(plan, idmap)?;
                    mount::set_idmap(tree.as_fd(), idmap.depth, namespace.as_fd())
                        .map_err(|error| explain(idmap, &error))?;
                }
                (None, Some(_)) => {
                    let reason = "id-mapped mounts need the rights of the host's root";
                    return Err(StageError::Refused(reason.to_owned()));
                }
                _ => {}
            }
            Ok(tree)
        });
        let place = planned.destination.as_path();
        let opened = opened.map_err(|error| {
            let error = crate::causes::chain(&error);
            StageError::Refused(format!("mounts[{index}] {place:?}: {error}"))
        })?;
        creation
            .handed
            .trees
            .extend(opened.map(|tree| (index, tree)));
    }
    Ok(())
}

/// A copy of a mount; `None` where the caller has no rights over its own mounts.
fn clone_tree(
    plan: &CreatePlan,
    source: &Path,
    depth: Depth,
) -> Result<Option<OwnedFd>, StageError> {
    let opened = path::open_host(source)?;
    let tree = match mount::open_tree_clone(opened.as_fd(), depth) {
        Err(error) if error.errno() == Errno::EPERM => return Ok(None),
        other => other?,
    };
    // The copy of a shared mount is its peer, wherever it is attached: whatever the
    // container mounted below would appear on the host. The kernel makes that
    // impossible for mounts that a user namespace inherits, but not for this one.
    let kept = plan.root_propagation & !libc::MS_REC;
    let propagation = match (plan.mappings.is_some(), kept) {
        (true, libc::MS_SHARED) => libc::MS_SLAVE,
        (_, kept) => kept,
    };
    let quiet = AttributeChange {
        propagation,
        ..AttributeChange::default()
    };
    mount::mount_setattr(tree.as_fd(), Depth::Recursive, quiet)?;
    Ok(Some(tree))
}

/// Namespaces that stand for mappings, each made once.
#[derive(Default)]
struct Maps(Vec<(Option<Mappings>, OwnedFd)>);

impl Maps {
    fn find(&mut self, plan: &CreatePlan, idmap: &IdmapPlan) -> Result<&OwnedFd, StageError> {
        let known = self.0.iter().position(|(of, _)| *of == idmap.mappings);
        let index = match known {
            Some(index) => index,
            None => {
                let made = match (&idmap.mappings, &plan.mappings) {
                    (Some(given), _) => user_namespace::make_empty(given)?,
                    (None, own) => own_map(plan, own.as_ref())?,
                };
                self.0.push((idmap.mappings.clone(), made));
                self.0.len() - 1
            }
        };
        Ok(&self.0[index].1)
    }
}

/// The container's own namespace does not exist yet, but one like it does as well;
/// one that is joined is there to be used.
fn own_map(plan: &CreatePlan, own: Option<&Mappings>) -> Result<OwnedFd, StageError> {
    let mut joined = plan.namespaces.joined.iter();
    match joined.find(|joined| joined.kind == CloneFlags::CLONE_NEWUSER) {
        Some(joined) => open_namespace(joined.path.as_path()),
        None => {
            user_namespace::make_empty(own.expect("the plan refuses it without a user namespace"))
        }
    }
}

fn explain(idmap: &IdmapPlan, error: &SyscallError) -> StageError {
    let hint = match error.errno() {
        Errno::EINVAL => " (the filesystem cannot map ids on this kernel, or is mapped already)",
        Errno::EPERM if idmap.mappings.is_some() => {
            " (it takes the rights over the filesystem, and a map that is not the host's own)"
        }
        Errno::EPERM => " (it takes the rights over the filesystem)",
        Errno::ENOSYS => " (Linux 5.12 is needed)",
        _ => "",
    };
    StageError::Refused(format!("{error}{hint}"))
}

fn refuse_idmaps(plan: &CreatePlan) -> Result<(), StageError> {
    match plan.mounts.iter().position(|one| one.idmap.is_some()) {
        None => Ok(()),
        Some(index) => Err(StageError::Refused(format!(
            "mounts[{index}]: an id-mapped mount in a mount namespace that is joined by its path \
             is not possible: its source is found there, and the right to map it is here"
        ))),
    }
}
