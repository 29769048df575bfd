//! Stage `await-start`: everything is ready, and the program waits for its word.
//!
//! `create` and `start` are two calls, so that others can act on a container
//! that exists and does not run: a network is attached, a probe is placed. The
//! word comes over a socket in the container's folder. A call that says nothing
//! is a question whether init still waits; the one that says `b` lets it go, and
//! hears on the same connection why the program could not begin, or that it did:
//! the exec closes it.

use std::os::fd::AsFd;

use crate::init::{Init, Message};
use crate::stage::{Run, Stage, StageError};
use crate::sys::channel;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "await-start",
    effect: "the word to begin has come",
    after: &["publish-state", "find-program"],
    see: &["OCI runtime.md#start", "unix(7)"],
    run: Run::Init(await_start),
};

fn await_start(init: &mut Init) -> Result<(), StageError> {
    init.tell(Message::Ready)?;
    init.await_message(Message::Published)?;
    if !init.waits_for_start() {
        return init.await_message(Message::Begin);
    }
    let gate = init.gate.take().expect("clone-init made it");
    loop {
        let caller = channel::accept(gate.as_fd())?;
        if channel::receive(caller.as_fd()).ok().as_deref() == Some(&[Message::Begin as u8]) {
            init.caller = Some(caller);
            return Ok(());
        }
    }
}
