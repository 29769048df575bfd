//! Stage `mount-tree`: the configuration's mounts, up to the first that shows cgroups.
//!
//! Every mount is made first, as a descriptor, and attached to a place that was
//! looked up below the container's root, as a descriptor too. No path is
//! followed twice, and none leaves the root (CVE-2021-30465, CVE-2023-27561).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::bind_root::{copy_tree, quieten};
use crate::copy::Own;
use crate::init::Init;
use crate::plan::mounts::{MountKind, MountPlan};
use crate::plan::options::OptionPlan;
use crate::stage::{Run, Stage, StageError};
use crate::sys::call::SyscallError;
use crate::sys::mount;
use crate::sys::mount::{AttributeChange, Depth};
use crate::sys::path::{self, Missing};
use crate::sys::procfs;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "mount-tree",
    effect: "the mounts before the first of cgroups are in place",
    after: &["bind-root"],
    see: &[
        "fsopen(2)",
        "open_tree(2)",
        "move_mount(2)",
        "mount_setattr(2)",
        "OCI config.md#mounts",
    ],
    run: Run::Init(mount_tree),
};

fn mount_tree(init: &mut Init) -> Result<(), StageError> {
    let first = first_of_cgroups(&init.plan.mounts);
    mount_all(init, 0, first)
}

/// Where the mounts begin that must wait for init's cgroups.
pub fn first_of_cgroups(mounts: &[MountPlan]) -> usize {
    let mut kinds = mounts.iter().map(|mount| &mount.kind);
    kinds
        .position(|kind| matches!(kind, MountKind::Cgroup))
        .unwrap_or(mounts.len())
}

/// Makes some of the mounts, in order.
///
/// # Errors
///
/// The first that cannot be made, with its number and place.
pub fn mount_all(init: &mut Init, from: usize, to: usize) -> Result<(), StageError> {
    let root = init.root.take().expect("bind-root made it");
    let made = (from..to).try_for_each(|index| {
        let handed = init.handed.take_tree(index);
        let plan = &init.plan.mounts[index];
        let place = plan.destination.as_path();
        let mounted = mount_one(init, root.as_fd(), (plan, handed)).map_err(|error| {
            StageError::worded(format_args!("mounts[{index}] {place:?}"), error)
        })?;
        if let Some(tree) = mounted.filter(|_| is_kernels_place(place)) {
            let plain = path::without_dots(place);
            init.kernel_mounts.push((plain, tree));
        }
        Ok(())
    });
    init.root = Some(root);
    made
}

/// Makes one mount; with it comes the copy that the runtime made of its source, if
/// it did. The mount's root is returned, except of those that are made of several
/// or by their path.
fn mount_one(
    init: &Init,
    root: BorrowedFd<'_>,
    (plan, handed): (&MountPlan, Option<OwnedFd>),
) -> Result<Option<OwnedFd>, SyscallError> {
    let tree = match &plan.kind {
        MountKind::Filesystem { kind, source } if plan.options.has_long_value() => {
            return mount_by_text(root, plan, kind, source).map(|()| None);
        }
        MountKind::Filesystem { kind, source } => {
            let namespace = init.pid_namespace.as_ref().map(AsFd::as_fd);
            let made = match kind.as_str() {
                "proc" => make_procfs(source, &plan.options, namespace),
                _ => make_filesystem(kind, source, &plan.options),
            };
            match made {
                Err(error) if error.errno() == Errno::EPERM && init.is_isolated() => {
                    bind_hosts(kind, &plan.options, error)?
                }
                made => made?,
            }
        }
        MountKind::Bind { source, depth } => match handed {
            Some(tree) => {
                quieten(init, tree.as_fd())?;
                tree
            }
            None => {
                let source = path::open_host(source.as_path())?;
                copy_tree(init, source.as_fd(), *depth)?
            }
        },
        MountKind::Cgroup => {
            return super::mount_rest::mount_cgroups(init, root, plan).map(|()| None);
        }
    };
    let bound = matches!(plan.kind, MountKind::Bind { .. });
    if bound {
        change_attributes(&tree, &plan.options)?;
    }
    if plan.options.copies_up {
        copy_up(root, plan, tree.as_fd())?;
    }
    let tree_is_detached = init.plan.namespaces.shares_mounts();
    if tree_is_detached {
        // mount_setattr(2) changes a mount that is attached only where a namespace holds it.
        set_propagation(tree.as_fd(), &plan.options)?;
    }
    attach(root, plan.destination.as_path(), tree.as_fd())?;
    if tree_is_detached {
        return Ok(Some(tree));
    }
    // Options for a filesystem say nothing to a bind mount: mount(2) ignores its
    // data argument there, and callers pass "mode=0755" along with "bind".
    set_propagation(tree.as_fd(), &plan.options)?;
    Ok(Some(tree))
}

