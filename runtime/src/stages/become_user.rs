//! Stage `become-user`: init has the program's user, groups and capabilities.
//!
//! The order is the kernel's: the bounding set while `CAP_SETPCAP` is there,
//! groups before the user, because leaving user 0 takes `CAP_SETGID` along, and
//! capabilities after it, kept over the change by `PR_SET_KEEPCAPS`.
//!
//! Where a seccomp filter is to come and no_new_privs is not set, loading it
//! needs `CAP_SYS_ADMIN`, so that one stays *permitted* until `filter-calls`.

use std::os::fd::{AsFd, BorrowedFd};

use caps::{Capability, CapsHashSet};
use nix::errno::Errno;

use super::enter_cwd;
use crate::init::Init;
use crate::plan::process::{CapabilityPlan, ProcessPlan};
use crate::stage::{Run, Stage, StageError};
use crate::sys::{path, privilege};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "become-user",
    effect: "user, groups and capabilities are the program's",
    after: &["set-limits", "enter-cwd"],
    see: &[
        "credentials(7)",
        "capabilities(7)",
        "OCI config.md#user",
        "OCI config.md#linux-process",
    ],
    run: Run::Init(become_user),
};

fn become_user(init: &mut Init) -> Result<(), StageError> {
    let process = &init.plan.process;
    own_streams(process)?;
    let capabilities = &process.capabilities;
    privilege::limit_bounding_set(&capabilities.bounding)?;
    privilege::keep_capabilities()?;
    if !init.plan.wishes.keep_groups {
        match privilege::set_groups(&process.groups) {
            // Where a user namespace forbids it (`own-ids`) there is nothing to drop
            // that could be dropped; groups that are asked for are another matter.
            Err(error)
                if error.errno() == Errno::EPERM
                    && process.groups.is_empty()
                    && init.is_isolated() => {}
            other => other?,
        }
    }
    privilege::set_group(process.gid)?;
    privilege::set_user(process.uid)?;
    let known = known_capabilities()?;
    let (effective, permitted) = sets_until_the_filter(init, capabilities, &known);
    let mut inheritable = capabilities.inheritable.clone();
    inheritable.retain(|one| known.contains(one));
    privilege::set_capabilities(&effective, &permitted, &inheritable)?;
    // The kernel lets only what is both permitted and inheritable be ambient.
    // runc's own default spec asks for more, so the rest is left away, as there.
    let mut ambient = capabilities.ambient.clone();
    ambient.retain(|one| permitted.contains(one) && inheritable.contains(one));
    privilege::set_ambient(&ambient)?;
    // A directory of the user's own may have refused us before.
    enter_cwd::change(init)
}

/// What init may have at all: asking for more than the runtime's own fails.
fn known_capabilities() -> Result<CapsHashSet, StageError> {
    Ok(privilege::observe_permitted()?)
}

/// Effective and permitted sets with which init waits. What the runtime itself
/// lacks is left away, as runc does: a caller in a container asks for the usual
/// set without knowing what it has.
fn sets_until_the_filter(
    init: &Init,
    wanted: &CapabilityPlan,
    had: &CapsHashSet,
) -> (CapsHashSet, CapsHashSet) {
    let mut permitted: CapsHashSet = wanted.permitted.intersection(had).copied().collect();
    let mut effective: CapsHashSet = wanted.effective.intersection(&permitted).copied().collect();
    if init.filter.is_some() && !init.plan.process.no_new_privileges {
        permitted.insert(Capability::CAP_SYS_ADMIN);
        effective.insert(Capability::CAP_SYS_ADMIN);
    }
    (effective, permitted)
}

/// The program must be able to open `/dev/stdout` anew, so the streams are its
/// own. Devices are left alone: `/dev/null` belongs to everybody.
fn own_streams(process: &ProcessPlan) -> Result<(), StageError> {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams: [BorrowedFd<'_>; 3] = [input.as_fd(), output.as_fd(), error.as_fd()];
    for stream in streams {
        let Ok(found) = path::status(stream) else {
            continue;
        };
        let is_device = rustix::fs::FileType::from_raw_mode(found.st_mode)
            == rustix::fs::FileType::CharacterDevice;
        if is_device || found.st_uid == process.uid {
            continue;
        }
        match path::change_user_of(stream, process.uid) {
            // A stream on a read-only filesystem, or of another user namespace, stays.
            Err(error) if !matches!(error.errno(), Errno::EPERM | Errno::EROFS | Errno::EINVAL) => {
                return Err(error.into());
            }
            _ => {}
        }
    }
    Ok(())
}
