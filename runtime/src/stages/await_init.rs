//! Stage `await-init`: init has built its surroundings and waits at its gate.

use super::record_init::record;
use crate::creation::Creation;
use crate::init::Message;
use crate::stage::{Run, Stage, StageError};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "await-init",
    effect: "init has reached its gate, or has said why not",
    after: &["enter-pids", "find-program"],
    see: &["unix(7)"],
    run: Run::Runtime(await_init),
};

fn await_init(creation: &mut Creation) -> Result<(), StageError> {
    if creation.moves {
        creation.await_move()?;
        // Of an exec, the record is the container's and names its init.
        if creation.folder.is_some() {
            record(creation)?;
        }
    }
    creation.await_message(Message::Ready)
}
