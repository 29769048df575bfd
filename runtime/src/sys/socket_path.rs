//! Sockets whose path is too long for an address.
//!
//! `struct sockaddr_un` has 108 bytes for a path (`unix(7)`). A longer path is
//! reached through a descriptor of its folder: `/proc/self/fd/N/NAME` names
//! the same file and is short.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

/// One byte less than the field, for the zero that ends the text.
const LONGEST_PATH_BYTES: usize = 107;

/// Listens on a socket at `path`, which must not exist.
///
/// # Errors
///
/// As `bind(2)`.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let short = ShortPath::of(path)?;
    UnixListener::bind(&short.path)
}

/// Connects to the socket at `path`.
///
/// # Errors
///
/// As `connect(2)`.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let short = ShortPath::of(path)?;
    UnixStream::connect(&short.path)
}

/// The same for a caller that must not wait: the connection does not block, and where the
/// listener's queue is full there is none.
///
/// # Errors
///
/// As `connect(2)`; `WouldBlock` for the full queue.
pub fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let short = ShortPath::of(path)?;
    let address = SocketAddrUnix::new(&short.path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

/// A path that fits into an address while this value lives.
#[derive(Debug)]
pub struct ShortPath {
    /// For other processes too: it names this process by its id.
    pub path: PathBuf,
    _folder: Option<File>,
}

impl ShortPath {
    /// # Errors
    ///
    /// As `open(2)` of the folder, when the path is long.
    pub fn of(path: &Path) -> io::Result<ShortPath> {
        if path.as_os_str().as_bytes().len() <= LONGEST_PATH_BYTES {
            return Ok(ShortPath {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let folder = File::open(folder)?;
        let process = std::process::id();
        let number = folder.as_raw_fd();
        Ok(ShortPath {
            path: Path::new(&format!("/proc/{process}/fd/{number}")).join(name),
            _folder: Some(folder),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_can_be_listened_and_connected_to() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("d".repeat(120));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("socket");
        let _listener = listen(&path).unwrap();
        assert!(path.exists());
        connect(&path).unwrap();
        connect_at_once(&path).unwrap();
    }

    #[test]
    fn nobody_waits_for_a_place_in_a_full_queue() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = listen(&path).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match connect_at_once(&path) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
        assert!(!waiting.is_empty());
    }
}