/// Attaches a mount at a place below the root, which is made where it is missing.
///
/// # Errors
///
/// As `path::ensure_in_root` and `move_mount(2)`.
pub fn attach(
    root: BorrowedFd<'_>,
    place: &Path,
    tree: BorrowedFd<'_>,
) -> Result<OwnedFd, SyscallError> {
    let missing = match path::is_directory(tree)? {
        true => Missing::Directory,
        false => Missing::File,
    };
    let mut opened = path::ensure_in_root(root, place, missing)?;
    if is_kernels_place(place) {
        // Masks and read-only paths are looked up by the same name later: whoever
        // could exchange a link here would have them elsewhere (CVE-2019-16884,
        // CVE-2023-27561, CVE-2023-28642).
        opened = path::open_in_root_without_links(root, place, rustix::fs::OFlags::PATH)?;
    }
    if mount::filesystem_magic(&opened)? == libc::PROC_SUPER_MAGIC {
        allow_over_proc(place, opened.as_fd(), tree)?;
    }
    mount::move_mount(tree, opened.as_fd())?;
    Ok(opened)
}

/// Where every program looks for procfs and sysfs.
fn is_kernels_place(place: &Path) -> bool {
    let plain = path::without_dots(place);
    plain == Path::new("proc") || plain == Path::new("sys")
}

/// Files of procfs that say how much the machine has; lxcfs and its like put
/// smaller numbers there.
const PROC_FILES: &[&str] = &[
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/net/dev",
    "proc/slabinfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
];

/// Refuses a mount over any other part of procfs. Who could put a file of their
/// own at `/proc/self/attr/exec` or over `/proc/sys` would get what the runtime
/// writes there, or undo what it masks (CVE-2019-16884, CVE-2019-19921).
fn allow_over_proc(
    place: &Path,
    opened: BorrowedFd<'_>,
    tree: BorrowedFd<'_>,
) -> Result<(), SyscallError> {
    let is_whole =
        procfs::is_root(opened)? && mount::filesystem_magic(tree)? == libc::PROC_SUPER_MAGIC;
    let plain = path::without_dots(place);
    if is_whole || PROC_FILES.iter().any(|file| plain == Path::new(file)) {
        return Ok(());
    }
    Err(SyscallError::new(
        "a mount over this part of procfs is refused",
        Errno::EPERM,
    ))
}

/// Fills a tmpfs with what it is about to cover; a place that is missing has nothing.
/// A mode among the options is the folder's, not that of what it covers.
fn copy_up(
    root: BorrowedFd<'_>,
    plan: &MountPlan,
    tree: BorrowedFd<'_>,
) -> Result<(), SyscallError> {
    let place = path::ensure_in_root(root, plan.destination.as_path(), Missing::Directory)?;
    let mut options = plan.options.filesystem.iter();
    let own = match options.any(|(key, _)| key == "mode") {
        true => Own::Kept,
        false => Own::Copied,
    };
    crate::copy::copy_folder(place.as_fd(), tree, own)
}

/// A filesystem of its own, attached nowhere yet.
///
/// # Errors
///
/// `ENODEV`: the kernel does not have it. `EINVAL`: an option that it does not know.
pub fn make_filesystem(
    kind: &str,
    source: &str,
    options: &OptionPlan,
) -> Result<OwnedFd, SyscallError> {
    let context = mount::fsopen(kind)?;
    finish_filesystem(&context, kind, source, options)
}

