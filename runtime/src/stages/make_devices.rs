//! Stage `make-devices`: `/dev` holds what every program expects, and nothing more.
//!
//! Nodes are made with the exact mode that is asked for, so the umask is 0 from
//! here until `set-limits`. A node that is there already is taken only when it
//! is the very device: an image could ship a `/dev/null` that is a disk.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{FileType, OFlags};

use crate::init::Init;
use crate::plan::devices::DeviceNode;
use crate::stage::{Run, Stage, StageError};
use crate::sys::call::SyscallError;
use crate::sys::mount::{self, Depth};
use crate::sys::{path, privilege};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "make-devices",
    effect: "/dev has its nodes and links",
    after: &["mount-rest"],
    see: &["mknod(2)", "null(4)", "OCI config-linux.md#default-devices"],
    run: Run::Init(make_devices),
};

fn make_devices(init: &mut Init) -> Result<(), StageError> {
    let Some(devices) = &init.plan.devices else {
        return Ok(());
    };
    let root = init.root.as_ref().expect("bind-root made it").as_fd();
    privilege::set_umask(0);
    let mut folder = Folder::default();
    for node in &devices.nodes {
        let (directory, name) = folder.of(root, node.path.as_path())?;
        if init.plan.mappings.is_some() && node.kind != FileType::Fifo {
            bind_node(directory, &name, node)?;
        } else {
            make_node(directory, &name, node)?;
        }
    }
    for (target, place) in &devices.links {
        let (directory, name) = folder.of(root, place.as_path())?;
        match path::create_link(target, directory, &name) {
            // A mount or the image may have brought it.
            Err(error) if error.errno() == Errno::EEXIST => {}
            other => other?,
        }
    }
    Ok(())
}

/// The folder of the last node: nearly all are in one.
#[derive(Default)]
struct Folder(Option<(std::path::PathBuf, std::os::fd::OwnedFd)>);

impl Folder {
    fn of(
        &mut self,
        root: BorrowedFd<'_>,
        place: &Path,
    ) -> Result<(BorrowedFd<'_>, std::path::PathBuf), SyscallError> {
        let parent = place.parent().unwrap_or(Path::new("/")).to_owned();
        let name = place.file_name().unwrap_or_default().into();
        if !matches!(&self.0, Some((known, _)) if *known == parent) {
            let (directory, _) = path::ensure_parent_in_root(root, place)?;
            self.0 = Some((parent, directory));
        }
        let (_, directory) = self.0.as_ref().expect("it was set above");
        Ok((directory.as_fd(), name))
    }
}

fn make_node(
    directory: BorrowedFd<'_>,
    name: &Path,
    node: &DeviceNode,
) -> Result<(), SyscallError> {
    match path::create_node(directory, name, node.kind, node.mode, node.device) {
        Err(error) if error.errno() == Errno::EEXIST => return check_node(directory, name, node),
        other => other?,
    }
    if (node.uid, node.gid) != (0, 0) {
        path::change_owner(directory, name, node.uid, node.gid)?;
    }
    Ok(())
}

/// The kernel lets nobody in a user namespace make a device, for they would choose
/// its owner and mode. The host's own node is shown instead, when it is the one.
fn bind_node(
    directory: BorrowedFd<'_>,
    name: &Path,
    node: &DeviceNode,
) -> Result<(), SyscallError> {
    let hosts = path::open_host(node.path.as_path())?;
    let found = path::status(hosts.as_fd())?;
    let is_it = FileType::from_raw_mode(found.st_mode) == node.kind && found.st_rdev == node.device;
    if !is_it {
        let text = format!(
            "{:?} of the host is another device, and one cannot be made in a user namespace",
            node.path.as_path()
        );
        return Err(SyscallError::new(text, Errno::EPERM));
    }
    match path::create_node(directory, name, FileType::RegularFile, 0o644, 0) {
        // A place for it may be there already; a mount that has it is as good.
        Err(error) if error.errno() == Errno::EEXIST => {
            if check_node(directory, name, node).is_ok() {
                return Ok(());
            }
        }
        other => other?,
    }
    let place = path::open_plain(directory, name, OFlags::PATH)?;
    let tree = mount::open_tree_clone(hosts.as_fd(), Depth::One)?;
    mount::move_mount(tree.as_fd(), place.as_fd())
}

fn check_node(
    directory: BorrowedFd<'_>,
    name: &Path,
    node: &DeviceNode,
) -> Result<(), SyscallError> {
    let found = path::status_at(directory, name)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    let same = kind == node.kind && (kind == FileType::Fifo || found.st_rdev == node.device);
    if same {
        return Ok(());
    }
    let text = format!(
        "{:?} is there already and is another device",
        node.path.as_path()
    );
    Err(SyscallError::new(text, Errno::EEXIST))
}
