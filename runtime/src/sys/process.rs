//! Making, joining, waiting for and ending processes.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::CloneFlags;

use super::call::{Answer, SyscallError, check, finish, flag_words, quoted};

/// A process number as the host's pid namespace counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct HostPid(pub i32);

/// Which of the two processes `clone3(2)` returned in.
#[derive(Debug)]
pub enum Cloned {
    /// The caller, with the child's number and a descriptor that stands for it.
    Parent(HostPid, OwnedFd),
    /// The new process.
    Child,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with a status.
    Exited(i32),
    /// By a signal.
    Signaled(i32),
}

impl Ended {
    /// The status as shells tell it: 128 plus the signal that ended it.
    pub fn shell_code(self) -> i32 {
        match self {
            Ended::Exited(status) => status,
            Ended::Signaled(signal) => 128 + signal,
        }
    }
}

impl Answer for Ended {
    fn in_words(&self) -> String {
        format!("{self:?}")
    }
}

/// `CLONE_INTO_CGROUP` of `<linux/sched.h>`; the libc crate's is an int and overflows.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `long clone3(struct clone_args *, size_t)`: a copy of this process in new namespaces,
/// and in a version 2 cgroup if one is given.
///
/// The child is a copy-on-write image, as after `fork(2)`, and goes on from here.
///
/// # Errors
///
/// `EPERM`: no `CAP_SYS_ADMIN` for a namespace. `ENOSPC`: a limit of nested or of
/// all namespaces (`/proc/sys/user/max_*_namespaces`).
///
/// # Panics
///
/// When this process has a second thread: the child would find locks held by
/// threads that it does not have.
pub fn clone3(
    namespaces: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Cloned, SyscallError> {
    assert_single_thread();
    let mut pidfd: libc::c_int = -1;
    let into_cgroup = if cgroup.is_some() {
        CLONE_INTO_CGROUP
    } else {
        0
    };
    let mut arguments = libc::clone_args {
        flags: namespaces.bits() as u64 | libc::CLONE_PIDFD as u64 | into_cgroup,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |group| group.as_raw_fd() as u64),
    };
    // SAFETY: without CLONE_VM the child has a memory of its own, so its stack
    // and ours do not meet; the assertion above says that no other thread's lock
    // can be held in the copy; `pidfd` outlives the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    if returned == 0 {
        // The caller tells of the call; it is one call.
        return Ok(Cloned::Child);
    }
    let pid = finish(check(returned), || {
        let mut words = vec!["CLONE_PIDFD"];
        words.extend(namespaces.iter_names().map(|(name, _)| name));
        if cgroup.is_some() {
            words.push("CLONE_INTO_CGROUP");
        }
        let words = flag_words("", words.into_iter());
        format!("clone3({{flags={words}, exit_signal=SIGCHLD}})")
    })?;
    // SAFETY: the kernel stored a new descriptor here that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent(HostPid(pid as i32), pidfd))
}

/// `clone3` with `CLONE_PARENT`: a copy of this process, in new namespaces, that is a
/// child of this one's parent. `None` in the copy, its number here.
///
/// # Errors
///
/// As [`clone3`]; `ENOMEM`: the pid namespace of future children has ended.
///
/// # Panics
///
/// As [`clone3`].
pub fn clone_sibling(namespaces: CloneFlags) -> Result<Option<HostPid>, SyscallError> {
    assert_single_thread();
    // SAFETY: all zeroes is a value of this structure of numbers. The signal at
    // the end is the parent's, and must be 0 here.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = libc::CLONE_PARENT as u64 | namespaces.bits() as u64;
    // SAFETY: as in `clone3`.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    if returned == 0 {
        return Ok(None);
    }
    let pid = finish(check(returned), || {
        let others = namespaces.iter_names().map(|(name, _)| name);
        let words = flag_words("", std::iter::once("CLONE_PARENT").chain(others));
        format!("clone3({{flags={words}, exit_signal=0}})")
    })?;
    Ok(Some(HostPid(pid as i32)))
}

/// `int execve(const char *, char *const [], char *const [])`.
///
/// # Errors
///
/// `ENOENT`: no such file, or its interpreter is missing. `EACCES`: not
/// executable. `ENOEXEC`: not a program.
pub fn execve(
    program: &CStr,
    arguments: &[CString],
    environment: &[&CStr],
) -> Result<Infallible, SyscallError> {
    finish(nix::unistd::execve(program, arguments, environment), || {
        describe_execve(program, arguments)
    })
}

/// The call as it is told. One that succeeds never returns, so a narration tells
/// of it before.
pub fn describe_execve(program: &CStr, arguments: &[CString]) -> String {
    let shown: Vec<_> = arguments.iter().map(|one| one.to_string_lossy()).collect();
    format!("execve({:?}, {shown:?})", program.to_string_lossy())
}

