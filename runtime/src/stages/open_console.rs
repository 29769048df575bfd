//! Stage `open-console`: the program has a terminal, and the caller has its other end.
//!
//! The pseudo terminal comes from the container's own devpts, so that the
//! program finds it by name in `/dev/pts`. The master is sent to the caller
//! over `--console-socket`; the slave becomes the three standard streams and,
//! for init, `/dev/console`. Neither is looked up by a name that the container
//! could have changed (CVE-2025-52565).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::OFlags;

use super::mount_tree::attach;
use crate::init::Init;
use crate::stage::{Run, Stage, StageError};
use crate::sys::mount::{self, Depth};
use crate::sys::path::{self, Missing};
use crate::sys::{channel, process, terminal};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "open-console",
    effect: "the standard streams are a terminal of the container's, if it is to have one",
    after: &["enter-root", "join-spaces"],
    see: &["pty(7)", "devpts", "OCI config.md#process", "ioctl_tty(2)"],
    run: Run::Init(open_console),
};

fn open_console(init: &mut Init) -> Result<(), StageError> {
    let Some(size) = init.plan.process.terminal else {
        return Ok(());
    };
    let Some(caller) = init.console.take() else {
        let reason = "process.terminal is true, but there is no --console-socket to send it to";
        return Err(StageError::Refused(reason.to_owned()));
    };
    let root = path::open_host(Path::new("/"))?;
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = path::open_in_root(root.as_fd(), Path::new("/dev/pts/ptmx"), flags)?;
    terminal::check_multiplexer(master.as_fd())?;
    let slave = terminal::open_slave(master.as_fd())?;
    if let Some(size) = size {
        terminal::set_size(master.as_fd(), size)?;
    }
    if init.root.is_some() {
        bind_console(root.as_fd(), slave.as_fd())?;
    }
    channel::send_descriptor(caller.as_fd(), master.as_fd(), b"/dev/ptmx")?;
    let owner = init.plan.process.uid;
    if owner != 0 {
        path::change_user_of(slave.as_fd(), owner)?;
    }
    for stream in 0..=2 {
        process::replace_stream(slave.as_fd(), stream)?;
    }
    // Where another process goes on, it is that one's session that gets it.
    if !init.moves {
        terminal::make_controlling(slave.as_fd())?;
    }
    Ok(())
}

/// `/dev/console` is the same terminal, for programs that write there.
fn bind_console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<(), StageError> {
    let console = Path::new("/dev/console");
    path::ensure_in_root(root, console, Missing::File)?;
    let tree = mount::open_tree_clone(slave, Depth::One)?;
    attach(root, console, tree.as_fd())?;
    Ok(())
}
