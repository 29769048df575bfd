//! What the engine remembers: one JSON file a sandbox, one a container.
//!
//! ```text
//! DATA/pods/POD/lock                 flock(2): one writer at a time
//! DATA/pods/POD/pod.json             PodRecord
//! DATA/pods/POD/containers/CID.json  ContainerRecord
//! ```
//!
//! Many `berth` processes work at once with no daemon between them, so the
//! truth is on disk and a lock belongs to a pod, not to the machine. A file is
//! written under a temporary name, synced and renamed: a reader needs no lock
//! and never sees half of it, whatever the writer's fate.
//!
//! A record says `half-made` before the first thing it describes exists. Who
//! finds such a record *and gets its lock* knows that the maker is dead,
//! because the kernel drops a flock with its process, and undoes it
//! (`recover.rs`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_netd::request::PodNetwork;
use berth_runtime::monitor::protocol::ExitRecord;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use known::Known;

use super::error::{Error, ErrorKind};
use super::id::choose_id;
use crate::v1;

/// Files on disk: reading a directory, replacing a file at once.
pub(crate) mod files;
/// What was read before and is the same.
mod known;
/// One writer a pod, told from a dead one by the kernel.
pub mod lock;

/// The record's version; a later berth that changes the meaning raises it.
const FORMAT: u32 = 1;
const POD_FILE: &str = "pod.json";
const CONTAINERS_FOLDER: &str = "containers";

/// A CRI message inside a record: base64 of its protobuf encoding.
///
/// The messages are the kubelet's and have no JSON of their own; protobuf keeps
/// every field of them, also those that a later version adds.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded<M>(pub M);

impl<M: prost::Message> Serialize for Encoded<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(self.0.encode_to_vec()))
    }
}

impl<'de, M: prost::Message + Default> Deserialize<'de> for Encoded<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(D::Error::custom)?;
        M::decode(bytes.as_slice())
            .map(Self)
            .map_err(D::Error::custom)
    }
}

/// Where a sandbox is in its life, as far as the record knows.
///
/// ```text
/// half-made ──▶ ready ──▶ stopping ──▶ stopped ──▶ (no record)
///     └──────────────────────────────────────────▶ undone
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodPhase {
    /// Somebody is making it, or died while making it.
    HalfMade,
    /// It was made. It is ready as long as its monitor answers.
    Ready,
    /// Somebody ends it, or died while ending it: it is not used any more, and
    /// whoever finds its lock free goes on.
    Stopping,
    /// Its processes are gone and its network is given back.
    Stopped,
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// The record's version.
    pub format: u32,
    /// The sandbox's id.
    pub id: String,
    /// The name from the metadata, for people who read the file.
    pub name: String,
    /// The namespace from the metadata.
    pub namespace: String,
    /// Where it is in its life.
    pub phase: PodPhase,
    /// The process that makes or made it.
    pub maker_pid: u32,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// What the caller asked for.
    pub config: Encoded<v1::PodSandboxConfig>,
    /// The caller's choice among the runtimes; empty for the default one.
    pub runtime_handler: String,
    /// The OCI runtime that makes the containers.
    pub oci_runtime: PathBuf,
    /// Given to it before the verb.
    #[serde(default)]
    pub oci_arguments: Vec<String>,
    /// The handler whose directory holds its state, where that is another than
    /// the caller's choice: the choice was left to us.
    #[serde(default)]
    pub oci_state: Option<String>,
    /// The group of the whole pod, below each hierarchy's root.
    pub cgroup: String,
    /// Who makes its network, and so who takes it away.
    #[serde(default)]
    pub network_by: NetworkBy,
    /// The network it got; none on the host's network.
    pub network: Option<PodNetwork>,
    /// When its end failed last, in nanoseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_failed_at: Option<i64>,
}

/// Who makes the network of a sandbox; chosen when the sandbox is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkBy {
    /// We do: a bridge of our own.
    #[default]
    Netd,
    /// Plugins of CNI.
    Cni,
}

/// Where a container is in its life, as far as the record knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerPhase {
    /// Somebody is making it, or died while making it.
    HalfMade,
    /// It was made; the monitor knows what became of it.
    Made,
}

/// The user that a container's program runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// More groups.
    pub additional_gids: Vec<u32>,
}