/// `int execveat(int, "", char *const [], char *const [], AT_EMPTY_PATH)`: executes
/// what a descriptor is of, whatever its path has become.
///
/// # Errors
///
/// As [`execve`]; `ETXTBSY`: somebody has the file open for writing.
pub fn execveat(
    program: BorrowedFd<'_>,
    arguments: &[CString],
    environment: &[CString],
) -> Result<Infallible, SyscallError> {
    let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
    finish(
        nix::unistd::execveat(program, c"", arguments, environment, flags),
        || format!("execveat({}, AT_EMPTY_PATH)", program.as_raw_fd()),
    )
}

/// `sighandler_t signal(int, SIG_DFL)`: undoes that a signal is ignored, which
/// a process hands on to all it forks and executes.
///
/// # Errors
///
/// `EINVAL`: no such signal, or one that cannot be ignored.
pub fn restore_default_action(signal: i32) -> Result<(), SyscallError> {
    // SAFETY: SIG_DFL installs no code of ours that could run at a bad moment.
    let failed = unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR;
    finish(check(-i64::from(failed)).map(drop), || {
        format!("signal({signal}, SIG_DFL)")
    })
}

/// The same for every signal that can be ignored.
///
/// # Errors
///
/// As [`restore_default_action`].
pub fn restore_default_actions() -> Result<(), SyscallError> {
    let standard = 1..=libc::SIGSYS;
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    for signal in standard.chain(real_time) {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: SIG_DFL installs no code of ours that could run at a bad moment.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            let call = format!("signal({signal}, SIG_DFL)");
            return Err(SyscallError::new(call, Errno::last()));
        }
    }
    // One line for all of them.
    finish(Ok::<(), Errno>(()), || "signal(1..64, SIG_DFL)".to_owned())
}

/// `int sigprocmask(SIG_SETMASK, [], NULL)`: no signal waits any longer.
///
/// # Errors
///
/// None are known.
pub fn unblock_signals() -> Result<(), SyscallError> {
    finish(nix::sys::signal::SigSet::empty().thread_set_mask(), || {
        "sigprocmask(SIG_SETMASK, [])".to_owned()
    })
}

/// `void _exit(int)`: leaves without running what the parent registered.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) touches no memory of this process.
    unsafe { libc::_exit(status) }
}

/// `int setns(int fd, int nstype)`.
///
/// # Errors
///
/// `EINVAL`: the descriptor is of another type of namespace. `EPERM`.
pub fn setns(namespace: BorrowedFd<'_>, kinds: CloneFlags) -> Result<(), SyscallError> {
    finish(nix::sched::setns(namespace, kinds), || {
        format!(
            "setns({}, {})",
            namespace.as_raw_fd(),
            namespace_words(kinds)
        )
    })
}

/// `int unshare(int flags)`.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN`; `ENOSPC` at a limit of namespaces.
pub fn unshare(kinds: CloneFlags) -> Result<(), SyscallError> {
    finish(nix::sched::unshare(kinds), || {
        format!("unshare({})", namespace_words(kinds))
    })
}

/// `CLONE_*`, as clone(2) names them.
fn namespace_words(kinds: CloneFlags) -> String {
    flag_words("", kinds.iter_names().map(|(name, _)| name))
}

/// `pid_t setsid(void)`.
///
/// # Errors
///
/// `EPERM`: this process leads a group already.
pub fn setsid() -> Result<(), SyscallError> {
    finish(nix::unistd::setsid().map(drop), || "setsid()".to_owned())
}

/// `int pidfd_open(pid_t, unsigned int)`.
///
/// # Errors
///
/// `ESRCH`: no such process.
pub fn pidfd_open(pid: HostPid) -> Result<OwnedFd, SyscallError> {
    let number = rustix::process::Pid::from_raw(pid.0);
    let result = number.ok_or(rustix::io::Errno::SRCH).and_then(|number| {
        rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty())
    });
    finish(result, || format!("pidfd_open({})", pid.0))
}

/// `int pidfd_getfd(int pidfd, int targetfd, 0)`: a copy of another process' descriptor.
///
/// # Errors
///
/// `EPERM`: ptrace(2) of that process is not allowed. `EBADF`: it has no such descriptor.
pub fn pidfd_getfd(process: BorrowedFd<'_>, number: i32) -> Result<OwnedFd, SyscallError> {
    let taken =
        rustix::process::pidfd_getfd(process, number, rustix::process::PidfdGetfdFlags::empty());
    finish(taken, || {
        format!("pidfd_getfd({}, {number})", process.as_raw_fd())
    })
}

