//! Lookups that cannot leave a root.
//!
//! Whoever made an image chose its symbolic links, and a process that already
//! runs in a container can exchange them while we look. `openat2(2)` with
//! `RESOLVE_IN_ROOT` resolves the whole path in the kernel as if the given
//! directory were `/`; what comes back is a descriptor, and from then on only
//! the descriptor is used.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};

use super::call::{HasErrno, SyscallError, finish, flag_words, quoted};

/// Symbolic links followed by hand before we give up, the kernel's own limit.
const LINK_LIMIT: usize = 40;

/// What a missing path is made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644: a place for a file to be bound onto.
    File,
}

/// `open(path, O_PATH | O_CLOEXEC)` on the host.
///
/// # Errors
///
/// Those of `open(2)`.
pub fn open_host(path: &Path) -> Result<OwnedFd, SyscallError> {
    finish(
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()),
        || format!("open({}, O_PATH)", quoted(path)),
    )
}

/// `open(path, O_RDONLY | O_CLOEXEC)` on the host.
///
/// # Errors
///
/// Those of `open(2)`.
pub fn open_readable(path: &Path) -> Result<OwnedFd, SyscallError> {
    finish(
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()),
        || format!("open({}, O_RDONLY)", quoted(path)),
    )
}

/// `openat2(root, path, {flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS})`.
///
/// # Errors
///
/// Those of `openat2(2)`; `ELOOP` for a magic link.
pub fn open_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> Result<OwnedFd, SyscallError> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    finish(open_again(root, path, flags, resolve), || {
        let (number, flags) = (root.as_raw_fd(), open_words(flags));
        format!(
            "openat2({number}, {}, {flags}, RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS)",
            quoted(path)
        )
    })
}

/// As [`open_in_root`], but no part of the path may be a link.
///
/// # Errors
///
/// As [`open_in_root`]; `ELOOP` for any link.
pub fn open_in_root_without_links(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> Result<OwnedFd, SyscallError> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    finish(open_again(root, path, flags, resolve), || {
        let (number, flags) = (root.as_raw_fd(), open_words(flags));
        format!(
            "openat2({number}, {}, {flags}, RESOLVE_IN_ROOT|RESOLVE_NO_SYMLINKS)",
            quoted(path)
        )
    })
}

/// `openat2` below a directory through which no link of any kind is followed
/// and no mount is crossed: for procfs and sysfs (a bind mount over
/// `/proc/sys/...` is how CVE-2019-19921 and its kin redirect writes).
///
/// # Errors
///
/// `ELOOP` for a link, `EXDEV` for a mount on the way.
pub fn open_plain(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> Result<OwnedFd, SyscallError> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    finish(open_again(root, path, flags, resolve), || {
        let (number, flags) = (root.as_raw_fd(), open_words(flags));
        format!(
            "openat2({number}, {}, {flags}, RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS|RESOLVE_NO_XDEV)",
            quoted(path)
        )
    })
}

/// The path below the root as a descriptor, made with its parents where it is missing.
///
/// # Errors
///
/// `ENOTDIR` where a part is a file; `EROFS` and the like where a part that is
/// missing cannot be made.
pub fn ensure_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    missing: Missing,
) -> Result<OwnedFd, SyscallError> {
    ensure_bounded(root, path, missing, LINK_LIMIT)
}

/// The directory that holds the path's last part, made where it is missing, and that part.
///
/// # Errors
///
/// As [`ensure_in_root`]; `EINVAL` for a path without a last part, such as `/`.
pub fn ensure_parent_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
) -> Result<(OwnedFd, PathBuf), SyscallError> {
    let plain = without_dots(path);
    let Some(name) = plain.file_name() else {
        return Err(SyscallError::new(quoted(path), Errno::EINVAL));
    };
    let parent = plain.parent().unwrap_or(Path::new(""));
    let directory = ensure_in_root(root, parent, Missing::Directory)?;
    Ok((directory, PathBuf::from(name)))
}

/// `fstat(2)`.
///
/// # Errors
///
/// Those of `fstat(2)`.
pub fn status(file: impl AsFd) -> Result<Stat, SyscallError> {
    finish(rustix::fs::fstat(file.as_fd()), || {
        format!("fstat({})", file.as_fd().as_raw_fd())
    })
}

/// `fstatat(directory, name, AT_SYMLINK_NOFOLLOW)`.
///
/// # Errors
///
/// Those of `fstatat(2)`.
pub fn status_at(directory: BorrowedFd<'_>, name: &Path) -> Result<Stat, SyscallError> {
    finish(
        rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW),
        || format!("fstatat({}, AT_SYMLINK_NOFOLLOW)", quoted(name)),
    )
}

