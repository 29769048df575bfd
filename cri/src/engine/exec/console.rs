//! The program's terminal: its master end arrives over a socket.
//!
//! The OCI runtime opens a terminal in the container's devpts and sends the
//! master's descriptor with `SCM_RIGHTS` (unix(7)), as runc's `--console-socket`
//! does.

use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as BlockingListener;
use std::path::Path;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixListener;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::output::copy_output;
use super::{ExecIo, TerminalSize};
use crate::engine::error::{Error, ErrorKind};

/// A socket that waits for a terminal.
pub(super) struct Console {
    listener: UnixListener,
}

/// Listens on a path that does not exist yet.
pub(super) fn listen(path: &Path) -> Result<Console, Error> {
    let listener = BlockingListener::bind(path)
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        })
        .map_err(|error| failed("listen for the program's terminal", error))?;
    Ok(Console { listener })
}

impl Console {
    /// The terminal's master end.
    pub(super) async fn receive(&self) -> Result<OwnedFd, Error> {
        let receive_failed = |error| failed("receive the program's terminal", error);
        let (stream, _) = self.listener.accept().await.map_err(receive_failed)?;
        loop {
            stream.readable().await.map_err(receive_failed)?;
            let received = stream.try_io(Interest::READABLE, || receive_descriptor(&stream));
            match received {
                Ok(Some(master)) => return Ok(master),
                Ok(None) => {
                    return Err(Error::new(
                        ErrorKind::Runtime,
                        "the OCI runtime sent no terminal over the console socket",
                    ));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(receive_failed(error)),
            }
        }
    }
}

fn receive_descriptor(stream: &tokio::net::UnixStream) -> std::io::Result<Option<OwnedFd>> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // With the descriptor comes the terminal's name, which nobody needs.
    let mut name = [0; 4096];
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut name)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Joins a terminal to the client until the program's side is closed.
pub(super) async fn bridge(master: OwnedFd, io: ExecIo, ended: CancellationToken) {
    let ExecIo {
        stdin,
        stdout,
        resize,
        ..
    } = io;
    let Ok(terminal) = Terminal::new(master) else {
        return;
    };
    let Terminal {
        output,
        input: mut keys,
        control,
    } = terminal;
    let input = async {
        if let Some(mut stdin) = stdin {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
                if keys.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        }
        // The end of the client's input is not the end of the terminal.
        std::future::pending::<()>().await;
    };
    let sizes = async {
        if let Some(mut resize) = resize {
            while let Some(size) = resize.recv().await {
                set_size(&control, size);
            }
        }
        std::future::pending::<()>().await;
    };
    // EIO ends it: the last program with the terminal's slave end has gone.
    let screen = copy_output(Some(output), stdout, ended);
    tokio::select! {
        () = screen => {}
        () = input => {}
        () = sizes => {}
    }
}

/// The master end of a terminal, without blocking.
///
/// tokio's pipes read and write whatever descriptor they are given, which
/// serves for a terminal too: the master answers to epoll(7) as a pipe does.
struct Terminal {
    output: Receiver,
    input: Sender,
    control: OwnedFd,
}

impl Terminal {
    fn new(master: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Self {
            output: Receiver::from_owned_fd_unchecked(master.try_clone()?)?,
            input: Sender::from_owned_fd_unchecked(master.try_clone()?)?,
            control: master,
        })
    }
}

fn set_size(terminal: &OwnedFd, size: TerminalSize) {
    let size = Winsize {
        ws_col: size.width,
        ws_row: size.height,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // A terminal that is being closed needs no size.
    let _ = tcsetwinsize(terminal, size);
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Runtime, what, error)
}
