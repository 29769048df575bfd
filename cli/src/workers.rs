//! The process that looks after a pod, and the files by which others find it.
//!
//! A pod runs without anybody's help: its monitor holds it. What probes it,
//! restarts it and stops it in order is a worker: `berth run` itself, or a
//! process in the background after `berth run -d`. There is at most one a pod:
//!
//! ```text
//! DATA/workers/NAMESPACE_NAME.lock    flock(2) while the worker lives; its pid inside
//! DATA/workers/NAMESPACE_NAME/
//!     request.json    what it runs, with its ConfigMaps and Secrets (mode 0600)
//!     status.json     the pod's status as the worker sees it
//!     stop.json       how long a stop may take, written before the signal
//!     worker.log      what a worker in the background had to say
//! ```
//!
//! The kernel drops a lock with the process that held it, however that ended,
//! so a lock that can be taken means that nobody looks after the pod. A pid in
//! a file alone could by now be another process's.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// What a worker runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerRequest {
    /// The pod, with its uid.
    pub pod: Pod,
    /// What it may refer to.
    pub config_maps: Vec<ConfigMap>,
    /// What it may refer to.
    pub secrets: Vec<Secret>,
    /// Nothing of the pod stays when it has ended.
    pub remove: bool,
}

/// How a stop is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopOrder {
    /// Between the stop signal and the kill, in seconds; the pod's own grace without.
    pub grace_seconds: Option<u64>,
}

/// The files of one pod's worker.
#[derive(Debug, Clone)]
pub struct WorkerFiles {
    lock: PathBuf,
    directory: PathBuf,
}

/// While this lives, the process that holds it is the pod's worker.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

impl WorkerFiles {
    /// Those of a pod, below `workers_dir`.
    pub fn new(workers_dir: &Path, namespace: &str, name: &str) -> WorkerFiles {
        // No name of Kubernetes holds an underscore, so no two pods share one.
        let stem = format!("{namespace}_{name}");
        WorkerFiles {
            lock: workers_dir.join(format!("{stem}.lock")),
            directory: workers_dir.join(stem),
        }
    }

