//! Who a process is and what it may do: credentials(7), capabilities(7), limits.

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;

use super::call::{HasErrno, SyscallError, check, finish, remark};
use super::process::HostPid;

impl HasErrno for caps::errors::CapsError {
    fn errno(&self) -> Errno {
        // The crate tells the errno only in its text; the call that failed last
        // on this thread was its own.
        Errno::last()
    }
}

/// `prctl(PR_SET_NO_NEW_PRIVS, 1)`: no exec from here on gives more than its caller had.
///
/// # Errors
///
/// None is documented for 1.
pub fn set_no_new_privileges() -> Result<(), SyscallError> {
    finish(rustix::thread::set_no_new_privs(true), || {
        "prctl(PR_SET_NO_NEW_PRIVS, 1)".to_owned()
    })
}

/// `prctl(PR_SET_KEEPCAPS, 1)`: the permitted set survives leaving user 0, until the next exec.
///
/// # Errors
///
/// `EPERM`: a securebit forbids it.
pub fn keep_capabilities() -> Result<(), SyscallError> {
    // SAFETY: no pointers are passed.
    let returned = unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) };
    finish(check(returned.into()).map(drop), || {
        "prctl(PR_SET_KEEPCAPS, 1)".to_owned()
    })
}

/// `int setgroups(size_t, const gid_t *)`.
///
/// # Errors
///
/// `EPERM` without `CAP_SETGID`, or where a user namespace denies it.
pub fn set_groups(groups: &[u32]) -> Result<(), SyscallError> {
    let list: Vec<nix::unistd::Gid> = groups
        .iter()
        .copied()
        .map(nix::unistd::Gid::from_raw)
        .collect();
    finish(nix::unistd::setgroups(&list), || {
        format!("setgroups({groups:?})")
    })
}

/// `setresgid(gid, gid, gid)`.
///
/// # Errors
///
/// `EPERM` without `CAP_SETGID`; `EINVAL` for an id that the user namespace has not.
pub fn set_group(gid: u32) -> Result<(), SyscallError> {
    let id = nix::unistd::Gid::from_raw(gid);
    finish(nix::unistd::setresgid(id, id, id), || {
        format!("setresgid({gid})")
    })
}

/// `setresuid(uid, uid, uid)`.
///
/// # Errors
///
/// `EPERM` without `CAP_SETUID`; `EAGAIN` past `RLIMIT_NPROC`.
pub fn set_user(uid: u32) -> Result<(), SyscallError> {
    let id = nix::unistd::Uid::from_raw(uid);
    finish(nix::unistd::setresuid(id, id, id), || {
        format!("setresuid({uid})")
    })
}

/// `prctl(PR_CAPBSET_DROP)` of all that is not kept: no exec can gain it again.
///
/// # Errors
///
/// `EPERM` without `CAP_SETPCAP`.
pub fn limit_bounding_set(keep: &CapsHashSet) -> Result<(), SyscallError> {
    for capability in caps::all() {
        if keep.contains(&capability) {
            continue;
        }
        match caps::drop(None, CapSet::Bounding, capability) {
            // A kernel older than the list does not know the newest ones.
            Err(_) if Errno::last() == Errno::EINVAL => {}
            other => finish(other, || format!("prctl(PR_CAPBSET_DROP, {capability})"))?,
        }
    }
    Ok(())
}

/// `capset(2)`: effective, permitted and inheritable in one call.
///
/// # Errors
///
/// `EPERM`: something is asked for that the permitted set does not hold.
pub fn set_capabilities(
    effective: &CapsHashSet,
    permitted: &CapsHashSet,
    inheritable: &CapsHashSet,
) -> Result<(), SyscallError> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let masks = [mask(effective), mask(permitted), mask(inheritable)];
    let half = |shift: u32| Data {
        effective: (masks[0] >> shift) as u32,
        permitted: (masks[1] >> shift) as u32,
        inheritable: (masks[2] >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 of the interface reads one header and two data
    // structures of the layout above; all three live on this stack.
    let returned = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    finish(check(returned).map(drop), || {
        format!(
            "capset(effective={:#x}, permitted={:#x}, inheritable={:#x})",
            masks[0], masks[1], masks[2]
        )
    })
}

/// `capget(2)`'s permitted set of this process.
///
/// # Errors
///
/// Those of `capget(2)`.
pub fn observe_permitted() -> Result<CapsHashSet, SyscallError> {
    finish(caps::read(None, CapSet::Permitted), || {
        "capget()".to_owned()
    })
}

/// `capget(2)`'s inheritable set of this process.
///
/// # Errors
///
/// Those of `capget(2)`.
pub fn observe_inheritable() -> Result<CapsHashSet, SyscallError> {
    finish(caps::read(None, CapSet::Inheritable), || {
        "capget()".to_owned()
    })
}

/// `prctl(PR_CAP_AMBIENT)`: what programs without file capabilities keep over an exec.
///
/// # Errors
///
/// `EPERM`: one of them is not both permitted and inheritable.
pub fn set_ambient(ambient: &CapsHashSet) -> Result<(), SyscallError> {
    finish(caps::clear(None, CapSet::Ambient), || {
        "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)".to_owned()
    })?;
    for capability in ambient {
        finish(caps::raise(None, CapSet::Ambient, *capability), || {
            format!("prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, {capability})")
        })?;
    }
    Ok(())
}

/// `setrlimit(2)`; the resource is a number of `RLIMIT_*`.
///
/// # Errors
///
/// `EPERM`: raising a hard limit needs `CAP_SYS_RESOURCE`. `EINVAL`: soft above hard.
pub fn set_limit(resource: u32, name: &str, soft: u64, hard: u64) -> Result<(), SyscallError> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the structure is of the 64-bit layout that prlimit64(2) reads and
    // outlives the call; the old value is not asked for.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    };
    finish(check(returned).map(drop), || {
        format!("setrlimit({name}, {{soft={soft}, hard={hard}}})")
    })
}

/// `prlimit64(2)`: the same as [`set_limit`] for another process.
///
/// # Errors
///
/// As there; `EPERM` also for a process of another user.
pub fn set_limit_of(
    pid: HostPid,
    resource: u32,
    name: &str,
    limit: (u64, u64),
) -> Result<(), SyscallError> {
    let (soft, hard) = limit;
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: as in `set_limit`.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid.0,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    };
    finish(check(returned).map(drop), || {
        format!("prlimit({}, {name}, {{soft={soft}, hard={hard}}})", pid.0)
    })
}

/// `umask(2)`; the one before.
pub fn set_umask(mask: u32) -> u32 {
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
    remark(|| format!("umask(0{mask:o}) = 0{:o}", before.as_raw_mode()));
    before.as_raw_mode()
}

fn mask(set: &CapsHashSet) -> u64 {
    set.iter().map(Capability::bitmask).sum()
}
