//! Stage `own-ids`: init is root of its user namespace, and nobody on the host.
//!
//! A process in a new user namespace has every capability there from the first
//! moment, but its user and groups are still the caller's: what it made would
//! belong to an id that the container does not have, and what the caller's user
//! may read, it could. So it changes over as soon as there are ids to change
//! to, and drops the caller's other groups.

use nix::errno::Errno;
use nix::sched::CloneFlags;

use crate::init::{Init, Message};
use crate::plan::mappings::Mappings;
use crate::stage::{Run, Stage, StageError};
use crate::sys::{privilege, process};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "own-ids",
    effect: "init is root of its user namespace, with none of the caller's groups",
    after: &["map-ids", "join-spaces"],
    see: &["user_namespaces(7)", "credentials(7)"],
    run: Run::InitIf(Init::is_isolated, own_ids),
};

fn own_ids(init: &mut Init) -> Result<(), StageError> {
    if init.plan.namespaces.new.contains(CloneFlags::CLONE_NEWUSER) {
        init.await_message(Message::Mapped)?;
    }
    let Some(mappings) = init.plan.mappings.as_ref() else {
        return Ok(());
    };
    // crun's `run.oci.keep_original_groups` wants them kept, as `become-user` does.
    if init.plan.wishes.keep_groups {
        return change(mappings);
    }
    match privilege::set_groups(&[]) {
        // Who maps only themselves may not leave groups: one may be there to keep
        // them out (user_namespaces(7), "setgroups").
        Err(error) if error.errno() == Errno::EPERM => {}
        other => other?,
    }
    change(mappings)
}

fn change(mappings: &Mappings) -> Result<(), StageError> {
    privilege::set_group(mappings.root_gid())?;
    privilege::set_user(mappings.root_uid())?;
    // Until now an ordinary caller had to be able to write to /proc/PID/uid_map.
    Ok(process::set_undumpable()?)
}