    /// Becomes the pod's worker, if nobody is.
    ///
    /// # Errors
    ///
    /// Another process is, or the files cannot be written.
    pub fn claim(&self) -> Result<Claim> {
        self.create_directory()?;
        let mut lock = self
            .open_lock()
            .context(format!("open {}", self.lock.display()))?;
        if let Err(error) = lock_patiently(&lock) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(error).context(format!("lock {}", self.lock.display()));
            }
            let holder = read_pid(&mut lock).map_or(String::new(), |pid| format!(" {pid}"));
            return Err(Error::new(format!(
                "process{holder} looks after it already"
            )));
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .context(format!("write {}", self.lock.display()))?;
        Ok(Claim { _lock: lock })
    }

    /// The process that is the pod's worker, if one is.
    pub fn worker(&self) -> Option<LiveWorker> {
        let mut lock = self.open_lock_to_look()?;
        if is_free(&lock) {
            return None;
        }
        let pid = read_pid(&mut lock)?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Had it ended between the two, the pid could be another's; the lock
        // would then be free.
        (!is_free(&lock)).then_some(LiveWorker {
            pid,
            descriptor,
            lock,
        })
    }

    fn open_lock(&self) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.lock)
    }

    fn open_lock_to_look(&self) -> Option<File> {
        File::open(&self.lock).ok()
    }

    fn create_directory(&self) -> Result<()> {
        // The request holds Secrets.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .context(format!("make {}", self.directory.display()))
    }

    /// Where a worker in the background writes what it has to say.
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("worker.log")
    }

    /// Opens that file, to write at its end.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn open_log(&self) -> Result<File> {
        self.create_directory()?;
        let path = self.log_path();
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .context(format!("open {}", path.display()))
    }

    /// What the worker runs, if it was written down.
    ///
    /// # Errors
    ///
    /// The file is there and cannot be read.
    pub fn read_request(&self) -> Result<Option<WorkerRequest>> {
        self.read("request.json")
    }

    /// Writes down what the worker runs, for one that takes over.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_request(&self, request: &WorkerRequest) -> Result<()> {
        self.write("request.json", request)
    }

    /// The pod's status as its worker saw it last.
    ///
    /// # Errors
    ///
    /// The file is there and cannot be read.
    pub fn read_status(&self) -> Result<Option<PodStatus>> {
        self.read("status.json")
    }

    /// Writes the pod's status, for `berth ps`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_status(&self, status: &PodStatus) -> Result<()> {
        self.write("status.json", status)
    }

    /// How a stop is to be done, if anybody said.
    ///
    /// # Errors
    ///
    /// The file is there and cannot be read.
    pub fn read_stop_order(&self) -> Result<Option<StopOrder>> {
        self.read("stop.json")
    }

    /// Forgets how an earlier worker was to stop.
    ///
    /// # Errors
    ///
    /// The file cannot be removed.
    pub fn remove_stop_order(&self) -> Result<()> {
        remove_file(&self.directory.join("stop.json"))
    }

    /// Says how a stop is to be done; the signal comes after.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_stop_order(&self, order: StopOrder) -> Result<()> {
        self.write("stop.json", &order)
    }

    /// Forgets everything but the lock. Succeeds when there is nothing.
    ///
    /// # Errors
    ///
    /// Something cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context(format!("remove {}", self.directory.display()))
            }
            _ => Ok(()),
        }
    }

    /// Forgets what an earlier pod of that name left; the claim stays.
    ///
    /// # Errors
    ///
    /// Something cannot be removed.
    pub fn remove_stale(&self) -> Result<()> {
        let names = ["request.json", "status.json", "stop.json"];
        names
            .into_iter()
            .try_for_each(|name| remove_file(&self.directory.join(name)))
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.directory.join(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .context(format!("read {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(format!("read {}", path.display())),
        }
    }

    /// A new file and a rename, so that nobody reads half of one.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.directory.join(name);
        let attempt = || format!("write {}", path.display());
        let bytes = serde_json::to_vec_pretty(value).context(attempt())?;
        let temporary = self.directory.join(format!(".{name}.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .context(attempt())?;
        file.write_all(&bytes).context(attempt())?;
        fs::rename(&temporary, &path).context(attempt())
    }
}

/// A worker that was alive a moment ago.
#[derive(Debug)]
pub struct LiveWorker {
    pid: Pid,
    descriptor: rustix::fd::OwnedFd,
    lock: File,
}

impl LiveWorker {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal; SIGTERM asks for a stop in order. Succeeds when it has ended.
    ///
    /// # Errors
    ///
    /// `EPERM`: it belongs to another user.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.descriptor, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context(format!("signal process {}", self.pid())),
        }
    }

    /// Waits until it has ended, that is until its lock is free.
    pub async fn ended(&self) {
        while !is_free(&self.lock) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Those who look hold the lock for a moment; that is no worker.
fn lock_patiently(lock: &File) -> rustix::io::Result<()> {
    let mut tries = 0;
    loop {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if tries < 10 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

/// Whether nobody holds the lock. A shared lock, taken for a moment, does not
/// hinder others who look.
fn is_free(lock: &File) -> bool {
    match rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            let _ = rustix::fs::flock(lock, FlockOperation::Unlock);
            true
        }
        Err(_) => false,
    }
}

fn read_pid(lock: &mut File) -> Option<Pid> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.read_to_string(&mut text).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

/// The pods that have, or had, a worker here, as namespace and name.
///
/// # Errors
///
/// The directory is there and cannot be read.
pub fn list_workers(workers_dir: &Path) -> Result<Vec<(String, String)>> {
    let entries = match fs::read_dir(workers_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("read {}", workers_dir.display())),
    };
    let mut pods = Vec::new();
    for entry in entries {
        let entry = entry.context(format!("read {}", workers_dir.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let (true, Some((namespace, name))) = (entry.path().is_dir(), name.split_once('_')) {
            pods.push((namespace.to_owned(), name.to_owned()));
        }
    }
    pods.sort();
    Ok(pods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_one_worker_which_is_found_while_it_lives() {
        let directory = tempfile::tempdir().unwrap();
        let files = WorkerFiles::new(directory.path(), "default", "web");
        assert!(files.worker().is_none());
        let claim = files.claim().unwrap();
        let message = files.claim().unwrap_err().to_string();
        assert!(
            message.contains(&std::process::id().to_string()),
            "{message}"
        );
        let worker = files.worker().unwrap();
        assert_eq!(worker.pid() as u32, std::process::id());
        drop(claim);
        assert!(files.worker().is_none());
        drop(files.claim().unwrap());
        assert_eq!(
            list_workers(directory.path()).unwrap(),
            [("default".to_owned(), "web".to_owned())]
        );
    }

    #[test]
    fn what_is_written_is_read_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let files = WorkerFiles::new(directory.path(), "default", "web");
        assert!(files.read_stop_order().unwrap().is_none());
        let _claim = files.claim().unwrap();
        let order = StopOrder {
            grace_seconds: Some(3),
        };
        files.write_stop_order(order).unwrap();
        assert_eq!(files.read_stop_order().unwrap(), Some(order));
        files.remove().unwrap();
        files.remove().unwrap();
        assert!(list_workers(directory.path()).unwrap().is_empty());
    }
}
