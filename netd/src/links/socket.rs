//! Netlink sockets, of this network namespace and of others.
//!
//! A socket belongs for life to the namespace in which it was opened, whoever
//! uses it later. So a pod's namespace has to be entered only for the moment of
//! opening. `setns(2)` moves the *calling thread*: it must never run on a
//! thread that has other work, for example a worker of the async runtime, or
//! some unrelated socket would one day be opened in a pod. A thread of its own
//! enters, opens, and ends.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use rtnetlink::Handle;
use tokio::task::JoinHandle;

use crate::error::{Error, ErrorKind};

/// A netlink socket with the task that drives it.
///
/// The task ends when this is dropped; nothing outlives the operation.
#[derive(Debug)]
pub struct RouteSocket {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl RouteSocket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// `Kernel`.
    pub fn open_here() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(socket_error)?;
        Ok(Self {
            handle,
            driver: tokio::spawn(connection),
        })
    }

    /// Opens a socket in another network namespace.
    ///
    /// `prepare` runs on the thread that has entered it: the place for settings
    /// under `/proc/sys/net`, which shows the namespace of whoever looks.
    ///
    /// # Errors
    ///
    /// `Kernel`, or what `prepare` returned.
    pub async fn open_in<F>(netns: &File, prepare: F) -> Result<Self, Error>
    where
        F: FnOnce() -> Result<(), Error> + Send + 'static,
    {
        let netns = netns.try_clone().map_err(|error| {
            Error::caused(
                ErrorKind::Kernel,
                "duplicate the descriptor of a network namespace",
                error,
            )
        })?;
        let runtime = tokio::runtime::Handle::current();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let enter = move || {
            setns(&netns, CloneFlags::CLONE_NEWNET).map_err(|errno| {
                Error::caused(
                    ErrorKind::Kernel,
                    "setns(netns, CLONE_NEWNET)",
                    io::Error::from(errno),
                )
            })?;
            prepare()?;
            let _reactor = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(socket_error)?;
            Ok(Self {
                handle,
                driver: runtime.spawn(connection),
            })
        };
        std::thread::Builder::new()
            .name("b:enter-netns".to_owned())
            .spawn(move || {
                // The receiver is gone only if the caller was cancelled.
                let _ = sender.send(enter());
            })
            .map_err(|error| Error::caused(ErrorKind::Kernel, "start a thread", error))?;
        receiver.await.map_err(|error| {
            Error::caused(
                ErrorKind::Kernel,
                "the thread in the network namespace ended early",
                error,
            )
        })?
    }

    /// For requests.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for RouteSocket {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Opens the file of a network namespace.
///
/// # Errors
///
/// `NoNamespace` if there is none, `Invalid` if the file is something else.
pub fn open_netns(path: &Path) -> Result<File, Error> {
    let file = File::open(path).map_err(|error| {
        Error::caused(
            ErrorKind::NoNamespace,
            format!("netns {}: cannot be opened", path.display()),
            error,
        )
    })?;
    // NSFS_MAGIC: every file of a namespace is on that one file system. Whether
    // it is of the right kind, setns(2) tells by EINVAL.
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    let system = nix::sys::statfs::fstatfs(&file).map_err(|errno| {
        Error::caused(
            ErrorKind::Kernel,
            format!("fstatfs {}", path.display()),
            io::Error::from(errno),
        )
    })?;
    if system.filesystem_type().0 != NSFS_MAGIC {
        return Err(Error::new(
            ErrorKind::NoNamespace,
            format!(
                "netns {}: the file does not refer to a namespace",
                path.display()
            ),
        ));
    }
    Ok(file)
}

/// Whether the machine speaks IPv6 at all (`ipv6.disable=1` takes it away).
pub fn has_ipv6() -> bool {
    fs::exists("/proc/sys/net/ipv6/conf/all").unwrap_or(false)
}

fn socket_error(error: io::Error) -> Error {
    Error::caused(
        ErrorKind::Kernel,
        "socket(AF_NETLINK, NETLINK_ROUTE)",
        error,
    )
}

/// The kernel's answer to a request that is described as `call`.
pub(crate) fn kernel(call: impl std::fmt::Display, error: rtnetlink::Error) -> Error {
    let text = call.to_string();
    match errno(&error) {
        Some(code) => {
            let kind = if code == nix::Error::EPERM as i32 {
                ErrorKind::Unsupported
            } else {
                ErrorKind::Kernel
            };
            Error::caused(kind, text, io::Error::from_raw_os_error(code))
        }
        None => Error::caused(ErrorKind::Kernel, text, error),
    }
}

/// The errno of the kernel's answer, if it was one.
pub(crate) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}
