//! Stage `send-pidfd`: the caller holds init by a descriptor.
//!
//! A number of a process may be given to another once it has ended; a descriptor
//! stays with the process that it was made for (pidfd_open(2)). A caller that
//! wants to watch init without a race asks for one (`--pidfd-socket`, as runc
//! has it, or crun's annotation `run.oci.pidfd_receiver`), and gets it before
//! the program runs.

use std::os::fd::AsFd;

use crate::creation::Creation;
use crate::stage::{Run, Stage, StageError};
use crate::sys::channel;

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "send-pidfd",
    effect: "whoever asked for a descriptor of init has it",
    after: &["clone-init", "await-init"],
    see: &["pidfd_open(2)", "runc-create(8) --pidfd-socket", "unix(7)"],
    run: Run::RuntimeIf(is_asked, send_pidfd),
};

fn is_asked(creation: &Creation) -> bool {
    creation.wishes.pidfd_socket.is_some() || receiver(creation).is_some()
}

/// The annotation is about the container's init, not about what `exec` adds.
fn receiver(creation: &Creation) -> Option<&std::path::PathBuf> {
    let receiver = creation.plan.wishes.pidfd_receiver.as_ref();
    receiver.filter(|_| creation.folder.is_some())
}

fn send_pidfd(creation: &mut Creation) -> Result<(), StageError> {
    let (_, pidfd) = creation.init.as_ref().expect("clone-init made it");
    // runc's words for the two kinds of init.
    let word: &[u8] = match creation.folder {
        Some(_) => b"standard",
        None => b"setns",
    };
    let asked = [
        ("--pidfd-socket", creation.wishes.pidfd_socket.as_ref()),
        ("run.oci.pidfd_receiver", receiver(creation)),
    ];
    for (name, socket) in asked {
        let Some(socket) = socket else { continue };
        channel::connect_host(socket)
            .and_then(|socket| channel::send_descriptor(socket.as_fd(), pidfd.as_fd(), word))
            .map_err(|error| StageError::Refused(format!("{name}: {error}")))?;
    }
    Ok(())
}
