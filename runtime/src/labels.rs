//! Labels of the kernel's security modules: SELinux and AppArmor.
//!
//! Both work alike: a process writes into a file of its own in procfs what its
//! next program is to be confined by, and the exec changes over.
//!
//! ```text
//! SELinux    /proc/self/attr/exec            user:role:type:level
//! AppArmor   /proc/self/attr/apparmor/exec   exec PROFILE          (attr/exec before Linux 5.8)
//! SELinux    /proc/self/attr/keycreate       label of the keyrings made from here on
//! ```
//!
//! A container that asks for a label on a kernel without the module would run
//! unconfined, so it is refused before anything is made. The files are opened
//! below a checked procfs: a write that lands elsewhere is a container without
//! its confinement (CVE-2019-16884, CVE-2019-19921).

use std::path::Path;

use nix::errno::Errno;

use crate::plan::{CreatePlan, SpecError};
use crate::stage::StageError;
use crate::sys::mount;
use crate::sys::path;
use crate::sys::procfs::Procfs;

/// Where SELinux shows itself when it is on, and the type of that filesystem.
const SELINUX_FOLDER: &str = "/sys/fs/selinux";
const SELINUX_MAGIC: i64 = 0xf97c_ff8c;
const APPARMOR_SWITCH: &str = "/sys/module/apparmor/parameters/enabled";

/// Refuses a label that this kernel would not keep.
///
/// # Errors
///
/// The field.
pub fn check_labels(plan: &CreatePlan) -> Result<(), SpecError> {
    let selinux = [
        ("process.selinuxLabel", plan.process.selinux_label.is_some()),
        ("linux.mountLabel", plan.mount_label.is_some()),
    ];
    if let Some((field, _)) = selinux.iter().find(|(_, asked)| *asked)
        && !has_selinux()
    {
        let reason = "expected none, for SELinux is not enabled in this kernel; nothing was made";
        return Err(SpecError::new(*field, reason));
    }
    if plan.process.apparmor_profile.is_some() && !has_apparmor() {
        let reason = "expected none, for AppArmor is not enabled in this kernel; nothing was made";
        return Err(SpecError::new("process.apparmorProfile", reason));
    }
    Ok(())
}

/// Has the next program run under a label of SELinux.
///
/// # Errors
///
/// `EINVAL`: the policy has no such label. `EACCES`: the policy forbids the change.
pub fn set_process_label(procfs: &Procfs, label: &str) -> Result<(), StageError> {
    procfs
        .write("thread-self/attr/exec", label)
        .map_err(|error| StageError::Refused(format!("process.selinuxLabel: {error}")))
}

/// Has the keyrings that this process makes carry a label; `None` ends that.
///
/// # Errors
///
/// As [`set_process_label`].
pub fn set_key_label(procfs: &Procfs, label: Option<&str>) -> Result<(), StageError> {
    // The kernel takes a line end for "none": a write of nothing is no write.
    procfs
        .write("thread-self/attr/keycreate", label.unwrap_or("\n"))
        .map_err(|error| StageError::Refused(format!("process.selinuxLabel: {error}")))
}

/// Has the next program run under a profile of AppArmor.
///
/// # Errors
///
/// `ENOENT`: no such profile is loaded. `EACCES`: the profile in force forbids the change.
pub fn set_profile(procfs: &Procfs, profile: &str) -> Result<(), StageError> {
    let text = format!("exec {profile}");
    let written = match procfs.write("thread-self/attr/apparmor/exec", &text) {
        // Before Linux 5.8 the one module that there was had the files to itself.
        Err(error) if error.errno() == Errno::ENOENT && !has_own_folder(procfs) => {
            procfs.write("thread-self/attr/exec", &text)
        }
        other => other,
    };
    written.map_err(|error| {
        let hint = match error.errno() {
            Errno::ENOENT => " (is the profile loaded? see apparmor_parser(8))",
            _ => "",
        };
        StageError::Refused(format!(
            "process.apparmorProfile: {profile:?}: {error}{hint}"
        ))
    })
}

fn has_own_folder(procfs: &Procfs) -> bool {
    procfs.read("thread-self/attr/apparmor/current").is_ok()
}

fn has_selinux() -> bool {
    path::open_host(Path::new(SELINUX_FOLDER))
        .and_then(|folder| mount::filesystem_magic(&folder))
        .is_ok_and(|magic| magic == SELINUX_MAGIC)
}

fn has_apparmor() -> bool {
    std::fs::read(APPARMOR_SWITCH).is_ok_and(|text| text.first() == Some(&b'Y'))
}
