//! Stage `await-cgroup`: the cgroups are there to be joined.

use crate::init::{Init, Message};
use crate::stage::{Run, Stage, StageError};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "await-cgroup",
    effect: "init knows that its cgroups exist",
    after: &["create-v1"],
    see: &["unix(7)"],
    run: Run::Init(await_cgroup),
};

fn await_cgroup(init: &mut Init) -> Result<(), StageError> {
    init.await_message(Message::CgroupMade)
}
