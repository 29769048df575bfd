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
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use berth_runtime::whole_file;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};
use claim::{Claim, LiveWorker, Remains};

/// Who is the pod's worker: a lock that the kernel drops with its holder.
pub mod claim;

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
        Claim::take(&self.lock)
    }

    /// The process that is the pod's worker, if one is.
    pub fn worker(&self) -> Option<LiveWorker> {
        LiveWorker::find(&self.lock)
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

    /// Forgets everything. Succeeds when there is nothing, and leaves alone what
    /// another process has begun under that name.
    ///
    /// # Errors
    ///
    /// Something cannot be removed.
    pub fn remove(&self) -> Result<()> {
        // Held until all is gone; its end removes the lock itself.
        let _claim = match Claim::of_remains(&self.lock)? {
            Remains::OfAnother => return Ok(()),
            Remains::Own => None,
            Remains::Free(claim) => Some(claim),
        };
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

    /// Whole at once, so that nobody reads half of one.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.directory.join(name);
        let attempt = || format!("write {}", path.display());
        let bytes = serde_json::to_vec_pretty(value).context(attempt())?;
        whole_file::replace(&path, &bytes, 0o600).context(attempt())
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
        assert!(!directory.path().join("default_web.lock").exists());
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
        assert!(files.worker().is_some(), "a claim outlives its files");
        assert!(list_workers(directory.path()).unwrap().is_empty());
    }
}
