//! Where a pod's and a container's files are.
//!
//! ```text
//! RUN/oci/                      state of the default OCI runtime
//! RUN/pods/POD/                 the monitor's directory
//!     hosts hostname resolv.conf shm/
//!     containers/CID/           the OCI bundle
//!         config.json rootfs/
//! DATA/pods/                    the records (records.rs)
//! DATA/images/ DATA/snapshots/  the image store
//! DATA/net/                     what netd gave to whom
//! ```

use std::path::{Path, PathBuf};

use super::spec::mounts::PodFiles;

/// The two roots.
#[derive(Debug, Clone)]
pub struct Paths {
    run_dir: PathBuf,
}

impl Paths {
    /// The paths below a run directory.
    pub fn new(run_dir: &Path) -> Self {
        Self {
            run_dir: run_dir.to_path_buf(),
        }
    }

    /// The directory of all pods' run-time files.
    pub fn pods(&self) -> PathBuf {
        self.run_dir.join("pods")
    }

    /// One pod's run-time files, which its monitor works in.
    pub fn pod(&self, pod_id: &str) -> PathBuf {
        self.pods().join(pod_id)
    }

    /// The state directory of the OCI runtime that a handler stands for.
    ///
    /// Two runtimes write different files, so each has a directory.
    pub fn oci_root(&self, handler: &str) -> PathBuf {
        match handler {
            "" => self.run_dir.join("oci"),
            handler => self.run_dir.join(format!("oci-{handler}")),
        }
    }

    /// One container's OCI bundle.
    pub fn bundle(&self, pod_id: &str, container_id: &str) -> PathBuf {
        self.pod(pod_id).join("containers").join(container_id)
    }

    /// One container's root directory.
    pub fn rootfs(&self, pod_id: &str, container_id: &str) -> PathBuf {
        self.bundle(pod_id, container_id).join("rootfs")
    }

    /// The pod's tmpfs for `/dev/shm`.
    pub fn shm(&self, pod_id: &str) -> PathBuf {
        self.pod(pod_id).join("shm")
    }

    /// The files that all containers of a pod share.
    pub fn pod_files(&self, pod_id: &str, ipc: Ipc) -> PodFiles {
        let pod = self.pod(pod_id);
        PodFiles {
            hosts: pod.join("hosts"),
            hostname: pod.join("hostname"),
            resolv_conf: pod.join("resolv.conf"),
            shm: match ipc {
                Ipc::Pod => self.shm(pod_id),
                Ipc::Host => PathBuf::from("/dev/shm"),
            },
        }
    }
}

/// Whose System V IPC and shared memory a pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipc {
    /// Its own.
    Pod,
    /// The host's.
    Host,
}
