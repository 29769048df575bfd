//! Giving a user namespace its ids, from outside of it.
//!
//! A new user namespace has no ids, and whoever made it cannot choose them
//! alone: the kernel takes the maps from a process with `CAP_SETUID` and
//! `CAP_SETGID` in the namespace around it. Anybody may map one id, their own,
//! as long as groups can no longer be dropped inside (`setgroups` is `deny`):
//! a file may keep a group *out*, and leaving the group would be a gain
//! (CVE-2014-8989). For more than that an ordinary user asks newuidmap(1),
//! which knows from `/etc/subuid` which ids are theirs.
//!
//! Read more: user_namespaces(7), subuid(5), newuidmap(1).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::CloneFlags;

use crate::plan::mappings::{IdRange, Mappings, parse, text_of};
use crate::stage::StageError;
use crate::stages::clone_init::open_namespace;
use crate::sys::call::{SyscallError, narrating, tell};
use crate::sys::channel;
use crate::sys::process::{self, Cloned, HostPid};
use crate::sys::procfs::{Procfs, of_process};

/// Who writes a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// This process, which has the rights.
    Privileged,
    /// This process, for its one own id.
    OwnId,
    /// newuidmap(1) and newgidmap(1).
    Helper,
}

/// Writes the maps of a process's user namespace.
///
/// # Errors
///
/// `EPERM`: ids that are not the caller's to give. What newuidmap says.
pub fn write_maps(pid: HostPid, mappings: &Mappings) -> Result<(), StageError> {
    let caller = (
        nix::unistd::geteuid().as_raw(),
        nix::unistd::getegid().as_raw(),
    );
    match choose_writer(caller, mappings) {
        Writer::Helper => {
            ask_helper("newuidmap", pid, &mappings.uids)?;
            ask_helper("newgidmap", pid, &mappings.gids)
        }
        writer => {
            if writer == Writer::OwnId {
                write(pid, "setgroups", "deny")?;
            }
            write(pid, "uid_map", &text_of(&mappings.uids))?;
            Ok(write(pid, "gid_map", &text_of(&mappings.gids))?)
        }
    }
}

fn choose_writer((uid, gid): (u32, u32), mappings: &Mappings) -> Writer {
    let is_own = |ranges: &[IdRange], own: u32| matches!(ranges, [one] if one.count == 1 && one.outside == own);
    if uid == 0 {
        Writer::Privileged
    } else if is_own(&mappings.uids, uid) && is_own(&mappings.gids, gid) {
        Writer::OwnId
    } else {
        Writer::Helper
    }
}

/// What the kernel says about a process's maps.
///
/// # Errors
///
/// `ENOENT`: the process is gone.
pub fn read_maps(pid: HostPid) -> Result<Mappings, SyscallError> {
    let list = |name: &str| {
        let text = Procfs::open()?.read(&of_process(pid, name))?;
        // The kernel writes what `parse` reads.
        Ok(parse(&text).unwrap_or_default())
    };
    Ok(Mappings {
        uids: list("uid_map")?,
        gids: list("gid_map")?,
    })
}

/// A user namespace with these maps that nobody is in, for id-mapped mounts: they
/// take a mapping by a descriptor of a namespace that has it.
///
/// # Errors
///
/// As [`write_maps`]; `ENOSPC`: a limit of namespaces.
pub fn make_empty(mappings: &Mappings) -> Result<OwnedFd, StageError> {
    let (ours, theirs) = channel::pair()?;
    match process::clone3(CloneFlags::CLONE_NEWUSER, None)? {
        Cloned::Child => {
            drop(ours);
            // It is only there to be in the namespace, and ends with this process.
            let _ = channel::receive(theirs.as_fd());
            process::exit_now(0)
        }
        Cloned::Parent(pid, _) => {
            drop(theirs);
            let made = write_maps(pid, mappings).and_then(|()| {
                open_namespace(&Path::new("/proc").join(of_process(pid, "ns/user")))
            });
            drop(ours);
            process::wait_for(pid)?;
            made
        }
    }
}

/// One write for the whole: the kernel takes a map once.
fn write(pid: HostPid, name: &str, text: &str) -> Result<(), SyscallError> {
    Procfs::open()?.write(&of_process(pid, name), text)
}

fn ask_helper(program: &str, pid: HostPid, ranges: &[IdRange]) -> Result<(), StageError> {
    let mut command = Command::new(program);
    command.arg(pid.0.to_string());
    for range in ranges {
        command.args([range.inside, range.outside, range.count].map(|number| number.to_string()));
    }
    if narrating() {
        tell(format_args!("    {command:?}"));
    }
    let asked = command.stdin(Stdio::null()).output();
    let told = asked.map_err(|source| StageError::File {
        path: format!(
            "{program}: more ids than the caller's own are mapped, and for that it is needed \
             (Debian: package uidmap)"
        ),
        source,
    })?;
    if told.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&told.stderr).trim().to_owned();
    Err(StageError::Refused(format!(
        "{program}: {words} (are the ids the caller's in /etc/subuid and /etc/subgid?)"
    )))
}

#[cfg(test)]
mod tests {
    use super::{Writer, choose_writer};
    use crate::plan::mappings::{IdRange, Mappings};

    #[test]
    fn one_may_map_oneself() {
        let map = |outside, count| Mappings {
            uids: vec![IdRange {
                inside: 0,
                outside,
                count,
            }],
            gids: vec![IdRange {
                inside: 0,
                outside: 2000,
                count: 1,
            }],
        };
        let caller = (1000, 2000);
        assert_eq!(choose_writer(caller, &map(1000, 1)), Writer::OwnId);
        assert_eq!(choose_writer(caller, &map(1001, 1)), Writer::Helper);
        assert_eq!(choose_writer(caller, &map(1000, 2)), Writer::Helper);
        assert_eq!(choose_writer((1000, 5), &map(1000, 1)), Writer::Helper);
        assert_eq!(choose_writer((0, 0), &map(1000, 2)), Writer::Privileged);
    }
}