/// Whether a descriptor is of a directory.
///
/// # Errors
///
/// Those of `fstat(2)`.
pub fn is_directory(file: impl AsFd) -> Result<bool, SyscallError> {
    let found = status(file)?;
    Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

/// `mknodat(2)`; the mode is what is asked for only while the umask is 0.
///
/// # Errors
///
/// `EEXIST`; `EPERM` without `CAP_MKNOD`.
pub fn create_node(
    directory: BorrowedFd<'_>,
    name: &Path,
    kind: FileType,
    mode: u32,
    device: u64,
) -> Result<(), SyscallError> {
    finish(
        rustix::fs::mknodat(directory, name, kind, Mode::from_raw_mode(mode), device),
        || {
            let kind = match kind {
                FileType::CharacterDevice => "S_IFCHR",
                FileType::BlockDevice => "S_IFBLK",
                FileType::Fifo => "S_IFIFO",
                _ => "S_IFREG",
            };
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            format!(
                "mknodat({}, {}, {kind}|0{mode:o}, makedev({major}, {minor}))",
                directory.as_raw_fd(),
                quoted(name)
            )
        },
    )
}

/// `fchownat(directory, name, uid, gid, AT_SYMLINK_NOFOLLOW)`.
///
/// # Errors
///
/// Those of `fchownat(2)`.
pub fn change_owner(
    directory: BorrowedFd<'_>,
    name: &Path,
    uid: u32,
    gid: u32,
) -> Result<(), SyscallError> {
    let (user, group) = (
        rustix::fs::Uid::from_raw(uid),
        rustix::fs::Gid::from_raw(gid),
    );
    finish(
        rustix::fs::chownat(
            directory,
            name,
            Some(user),
            Some(group),
            AtFlags::SYMLINK_NOFOLLOW,
        ),
        || format!("fchownat({}, {uid}, {gid})", quoted(name)),
    )
}

/// `fchown(file, uid, -1)`: the group stays.
///
/// # Errors
///
/// `EPERM` without `CAP_CHOWN`; `EINVAL` for an id that the user namespace has not.
pub fn change_user_of(file: BorrowedFd<'_>, uid: u32) -> Result<(), SyscallError> {
    let user = rustix::fs::Uid::from_raw(uid);
    finish(rustix::fs::fchown(file, Some(user), None), || {
        format!("fchown({}, {uid}, -1)", file.as_raw_fd())
    })
}

/// `symlinkat(2)`.
///
/// # Errors
///
/// `EEXIST` where the name is taken.
pub fn create_link(
    target: &Path,
    directory: BorrowedFd<'_>,
    name: &Path,
) -> Result<(), SyscallError> {
    finish(rustix::fs::symlinkat(target, directory, name), || {
        format!("symlinkat({}, {})", quoted(target), quoted(name))
    })
}

/// `fchdir(2)`.
///
/// # Errors
///
/// Those of `fchdir(2)`.
pub fn change_directory_to(directory: BorrowedFd<'_>) -> Result<(), SyscallError> {
    finish(rustix::process::fchdir(directory), || {
        format!("fchdir({})", directory.as_raw_fd())
    })
}

/// `fchdir(fd)`, `chroot(".")`: a directory is `/`, and the working directory too.
///
/// # Errors
///
/// Those of `chroot(2)`.
pub fn change_root_to(directory: BorrowedFd<'_>) -> Result<(), SyscallError> {
    change_directory_to(directory)?;
    finish(rustix::process::chroot("."), || "chroot(\".\")".to_owned())
}

/// `chdir(2)`.
///
/// # Errors
///
/// Those of `chdir(2)`.
pub fn change_directory(path: &Path) -> Result<(), SyscallError> {
    finish(rustix::process::chdir(path), || {
        format!("chdir({})", quoted(path))
    })
}

/// `write(2)` of a whole text in one call, as files of procfs and cgroupfs want it.
///
/// # Errors
///
/// Those of `write(2)`.
pub fn write_text(file: BorrowedFd<'_>, text: &str, name: &Path) -> Result<(), SyscallError> {
    finish(rustix::io::write(file, text.as_bytes()).map(drop), || {
        format!("write({}, {text:?})", quoted(name))
    })
}

/// `write(2)` of a few bytes, in one call.
///
/// # Errors
///
/// Those of `write(2)`.
pub fn write_bytes(file: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), SyscallError> {
    // Not narrated: this is what init says once its filter is loaded.
    rustix::io::write(file, bytes)
        .map(drop)
        .map_err(|error| SyscallError::new(format!("write({})", file.as_raw_fd()), error.errno()))
}

/// `read(2)` of at most so many bytes; none at the end.
///
/// # Errors
///
/// Those of `read(2)`.
pub fn read_bytes(file: BorrowedFd<'_>, limit: usize) -> Result<Vec<u8>, SyscallError> {
    let mut bytes = vec![0; limit];
    match rustix::io::read(file, &mut bytes) {
        Ok(length) => bytes.truncate(length),
        Err(error) => {
            let call = format!("read({})", file.as_raw_fd());
            return Err(SyscallError::new(call, error.errno()));
        }
    }
    Ok(bytes)
}

/// The path without `.` and with `..` taken back by hand. Only for splitting off
/// a last part: the kernel does the real lookup.
pub fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    plain
}

