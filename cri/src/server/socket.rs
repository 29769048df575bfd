//! The socket: made, taken over from systemd, and left in order.
//!
//! A socket file outlives a server that was killed, and `bind(2)` refuses a path
//! that exists. So the path is asked first: who answers is a server that runs,
//! and the second one gives up; where nobody answers the file is a leftover. A
//! lock beside it decides between two that start at the same moment.
//!
//! systemd hands over a socket that is bound already (sd_listen_fds(3)); such a
//! one is systemd's, and it stays.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tokio::net::{UnixListener, UnixStream};

use crate::engine::error::{Error, ErrorKind};

/// The place of the socket and who may open it: who may may do all that root may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its path.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// The group that owns it; none is the process's own.
    pub group: Option<u32>,
}

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    /// Where connections come from.
    pub socket: UnixListener,
    /// The file, if it is ours to take away, and the lock that says so.
    pub made: Option<Made>,
}

/// A socket's file that this process made.
#[derive(Debug)]
pub struct Made {
    path: PathBuf,
    // Held until the process ends, however it ends.
    _lock: File,
}

/// Takes what systemd handed over, before this process has a thread or a child:
/// the variables that tell of it are removed, and no child inherits the socket.
///
/// # Errors
///
/// `Storage`: what was handed over is no Unix socket that listens.
pub fn take_over() -> Result<Option<std::os::unix::net::UnixListener>, Error> {
    let refused = |error: io::Error| {
        let text = "take over the socket of the service manager; nothing was started".to_owned();
        Error::caused(ErrorKind::Storage, text, error)
    };
    let taken = listenfd::ListenFd::from_env().take_unix_listener(0);
    let Some(socket) = taken.map_err(refused)? else {
        return Ok(None);
    };
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)
        .map_err(|errno| refused(errno.into()))?;
    socket.set_nonblocking(true).map_err(refused)?;
    Ok(Some(socket))
}

/// Listens on the socket that was handed over, else on a path.
///
/// # Errors
///
/// `Conflict` when another server answers there, `Storage` when the path is
/// something else than a socket or cannot be made.
pub async fn listen(
    place: &Place,
    handed: Option<std::os::unix::net::UnixListener>,
) -> Result<Listener, Error> {
    let path = place.path.as_path();
    if let Some(socket) = handed {
        let socket = UnixListener::from_std(socket)
            .map_err(|error| failed("wait on what was handed over for", path, error))?;
        return Ok(Listener { socket, made: None });
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(|error| failed("make the folder of", path, error))?;
    let lock = lock(path)?;
    remove_leftover(path).await?;
    let socket = UnixListener::bind(path).map_err(|error| failed("bind", path, error))?;
    let made = Some(Made {
        path: path.to_owned(),
        _lock: lock,
    });
    match restrict(place) {
        Ok(()) => Ok(Listener { socket, made }),
        Err(error) => {
            leave(made);
            Err(error)
        }
    }
}

/// Gives the socket its group and then its mode: until then nobody but the owner
/// can connect, unless the umask says otherwise.
fn restrict(place: &Place) -> Result<(), Error> {
    let path = place.path.as_path();
    std::os::unix::fs::chown(path, None, place.group)
        .map_err(|error| failed("set the group of", path, error))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(place.mode))
        .map_err(|error| failed("set the mode of", path, error))
}

/// Takes our socket's file away; its lock stays, for it may be another's by now.
pub fn leave(made: Option<Made>) {
    if let Some(made) = made {
        // Who starts next takes a leftover away.
        let _ = std::fs::remove_file(&made.path);
    }
}

fn lock(path: &Path) -> Result<File, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&name)
        .map_err(|error| failed("open", &name, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(taken(path)),
        Err(errno) => Err(failed("lock", &name, errno.into())),
    }
}

async fn remove_leftover(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path, error)),
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => {
            let text = format!(
                "{}: expected a socket or nothing, found another file; nothing was changed",
                path.display()
            );
            return Err(Error::new(ErrorKind::Storage, text));
        }
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(taken(path));
    }
    std::fs::remove_file(path).map_err(|error| failed("remove the leftover", path, error))
}

fn taken(path: &Path) -> Error {
    let text = format!(
        "{}: another server answers there; nothing was started",
        path.display()
    );
    Error::new(ErrorKind::Conflict, text)
}

fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    let text = format!("{what} {}", path.display());
    Error::caused(ErrorKind::Storage, text, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &Path) -> Place {
        Place {
            path: path.to_owned(),
            mode: 0o640,
            group: None,
        }
    }

    #[tokio::test]
    async fn one_server_a_socket_and_a_leftover_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/berth.sock");
        let place = place(&path);
        let first = listen(&place, None).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let second = listen(&place, None).await.unwrap_err();
        assert_eq!(second.kind(), ErrorKind::Conflict);
        // Killed: the file stays, the lock does not.
        drop(first);
        let third = listen(&place, None).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
        leave(third.made);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        std::fs::write(&path, "mine").unwrap();
        let error = listen(&place(&path), None).await.unwrap_err();
        assert!(error.chain().contains("expected a socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