/// `int pidfd_send_signal(int pidfd, int sig, NULL, 0)`.
///
/// # Errors
///
/// `ESRCH`: the process has ended. `EINVAL`: no such signal.
pub fn pidfd_send_signal(process: BorrowedFd<'_>, signal: i32) -> Result<(), SyscallError> {
    // SAFETY: no pointer but NULL is passed; the descriptor is borrowed for the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    finish(check(returned).map(drop), || {
        format!("pidfd_send_signal({}, {signal})", process.as_raw_fd())
    })
}

/// `int kill(pid_t, int)`, for processes that a cgroup lists.
///
/// # Errors
///
/// `ESRCH`: no such process.
pub fn kill(pid: HostPid, signal: i32) -> Result<(), SyscallError> {
    // SAFETY: kill(2) takes two numbers.
    let returned = unsafe { libc::kill(pid.0, signal) };
    finish(check(returned.into()).map(drop), || {
        format!("kill({}, {signal})", pid.0)
    })
}

/// `pid_t waitpid(pid_t, int *, 0)`, begun again after a signal.
///
/// # Errors
///
/// `ECHILD`: not a child of this process.
pub fn wait_for(pid: HostPid) -> Result<Ended, SyscallError> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for an int during the call.
        let returned = unsafe { libc::waitpid(pid.0, &raw mut status, 0) };
        let ended = match check(returned.into()) {
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(errno),
            Ok(_) if libc::WIFSIGNALED(status) => Ok(Ended::Signaled(libc::WTERMSIG(status))),
            Ok(_) => Ok(Ended::Exited(libc::WEXITSTATUS(status))),
        };
        return finish(ended, || format!("waitpid({})", pid.0));
    }
}

/// `poll(2)` on a process that need not be our child: whether it ended in time.
///
/// # Errors
///
/// Those of `poll(2)`.
pub fn wait_until_ended(process: BorrowedFd<'_>, limit: Duration) -> Result<bool, SyscallError> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        let timeout = rustix::event::Timespec {
            tv_sec: i64::from(milliseconds / 1000),
            tv_nsec: i64::from(milliseconds % 1000) * 1_000_000,
        };
        let mut watched = [rustix::event::PollFd::from_borrowed_fd(
            process,
            rustix::event::PollFlags::IN,
        )];
        match rustix::event::poll(&mut watched, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            other => return finish(other.map(|ready| ready > 0), || "poll(pidfd)".to_owned()),
        }
    }
}

/// `prctl(PR_SET_NAME, name)`: what `ps` and `/proc/PID/comm` show; 15 bytes of it.
pub fn set_name(name: &CStr) {
    // SAFETY: the string ends with a zero byte and outlives the call. The
    // call cannot fail for a readable address.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// `prctl(PR_SET_DUMPABLE, 0)`: processes without our privileges cannot read
/// our memory or descriptors by way of `/proc` or ptrace(2) (CVE-2016-9962).
///
/// # Errors
///
/// None is documented for 0.
pub fn set_undumpable() -> Result<(), SyscallError> {
    // SAFETY: no pointers are passed.
    let returned = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    finish(check(returned.into()).map(drop), || {
        "prctl(PR_SET_DUMPABLE, 0)".to_owned()
    })
}

/// `close_range(first, ~0, CLOSE_RANGE_CLOEXEC)`: nothing from `first` on survives an exec
/// (CVE-2024-21626 was a descriptor that did).
///
/// # Errors
///
/// `ENOSYS` before Linux 5.9.
pub fn close_on_exec_from(first: u32) -> Result<(), SyscallError> {
    finish(
        close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC),
        || format!("close_range({first}, ~0, CLOSE_RANGE_CLOEXEC)"),
    )
}

/// `int close_range(unsigned first, unsigned last, int flags);`
///
/// Without a flag it closes descriptors whatever their owners in this process
/// think, so only a fresh copy of it may ask for that.
pub(super) fn close_range(first: u32, last: u32, flags: u32) -> Result<(), Errno> {
    // SAFETY: three numbers are passed. The callers are `close_on_exec_from`,
    // which closes none, and `close_inherited` in a copy of the process, where
    // no owner of the closed numbers is ever used or dropped.
    let returned = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    check(returned).map(drop)
}

/// `dup2(2)` onto one of the three standard streams; the copy survives an exec.
///
/// # Errors
///
/// Those of `dup2(2)`.
pub fn replace_stream(with: BorrowedFd<'_>, stream: i32) -> Result<(), SyscallError> {
    assert!((0..=2).contains(&stream), "standard streams are 0, 1 and 2");
    // SAFETY: the three standard streams are owned by nobody in this program;
    // what was open there is meant to be replaced.
    let returned = unsafe { libc::dup2(with.as_raw_fd(), stream) };
    finish(check(returned.into()).map(drop), || {
        format!("dup2({}, {stream})", with.as_raw_fd())
    })
}

