//! Mounts without paths.
//!
//! `mount(2)` takes a path for its target, and whoever can exchange a part of
//! that path for a symbolic link between the check and the call chooses where
//! the mount lands (CVE-2019-16884, CVE-2023-27561, CVE-2025-31133 and more).
//! Since Linux 5.2 a mount can be made as a descriptor and attached to another
//! descriptor: `fsopen(2)`, `fsmount(2)`, `open_tree(2)`, `move_mount(2)`, and
//! since 5.12 its flags are set by `mount_setattr(2)`. Nothing is looked up twice.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::call::{SyscallError, check, finish, flag_words, quoted};

/// How deep a call reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The mount itself.
    One,
    /// The mount and all below it.
    Recursive,
}

/// What `mount_setattr(2)` is to change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttributeChange {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// One of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0.
    pub propagation: u64,
}

/// `int fsopen(const char *fsname, unsigned int flags)`: a filesystem to be configured.
///
/// # Errors
///
/// `ENODEV`: the kernel has no such filesystem.
pub fn fsopen(kind: &str) -> Result<OwnedFd, SyscallError> {
    finish(
        rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC),
        || format!("fsopen({kind:?}, FSOPEN_CLOEXEC)"),
    )
}

/// `fsconfig(fd, FSCONFIG_SET_STRING, key, value)`.
///
/// # Errors
///
/// `EINVAL`: the filesystem does not know the option or its value.
pub fn fsconfig_string(fs: BorrowedFd<'_>, key: &str, value: &str) -> Result<(), SyscallError> {
    finish(rustix::mount::fsconfig_set_string(fs, key, value), || {
        let number = fs.as_raw_fd();
        let said = complaint(fs);
        format!("fsconfig({number}, FSCONFIG_SET_STRING, {key:?}, {value:?}){said}")
    })
}

/// `fsconfig(fd, FSCONFIG_SET_FLAG, key)`.
///
/// # Errors
///
/// `EINVAL`: the filesystem does not know the option.
pub fn fsconfig_flag(fs: BorrowedFd<'_>, key: &str) -> Result<(), SyscallError> {
    finish(rustix::mount::fsconfig_set_flag(fs, key), || {
        let (number, said) = (fs.as_raw_fd(), complaint(fs));
        format!("fsconfig({number}, FSCONFIG_SET_FLAG, {key:?}){said}")
    })
}

/// `fsconfig(fd, FSCONFIG_SET_FD, key, NULL, value)`.
///
/// # Errors
///
/// `EINVAL`: the filesystem does not know the option.
pub fn fsconfig_descriptor(
    fs: BorrowedFd<'_>,
    key: &str,
    value: BorrowedFd<'_>,
) -> Result<(), SyscallError> {
    finish(rustix::mount::fsconfig_set_fd(fs, key, value), || {
        let (number, value) = (fs.as_raw_fd(), value.as_raw_fd());
        let said = complaint(fs);
        format!("fsconfig({number}, FSCONFIG_SET_FD, {key:?}, {value}){said}")
    })
}

/// `fsconfig(fd, FSCONFIG_CMD_CREATE)`: makes or finds the superblock.
///
/// # Errors
///
/// `EPERM`: the user namespace may not make one. `EBUSY`: it exists with other options.
pub fn fsconfig_create(fs: BorrowedFd<'_>, kind: &str) -> Result<(), SyscallError> {
    finish(rustix::mount::fsconfig_create(fs), || {
        let (number, said) = (fs.as_raw_fd(), complaint(fs));
        format!("fsconfig({number}, FSCONFIG_CMD_CREATE) of {kind:?}{said}")
    })
}

/// `int fsmount(int fsfd, unsigned int flags, unsigned int attr_flags)`: a mount that is
/// attached nowhere yet.
///
/// # Errors
///
/// `EPERM`: what is already mounted restricts new mounts of proc or sysfs.
pub fn fsmount(fs: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd, SyscallError> {
    let flags = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(u32::MAX));
    finish(
        rustix::mount::fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, flags),
        || {
            let number = fs.as_raw_fd();
            format!(
                "fsmount({number}, FSMOUNT_CLOEXEC, {})",
                attribute_words(attributes)
            )
        },
    )
}

