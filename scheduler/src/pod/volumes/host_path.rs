//! A path of the node, checked.
//!
//! The type says what the pod expects to find. Two of them make it; the others
//! refuse to run the pod beside something else, before a runtime mounts a
//! missing file as a directory.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    path::Path,
};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::{StepFailure, step};

/// Makes what the type says to make, checks what it says to check.
pub(super) fn ensure_host_path(source: &HostPathVolumeSource) -> Result<(), StepFailure> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    match kind {
        "DirectoryOrCreate" => ensure_directory(path),
        "FileOrCreate" => ensure_file(path),
        // Nothing is checked; a path that is missing becomes a directory, as
        // container runtimes have always done.
        "" if !path.exists() => ensure_directory(path),
        _ => Ok(()),
    }
    .map_err(step(format!("{} was not made", path.display())))?;
    if kind.is_empty() {
        return Ok(());
    }
    let expected = expected(kind);
    let found = fs::metadata(path).map_err(step(format!(
        "hostPath type check failed: {} is not {expected}",
        path.display()
    )))?;
    let file_type = found.file_type();
    let holds = match kind {
        "DirectoryOrCreate" | "Directory" => file_type.is_dir(),
        "FileOrCreate" | "File" => file_type.is_file(),
        "Socket" => file_type.is_socket(),
        "CharDevice" => file_type.is_char_device(),
        "BlockDevice" => file_type.is_block_device(),
        _ => false,
    };
    if holds {
        return Ok(());
    }
    Err(StepFailure {
        step: format!(
            "hostPath type check failed: {} is not {expected}",
            path.display()
        ),
        source: io::Error::new(io::ErrorKind::InvalidInput, "something else stands there"),
    })
}

fn expected(kind: &str) -> &'static str {
    match kind {
        "DirectoryOrCreate" | "Directory" => "a directory",
        "FileOrCreate" | "File" => "a file",
        "Socket" => "a socket file",
        "CharDevice" => "a character device",
        "BlockDevice" => "a block device",
        _ => "of a type that is known (Directory, File, Socket, CharDevice, BlockDevice)",
    }
}

fn ensure_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

/// Makes an empty file; its directory must be there.
fn ensure_file(path: &Path) -> io::Result<()> {
    let made = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}
