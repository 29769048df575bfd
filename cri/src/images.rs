//! Images: from a registry's name to a root file system that a container can
//! write to.
//!
//! ```text
//! reference ─▶ registry ─▶ manifest ─▶ layers ──▶ unpacked, verified directories
//!  nginx       mirrors,     platform    streams        │ overlayfs: lower, lower, …
//!              tokens                                  ▼ upper of the container
//! ```
//!
//! On disk, below the data directory:
//!
//! ```text
//! images/index.json          which names mean which image
//! images/boot                the boot in which the store was opened last
//! images/index.lock          held while the index or what it names changes
//! images/blobs/sha256/HEX    manifests and configurations
//! images/layers/HEX/         one unpacked layer, HEX being its chain id
//!     diff/                  the lower directory of an overlay
//!     layer.json             what it was made from, and its size
//! images/ingest/HEX{,.lock}  a layer on its way; without a name until verified
//! images/leases/             what pulls that run now will need
//! images/trash/              removed, not yet deleted
//! snapshots/CONTAINER/       upper and work directory, and the layers below
//! ```
//!
//! Many processes use one store at once and none of them is a daemon: whoever
//! changes the index holds a lock of `flock(2)`, which the kernel lets go when
//! its holder dies. What a killed process left is found by trying its lock.

/// The name of content.
pub mod digest;
/// Files that are whole or absent, and locks.
pub(crate) mod disk;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use oci_spec::image::ImageConfiguration;

/// Images from files.
pub(crate) mod archives;
/// What went wrong, and of what kind it is.
pub mod error;
/// The distribution protocol.
pub(crate) mod fetch;
/// An image's files, with the owners that a user namespace sees.
pub mod id_map;
/// Which names mean which image.
pub(crate) mod index;
/// What was read before and is the same.
mod known;
/// A layer on its way into the store.
pub(crate) mod layers;
/// Manifests and indices.
pub(crate) mod manifest;
/// Which machine an image is for.
pub mod platform;
/// A whole pull.
pub(crate) mod pull;
/// What an image is called.
pub mod reference;
/// Where images are fetched from, and as whom.
pub mod registries;
/// A container's own view of its image.
pub(crate) mod snapshots;
/// The store's directories.
pub(crate) mod store;
/// A layer's archive becomes a directory.
pub(crate) mod unpack;

use digest::Digest;
use error::{Error, ErrorKind};
use fetch::{Repository, clients::Clients};
use id_map::IdMap;
use index::Record;
use platform::Platform;
use reference::Reference;
use registries::{Credentials, RegistriesConfig};
use store::Store;

/// The images of a data directory. Cheap to clone; many processes may have one
/// of the same directory.
#[derive(Debug, Clone)]
pub struct ImageStore {
    store: Store,
    // A reload of the server's file may bring another one.
    registries: Arc<RwLock<Arc<RegistriesConfig>>>,
    clients: Arc<Clients>,
    layers_at_once: Option<usize>,
    /// Found out at the first use: why owners cannot be moved, if they cannot.
    maps_ids: Arc<OnceLock<Result<(), String>>>,
    fetched_bytes: Arc<AtomicU64>,
}

/// An image that is in the store, whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// `sha256:` and the digits of its configuration's digest.
    pub id: String,
    /// `docker.io/library/nginx:latest`. Empty when its tags moved on.
    pub references: Vec<String>,
    /// `docker.io/library/nginx@sha256:…`.
    pub digests: Vec<String>,
    /// What it takes on disk, layers shared with other images included.
    pub size_bytes: u64,
    /// Chain ids, lowest first.
    pub layers: Vec<String>,
    /// What to run, as whom, with which environment.
    pub config: Arc<ImageConfiguration>,
    /// When it was built, if it says so.
    pub created: Option<jiff::Timestamp>,
    /// When it came into this store.
    pub stored_at: jiff::Timestamp,
}

