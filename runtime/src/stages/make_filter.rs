//! Stage `make-filter`: the seccomp profile is a program for the kernel.
//!
//! Compiling a profile of some 300 calls takes several milliseconds, more than
//! all else together, so the result is kept on disk. It is done before init
//! exists: a wrong profile costs nothing to take back.

use std::path::{Path, PathBuf};

use crate::creation::Creation;
use crate::seccomp::compile::compile_filter;
use crate::seccomp::plan::plan_filter;
use crate::stage::{Run, Stage, StageError};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "make-filter",
    effect: "the filter of system calls is compiled, or was found compiled",
    after: &["reserve-id"],
    see: &[
        "seccomp(2)",
        "OCI config-linux.md#seccomp",
        "docs/seccomp.md",
    ],
    run: Run::Runtime(make_filter),
};

fn make_filter(creation: &mut Creation) -> Result<(), StageError> {
    if let Some(program) = &creation.plan.wishes.raw_filter {
        creation.filter = Some(program.clone());
        return Ok(());
    }
    let Some(profile) = &creation.plan.seccomp else {
        return Ok(());
    };
    let mut plan = plan_filter(profile)?;
    plan.unknown = creation.plan.wishes.unknown_calls;
    let cache = cache_directory(creation.store.root());
    creation.filter = Some(compile_filter(&plan, Some(&cache))?);
    Ok(())
}

/// Where compiled filters are kept, below the root of the state.
pub fn cache_directory(root: &Path) -> PathBuf {
    root.join(".seccomp-cache")
}
