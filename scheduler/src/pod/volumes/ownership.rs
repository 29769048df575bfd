//! The group that owns a volume.
//!
//! Containers of a pod may run as different users and still share a volume: all
//! have `fsGroup` among their groups, the volume belongs to it, and the
//! set-group-ID bit of its directories hands the group on to what is made in
//! them (inode(7)).

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
};

/// Read and write for the group, and set-group-ID.
const DIRECTORY_BITS: u32 = 0o2770;

/// Gives a directory of root's and all in it to a group.
///
/// A volume that belongs to the group already is left alone: its content is the
/// containers' own by then.
pub fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.gid() == group && mode & DIRECTORY_BITS == DIRECTORY_BITS {
        return Ok(());
    }
    // Not through a link: it would change the owner of what it points to.
    lchown(path, None, Some(group))?;
    // After the owner: chown(2) clears the set-group-ID bit.
    fs::set_permissions(path, fs::Permissions::from_mode(mode | DIRECTORY_BITS))
}