/// A procfs: of the pid namespace that init will enter, where it is not there yet.
fn make_procfs(
    source: &str,
    options: &OptionPlan,
    namespace: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, SyscallError> {
    let context = mount::fsopen("proc")?;
    if let Some(namespace) = namespace {
        mount::fsconfig_descriptor(context.as_fd(), "pidns", namespace)?;
    }
    finish_filesystem(&context, "proc", source, options)
}

fn finish_filesystem(
    context: &OwnedFd,
    kind: &str,
    source: &str,
    options: &OptionPlan,
) -> Result<OwnedFd, SyscallError> {
    if !source.is_empty() {
        mount::fsconfig_string(context.as_fd(), "source", source)?;
    }
    for (key, value) in &options.filesystem {
        match value {
            Some(value) => mount::fsconfig_string(context.as_fd(), key, value)?,
            None => mount::fsconfig_flag(context.as_fd(), key)?,
        }
    }
    mount::fsconfig_create(context.as_fd(), kind)?;
    let tree = mount::fsmount(context.as_fd(), options.attributes.set)?;
    if options.recursive != AttributeChange::default() {
        mount::mount_setattr(tree.as_fd(), Depth::Recursive, options.recursive)?;
    }
    Ok(tree)
}

/// What stands for a filesystem whose namespace is not the container's own: only
/// who owns the network may mount a sysfs, who owns the pids a procfs, who owns
/// the ipc an mqueue. Callers ask for them all the same, and crun answers with
/// the host's own.
const HOSTS_OWN: &[(&str, &str)] = &[
    ("mqueue", "/dev/mqueue"),
    ("proc", "/proc"),
    ("sysfs", "/sys"),
];

fn bind_hosts(
    kind: &str,
    options: &OptionPlan,
    refused: SyscallError,
) -> Result<OwnedFd, SyscallError> {
    let Some((_, place)) = HOSTS_OWN.iter().find(|(known, _)| *known == kind) else {
        return Err(refused);
    };
    let source = path::open_host(Path::new(place))?;
    // With all below it: a user namespace may not look under what the host mounted there.
    let tree = mount::open_tree_clone(source.as_fd(), Depth::Recursive)?;
    let change = AttributeChange {
        set: options.attributes.set & !libc::MOUNT_ATTR__ATIME,
        ..AttributeChange::default()
    };
    mount::mount_setattr(tree.as_fd(), Depth::Recursive, change)?;
    Ok(tree)
}

fn change_attributes(tree: &OwnedFd, options: &OptionPlan) -> Result<(), SyscallError> {
    let changes = [
        (Depth::Recursive, options.recursive),
        (Depth::One, options.attributes),
    ];
    for (depth, change) in changes {
        if change != AttributeChange::default() {
            mount::mount_setattr(tree.as_fd(), depth, change)?;
        }
    }
    Ok(())
}

/// Set once the mount is attached: a mount that is attached below a shared one
/// would otherwise become shared by it.
fn set_propagation(tree: BorrowedFd<'_>, options: &OptionPlan) -> Result<(), SyscallError> {
    for (depth, propagation) in &options.propagation {
        let change = AttributeChange {
            propagation: *propagation,
            ..AttributeChange::default()
        };
        mount::mount_setattr(tree, *depth, change)?;
    }
    Ok(())
}

/// For options that `fsconfig(2)` has no room for (the layers of an overlay):
/// `mount(2)`, onto the place's descriptor.
fn mount_by_text(
    root: BorrowedFd<'_>,
    plan: &MountPlan,
    kind: &str,
    source: &str,
) -> Result<(), SyscallError> {
    let words = plan
        .options
        .filesystem
        .iter()
        .map(|(key, value)| match value {
            // Labels of SELinux hold commas.
            Some(value) if key.ends_with("context") => format!("{key}=\"{value}\""),
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        });
    let text = words.collect::<Vec<_>>().join(",");
    let place = path::ensure_in_root(root, plan.destination.as_path(), Missing::Directory)?;
    if mount::filesystem_magic(&place)? == libc::PROC_SUPER_MAGIC {
        allow_over_proc(plan.destination.as_path(), place.as_fd(), root)?;
    }
    mount::mount_onto(place.as_fd(), kind, source, &text)?;
    // The place is below the new mount now: look once more to find its root.
    let top = path::open_in_root(root, plan.destination.as_path(), rustix::fs::OFlags::PATH)?;
    change_attributes(&top, &plan.options)?;
    set_propagation(top.as_fd(), &plan.options)
}

/// Opens the root anew once it is `/`.
///
/// # Errors
///
/// Those of `open(2)`.
pub fn reopen_root(init: &mut Init) -> Result<(), SyscallError> {
    init.root = Some(path::open_host(Path::new("/"))?);
    Ok(())
}