/// `int open_tree(int dirfd, const char *path, OPEN_TREE_CLONE)`: a copy of a mount
/// that is attached nowhere yet; what a bind mount begins with.
///
/// # Errors
///
/// `EINVAL`: the mount belongs to another mount namespace or is unbindable.
pub fn open_tree_clone(from: BorrowedFd<'_>, depth: Depth) -> Result<OwnedFd, SyscallError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if depth == Depth::Recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    finish(rustix::mount::open_tree(from, c"", flags), || {
        let recursive = recursive_word(depth);
        format!(
            "open_tree({}, \"\", OPEN_TREE_CLONE|AT_EMPTY_PATH{recursive})",
            from.as_raw_fd()
        )
    })
}

/// `int move_mount(int from, "", int to, "", …)`: attaches a mount on top of a descriptor.
///
/// # Errors
///
/// `EINVAL`: source or target is not of this mount namespace. `ENOTDIR`: a file
/// onto a directory or the reverse.
pub fn move_mount(mount: BorrowedFd<'_>, onto: BorrowedFd<'_>) -> Result<(), SyscallError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    finish(
        rustix::mount::move_mount(mount, c"", onto, c"", flags),
        || {
            format!(
                "move_mount({}, \"\", {}, \"\", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH)",
                mount.as_raw_fd(),
                onto.as_raw_fd()
            )
        },
    )
}

/// `int mount_setattr(int dirfd, "", AT_EMPTY_PATH, struct mount_attr *, size_t)`.
///
/// # Errors
///
/// `EPERM`: a flag is locked by a more privileged mount namespace. `EINVAL`: the
/// descriptor is not the root of a mount.
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    depth: Depth,
    change: AttributeChange,
) -> Result<(), SyscallError> {
    let mut attributes = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if depth == Depth::Recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a constant string, the structure lives on this stack
    // for the whole call, and the size handed over is its own.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw mut attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    finish(check(returned).map(drop), || {
        format!(
            "mount_setattr({}, \"\", AT_EMPTY_PATH{}, {{attr_set={}, attr_clr={}, propagation={}}})",
            mount.as_raw_fd(),
            recursive_word(depth),
            attribute_words(change.set),
            attribute_words(change.clear),
            mount_flag_words(change.propagation)
        )
    })
}

/// `mount_setattr(2)` with `MOUNT_ATTR_IDMAP`: owners on this mount are shown as the
/// maps of a user namespace say. Once for each mount, before it is attached.
///
/// # Errors
///
/// `EINVAL`: the filesystem does not know how (Linux 5.12 taught the first), or the
/// mount is mapped already. `EPERM`: no `CAP_SYS_ADMIN` over the filesystem, which is
/// had only in the user namespace that made it; or the map is the host's own.
pub fn set_idmap(
    mount: BorrowedFd<'_>,
    depth: Depth,
    user_namespace: BorrowedFd<'_>,
) -> Result<(), SyscallError> {
    let mut attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd() as u64,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if depth == Depth::Recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: as in `mount_setattr`; the namespace's descriptor is borrowed for the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw mut attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    finish(check(returned).map(drop), || {
        format!(
            "mount_setattr({}, {depth:?}, MOUNT_ATTR_IDMAP, {})",
            mount.as_raw_fd(),
            user_namespace.as_raw_fd()
        )
    })
}

/// `mount(NULL, "/", NULL, MS_REC | propagation, NULL)`: how this namespace's mounts
/// and those of others tell each other of changes.
///
/// # Errors
///
/// `EPERM`: no `CAP_SYS_ADMIN` over the mount namespace.
pub fn set_root_propagation(propagation: u64) -> Result<(), SyscallError> {
    let flags = nix::mount::MsFlags::from_bits_retain(propagation);
    finish(
        nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>),
        || {
            let words = mount_flag_words(propagation);
            format!("mount(NULL, \"/\", NULL, {words}, NULL)")
        },
    )
}

/// `pivot_root(".", ".")`: the working directory becomes the root mount and the
/// old root lies on top of it.
///
/// # Errors
///
/// `EINVAL`: the working directory is no mount point, or an ancestor is shared.
pub fn pivot_root_onto_itself() -> Result<(), SyscallError> {
    finish(rustix::process::pivot_root(".", "."), || {
        "pivot_root(\".\", \".\")".to_owned()
    })
}

