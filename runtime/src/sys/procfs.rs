//! procfs through a handle that was checked: the one way to write to `/proc`.
//!
//! `/proc/self/oom_score_adj` is only a path. Whoever can mount something over a
//! part of it, or exchange a part for a link, makes a write with the runtime's
//! rights land elsewhere: on `/proc/sysrq-trigger`, on another process' label, on
//! nothing at all (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2025-52881).
//!
//! A [`Procfs`] is a descriptor of the root of a procfs: the type of its
//! filesystem and the number of its inode say so. Below it a lookup crosses no
//! mount (`RESOLVE_NO_XDEV`), follows no magic link and does not leave
//! (`RESOLVE_BENEATH`); `self` is a plain link of the kernel and is followed.
//! What comes back is therefore the kernel's own file of that name or an error.
//!
//! ```text
//! Procfs::open()     the machine's /proc, checked        two calls more than a plain open
//! Procfs::private()  a new procfs that is mounted nowhere   no path leads to it, ~20 µs
//! ```
//!
//! Where something lies over the wanted part of `/proc` (as in a container within
//! a container), [`Procfs::write`] and [`Procfs::read`] use a private one. Take
//! the handle *before* `setns(2)` into a container's mount namespace: a procfs
//! shows the processes of its pid namespace whoever looks, and `self` is the one
//! who looks, so the handle goes on to work inside.
//!
//! ```text
//! let procfs = Procfs::open()?;
//! procfs.write("self/oom_score_adj", "100")?;
//! procfs.write(&of_process(child, "uid_map"), "0 100000 65536\n")?;
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{OFlags, ResolveFlags};

use super::call::{SyscallError, finish, quoted};
use super::process::HostPid;
use super::{mount, path};

/// The root of every procfs has this number: `PROC_ROOT_INO` in linux/proc_ns.h.
const ROOT_INODE: u64 = 1;

/// The root of a procfs.
#[derive(Debug)]
pub struct Procfs {
    root: OwnedFd,
}

/// The path of a process' file below a [`Procfs`] of the same pid namespace.
pub fn of_process(pid: HostPid, file: &str) -> String {
    format!("{}/{file}", pid.0)
}

/// Whether a descriptor is of the root of a procfs.
///
/// # Errors
///
/// Those of `fstatfs(2)` and `fstat(2)`.
pub fn is_root(file: BorrowedFd<'_>) -> Result<bool, SyscallError> {
    Ok(mount::filesystem_magic(file)? == libc::PROC_SUPER_MAGIC
        && path::status(file)?.st_ino == ROOT_INODE)
}

impl Procfs {
    /// What is mounted at `/proc`, when it is a whole procfs; a private one otherwise.
    ///
    /// # Errors
    ///
    /// As [`Procfs::private`].
    pub fn open() -> Result<Procfs, SyscallError> {
        match path::open_host(Path::new("/proc")) {
            Ok(root) if is_root(root.as_fd())? => Ok(Procfs { root }),
            _ => Procfs::private(),
        }
    }

    /// A procfs of this process' pid namespace that is mounted nowhere.
    ///
    /// # Errors
    ///
    /// `EPERM`: no `CAP_SYS_ADMIN` over the mount namespace, or in a user
    /// namespace whose own `/proc` is partly covered.
    pub fn private() -> Result<Procfs, SyscallError> {
        let context = mount::fsopen("proc")?;
        mount::fsconfig_create(context.as_fd(), "proc")?;
        let root = mount::fsmount(context.as_fd(), 0)?;
        Ok(Procfs { root })
    }

    /// Opens one of the kernel's files, such as `self/attr/exec` or `sys/net/ipv4/ip_forward`.
    ///
    /// # Errors
    ///
    /// `EXDEV`: something is mounted over a part of the path. `ELOOP`: a part is
    /// a magic link, such as `self/exe`. `ENOENT`: the kernel has no such file.
    pub fn open_file(&self, file: &str, flags: OFlags) -> Result<OwnedFd, SyscallError> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        let opened = path::open_again(self.root.as_fd(), Path::new(file), flags, resolve);
        finish(opened, || {
            let flags = path::open_words(flags);
            format!("openat2(/proc, {file:?}, {flags}, RESOLVE_BENEATH|RESOLVE_NO_XDEV)")
        })
    }

    /// Writes a text in one call, as files of procfs want it.
    ///
    /// # Errors
    ///
    /// Those of [`Procfs::open_file`] except `EXDEV`, and of `write(2)`.
    pub fn write(&self, file: &str, text: &str) -> Result<(), SyscallError> {
        let opened = self.open_uncovered(file, OFlags::WRONLY)?;
        let place = Path::new("/proc").join(file);
        path::write_text(opened.as_fd(), text, &place)
    }

    /// Reads a whole file.
    ///
    /// # Errors
    ///
    /// Those of [`Procfs::open_file`] except `EXDEV`, and of `read(2)`.
    pub fn read(&self, file: &str) -> Result<String, SyscallError> {
        let opened = std::fs::File::from(self.open_uncovered(file, OFlags::RDONLY)?);
        finish(std::io::read_to_string(opened), || {
            format!("read({})", quoted(&Path::new("/proc").join(file)))
        })
    }

    /// What lies over the file in the tree does not lie over it in a procfs of our own.
    fn open_uncovered(&self, file: &str, flags: OFlags) -> Result<OwnedFd, SyscallError> {
        match self.open_file(file, flags) {
            Err(error) if error.errno() == Errno::EXDEV => {
                Procfs::private()?.open_file(file, flags)
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
