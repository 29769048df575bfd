//! Stage `publish-state`: the container exists for everybody else.
//!
//! The folder's lock goes before the pid file is written, because conmon and
//! containerd take the pid file as the sign that they may ask. Only then init is
//! told that it may outlive the runtime: one that is killed before leaves nothing
//! that runs.

use std::path::Path;

use crate::creation::Creation;
use crate::init::Message;
use crate::stage::{Run, Stage, StageError};
use crate::sys::process::HostPid;
use crate::whole_file;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "publish-state",
    effect: "the container is created, and init no longer depends on the runtime",
    after: &["record-init", "await-init"],
    see: &["OCI runtime.md#state"],
    run: Run::Runtime(publish_state),
};

fn publish_state(creation: &mut Creation) -> Result<(), StageError> {
    let (pid, _) = creation.init.as_ref().expect("clone-init made it");
    if let Some(folder) = &creation.folder {
        folder.unlock();
    }
    if let Some(file) = &creation.wishes.pid_file {
        write_pid_file(file, *pid)?;
    }
    creation.tell(Message::Published)?;
    Ok(())
}

/// Whole at once: who waits for the file must find a number in it.
///
/// # Errors
///
/// When its folder is missing or full.
pub fn write_pid_file(file: &Path, pid: HostPid) -> Result<(), StageError> {
    whole_file::replace(file, pid.0.to_string().as_bytes(), 0o666).map_err(|source| {
        StageError::File {
            path: format!("--pid-file {}", file.display()),
            source,
        }
    })
}
