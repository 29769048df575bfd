//! What outlives a call: one folder a container below `--root`.
//!
//! ```text
//! ROOT/ID/state.json    who init is, where its cgroups are
//! ROOT/ID/config.json   the configuration as it was when the container was made
//! ROOT/ID/start.sock    init listens here until `start`; gone once it runs
//! ```
//!
//! A container's status is never written down, for it would be wrong as soon as
//! init ends. It is found out each time: by init's number together with the
//! moment at which it began, so that a number that was given to another process
//! is not taken for it.
//!
//! A reader sees a whole file or none ([`whole_file::replace`]). They are not
//! synced: what they describe are processes, and after a loss of power neither
//! is there.

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::cgroup::plan::CgroupPlan;
use crate::ids::ContainerId;
use crate::plan::reading;
use crate::resctrl::CacheGroup;
use crate::sys::call::{SyscallError, finish, narrated};
use crate::sys::channel;
use crate::sys::process::{self, HostPid};
use crate::whole_file;

/// The socket on which init waits.
pub const START_SOCKET: &str = "start.sock";
const STATE: &str = "state.json";
const CONFIG: &str = "config.json";

/// All containers below one `--root`.
#[derive(Debug, Clone)]
pub struct StateStore {
    root: PathBuf,
}

/// One container's folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    directory: OwnedFd,
}

/// `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The container.
    pub id: ContainerId,
    /// The runtime spec that its configuration was written for.
    pub oci_version: String,
    /// Its init; `None` while it is being made.
    pub init: Option<InitRecord>,
    /// Where its configuration was.
    pub bundle: PathBuf,
    /// What is its `/`, on the host.
    pub rootfs: PathBuf,
    /// When it was made, RFC 3339.
    pub created: String,
    /// The user who made it.
    pub owner: String,
    /// Its cgroups.
    pub cgroup: Option<CgroupPlan>,
    /// Its class of cache and memory bandwidth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_group: Option<CacheGroup>,
    /// Whether it kept its creator's session keyring; then so does `exec`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_new_keyring: bool,
    /// Its pid namespace is not its own: nobody ends its other processes with init.
    #[serde(default)]
    pub shares_pids: bool,
    /// Words for others.
    pub annotations: HashMap<String, String>,
}

/// Which process is init.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitRecord {
    /// Its number.
    pub pid: HostPid,
    /// When it began, in ticks since boot.
    pub start_ticks: u64,
}

/// Where a container is in its life (runtime-spec, runtime.md#state), and `paused`,
/// which runc and crun have besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Made; its program waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its program has ended.
    Stopped,
}

impl Status {
    /// The spec's word.
    pub fn word(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// Why a container's state cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Nothing of that name; callers look for these words.
    #[error("container {0:?} does not exist")]
    Missing(String),
    /// The name is taken.
    #[error("container with id {0:?} exists already; nothing was changed")]
    Exists(String),
    /// A file that cannot be made sense of.
    #[error("{path}: not a state of this version of berth-oci")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The kernel refused.
    #[error("{what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The kernel refused.
    #[error(transparent)]
    Call(#[from] SyscallError),
}

impl StateStore {
    /// The containers below a folder, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> StateStore {
        StateStore { root: root.into() }
    }

    /// Where the containers' folders are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes an id: makes its folder and locks it.
    ///
    /// # Errors
    ///
    /// [`StateError::Exists`] when it is taken.
    pub fn create_folder(&self, id: &ContainerId) -> Result<Folder, StateError> {
        let path = self.root.join(id.as_str());
        let make = |recursive: bool, path: &Path| {
            let made = DirBuilder::new()
                .recursive(recursive)
                .mode(0o700)
                .create(path);
            narrated(made, || format!("mkdir({path:?}, 0700)"))
        };
        let mut made = make(false, &path);
        if matches!(&made, Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
            made = make(true, &self.root).and_then(|()| make(false, &path));
        }
        match made {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(StateError::Exists(id.as_str().to_owned()));
            }
            Err(source) => return Err(failed("mkdir", &path)(source)),
        }
        let folder = Folder::open(path)?;
        folder.lock();
        Ok(folder)
    }