/// How to pull.
#[derive(Clone)]
pub struct PullRequest {
    /// For the registry, not its mirrors. Without, the configuration's count.
    pub credentials: Option<Credentials>,
    /// Who wants to know how far it is.
    pub progress: Arc<dyn PullProgress>,
    /// Another machine than this.
    pub platform: Option<Platform>,
}

impl Default for PullRequest {
    fn default() -> PullRequest {
        PullRequest {
            credentials: None,
            progress: Arc::new(Silent),
            platform: None,
        }
    }
}

/// Hears how far a pull is. Called from several threads.
pub trait PullProgress: Send + Sync {
    /// A layer's state changed. `total_bytes` counts the compressed blob.
    fn layer(&self, digest: &str, total_bytes: Option<u64>, state: LayerState);
}

/// Where a layer is. Downloading and unpacking go on together; the second is
/// what remains after the last byte came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// For its turn.
    Waiting,
    /// In the store from before.
    Exists,
    /// On its way.
    Downloading {
        /// Bytes of the blob that came.
        done: u64,
    },
    /// All of it came.
    Unpacking {
        /// Bytes of the blob.
        done: u64,
    },
    /// In the store.
    Done,
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl PullProgress for Silent {
    fn layer(&self, _digest: &str, _total_bytes: Option<u64>, _state: LayerState) {}
}

/// Counts what came, and tells another.
struct Counted {
    observer: Arc<dyn PullProgress>,
    fetched_bytes: Arc<AtomicU64>,
}

impl PullProgress for Counted {
    fn layer(&self, digest: &str, total_bytes: Option<u64>, state: LayerState) {
        // Said once a layer that was sent, whatever becomes of it.
        if let LayerState::Unpacking { done } = state {
            self.fetched_bytes.fetch_add(done, Ordering::Relaxed);
        }
        self.observer.layer(digest, total_bytes, state);
    }
}

/// What a removal gave up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that mean nothing any more.
    pub names: Vec<String>,
    /// Ids of the images that went.
    pub images: Vec<String>,
    /// How many layers went with them; the others are still used.
    pub layers: usize,
    /// Bytes on disk that are free again.
    pub bytes: u64,
}

/// Which images to prune.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// All that no container uses.
    Unused,
    /// Of those, the ones without a tag.
    Dangling,
}

/// Space on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Files, directories, links.
    pub inodes: u64,
}

impl ImageStore {
    /// Opens the store below a data directory, and makes it if there is none.
    /// What killed processes left behind is deleted.
    ///
    /// # Errors
    ///
    /// [`error::ErrorKind::Os`]: the directories cannot be made or read.
    pub fn open(data_dir: &Path, registries: RegistriesConfig) -> Result<ImageStore, Error> {
        Ok(ImageStore {
            store: Store::open(data_dir)?,
            registries: Arc::new(RwLock::new(Arc::new(registries))),
            clients: Arc::default(),
            layers_at_once: None,
            maps_ids: Arc::default(),
            fetched_bytes: Arc::default(),
        })
    }

    /// The same store with another number of layers of one image on their way
    /// at once; absent, the machine decides.
    #[must_use]
    pub fn with_layers_at_once(self, layers_at_once: Option<usize>) -> ImageStore {
        ImageStore {
            layers_at_once,
            ..self
        }
    }

    /// Takes another registries' file for pulls that begin from now on.
    pub fn replace_registries(&self, registries: RegistriesConfig) {
        let mut known = self
            .registries
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *known = Arc::new(registries);
    }

    /// Bytes of layers that registries sent since the store was opened.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }

