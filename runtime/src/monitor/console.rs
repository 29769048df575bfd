//! Getting a container's terminal from the OCI runtime.
//!
//! A pseudo terminal has two ends. The slave end must be opened inside the
//! container, by its init, so that its name there is right; the master end
//! comes out as a descriptor in a message (`SCM_RIGHTS`, `unix(7)`) on the
//! *console socket* that `create --console-socket` names.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::sys::socket_path::{ShortPath, listen};

/// A socket that waits for one terminal.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    short: ShortPath,
}

impl ConsoleSocket {
    /// Makes the socket at `path`.
    ///
    /// # Errors
    ///
    /// As `bind(2)`.
    pub fn create(path: PathBuf) -> io::Result<ConsoleSocket> {
        let listener = listen(&path)?;
        let short = ShortPath::of(&path);
        let made = short.and_then(|short| {
            listener.set_nonblocking(true)?;
            Ok(short)
        });
        match made {
            Ok(short) => Ok(ConsoleSocket {
                listener,
                path,
                short,
            }),
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// The name for the OCI runtime, short enough for an address.
    pub fn path(&self) -> &Path {
        &self.short.path
    }

    /// Takes the terminal that was sent.
    ///
    /// The runtime sends before it reports success, so that this need not wait.
    ///
    /// # Errors
    ///
    /// - `EAGAIN`: nobody connected, or nothing was sent.
    /// - `InvalidData`: the message held no descriptor.
    pub fn receive(self) -> io::Result<OwnedFd> {
        let (connection, _) = self.listener.accept()?;
        connection.set_nonblocking(true)?;
        receive_descriptor(&connection)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // Gone already is as good; otherwise the pod's directory goes soon.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Sets a terminal's size. The kernel sends SIGWINCH to its foreground group.
///
/// # Errors
///
/// - `ENOTTY`: the descriptor is no terminal.
pub fn resize(terminal: impl AsFd, width: u16, height: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}

fn receive_descriptor(connection: &UnixStream) -> io::Result<OwnedFd> {
    // The text beside the descriptor is the slave's name, of no use here.
    let mut text = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        connection,
        &mut [io::IoSliceMut::new(&mut text)],
        &mut control,
        // Between receiving and marking, a fork would hand the terminal on.
        RecvFlags::CMSG_CLOEXEC,
    )?;
    control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor was sent"))
}