/// Why a container's program never ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    /// Nanoseconds since the epoch.
    pub at: i64,
    /// The status that a shell would give: 127 not found, 126 not executable, else 128.
    pub exit_code: i32,
    /// The OCI runtime's words.
    pub message: String,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The record's version.
    pub format: u32,
    /// The container's id.
    pub id: String,
    /// Its sandbox.
    pub pod_id: String,
    /// The name from the metadata, for people who read the file.
    pub name: String,
    /// Where it is in its life.
    pub phase: ContainerPhase,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// What the caller asked for.
    pub config: Encoded<v1::ContainerConfig>,
    /// The limits in force, after updates.
    pub resources: Encoded<v1::LinuxContainerResources>,
    /// The image's id, `sha256:…` of its configuration.
    pub image_id: String,
    /// The image by digest if it has one, else by id.
    pub image_ref: String,
    /// Where the output goes.
    pub log_path: Option<PathBuf>,
    /// The user it runs as.
    pub run_as: RunAs,
    /// The number of the signal that asks it to end.
    pub stop_signal: i32,
    /// Its group, below each hierarchy's root.
    pub cgroup: String,
    /// Set when its program could not be started.
    pub start_failure: Option<StartFailure>,
    /// How it ended; copied here when its monitor is shut down.
    pub exit: Option<ExitRecord>,
}

impl PodRecord {
    /// The version that this program writes.
    pub fn format() -> u32 {
        FORMAT
    }

    /// The handler whose directory holds the OCI runtime's state.
    pub fn state_of(&self) -> &str {
        self.oci_state.as_deref().unwrap_or(&self.runtime_handler)
    }

    /// Whether berth-oci makes the containers.
    pub fn has_own_runtime(&self) -> bool {
        self.state_of().is_empty()
    }
}

/// The namespace options of a sandbox, if it states any.
pub fn namespace_options(config: &v1::PodSandboxConfig) -> Option<&v1::NamespaceOption> {
    config
        .linux
        .as_ref()?
        .security_context
        .as_ref()?
        .namespace_options
        .as_ref()
}

/// What a directory of records held.
#[derive(Debug)]
pub struct Listing<R> {
    /// The records that could be read, by id.
    pub records: Vec<Arc<R>>,
    /// One error for each file that could not; each names its file.
    pub damaged: Vec<Error>,
}

/// The records of one data directory.
#[derive(Debug, Clone)]
pub struct Records {
    pods: PathBuf,
    read: Arc<Read>,
}

/// What was read before, shared by all who hold the records.
#[derive(Debug, Default)]
struct Read {
    pods: Known<PodRecord>,
    containers: Known<ContainerRecord>,
}

/// The one folder of [`Read::pods`].
const ALL_PODS: &str = "";

