//! What is known of each pod, on disk: so that an agent that starts while the server
//! is away knows what runs here and what it is to be.
//!
//! ```text
//! DATA/pods/UID.json     mode 0600: it holds the Secrets that the pod names
//! ```
//!
//! A file is replaced as a whole, so that a reader finds the old one or the new one. It is
//! written before a pod's first container is made, some time after each change, and when its
//! last container has ended, all with an fsync: a pod that is over is never begun anew, although
//! its sandbox is gone, whenever the power went. Between these it is written, without an
//! fsync, before the server is told of a status: an agent that is killed is followed by one that
//! says the same.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use berth_runtime::whole_file;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::pod::objects::PodObjects;

/// What is known of one pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// The pod as the server last told of it.
    pub pod: Pod,
    /// What it refers to.
    pub objects: SavedObjects,
    /// Its status as this node last saw it.
    pub status: PodStatus,
    /// Whether it is over: no container of it runs, and none is to be started.
    pub settled: bool,
}

/// What a pod refers to, as a file holds it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedObjects {
    /// ConfigMaps.
    pub config_maps: Vec<ConfigMap>,
    /// Secrets.
    pub secrets: Vec<Secret>,
    /// Variables that tell of services.
    pub service_variables: Vec<(String, String)>,
    /// Handlers by the names of their RuntimeClasses.
    #[serde(default)]
    pub runtime_classes: BTreeMap<String, String>,
}

impl SavedObjects {
    /// The objects as a file holds them.
    pub fn of(objects: &PodObjects) -> SavedObjects {
        SavedObjects {
            config_maps: objects.config_maps().cloned().collect(),
            secrets: objects.secrets().cloned().collect(),
            service_variables: objects.service_variables().to_vec(),
            runtime_classes: objects.runtime_classes().cloned().unwrap_or_default(),
        }
    }

    /// The objects as a worker takes them.
    pub fn into_objects(self) -> PodObjects {
        PodObjects::new(self.config_maps, self.secrets)
            .with_service_variables(self.service_variables)
            .with_runtime_classes(self.runtime_classes)
    }
}

/// The files of one node.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    directory: PathBuf,
}

impl Checkpoints {
    /// Those in a directory that is there.
    pub fn new(directory: PathBuf) -> Checkpoints {
        Checkpoints { directory }
    }

    /// All of them. One that cannot be read is told of and left where it is: its pod
    /// goes on running, and the server knows what it is to be.
    pub fn read_all(&self) -> Vec<Checkpoint> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) => {
                warn!(path = %self.directory.display(), %error, "what is known of pods was not read");
                return Vec::new();
            }
        };
        let paths = entries.flatten().map(|entry| entry.path());
        paths
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "json")
            })
            .filter_map(|path| match read(&path) {
                Ok(checkpoint) => Some(checkpoint),
                Err(error) => {
                    warn!(path = %path.display(), %error, "what is known of a pod was not read");
                    None
                }
            })
            .collect()
    }

    /// Writes one, in place of an earlier one of the same pod.
    ///
    /// # Errors
    ///
    /// What the kernel said; the earlier one stands then.
    pub fn write(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let path = self.path_of(checkpoint)?;
        let next = path.with_extension("next");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&next)?;
        file.write_all(&serde_json::to_vec(checkpoint)?)?;
        file.sync_all()?;
        fs::rename(&next, &path)?;
        fs::File::open(&self.directory)?.sync_all()
    }

    /// Writes one for whoever comes after this process. A loss of power may take it back, or
    /// leave an empty file; then nothing of the pod runs any more either.
    ///
    /// # Errors
    ///
    /// What the kernel said; the earlier one stands then.
    pub fn note(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let path = self.path_of(checkpoint)?;
        whole_file::replace(&path, &serde_json::to_vec(checkpoint)?, 0o600)
    }

    /// Removes that of a pod.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        let Some(path) = self.path(Some(uid)) else {
            return Ok(());
        };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path_of(&self, checkpoint: &Checkpoint) -> io::Result<PathBuf> {
        let path = self.path(checkpoint.pod.metadata.uid.as_deref());
        path.ok_or_else(|| io::Error::other("the pod's uid is no file's name"))
    }

    /// A uid comes from the server; as a path it must stay in the directory.
    fn path(&self, uid: Option<&str>) -> Option<PathBuf> {
        let uid = uid?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (!uid.is_empty() && uid.bytes().all(plain))
            .then(|| self.directory.join(format!("{uid}.json")))
    }
}

fn read(path: &Path) -> io::Result<Checkpoint> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::{Checkpoint, Checkpoints, SavedObjects};

    fn checkpoint(uid: &str) -> Checkpoint {
        let secret = json!({"metadata": {"name": "s", "namespace": "shop"}, "data": {"k": "dg=="}});
        Checkpoint {
            pod: serde_json::from_value(json!({"metadata": {"name": "web", "uid": uid}})).unwrap(),
            objects: SavedObjects {
                secrets: vec![serde_json::from_value(secret).unwrap()],
                service_variables: vec![("A_PORT".to_owned(), "1".to_owned())],
                ..SavedObjects::default()
            },
            status: serde_json::from_value(json!({"phase": "Running"})).unwrap(),
            settled: false,
        }
    }

    #[test]
    fn what_was_written_is_read_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(directory.path().to_owned());
        let mut one = checkpoint("u-1");
        for how in [Checkpoints::write, Checkpoints::note, Checkpoints::write] {
            one.settled = !one.settled;
            how(&checkpoints, &one).unwrap();
            assert_eq!(checkpoints.read_all(), std::slice::from_ref(&one));
            let file = directory.path().join("u-1.json");
            let mode = std::fs::metadata(file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let objects = one.objects.clone().into_objects();
        assert!(objects.find_secret("shop", "s").is_some());
        assert_eq!(SavedObjects::of(&objects), one.objects);
        checkpoints.remove("u-1").unwrap();
        checkpoints.remove("u-1").unwrap();
        assert_eq!(checkpoints.read_all(), []);
    }

    #[test]
    fn half_a_file_and_a_strange_uid_harm_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(directory.path().to_owned());
        std::fs::write(directory.path().join("u-1.json"), b"{\"pod\":").unwrap();
        std::fs::write(directory.path().join("u-2.next"), b"{}").unwrap();
        checkpoints.write(&checkpoint("u-3")).unwrap();
        assert_eq!(checkpoints.read_all().len(), 1);
        assert!(checkpoints.write(&checkpoint("../u")).is_err());
        checkpoints.remove("../../etc/passwd").unwrap();
    }
}