    fn registries(&self) -> Arc<RegistriesConfig> {
        let registries = self.registries.read();
        // Whoever panicked has left a whole value behind: it is set in one step.
        registries.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches an image, or makes sure that the registry's is the one at hand.
    /// Layers that are there are not fetched again. The tag means the new image
    /// from now on.
    ///
    /// Dropping the future gives the pull up.
    ///
    /// # Errors
    ///
    /// See [`error::ErrorKind`]; the store's images are as before.
    pub async fn pull(&self, reference: &str, request: PullRequest) -> Result<Image, Error> {
        let reference: Reference = reference.parse()?;
        let pulled = self.pull_reference(&reference, request).await;
        pulled.map_err(|error| error.within(format!("{reference} was not pulled")))
    }

    async fn pull_reference(
        &self,
        reference: &Reference,
        request: PullRequest,
    ) -> Result<Image, Error> {
        let mut repository = Repository::new(
            &self.registries(),
            &self.clients,
            reference,
            request.credentials.as_ref(),
        )?;
        let platform = request.platform.as_ref();
        let plan = pull::fetch_plan(&mut repository, reference, platform, &self.store).await?;
        let chains: Vec<Digest> = plan
            .layers
            .iter()
            .map(|layer| layer.chain.clone())
            .collect();
        let store = self.store.clone();
        let lease = pull::in_thread(move || store.lease(&chains)).await?;
        let pace = pull::Pace {
            progress: Arc::new(Counted {
                observer: request.progress.clone(),
                fetched_bytes: self.fetched_bytes.clone(),
            }),
            layers_at_once: self.layers_at_once,
        };
        pull::fetch_layers(&self.store, &repository, &plan, &pace).await?;
        let store = self.store.clone();
        // With a digest in the name, the tag beside it is a note, not a claim.
        let tags = match &reference.digest {
            Some(_) => Vec::new(),
            None => reference.tagged().into_iter().collect(),
        };
        let name = reference.name();
        pull::in_thread(move || {
            let record = pull::put_image(&store, &plan, tags, Some(&name))?;
            // Until here: only now the index speaks for the layers.
            drop(lease);
            image(&store, &record)
        })
        .await
    }

    /// Takes images from files: `docker-archive:PATH`, `oci-archive:PATH[:TAG]`,
    /// `oci:PATH[:TAG]`. An image that the source gives no name has only its id.
    ///
    /// # Errors
    ///
    /// See [`error::ErrorKind`]; images that came before the failure stay.
    pub async fn import(&self, source: &str) -> Result<Vec<Image>, Error> {
        let source_text = source.to_owned();
        let store = self.store.clone();
        let imported = pull::in_thread(move || {
            let source = archives::Source::parse(&source_text)?;
            let records = archives::import(&store, &source)?;
            records.iter().map(|record| image(&store, record)).collect()
        });
        imported
            .await
            .map_err(|error| error.within(format!("{source} was not imported")))
    }

    /// The image that a reference, a digest, an id or its beginning means.
    ///
    /// # Errors
    ///
    /// [`error::ErrorKind::InvalidInput`]: it is no name, or means several.
    pub fn find(&self, name: &str) -> Result<Option<Image>, Error> {
        let index = self.store.known_index()?;
        let found = index.find(name)?;
        found.map(|record| image(&self.store, record)).transpose()
    }

    /// All images, in the order in which they came.
    ///
    /// # Errors
    ///
    /// The index or a configuration cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let index = self.store.known_index()?;
        let images = index.images.iter();
        images.map(|record| image(&self.store, record)).collect()
    }

    /// Takes a name away and, with an image's last name or by its id, the image.
    /// Layers that another image, a container or a pull needs stay.
    ///
    /// # Errors
    ///
    /// [`error::ErrorKind::NotFound`]: nothing has that name.
    pub fn remove(&self, name: &str) -> Result<Removed, Error> {
        let mut locked = self.store.lock_index()?;
        let Some(removal) = locked.index.remove(name)? else {
            return Err(Error::new(
                error::ErrorKind::NotFound,
                format!("no image is called {name}; nothing was removed"),
            ));
        };
        let mut removed = Removed {
            names: removal.names,
            ..Removed::default()
        };
        removed.images.extend(removal.image.map(String::from));
        self.write_and_collect(locked, removed)
    }

