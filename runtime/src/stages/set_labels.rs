//! Stage `set-labels`: the program will run under its SELinux label and AppArmor profile.
//!
//! What is written takes effect with the next exec, which is the program's. It
//! is written while init still has its privileges, through the procfs that
//! `join-spaces` opened: at `/proc` inside there may be anything.

use crate::init::Init;
use crate::labels;
use crate::stage::{Run, Stage, StageError};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "set-labels",
    effect: "the program will run under its SELinux label and AppArmor profile",
    after: &["join-spaces", "lock-root"],
    see: &[
        "proc_pid_attr(5)",
        "setexeccon(3)",
        "aa_change_onexec(2)",
        "OCI config.md#linux-process",
    ],
    run: Run::InitIf(is_asked, set_labels),
};

fn is_asked(init: &Init) -> bool {
    let process = &init.plan.process;
    process.selinux_label.is_some() || process.apparmor_profile.is_some()
}

fn set_labels(init: &mut Init) -> Result<(), StageError> {
    let Some(procfs) = &init.procfs else {
        return Ok(());
    };
    if let Some(label) = &init.plan.process.selinux_label {
        labels::set_process_label(procfs, label)?;
    }
    if let Some(profile) = &init.plan.process.apparmor_profile {
        labels::set_profile(procfs, profile)?;
    }
    Ok(())
}