fn ensure_bounded(
    root: BorrowedFd<'_>,
    path: &Path,
    missing: Missing,
    links: usize,
) -> Result<OwnedFd, SyscallError> {
    let error = match open_in_root(root, path, OFlags::PATH | OFlags::CLOEXEC) {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    let plain = without_dots(path);
    let (Errno::ENOENT, Some(name), true) = (error.errno(), plain.file_name(), links > 0) else {
        return Err(error);
    };
    let above = plain.parent().unwrap_or(Path::new(""));
    let parent = ensure_bounded(root, above, Missing::Directory, links - 1)?;
    let name = Path::new(name);
    // A link whose target is missing is followed by hand, once more from the
    // root: images have /var/run -> /run without a /run.
    if let Ok(target) = rustix::fs::readlinkat(&parent, name, Vec::new()) {
        let target = PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes()));
        return ensure_bounded(root, &above.join(target), missing, links - 1);
    }
    create_missing(parent.as_fd(), name, missing)?;
    open_plain(parent.as_fd(), name, OFlags::PATH | OFlags::CLOEXEC)
}

/// Makes the last part. Another who made it in the meantime is fine: it is
/// opened afterwards without following it.
fn create_missing(
    parent: BorrowedFd<'_>,
    name: &Path,
    missing: Missing,
) -> Result<(), SyscallError> {
    let made = match missing {
        Missing::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Missing::File => rustix::fs::mknodat(
            parent,
            name,
            FileType::RegularFile,
            Mode::from_raw_mode(0o644),
            0,
        ),
    };
    match made {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => finish(other, || {
            let number = parent.as_raw_fd();
            match missing {
                Missing::Directory => format!("mkdirat({number}, {}, 0755)", quoted(name)),
                Missing::File => format!("mknodat({number}, {}, S_IFREG|0644)", quoted(name)),
            }
        }),
    }
}

/// `O_*`, as open(2) names them.
pub(super) fn open_words(flags: OFlags) -> String {
    let names = flags.iter_names().map(|(name, _)| name);
    match flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::PATH) {
        true => flag_words("O_", names),
        // Reading is 0 and has no bit.
        false => flag_words("O_", std::iter::once("RDONLY").chain(names)),
    }
}

/// `openat2` may answer `EAGAIN` when something was renamed while it looked.
pub(super) fn open_again(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, rustix::io::Errno> {
    // An empty path means the root itself here.
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    for _ in 0..128 {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(rustix::io::Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::{Missing, ensure_in_root, open_host, without_dots};

    #[test]
    fn links_are_those_of_the_root() {
        let outside = tempfile::tempdir().expect("a directory");
        let inside = outside.path().join("root");
        std::fs::create_dir(&inside).expect("a root");
        std::os::unix::fs::symlink("/run", inside.join("dangling")).expect("a link");
        std::os::unix::fs::symlink("../../..", inside.join("climbs")).expect("a link");
        let root = open_host(&inside).expect("the root opens");
        for path in ["/dangling/a", "/climbs/b/c", "/../d"] {
            ensure_in_root(root.as_fd(), Path::new(path), Missing::Directory).expect(path);
        }
        for made in ["run/a", "b/c", "d"] {
            assert!(inside.join(made).is_dir(), "{made} is inside");
        }
        let seen = std::fs::read_dir(outside.path()).expect("it lists").count();
        assert_eq!(seen, 1, "nothing was made outside of the root");
    }

    #[test]
    fn dots_are_taken_back() {
        assert_eq!(without_dots(Path::new("/a/./b/../../../c")), Path::new("c"));
    }
}
