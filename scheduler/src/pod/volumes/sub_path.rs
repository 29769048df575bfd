//! A part of a volume, which links cannot leave.
//!
//! A container that can write to a volume can put a symbolic link where a
//! `subPath` will be looked up, and the lookup runs as root on the node: `ln -s /
//! data` once gave a pod the whole machine (CVE-2017-1002101), and swapping the
//! link between check and mount did so again (CVE-2021-25741). So the path is
//! resolved by the kernel itself with `RESOLVE_BENEATH`, which fails the moment a
//! step would leave the volume, and what is mounted is the *descriptor* of the
//! lookup's result, never a path.
//!
//! Read more: openat2(2), open_tree(2), move_mount(2).

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2},
    mount::{
        MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change,
        move_mount, open_tree, unmount,
    },
};

/// Mounts `sub_path` of the volume at `root` onto `target`, which it makes.
///
/// Directories of the path that are missing are made, as a kubelet makes them.
///
/// # Errors
///
/// `EXDEV` when the path leaves the volume, through `..` or through a link.
pub fn bind_sub_path(root: &Path, sub_path: &Path, target: &Path) -> io::Result<()> {
    let source = open_beneath(root, sub_path)?;
    remove_bind(target)?;
    if let Some(parent) = target.parent() {
        super::ensure_private_directory(parent)?;
    }
    match FileType::from_raw_mode(fstat(&source)?.st_mode) {
        FileType::Directory => fs::create_dir(target)?,
        _ => drop(fs::File::create_new(target)?),
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(source.as_fd(), "", flags)?;
    move_mount(
        tree.as_fd(),
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    // While it is a peer of the volume's own mount, taking this one away would
    // take away what is mounted below the volume too (mount_namespaces(7)).
    mount_change(
        target,
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    Ok(())
}

/// Takes an earlier mount away, and what it stood on.
fn remove_bind(target: &Path) -> io::Result<()> {
    let Ok(found) = target.symlink_metadata() else {
        return Ok(());
    };
    match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // EINVAL: nothing is mounted here.
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let left = target.symlink_metadata().unwrap_or(found);
    if left.is_dir() {
        // Not recursively: were a mount still here, its content is not ours.
        fs::remove_dir(target)
    } else {
        fs::remove_file(target)
    }
}

/// Opens a path in a volume, making missing directories on the way.
fn open_beneath(root: &Path, sub_path: &Path) -> io::Result<OwnedFd> {
    let plain = OFlags::PATH | OFlags::CLOEXEC;
    let root = openat(CWD, root, plain, Mode::empty())?;
    let mut walked = PathBuf::new();
    let mut current = lookup(root.as_fd(), Path::new("."))?;
    for component in sub_path.components() {
        let name = match component {
            Component::CurDir => continue,
            Component::Normal(name) => name,
            // The lookup would refuse these too; here the reason is plain.
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(rustix::io::Errno::XDEV.into());
            }
        };
        walked.push(name);
        current = match lookup(root.as_fd(), &walked) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_directory(current.as_fd(), name)?;
                lookup(root.as_fd(), &walked)?
            }
            other => other?,
        };
    }
    Ok(current)
}

/// One lookup that the kernel fails when any step would leave `root`.
fn lookup(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            // Something was renamed meanwhile; the kernel asks to look again.
            Err(rustix::io::Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

fn make_directory(parent: BorrowedFd<'_>, name: &std::ffi::OsStr) -> io::Result<()> {
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        // Somebody was faster, or a link points to nothing: the lookup tells.
        Err(rustix::io::Errno::EXIST) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
