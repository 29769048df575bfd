//! Sockets between processes, and descriptors sent over them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::errno::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::call::{SyscallError, finish, quoted};
use super::socket_path;

/// The longest message of a [`pair`].
pub const MESSAGE_LIMIT_BYTES: usize = 16 * 1024;

/// `socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)`: messages keep their borders.
///
/// # Errors
///
/// `EMFILE`, `ENFILE`.
pub fn pair() -> Result<(OwnedFd, OwnedFd), SyscallError> {
    finish(
        rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        ),
        || "socketpair(AF_UNIX, SOCK_SEQPACKET)".to_owned(),
    )
}

/// `send(2)` of one message, without SIGPIPE.
///
/// # Errors
///
/// `EPIPE`: the other side is gone.
pub fn send(socket: BorrowedFd<'_>, message: &[u8]) -> Result<(), SyscallError> {
    loop {
        match rustix::net::send(socket, message, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => {
                return finish(other.map(drop), || {
                    format!("send({}, {} bytes)", socket.as_raw_fd(), message.len())
                });
            }
        }
    }
}

/// `recv(2)` of one message; an empty one means that the other side has closed.
///
/// # Errors
///
/// Those of `recv(2)`.
pub fn receive(socket: BorrowedFd<'_>) -> Result<Vec<u8>, SyscallError> {
    let mut message = vec![0; MESSAGE_LIMIT_BYTES];
    loop {
        match rustix::net::recv(socket, &mut message[..], RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok((length, _)) => {
                message.truncate(length);
                let received = Ok::<_, rustix::io::Errno>(message);
                return finish(received, || format!("recv({})", socket.as_raw_fd()));
            }
            // A peer that closed with something unread: the kernel tells of that
            // once, and first; what the peer had said is still to be read.
            Err(rustix::io::Errno::CONNRESET) => {}
            Err(error) => {
                let failed: Result<Vec<u8>, _> = Err(error);
                return finish(failed, || format!("recv({})", socket.as_raw_fd()));
            }
        }
    }
}

/// A listening socket in a directory that is given by a descriptor.
///
/// `sun_path` holds 108 bytes and `--root` may be longer, so the path goes by
/// way of `/proc/self/fd` (unix(7)).
///
/// # Errors
///
/// `EADDRINUSE`: the name is taken.
pub fn listen_in(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, SyscallError> {
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    finish(UnixListener::bind(&path).map(OwnedFd::from), || {
        format!("bind({path:?}), listen()")
    })
}

/// A connection to what [`listen_in`] made.
///
/// # Errors
///
/// `ENOENT`: no such socket. `ECONNREFUSED`: nobody listens any more.
pub fn connect_in(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, SyscallError> {
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    finish(UnixStream::connect(&path).map(OwnedFd::from), || {
        format!("connect({path:?})")
    })
}

/// A connection to a socket of the host, such as `--console-socket`.
///
/// # Errors
///
/// `ENOENT`, `ECONNREFUSED`.
pub fn connect_host(path: &Path) -> Result<OwnedFd, SyscallError> {
    finish(socket_path::connect(path).map(OwnedFd::from), || {
        format!("connect({})", quoted(path))
    })
}

/// `accept4(2)`.
///
/// # Errors
///
/// Those of `accept4(2)`.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, SyscallError> {
    loop {
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => return finish(other, || format!("accept4({})", listener.as_raw_fd())),
        }
    }
}

/// `sendmsg(2)` of a text with one descriptor (`SCM_RIGHTS`, unix(7)).
///
/// # Errors
///
/// `EPIPE`: the other side is gone.
pub fn send_descriptor(
    socket: BorrowedFd<'_>,
    descriptor: BorrowedFd<'_>,
    text: &[u8],
) -> Result<(), SyscallError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let rights = [descriptor];
    assert!(
        ancillary.push(SendAncillaryMessage::ScmRights(&rights)),
        "the space was made for one descriptor"
    );
    let sent = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(text)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    );
    finish(sent.map(drop), || {
        format!("sendmsg({}, SCM_RIGHTS)", socket.as_raw_fd())
    })
}

/// `recvmsg(2)` of a text with one descriptor.
///
/// # Errors
///
/// `ENODATA`: the message held no descriptor.
pub fn receive_descriptor(socket: BorrowedFd<'_>) -> Result<OwnedFd, SyscallError> {
    let mut text = [0u8; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut text)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    );
    let describe = || format!("recvmsg({}, SCM_RIGHTS)", socket.as_raw_fd());
    finish(received.map(drop), describe)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(descriptor);
        }
    }
    Err(SyscallError::new(describe(), Errno::ENODATA))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::{connect_in, listen_in, pair, receive, receive_descriptor, send, send_descriptor};

    #[test]
    fn messages_keep_their_borders_and_end() {
        let (ours, theirs) = pair().expect("a pair");
        send(ours.as_fd(), b"one").expect("it sends");
        send(ours.as_fd(), b"two").expect("it sends");
        assert_eq!(receive(theirs.as_fd()).expect("one"), b"one");
        assert_eq!(receive(theirs.as_fd()).expect("two"), b"two");
        drop(ours);
        assert!(receive(theirs.as_fd()).expect("the end").is_empty());
    }

    #[test]
    fn descriptors_travel() {
        let (ours, theirs) = pair().expect("a pair");
        let file = tempfile::tempfile().expect("a file");
        send_descriptor(ours.as_fd(), file.as_fd(), b"x").expect("it sends");
        let copy = receive_descriptor(theirs.as_fd()).expect("it arrives");
        let (a, b) = (
            rustix::fs::fstat(&file).expect("stat"),
            rustix::fs::fstat(&copy).expect("stat"),
        );
        assert_eq!((a.st_dev, a.st_ino), (b.st_dev, b.st_ino));
        send(ours.as_fd(), b"no descriptor").expect("it sends");
        assert!(receive_descriptor(theirs.as_fd()).is_err());
    }

    #[test]
    fn a_socket_may_lie_deep() {
        let top = tempfile::tempdir().expect("a directory");
        let deep = top.path().join("x".repeat(120));
        std::fs::create_dir(&deep).expect("a folder");
        let folder = crate::sys::path::open_host(&deep).expect("it opens");
        let _listener = listen_in(folder.as_fd(), "start").expect("it listens");
        connect_in(folder.as_fd(), "start").expect("it answers");
    }
}