    /// A container's folder.
    ///
    /// # Errors
    ///
    /// [`StateError::Missing`].
    pub fn open_folder(&self, id: &ContainerId) -> Result<Folder, StateError> {
        let path = self.root.join(id.as_str());
        if !path.is_dir() {
            return Err(StateError::Missing(id.as_str().to_owned()));
        }
        Folder::open(path)
    }

    /// Every container's folder, by name.
    ///
    /// # Errors
    ///
    /// When the root exists but cannot be read.
    pub fn list(&self) -> Result<Vec<(ContainerId, Folder)>, StateError> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed("readdir", &self.root)(source)),
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| ContainerId::parse(name).ok());
            // Names with a dot in front are ours: caches.
            let Some(id) = id.filter(|id| !id.as_str().starts_with('.')) else {
                continue;
            };
            // One that goes away while we look is not there.
            if let Ok(folder) = Folder::open(entry.path()) {
                found.push((id, folder));
            }
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found)
    }
}

impl Folder {
    fn open(path: PathBuf) -> Result<Folder, StateError> {
        let directory = File::open(&path).map_err(failed("open", &path))?.into();
        Ok(Folder { path, directory })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Held by whoever makes the container, and by nobody else: the kernel lets
    /// go of it when that process ends, however it ends.
    fn lock(&self) {
        let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        // It cannot be held by another: the folder was made a moment ago.
        let _ = finish(rustix::fs::flock(&self.directory, lock), || {
            format!("flock({:?}, LOCK_EX|LOCK_NB)", self.path)
        });
    }

    /// The container is made: others may act on it.
    pub fn unlock(&self) {
        // Only a descriptor that is none could refuse it.
        let unlock = rustix::fs::FlockOperation::Unlock;
        let _ = finish(rustix::fs::flock(&self.directory, unlock), || {
            format!("flock({:?}, LOCK_UN)", self.path)
        });
    }

    fn is_locked(&self) -> bool {
        let lock = rustix::fs::FlockOperation::NonBlockingLockShared;
        let taken = rustix::fs::flock(&self.directory, lock);
        if taken.is_ok() {
            let _ = rustix::fs::flock(&self.directory, rustix::fs::FlockOperation::Unlock);
        }
        taken.is_err()
    }

    /// The folder as a descriptor.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Makes a folder in it that anybody may look into; others cannot come this far.
    ///
    /// # Errors
    ///
    /// Those of mkdir(2).
    pub fn make_folder(&self, name: &str) -> Result<(), StateError> {
        let path = self.path.join(name);
        let made = DirBuilder::new().mode(0o755).create(&path);
        let made = narrated(made, || format!("mkdir({path:?}, 0755)"));
        made.map_err(failed("mkdir", &path))
    }

    /// Writes `state.json`.
    ///
    /// # Errors
    ///
    /// When the disk is full, or the folder is gone.
    pub fn write_record(&self, record: &Record) -> Result<(), StateError> {
        let bytes = serde_json::to_vec(record).map_err(|source| StateError::Damaged {
            path: STATE.to_owned(),
            source,
        })?;
        self.write(STATE, &bytes)
    }

    /// Keeps the configuration as it is now.
    ///
    /// # Errors
    ///
    /// As [`Folder::write_record`].
    pub fn write_config(&self, bytes: &[u8]) -> Result<(), StateError> {
        self.write(CONFIG, bytes)
    }

    /// Reads `state.json`.
    ///
    /// # Errors
    ///
    /// [`StateError::Missing`] when it was not written yet; [`StateError::Damaged`].
    pub fn read_record(&self) -> Result<Record, StateError> {
        let path = self.path.join(STATE);
        let bytes = self.read(&path)?;
        serde_json::from_slice(&bytes).map_err(|source| StateError::Damaged {
            path: path.display().to_string(),
            source,
        })
    }

    /// Reads the configuration that the container was made from.
    ///
    /// # Errors
    ///
    /// As [`Folder::read_record`].
    pub fn read_config(&self) -> Result<oci_spec::runtime::Spec, StateError> {
        let path = self.path.join(CONFIG);
        let bytes = self.read(&path)?;
        reading::read(&bytes).map_err(|source| StateError::Damaged {
            path: path.display().to_string(),
            source,
        })
    }

    /// Finds out where a container is in its life.
    pub fn observe_status(&self, record: &Record) -> Status {
        if self.is_locked() {
            return Status::Creating;
        }
        if !record.init.is_some_and(InitRecord::is_alive) {
            return Status::Stopped;
        }
        if self.init_waits() {
            return Status::Created;
        }
        match record.cgroup.as_ref().map(CgroupPlan::is_frozen) {
            Some(Ok(true)) => Status::Paused,
            _ => Status::Running,
        }
    }

    /// Whether init still listens for `start`. A connection that says nothing
    /// is taken for a question.
    fn init_waits(&self) -> bool {
        self.path.join(START_SOCKET).exists()
            && channel::connect_in(self.directory(), START_SOCKET).is_ok()
    }

    /// Takes the folder away. What is gone already is fine.
    ///
    /// # Errors
    ///
    /// Those of `unlink(2)` and `rmdir(2)`.
    pub fn remove(&self) -> Result<(), StateError> {
        let removed = std::fs::remove_dir_all(&self.path);
        let removed = narrated(removed, || format!("remove {:?} and all in it", self.path));
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("remove", &self.path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Takes the socket away once the program runs.
    pub fn remove_start_socket(&self) {
        // When it stays, a question to it is refused, and that says the same.
        let none = rustix::fs::AtFlags::empty();
        let removed = rustix::fs::unlinkat(&self.directory, START_SOCKET, none);
        let _ = finish(removed, || {
            format!("unlink({:?})", self.path.join(START_SOCKET))
        });
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, StateError> {
        std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                let name = self.path.file_name().unwrap_or_default();
                StateError::Missing(name.to_string_lossy().into_owned())
            }
            _ => failed("read", path)(error),
        })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(name);
        whole_file::replace(&path, bytes, 0o600).map_err(failed("write", &path))
    }
}

impl InitRecord {
    /// Reads when a process began.
    ///
    /// # Errors
    ///
    /// `ENOENT`: it is gone.
    pub fn observe(pid: HostPid) -> Result<InitRecord, SyscallError> {
        let start_ticks = process::read_stat(pid)?.start_ticks;
        Ok(InitRecord { pid, start_ticks })
    }

    /// Whether the process still runs. One that has ended but was not waited
    /// for does not.
    pub fn is_alive(self) -> bool {
        process::read_stat(self.pid)
            .is_ok_and(|stat| stat.start_ticks == self.start_ticks && !stat.is_zombie())
    }

    /// A descriptor that stands for the process, whatever becomes of its number.
    ///
    /// # Errors
    ///
    /// `ESRCH`: it has ended.
    pub fn open(self) -> Result<OwnedFd, SyscallError> {
        let pidfd = process::pidfd_open(self.pid)?;
        // Asked after the descriptor was had: now the number cannot change hands.
        if self.is_alive() {
            Ok(pidfd)
        } else {
            Err(SyscallError::new(
                format!("pidfd_open({})", self.pid.0),
                Errno::ESRCH,
            ))
        }
    }
}

/// The kernel's words about a file.
fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StateError {
    let path = path.display().to_string();
    move |source| StateError::File { what, path, source }
}

#[cfg(test)]
pub(crate) mod tests;
