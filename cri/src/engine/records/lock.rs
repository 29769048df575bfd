//! One writer a pod, told from a dead one by the kernel.
//!
//! flock(2) belongs to the open file description and goes with its last
//! descriptor, so a process that is killed lets go of it at once. It is polled
//! for and not waited for: a wait would hold a thread, and enough of them would
//! keep from running the very work that the holder waits for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind as Io};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::{ContainerRecord, PodRecord, Records, files, no_such_pod};
use crate::engine::error::{Error, ErrorKind};

const LOCK_FILE: &str = "lock";
/// Directories of pods whose removal has begun.
const REMOVED_PREFIX: &str = ".removed-";
/// Begins with a dot, so that it is not taken for a pod.
const NAMES_LOCK_FILE: &str = ".names.lock";
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Longer than any step that holds a lock; a stop's grace does not.
const PATIENCE: Duration = Duration::from_secs(120);

/// The right to write one pod's records, until it is dropped.
#[derive(Debug)]
pub struct LockedPod {
    records: Records,
    id: String,
    lock: File,
}

impl Records {
    /// Makes a new pod's directory and takes its lock before anybody can.
    ///
    /// # Errors
    ///
    /// `Storage`; nothing is left behind then.
    pub fn create_pod(&self, id: &str) -> Result<LockedPod, Error> {
        let directory = self.pod_directory(id);
        fs::create_dir(&directory)
            .map_err(|error| files::storage("make directory", &directory, error))?;
        match try_lock(&directory) {
            Ok(Some(lock)) => Ok(self.locked(id, lock)),
            // A recovery looked into the new directory first and removes it as
            // one that nobody makes; ids are random, so this is not retried.
            Ok(None) => Err(no_such_pod(id)),
            Err(error) => {
                let refused = files::storage("lock", &directory, error);
                files::remove_tree(&directory)?;
                Err(refused)
            }
        }
    }

    /// Takes a pod's lock, waiting for whoever has it.
    ///
    /// # Errors
    ///
    /// `NotFound` when the pod is gone, before or while waiting; `Timeout` when
    /// the lock stays taken.
    pub async fn lock_pod(&self, id: &str) -> Result<LockedPod, Error> {
        let begin = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(locked) = self.try_lock_pod(id)? {
                return Ok(locked);
            }
            if begin.elapsed() > PATIENCE {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "sandbox {id}: another process has held its lock for {} seconds",
                        PATIENCE.as_secs()
                    ),
                ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes a pod's lock if nobody has it.
    ///
    /// # Errors
    ///
    /// `NotFound` when the pod is gone.
    pub fn try_lock_pod(&self, id: &str) -> Result<Option<LockedPod>, Error> {
        let directory = self.pod_directory(id);
        match try_lock(&directory) {
            Ok(lock) => Ok(lock.map(|lock| self.locked(id, lock))),
            Err(error) if error.kind() == Io::NotFound => Err(no_such_pod(id)),
            Err(error) => Err(files::storage("lock", &directory, error)),
        }
    }

    /// Keeps others from choosing names until it is dropped: a check that a
    /// name is free, and taking it, belong together.
    ///
    /// Held for some file operations only, so waiting for it blocks the thread.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub fn lock_names(&self) -> Result<File, Error> {
        let path = self.pods.join(NAMES_LOCK_FILE);
        let failed = |error| files::storage("lock", &path, error);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|errno| failed(errno.into()))?;
        Ok(file)
    }

    /// Removes what killed removals have left.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub fn remove_leftovers(&self) -> Result<(), Error> {
        let entries = fs::read_dir(&self.pods)
            .map_err(|error| files::storage("list directory", &self.pods, error))?;
        for entry in entries.flatten() {
            if entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(REMOVED_PREFIX))
            {
                files::remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }

    fn locked(&self, id: &str, lock: File) -> LockedPod {
        LockedPod {
            records: self.clone(),
            id: id.to_owned(),
            lock,
        }
    }
}

/// The lock, or none while another has it. `NotFound` when the pod is gone.
fn try_lock(directory: &Path) -> io::Result<Option<File>> {
    let path = directory.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    }
    // The holder before us may have removed the pod, and this lock with it,
    // between our open and our flock: then we hold a file without a name.
    let named = fs::metadata(&path)?;
    let ours = file.metadata()?;
    if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) {
        Ok(Some(file))
    } else {
        Err(Io::NotFound.into())
    }
}

impl LockedPod {
    /// The pod's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The lock for a program that goes on making this pod: it stays taken until
    /// both processes have closed it, since they share one open file (flock(2)).
    ///
    /// # Errors
    ///
    /// `Storage` when no descriptor is left.
    pub fn share(&self) -> Result<std::process::Stdio, Error> {
        self.lock
            .try_clone()
            .map(std::process::Stdio::from)
            .map_err(|error| files::storage("share the lock of", &self.records.pods, error))
    }

    /// The pod's record, which nobody else can change now.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none, `Storage` when it is damaged.
    pub fn read(&self) -> Result<PodRecord, Error> {
        self.records
            .read_pod(&self.id)?
            .ok_or_else(|| no_such_pod(&self.id))
    }

    /// Writes the pod's record.
    ///
    /// # Errors
    ///
    /// `Storage`; the record before it stays.
    pub fn write(&self, record: &PodRecord) -> Result<(), Error> {
        debug_assert_eq!(record.id, self.id);
        files::replace_json(&self.records.pod_path(&self.id), record)
    }

    /// Writes the record of a container of this pod.
    ///
    /// # Errors
    ///
    /// `Storage`; the record before it stays.
    pub fn write_container(&self, record: &ContainerRecord) -> Result<(), Error> {
        files::replace_json(&self.place(record)?, record)
    }

    /// Writes the first record of a container, from before anything of it exists. After a
    /// loss of power it may be empty ([`Records::lost_containers`]): its name is enough to
    /// take away what was made.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub fn begin_container(&self, record: &ContainerRecord) -> Result<(), Error> {
        files::replace_json_of_this_boot(&self.place(record)?, record)
    }

    /// The file of a container's record, in a folder that is there.
    fn place(&self, record: &ContainerRecord) -> Result<PathBuf, Error> {
        debug_assert_eq!(record.pod_id, self.id);
        let path = self.records.container_path(&self.id, &record.id);
        if let Some(folder) = path.parent() {
            files::ensure_directory(folder)?;
        }
        Ok(path)
    }

    /// Removes the record of a container of this pod.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub fn remove_container(&self, id: &str) -> Result<(), Error> {
        files::remove_file(&self.records.container_path(&self.id, id))
    }

    /// Removes the pod's records, and the lock with them.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub fn remove(self) -> Result<(), Error> {
        // One rename takes the pod away from every reader and from those who
        // wait for the lock, who would else make the lock file anew while the
        // directory is emptied. A recovery clears away what a kill leaves here.
        let directory = self.records.pod_directory(&self.id);
        let removed = self
            .records
            .pods
            .join(format!("{REMOVED_PREFIX}{}", self.id));
        match fs::rename(&directory, &removed) {
            Err(error) if error.kind() != Io::NotFound => {
                Err(files::storage("rename", &directory, error))
            }
            _ => files::remove_tree(&removed),
        }
    }
}