/// `int sethostname(const char *, size_t)`.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN` over the UTS namespace; `EINVAL` past 64 bytes.
pub fn set_hostname(name: &str) -> Result<(), SyscallError> {
    finish(nix::unistd::sethostname(name), || {
        format!("sethostname({name:?})")
    })
}

/// `int setdomainname(const char *, size_t)`.
///
/// # Errors
///
/// As [`set_hostname`].
pub fn set_domainname(name: &str) -> Result<(), SyscallError> {
    finish(rustix::system::setdomainname(name.as_bytes()), || {
        format!("setdomainname({name:?})")
    })
}

/// `keyctl(KEYCTL_JOIN_SESSION_KEYRING, name)`: keys of the caller's session stay out of reach.
///
/// # Errors
///
/// `ENOSYS` where the kernel has no keys; `EDQUOT`.
pub fn join_session_keyring(name: &CStr) -> Result<i32, SyscallError> {
    // SAFETY: the string ends with a zero byte and outlives the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            name.as_ptr(),
        )
    };
    // A key's number is a 32-bit integer.
    finish(check(returned).map(|keyring| keyring as i32), || {
        format!("keyctl(KEYCTL_JOIN_SESSION_KEYRING, {name:?})")
    })
}

/// `keyctl(KEYCTL_SETPERM, key, permissions)`: keyctl_setperm(3).
///
/// # Errors
///
/// `EACCES`: the key is another's.
pub fn set_key_permissions(key: i32, permissions: u32) -> Result<(), SyscallError> {
    // SAFETY: two numbers are passed.
    let returned =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, key, permissions) };
    finish(check(returned).map(drop), || {
        format!("keyctl(KEYCTL_SETPERM, {key}, {permissions:#x})")
    })
}

/// `int personality(unsigned long)`.
///
/// # Errors
///
/// `EINVAL` for a domain that the kernel refuses.
pub fn set_personality(domain: u64) -> Result<(), SyscallError> {
    // SAFETY: personality(2) takes a number.
    let returned = unsafe { libc::personality(domain as libc::c_ulong) };
    finish(check(returned.into()).map(drop), || {
        format!("personality({domain:#x})")
    })
}

/// Stops this process as a shell's job control does; it goes on at SIGCONT.
pub fn stop_here() {
    // SAFETY: raise(3) takes a number. SIGSTOP cannot be caught, so no code of
    // ours runs in a signal's context.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// Two fields of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    state: char,
    /// When it began, in clock ticks since boot: with its number it names it for good.
    pub start_ticks: u64,
}

impl ProcessStat {
    /// Whether it has ended but was not waited for yet.
    pub fn is_zombie(self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// State and start of a process.
///
/// # Errors
///
/// `ENOENT` or `ESRCH`: no such process.
pub fn read_stat(pid: HostPid) -> Result<ProcessStat, SyscallError> {
    let path = format!("/proc/{}/stat", pid.0);
    let text = finish(std::fs::read_to_string(&path), || {
        format!("open({})", quoted(Path::new(&path)))
    })?;
    // The second field is the program's name in brackets and may hold any byte.
    let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let mut fields = fields.split(' ');
    let state = fields.next().and_then(|field| field.chars().next());
    let start_ticks = fields.nth(18).and_then(|field| field.parse().ok());
    match (state, start_ticks) {
        (Some(state), Some(start_ticks)) => Ok(ProcessStat { state, start_ticks }),
        _ => Err(SyscallError::new(format!("read({path:?})"), Errno::EBADMSG)),
    }
}

/// Stops a copy of this process that would lack threads, and find the locks that they hold.
///
/// # Panics
///
/// When there is a second thread.
pub(super) fn assert_single_thread() {
    // The kernel counts the folders of /proc/self/task as links. Without /proc,
    // which only a container's own mounts can lack, there is nothing to ask.
    let folders = rustix::fs::stat("/proc/self/task");
    let threads = folders.map_or(1, |found| found.st_nlink.saturating_sub(2));
    assert_eq!(
        threads, 1,
        "a process with several threads must not copy itself"
    );
}

#[cfg(test)]
mod tests {
    use super::{HostPid, read_stat};

    #[test]
    fn a_process_is_named_by_number_and_start() {
        let me = HostPid(std::process::id() as i32);
        let first = read_stat(me).expect("we live");
        let again = read_stat(me).expect("we live");
        assert_eq!(first.start_ticks, again.start_ticks);
        assert!(first.start_ticks > 0);
        assert!(!again.is_zombie());
        assert!(read_stat(HostPid(i32::MAX)).is_err());
    }
}
