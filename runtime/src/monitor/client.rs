//! Talking to a monitor: one blocking connection.
//!
//! ```no_run
//! use berth_runtime::monitor::{client, protocol::Request};
//!
//! # fn main() -> Result<(), client::ClientError> {
//! let mut client = client::connect("/run/berth/pods/web".as_ref())?;
//! let reply = client.call(&Request::Status { id: None })?;
//! # Ok(()) }
//! ```

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{RecvFlags, recv};

use super::protocol::{Reply, Request, SOCKET_NAME};
use crate::sys::socket_path;

/// Why a monitor gave no reply. A [`Reply::Failed`] is a reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: there is no such pod, or its monitor has ended.
    #[error("cannot reach the monitor at {path}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection broke in the middle of a call. Whether the call was
    /// carried out is unknown.
    #[error("lost the monitor in the middle of a call")]
    Broken(#[source] io::Error),
    /// The monitor's answer is none.
    #[error("the monitor's reply {line:?} makes no sense")]
    Nonsense {
        /// What it said.
        line: String,
        /// Why that is no reply.
        source: serde_json::Error,
    },
}

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

/// Connects to the monitor of the pod in `pod_dir`.
///
/// # Errors
///
/// [`ClientError::Unreachable`].
pub fn connect(pod_dir: &Path) -> Result<Client, ClientError> {
    let path = pod_dir.join(SOCKET_NAME);
    match socket_path::connect(&path) {
        Ok(stream) => Ok(Client { stream }),
        Err(source) => Err(ClientError::Unreachable { path, source }),
    }
}

/// A connection for a caller that waits in another way than by blocking.
///
/// # Errors
///
/// [`ClientError::Unreachable`]; its source is `WouldBlock` where more callers wait than
/// the socket's queue holds.
pub fn connect_at_once(pod_dir: &Path) -> Result<UnixStream, ClientError> {
    let path = pod_dir.join(SOCKET_NAME);
    socket_path::connect_at_once(&path).map_err(|source| ClientError::Unreachable { path, source })
}

impl Client {
    /// Asks and waits for the answer, for [`Request::Wait`] until the container
    /// ends.
    ///
    /// # Errors
    ///
    /// When there is no answer. A call that failed is answered.
    pub fn call(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let mut line = serde_json::to_vec(request)
            .map_err(io::Error::from)
            .map_err(ClientError::Broken)?;
        line.push(b'\n');
        self.stream.write_all(&line).map_err(ClientError::Broken)?;
        let line = self.read_line().map_err(ClientError::Broken)?;
        serde_json::from_slice(&line).map_err(|source| ClientError::Nonsense {
            line: String::from_utf8_lossy(&line).into_owned(),
            source,
        })
    }

    /// The connection after [`Request::Attach`] or [`Request::Subscribe`] was
    /// answered. Nothing behind the answer has been taken from it.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Looks first and takes no byte behind the line's end, since frames may
    /// follow it at once.
    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let (seen, _) = rustix::io::retry_on_intr(|| {
                recv(&self.stream, piece.as_mut_slice(), RecvFlags::PEEK)
            })?;
            if seen == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = piece[..seen].iter().position(|byte| *byte == b'\n');
            let wanted = end.map_or(seen, |end| end + 1);
            // A stream socket gives at least what was peeked.
            let (taken, _) = rustix::io::retry_on_intr(|| {
                recv(&self.stream, &mut piece[..wanted], RecvFlags::WAITALL)
            })?;
            line.extend_from_slice(&piece[..taken]);
            if end.is_some() {
                line.pop();
                return Ok(line);
            }
        }
    }
}
