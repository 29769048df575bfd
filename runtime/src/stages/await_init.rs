//! Stage `await-init`: init has built its surroundings and waits at its gate.

use crate::creation::Creation;
use crate::init::Message;
use crate::stage::{Run, Stage, StageError};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "await-init",
    effect: "init has reached its gate, or has said why not",
    after: &["find-program"],
    see: &["unix(7)"],
    run: Run::Runtime(await_init),
};

fn await_init(creation: &mut Creation) -> Result<(), StageError> {
    creation.await_message(Message::Ready)
}
