//! Stage `enter-cwd`: init is where its program begins, and that is inside.
//!
//! A descriptor of the host that leaked would let `/proc/self/fd/N` be a working
//! directory outside of the root (CVE-2024-21626). So the kernel is asked
//! afterwards where we are: outside of the root it answers with a path that
//! does not begin with `/`.

use nix::errno::Errno;

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::path;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "enter-cwd",
    effect: "the working directory is the program's, and lies in the container",
    after: &["enter-root", "join-spaces"],
    see: &["chdir(2)", "getcwd(2)", "OCI config.md#process"],
    run: Run::Init(enter_cwd),
};

/// A directory that only its owner may enter is tried once more when init is that owner.
fn enter_cwd(init: &mut Init) -> Result<(), StageError> {
    match change(init) {
        Err(StageError::Call(error)) if error.errno() == Errno::EACCES => Ok(()),
        other => other,
    }
}

/// Goes there and looks where that is.
///
/// # Errors
///
/// `ENOENT`: no such directory. `EACCES`: only its owner may.
pub fn change(init: &Init) -> Result<(), StageError> {
    path::change_directory(init.plan.process.cwd.as_path())?;
    // The kernel's own answer, not getcwd(3)'s: where the kernel says
    // "(unreachable)", glibc climbs up by hand, and on a host's mount of the
    // rootfs it meets the root's inode and finds everything in order.
    match rustix::process::getcwd(Vec::new()) {
        Ok(place) if place.to_bytes().starts_with(b"/") => Ok(()),
        _ => Err(StageError::Refused(
            "process.cwd: it lies outside of the container's root".to_owned(),
        )),
    }
}
