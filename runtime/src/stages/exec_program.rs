//! Stage `exec-program`: init becomes the container's program.
//!
//! `execve(2)` replaces the memory, and with it every trace of the runtime; all
//! descriptors but the standard streams and those that are to be preserved
//! close by themselves. The connection to the caller closes too, and that is
//! how the caller learns that it worked.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::advice::program::look;
use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::call::remark;
use crate::sys::process;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "exec-program",
    effect: "the program runs",
    after: &["filter-calls", "find-program"],
    see: &["execve(2)"],
    run: Run::Init(exec_program),
};

fn exec_program(init: &mut Init) -> Result<(), StageError> {
    let program = init.program.as_deref().expect("find-program found it");
    let plan = &init.plan.process;
    if init.filter.is_none() {
        remark(|| process::describe_execve(program, &plan.arguments));
    }
    let environment = plan.environment.iter().chain(&init.home);
    let environment: Vec<&CStr> = environment.map(CString::as_c_str).collect();
    match process::execve(program, &plan.arguments, &environment) {
        Ok(never) => match never {},
        Err(call) => Err(StageError::Worded {
            text: format!("exec: {}: {call}", program.to_string_lossy()),
            // Root and working directory are the program's, so its path is the
            // one that the kernel had.
            advice: look(
                Path::new(OsStr::from_bytes(program.to_bytes())),
                call.errno(),
            ),
            call,
        }),
    }
}
