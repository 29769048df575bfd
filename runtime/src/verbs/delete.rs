//! `delete`: nothing of a container is left.

use std::os::fd::AsFd;
use std::time::Duration;

use super::create::plan_cgroups;
use super::{Found, find, for_each_match};
use crate::arguments::{DeleteArguments, Global};
use crate::error::{Error, ErrorKind};
use crate::hooks::{HookState, open_outputs, run_hooks};
use crate::ids::ContainerId;
use crate::plan::plan_create;
use crate::resctrl::CacheGroup;
use crate::stage::StageError;
use crate::state::{StateStore, Status};
use crate::sys::process;

/// How long an init may take to die of SIGKILL.
const DEATH: Duration = Duration::from_secs(10);

/// Takes a container away, with `--regex` each of a matching name.
///
/// # Errors
///
/// [`ErrorKind::WrongState`] for one that runs, without `--force`. What cannot
/// be taken away is named, and the rest is gone all the same.
pub fn delete(global: &Global, arguments: &DeleteArguments) -> Result<i32, Error> {
    if arguments.regex {
        return for_each_match(global, &arguments.id, |id| {
            delete_one(global, arguments, id)
        });
    }
    delete_one(global, arguments, &arguments.id)
}

fn delete_one(global: &Global, arguments: &DeleteArguments, id: &str) -> Result<i32, Error> {
    let found = match find(global, id) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound && arguments.force => {
            return remove_remains(global, id);
        }
        Err(error) => return Err(error),
    };
    match found.status {
        Status::Stopped => {}
        // Its program never ran, so there is nothing to stop.
        Status::Created => end(&found)?,
        _ if arguments.force => end(&found)?,
        other => {
            let text = format!(
                "cannot delete container {} that is not stopped: {}",
                found.record.id,
                other.word()
            );
            return Err(Error::new(ErrorKind::WrongState, text));
        }
    }
    destroy(&found)?;
    Ok(0)
}

/// Takes away what a container has on the host; its init has ended.
///
/// # Errors
///
/// The first thing that cannot be taken away, after all others were.
pub fn destroy(found: &Found) -> Result<(), Error> {
    // Read before the folder goes.
    let spec = found.folder.read_config();
    let cgroup = remove_groups(found);
    if cgroup.is_ok() {
        found.folder.remove()?;
    }
    if let Ok(spec) = spec {
        let hooks = spec
            .hooks()
            .as_ref()
            .and_then(|hooks| hooks.poststop().clone());
        let _ = open_outputs(&found.record.annotations);
        for hook in hooks.unwrap_or_default() {
            // The spec: a poststop hook that fails is told of and nothing more.
            if let Err(error) = run_hooks("poststop", &[hook], &stopped(found)) {
                eprintln!("berth-oci: warning: {}", crate::causes::chain(&error));
            }
        }
    }
    cgroup
}

fn stopped(found: &Found) -> HookState<'_> {
    HookState {
        oci_version: &found.record.oci_version,
        id: &found.record.id,
        status: Status::Stopped,
        pid: None,
        bundle: &found.record.bundle,
        annotations: &found.record.annotations,
    }
}

/// The class of cache goes though the cgroup may stay.
fn remove_groups(found: &Found) -> Result<(), Error> {
    let cgroup = remove_cgroup(found);
    let cache = found.record.cache_group.as_ref();
    let cache = cache.map_or(Ok(()), CacheGroup::remove);
    cgroup.and(cache.map_err(|error| StageError::from(error).into()))
}

/// Without a pid namespace of its own a container's other processes outlive its
/// init; they end here.
fn remove_cgroup(found: &Found) -> Result<(), Error> {
    let Some(cgroup) = &found.record.cgroup else {
        return Ok(());
    };
    if cgroup.pids().is_ok_and(|pids| !pids.is_empty()) {
        cgroup.kill_all()?;
    }
    Ok(cgroup.remove()?)
}

/// SIGKILL, and the end of it.
fn end(found: &Found) -> Result<(), Error> {
    let Some(init) = found.record.init else {
        // Its maker still works on it, or was killed: what it made is in the record.
        return Ok(());
    };
    let Ok(process) = init.open() else {
        return Ok(());
    };
    // One that has ended in the meantime is what we want.
    let _ = process::pidfd_send_signal(process.as_fd(), libc::SIGKILL);
    // Also what waits for `start` may be frozen; its status does not tell.
    if matches!(found.status, Status::Paused | Status::Created)
        && let Some(cgroup) = &found.record.cgroup
    {
        // A group that is gone holds nobody.
        let _ = cgroup.thaw();
    }
    if process::wait_until_ended(process.as_fd(), DEATH)? {
        return Ok(());
    }
    let text = format!(
        "init {} did not end within {DEATH:?} of SIGKILL",
        init.pid.0
    );
    Err(Error::new(ErrorKind::Failed, text))
}

/// A folder without a state is what a `create` left that was killed before init
/// was there. Its cgroups follow from the configuration, as they did for it.
fn remove_remains(global: &Global, id: &str) -> Result<i32, Error> {
    let id = ContainerId::parse(id)?;
    let Ok(folder) = StateStore::new(&global.root).open_folder(&id) else {
        return Ok(0);
    };
    if let Ok(spec) = folder.read_config()
        && let Ok(plan) = plan_create(&id, folder.path(), &spec)
        && let Some(cgroup) = plan_cgroups(global, &plan)?
    {
        cgroup.remove()?;
    }
    folder.remove()?;
    Ok(0)
}