/// `umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW)`: out of the tree at once, gone when unused.
///
/// # Errors
///
/// `EINVAL`: not a mount point.
pub fn detach(path: &Path) -> Result<(), SyscallError> {
    finish(
        rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW),
        || format!("umount2({}, MNT_DETACH|UMOUNT_NOFOLLOW)", quoted(path)),
    )
}

/// `statfs(2)`'s type of the filesystem behind a descriptor, an `*_SUPER_MAGIC`.
///
/// # Errors
///
/// Those of `fstatfs(2)`.
pub fn filesystem_magic(file: impl AsFd) -> Result<i64, SyscallError> {
    finish(
        rustix::fs::fstatfs(file.as_fd()).map(|found| found.f_type),
        || format!("fstatfs({}).f_type", file.as_fd().as_raw_fd()),
    )
}

fn recursive_word(depth: Depth) -> &'static str {
    match depth {
        Depth::One => "",
        Depth::Recursive => "|AT_RECURSIVE",
    }
}

/// `MOUNT_ATTR_*`, as mount_setattr(2) names them. The access times are a number
/// of three bits and not one flag each.
fn attribute_words(bits: u64) -> String {
    let times = u64::from(MountAttrFlags::MOUNT_ATTR__ATIME.bits());
    let others = MountAttrFlags::from_bits_retain((bits & !times) as u32);
    let mut words: Vec<&str> = others.iter_names().map(|(name, _)| name).collect();
    if bits & times == times {
        words.push("MOUNT_ATTR__ATIME");
    } else {
        let chosen = MountAttrFlags::from_bits_retain((bits & times) as u32);
        words.extend(chosen.iter_names().map(|(name, _)| name));
    }
    words.retain(|name| *name != "MOUNT_ATTR_RELATIME");
    flag_words("", words.into_iter())
}

/// `MS_*`, as mount(2) names them.
fn mount_flag_words(bits: u64) -> String {
    let flags = nix::mount::MsFlags::from_bits_retain(bits);
    flag_words("", flags.iter_names().map(|(name, _)| name))
}

/// What the kernel says about the last refusal of a filesystem's context: its
/// messages can be read from the context's descriptor (fsconfig(2)).
fn complaint(fs: BorrowedFd<'_>) -> String {
    let mut text = [0u8; 256];
    match rustix::io::read(fs, &mut text) {
        Ok(length) => {
            let said = String::from_utf8_lossy(&text[..length]);
            format!(
                " [{}]",
                said.trim_start_matches(['e', 'w', 'i', ' ']).trim()
            )
        }
        Err(_) => String::new(),
    }
}

/// `mount(source, "/proc/self/fd/N", type, 0, data)`, for option texts that
/// `fsconfig(2)` has no room for.
///
/// # Errors
///
/// Those of `mount(2)`.
pub fn mount_onto(
    place: BorrowedFd<'_>,
    kind: &str,
    source: &str,
    data: &str,
) -> Result<(), SyscallError> {
    let target = format!("/proc/self/fd/{}", place.as_raw_fd());
    let flags = nix::mount::MsFlags::empty();
    finish(
        nix::mount::mount(Some(source), target.as_str(), Some(kind), flags, Some(data)),
        || format!("mount({source:?}, {target:?}, {kind:?}, 0, {data:?})"),
    )
}

/// `mount(".", "/", NULL, MS_MOVE, NULL)` and `chroot(".")`: for a root that is a
/// ramfs, which `pivot_root(2)` refuses. The host's mounts lie below it and are
/// out of reach only as long as nobody may mount.
///
/// # Errors
///
/// Those of `mount(2)` and `chroot(2)`.
pub fn move_onto_root() -> Result<(), SyscallError> {
    let flags = nix::mount::MsFlags::MS_MOVE;
    finish(
        nix::mount::mount(Some("."), "/", None::<&str>, flags, None::<&str>),
        || "mount(\".\", \"/\", NULL, MS_MOVE, NULL)".to_owned(),
    )?;
    finish(rustix::process::chroot("."), || "chroot(\".\")".to_owned())
}
