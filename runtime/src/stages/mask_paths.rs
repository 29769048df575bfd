//! Stage `mask-paths`: what the kernel tells about the host is hidden or read-only.
//!
//! procfs and sysfs hold files that act on the whole machine. A masked file
//! lies under the container's `/dev/null`, a masked directory under an empty
//! read-only tmpfs; a read-only path lies under a read-only copy of itself.
//! That `/dev/null` is the real one is checked on the descriptor that is then
//! mounted (CVE-2025-31133).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{FileType, OFlags};

use super::mount_tree::make_filesystem;
use crate::init::Init;
use crate::plan::labels::MountLabel;
use crate::plan::options::OptionPlan;
use crate::stage::{Run, Stage, StageError};
use crate::sys::call::SyscallError;
use crate::sys::mount::{self, AttributeChange, Depth};
use crate::sys::path;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "mask-paths",
    effect: "masked paths are empty and read-only paths cannot be written",
    after: &["enter-root", "make-devices"],
    see: &[
        "OCI config-linux.md#masked-paths",
        "OCI config-linux.md#readonly-paths",
    ],
    run: Run::Init(mask_paths),
};

fn mask_paths(init: &mut Init) -> Result<(), StageError> {
    let root = init.root.as_ref().expect("enter-root opened it").as_fd();
    for place in &init.plan.readonly_paths {
        if let Some(place) = open_existing(init, root, place.as_path())? {
            make_readonly(place.as_fd())?;
        }
    }
    let mut masks = Masks {
        options: init
            .plan
            .mount_label
            .iter()
            .map(MountLabel::as_option)
            .collect(),
        ..Masks::default()
    };
    for place in &init.plan.masked_paths {
        if let Some(place) = open_existing(init, root, place.as_path())? {
            masks.cover(root, place.as_fd())?;
        }
    }
    // They are open no longer than they are needed.
    init.kernel_mounts.clear();
    Ok(())
}

/// A path that is not there needs no mask. What belongs to procfs or sysfs is looked
/// up below the mount itself: while `/proc` is exchanged for something else, its
/// files would seem not to be there (CVE-2019-19921, CVE-2023-27561).
fn open_existing(
    init: &Init,
    root: BorrowedFd<'_>,
    place: &Path,
) -> Result<Option<OwnedFd>, SyscallError> {
    let plain = path::without_dots(place);
    let below = init.kernel_mounts.iter().rev().find_map(|(at, mount)| {
        let rest = plain.strip_prefix(at).ok()?;
        Some((mount.as_fd(), rest))
    });
    let (root, place) = below.unwrap_or((root, place));
    match path::open_in_root(root, place, OFlags::PATH) {
        Ok(place) => Ok(Some(place)),
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

fn make_readonly(place: BorrowedFd<'_>) -> Result<(), SyscallError> {
    let tree = mount::open_tree_clone(place, Depth::Recursive)?;
    let change = AttributeChange {
        set: libc::MOUNT_ATTR_RDONLY,
        ..AttributeChange::default()
    };
    mount::mount_setattr(tree.as_fd(), Depth::Recursive, change)?;
    mount::move_mount(tree.as_fd(), place)
}

/// What lies over masked paths, made when the first needs it.
#[derive(Default)]
struct Masks {
    null: Option<OwnedFd>,
    empty: Option<OwnedFd>,
    options: Vec<(String, Option<String>)>,
}

impl Masks {
    fn cover(&mut self, root: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), SyscallError> {
        if path::is_directory(place)? {
            return self.cover_directory(place);
        }
        if self.null.is_none() {
            self.null = Some(open_null(root)?);
        }
        let null = self.null.as_ref().expect("it was set above");
        let tree = mount::open_tree_clone(null.as_fd(), Depth::One)?;
        mount::move_mount(tree.as_fd(), place)
    }

    /// One tmpfs serves all directories: the others get copies of its mount.
    fn cover_directory(&mut self, place: BorrowedFd<'_>) -> Result<(), SyscallError> {
        if let Some(empty) = &self.empty {
            let tree = mount::open_tree_clone(empty.as_fd(), Depth::One)?;
            return mount::move_mount(tree.as_fd(), place);
        }
        let options = OptionPlan {
            attributes: AttributeChange {
                set: libc::MOUNT_ATTR_RDONLY,
                ..AttributeChange::default()
            },
            filesystem: self.options.clone(),
            ..OptionPlan::default()
        };
        let tree = make_filesystem("tmpfs", "tmpfs", &options)?;
        mount::move_mount(tree.as_fd(), place)?;
        self.empty = Some(tree);
        Ok(())
    }
}

fn open_null(root: BorrowedFd<'_>) -> Result<OwnedFd, SyscallError> {
    let null = path::open_in_root(root, Path::new("/dev/null"), OFlags::PATH)?;
    let found = path::status(null.as_fd())?;
    let is_null = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice
        && found.st_rdev == rustix::fs::makedev(1, 3);
    if is_null {
        Ok(null)
    } else {
        Err(SyscallError::new(
            "fstat(/dev/null): not the null device",
            Errno::EINVAL,
        ))
    }
}
