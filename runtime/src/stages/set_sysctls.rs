//! Stage `set-sysctls`: kernel parameters of the container's namespaces.
//!
//! A file below `/proc/sys` acts on the namespaces of whoever opens it. The
//! writes go through a procfs that is mounted nowhere, so nothing that an image
//! or another container put over `/proc/sys` can redirect them
//! (CVE-2019-16884, CVE-2025-52881).

use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::procfs::Procfs;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "set-sysctls",
    effect: "the namespaces' kernel parameters are set",
    after: &["join-spaces"],
    see: &["sysctl(8)", "proc_sys(5)", "OCI config-linux.md#sysctl"],
    run: Run::Init(set_sysctls),
};

fn set_sysctls(init: &mut Init) -> Result<(), StageError> {
    if init.plan.sysctls.is_empty() {
        return Ok(());
    }
    let procfs = Procfs::private()?;
    for (name, value) in &init.plan.sysctls {
        procfs
            .write(&format!("sys/{name}"), value)
            .map_err(|call| {
                let field = name.replace('/', ".");
                StageError::worded(format_args!("linux.sysctl[{field:?}]"), call)
            })?;
    }
    Ok(())
}