    /// Removes the images that nothing uses, and the layers of given-up pulls.
    /// `in_use` holds names or ids of images.
    ///
    /// # Errors
    ///
    /// The index cannot be changed, or a name in `in_use` is none.
    pub fn prune(&self, which: Prune, in_use: &BTreeSet<String>) -> Result<Removed, Error> {
        let mut locked = self.store.lock_index()?;
        let mut used = self.store.snapshot_images()?;
        for name in in_use {
            used.extend(locked.index.find(name)?.map(|record| record.id.clone()));
        }
        let goes = |record: &Record| {
            !used.contains(&record.id) && (which == Prune::Unused || record.references.is_empty())
        };
        let mut removed = Removed::default();
        for record in locked.index.images.iter().filter(|record| goes(record)) {
            removed.names.extend(record.references.iter().cloned());
            removed.names.extend(record.digests.iter().cloned());
            removed.images.push(record.id.to_string());
        }
        locked.index.images.retain(|record| !goes(record));
        self.write_and_collect(locked, removed)
    }

    fn write_and_collect(
        &self,
        locked: store::LockedIndex,
        mut removed: Removed,
    ) -> Result<Removed, Error> {
        self.store.write_index(&locked)?;
        let freed = self.store.collect(&locked)?;
        drop(locked);
        (removed.layers, removed.bytes) = (freed.layers, freed.bytes);
        freed.delete();
        Ok(removed)
    }

    /// Mounts a container's root file system onto `target`: the image's layers
    /// below, a directory of its own on top. With `ids` the files' owners are those
    /// that a user namespace sees.
    ///
    /// # Errors
    ///
    /// [`error::ErrorKind::NotFound`]: the image is gone. Otherwise the mount
    /// failed; a new snapshot is removed again.
    pub fn mount_snapshot(
        &self,
        container_id: &str,
        image: &Image,
        target: &Path,
        ids: Option<&IdMap>,
    ) -> Result<(), Error> {
        let target = snapshots::Target { path: target, ids };
        snapshots::mount(&self.store, container_id, &image.id.parse()?, &target)
    }

    /// Whether snapshots can have the owners of a user namespace. Looks once.
    ///
    /// # Errors
    ///
    /// [`error::ErrorKind::Unsupported`]: why they cannot.
    pub fn maps_ids(&self) -> Result<(), Error> {
        let look = || {
            let found = id_map::probe(self.store.snapshots(), &self.store.layers());
            found.map_err(|error| error.chain())
        };
        let found = self.maps_ids.get_or_init(look);
        found
            .clone()
            .map_err(|reason| Error::new(ErrorKind::Unsupported, reason))
    }

    /// Unmounts it and removes what the container wrote. Succeeds if all of it
    /// is gone already.
    ///
    /// # Errors
    ///
    /// The kernel refuses to unmount, or files cannot be removed.
    pub fn unmount_snapshot(&self, container_id: &str, target: &Path) -> Result<(), Error> {
        snapshots::unmount(&self.store, container_id, target)
    }

    /// Whether there is a snapshot of this name.
    pub fn has_snapshot(&self, container_id: &str) -> bool {
        self.store.snapshots().join(container_id).exists()
    }

    /// What a container wrote.
    ///
    /// # Errors
    ///
    /// [`error::ErrorKind::NotFound`]: it has no snapshot.
    pub fn snapshot_usage(&self, container_id: &str) -> Result<Usage, Error> {
        snapshots::usage(&self.store, container_id)
    }

    /// What all images take, shared layers counted once.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn usage(&self) -> Result<Usage, Error> {
        self.store.usage()
    }
}

fn image(store: &Store, record: &Record) -> Result<Image, Error> {
    let config = store.known_configuration(&record.id)?;
    Ok(Image {
        id: record.id.to_string(),
        references: record.references.clone(),
        digests: record.digests.clone(),
        size_bytes: record.size_bytes,
        layers: record.layers.iter().map(Digest::to_string).collect(),
        created: config
            .created()
            .as_deref()
            .and_then(|text| text.parse().ok()),
        config,
        stored_at: record.stored_at,
    })
}
