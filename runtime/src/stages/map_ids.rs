//! Stage `map-ids`: the user namespace has its ids, and init knows.
//!
//! Until then init is nobody in its namespace: every id reads as 65534, and no
//! file can belong to it. It waits in `own-ids`. What only the host's rights can
//! give away to the container's root is given here too: pipes of the caller
//! that become its streams, and on version 2 its own cgroup.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::fs::FileType;

use crate::creation::Creation;
use crate::init::Message;
use crate::plan::CreatePlan;
use crate::plan::mappings::{IdRange, Mappings, outside_of};
use crate::plan::mounts::MountKind;
use crate::stage::{Run, Stage, StageError};
use crate::sys::call::SyscallError;
use crate::sys::path;
use crate::user_namespace::{read_maps, write_maps};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "map-ids",
    effect: "the user namespace has its ids, and its root owns the caller's pipes and its cgroup",
    after: &["clone-init"],
    see: &[
        "user_namespaces(7)",
        "newuidmap(1)",
        "OCI config-linux.md#user-namespace-mappings",
        "docs/oci.md",
    ],
    run: Run::RuntimeIf(Creation::is_isolated, map_ids),
};

fn map_ids(creation: &mut Creation) -> Result<(), StageError> {
    let (pid, _) = creation.init.as_ref().expect("clone-init made it");
    let Some(planned) = creation.plan.mappings.as_ref() else {
        return Ok(());
    };
    let new = CloneFlags::CLONE_NEWUSER;
    let real = if creation.plan.namespaces.new.contains(new) {
        write_maps(*pid, planned)?;
        planned.clone()
    } else {
        let real = read_maps(*pid)?;
        compare("linux.uidMappings", &planned.uids, &real.uids)?;
        compare("linux.gidMappings", &planned.gids, &real.gids)?;
        real
    };
    if nix::unistd::geteuid().is_root() {
        give_pipes(&creation.plan, &real)?;
        if creation
            .cgroup
            .as_ref()
            .is_some_and(|plan| plan.scope.is_none())
        {
            give_cgroup(creation, &real)?;
        }
    }
    if creation.plan.namespaces.new.contains(new) {
        // An init that has failed in the meantime is heard by await-init.
        let _ = creation.tell(Message::Mapped);
    }
    Ok(())
}

/// The maps of a namespace that is joined are what they are.
fn compare(field: &str, planned: &[IdRange], real: &[IdRange]) -> Result<(), StageError> {
    if planned.is_empty() || planned == real {
        return Ok(());
    }
    Err(StageError::Refused(format!(
        "{field}: the user namespace that is joined by its path has other ones: {real:?}"
    )))
}

/// The program may open `/dev/stdout` anew only when the pipe is its user's.
/// Files and terminals stay their owners': they have a life after the container.
fn give_pipes(plan: &CreatePlan, real: &Mappings) -> Result<(), StageError> {
    let Some(owner) = outside_of(&real.uids, plan.process.uid) else {
        return Ok(());
    };
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams: [BorrowedFd<'_>; 3] = [input.as_fd(), output.as_fd(), error.as_fd()];
    for stream in streams {
        let is_pipe = path::status(stream)
            .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Fifo);
        if is_pipe {
            path::change_user_of(stream, owner)?;
        }
    }
    Ok(())
}

/// In version 2 a group may be handed to an ordinary user: its own folder and the
/// files that the kernel lists. Done where the container can write there at all:
/// it has a cgroup namespace, and the mount is not read-only.
///
/// # Errors
///
/// Those of `fchown(2)`; `ENOENT` before the group is made, which for a unit of
/// systemd's is in `create-v1`.
pub fn give_cgroup(creation: &Creation, real: &Mappings) -> Result<(), StageError> {
    let plan = &creation.plan;
    let group = creation.cgroup.as_ref().and_then(|plan| plan.unified());
    let owner = outside_of(
        &real.uids,
        plan.mappings.as_ref().map_or(0, Mappings::root_uid),
    );
    let own_view = plan.namespaces.new.contains(CloneFlags::CLONE_NEWCGROUP);
    let (Some(group), Some(owner), true) = (group, owner, own_view && shows_writable(plan)) else {
        return Ok(());
    };
    let directory = path::open_readable(&group.directory())?;
    path::change_user_of(directory.as_fd(), owner)?;
    // Linux 4.15; an older kernel has no list, and no cgroup worth to hand over.
    let list = std::fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_default();
    for name in list.lines() {
        match give_file(directory.as_fd(), Path::new(name), owner) {
            // The list is of all controllers, and this group has some of them.
            Err(error) if error.errno() == nix::errno::Errno::ENOENT => {}
            other => other?,
        }
    }
    Ok(())
}

fn give_file(group: BorrowedFd<'_>, name: &Path, owner: u32) -> Result<(), SyscallError> {
    let file = path::open_plain(group, name, rustix::fs::OFlags::RDONLY)?;
    path::change_user_of(file.as_fd(), owner)
}

fn shows_writable(plan: &CreatePlan) -> bool {
    let mut mounts = plan.mounts.iter();
    let shown = mounts.find(|mount| matches!(mount.kind, MountKind::Cgroup));
    shown.is_some_and(|mount| mount.options.attributes.set & libc::MOUNT_ATTR_RDONLY == 0)
}