impl Records {
    /// Opens the records below a data directory.
    ///
    /// # Errors
    ///
    /// `Storage` when the directory cannot be made.
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        let pods = data_dir.join("pods");
        files::ensure_directory(&pods)?;
        Ok(Self {
            pods,
            read: Arc::default(),
        })
    }

    /// Every sandbox, half-made ones too.
    ///
    /// # Errors
    ///
    /// `Storage` when the directory itself cannot be read.
    pub fn list_pods(&self) -> Result<Listing<PodRecord>, Error> {
        let mut listing = Listing {
            records: Vec::new(),
            damaged: Vec::new(),
        };
        let ids = self.pod_ids()?;
        self.read.pods.keep_names(ALL_PODS, &ids);
        self.read.containers.keep_folders(&ids);
        for id in ids {
            match self.known_pod(&id) {
                Ok(Some(record)) => listing.records.push(record),
                // Removed meanwhile, or its maker has not written yet.
                Ok(None) => {}
                Err(error) => listing.damaged.push(error),
            }
        }
        Ok(listing)
    }

    /// Every container of a sandbox, half-made ones too.
    ///
    /// # Errors
    ///
    /// `Storage` when the directory itself cannot be read.
    pub fn list_containers(&self, pod_id: &str) -> Result<Listing<ContainerRecord>, Error> {
        let mut listing = Listing {
            records: Vec::new(),
            damaged: Vec::new(),
        };
        let folder = self.containers_directory(pod_id);
        let look = match self.read.containers.whole(pod_id, &folder) {
            Ok(records) => {
                listing.records = records;
                return Ok(listing);
            }
            Err(look) => look,
        };
        let ids = self.container_ids(pod_id)?;
        self.read.containers.keep_names(pod_id, &ids);
        for id in ids {
            match self.known_container(pod_id, &id) {
                Ok(Some(record)) => listing.records.push(record),
                Ok(None) => {}
                Err(error) => listing.damaged.push(error),
            }
        }
        if listing.damaged.is_empty() {
            let containers = &self.read.containers;
            containers.keep_whole(pod_id, look, &listing.records);
        }
        Ok(listing)
    }

    /// The whole id of a sandbox, whatever its record is like.
    ///
    /// # Errors
    ///
    /// `Invalid` when several ids begin so.
    pub fn find_pod_id(&self, wanted: &str) -> Result<Option<String>, Error> {
        choose_id("sandbox", wanted, &self.pod_ids()?)
    }

    /// The whole id of a container and that of its sandbox, whatever its record is
    /// like.
    ///
    /// # Errors
    ///
    /// `Invalid` when several ids begin so.
    pub fn find_container_id(&self, wanted: &str) -> Result<Option<(String, String)>, Error> {
        if let Some(found) = self.find_again(wanted) {
            return Ok(Some(found));
        }
        let mut owners = HashMap::new();
        for pod_id in self.pod_ids()? {
            for id in self.container_ids(&pod_id)? {
                owners.insert(id, pod_id.clone());
            }
        }
        let known: Vec<String> = owners.keys().cloned().collect();
        let chosen = choose_id("container", wanted, &known)?;
        Ok(chosen.and_then(|id| Some((owners.remove(&id)?, id))))
    }

    /// A container whose record was read before, and is still there.
    fn find_again(&self, id: &str) -> Option<(String, String)> {
        let pod_id = self.read.containers.folder_of(id)?;
        let there = self.container_path(&pod_id, id).exists();
        there.then(|| (pod_id, id.to_owned()))
    }

    /// The sandbox of an id, or of the beginning of one.
    ///
    /// # Errors
    ///
    /// `Invalid` when several ids begin so, `Storage` when its file is damaged.
    pub fn find_pod(&self, wanted: &str) -> Result<Option<PodRecord>, Error> {
        match self.find_pod_id(wanted)? {
            Some(id) => self.read_pod(&id),
            None => Ok(None),
        }
    }

    /// The container of an id, or of the beginning of one, in whatever sandbox.
    ///
    /// # Errors
    ///
    /// `Invalid` when several ids begin so, `Storage` when its file is damaged.
    pub fn find_container(&self, wanted: &str) -> Result<Option<ContainerRecord>, Error> {
        match self.find_container_id(wanted)? {
            Some((pod_id, id)) => self.read_container(&pod_id, &id),
            None => Ok(None),
        }
    }

    /// One sandbox by its whole id.
    ///
    /// # Errors
    ///
    /// `Storage` when the file is damaged.
    pub fn read_pod(&self, id: &str) -> Result<Option<PodRecord>, Error> {
        Ok(self.known_pod(id)?.map(Arc::unwrap_or_clone))
    }

    fn known_pod(&self, id: &str) -> Result<Option<Arc<PodRecord>>, Error> {
        let path = self.pod_path(id);
        self.read.pods.read(ALL_PODS, id, &path, FORMAT)
    }

    /// One container by its whole id.
    ///
    /// # Errors
    ///
    /// `Storage` when the file is damaged.
    pub fn read_container(&self, pod_id: &str, id: &str) -> Result<Option<ContainerRecord>, Error> {
        Ok(self.known_container(pod_id, id)?.map(Arc::unwrap_or_clone))
    }

    fn known_container(
        &self,
        pod_id: &str,
        id: &str,
    ) -> Result<Option<Arc<ContainerRecord>>, Error> {
        let path = self.container_path(pod_id, id);
        self.read.containers.read(pod_id, id, &path, FORMAT)
    }

    /// The ids of all sandboxes, also of those whose record is damaged.
    ///
    /// # Errors
    ///
    /// `Storage` when the directory cannot be read.
    pub fn pod_ids(&self) -> Result<Vec<String>, Error> {
        files::names_in(&self.pods, "")
    }

    /// The ids of all containers of a sandbox, also of damaged records.
    ///
    /// # Errors
    ///
    /// `Storage` when the directory cannot be read.
    pub fn container_ids(&self, pod_id: &str) -> Result<Vec<String>, Error> {
        files::names_in(&self.containers_directory(pod_id), ".json")
    }

    /// Containers whose first record a loss of power has emptied.
    ///
    /// # Errors
    ///
    /// `Storage` when the directory cannot be read.
    pub fn lost_containers(&self, pod_id: &str) -> Result<Vec<String>, Error> {
        let mut lost = self.container_ids(pod_id)?;
        let is_empty = |id: &String| {
            let path = self.container_path(pod_id, id);
            std::fs::metadata(path).is_ok_and(|file| file.len() == 0)
        };
        lost.retain(is_empty);
        Ok(lost)
    }

    /// The directory that all sandboxes' records lie in, to watch it.
    pub fn directory(&self) -> &Path {
        &self.pods
    }

    fn pod_directory(&self, id: &str) -> PathBuf {
        self.pods.join(id)
    }

    fn pod_path(&self, id: &str) -> PathBuf {
        self.pod_directory(id).join(POD_FILE)
    }

    fn containers_directory(&self, pod_id: &str) -> PathBuf {
        self.pod_directory(pod_id).join(CONTAINERS_FOLDER)
    }

    fn container_path(&self, pod_id: &str, id: &str) -> PathBuf {
        self.containers_directory(pod_id).join(format!("{id}.json"))
    }
}

/// The same sentence for every unknown sandbox.
pub fn no_such_pod(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("sandbox {id}: no such sandbox"),
    )
}

/// The same sentence for every unknown container.
pub fn no_such_container(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("container {id}: no such container"),
    )
}

#[cfg(test)]
pub(crate) mod tests;
