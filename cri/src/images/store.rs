//! The store's directories: who may change what, and what counts as used.
//!
//! Three rules keep many processes and their deaths apart:
//!
//! 1. `index.lock` is held while `index.json` changes, a blob is written, a
//!    lease is taken or anything is given up. All of that is quick.
//! 2. A pull is slow, so it holds no such lock. It takes a *lease*: a file that
//!    names what it will need, locked for as long as its process lives. What a
//!    living lease names is not deleted.
//! 3. A layer on its way is in `ingest/` under a lock of its own, and gets its
//!    name in `layers/` by one rename, after its last byte was verified.
//!
//! So whatever in `ingest/` or `leases/` has no holder was left by a killed
//! process, and [`Store::open`] deletes it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_runtime::whole_file::UNFINISHED;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::images::digest::Digest;
use crate::images::disk;
use crate::images::error::{Context, Error, ErrorKind};
use crate::images::index::{Index, Record};
use crate::images::known::Known;
use crate::images::{Usage, pull, snapshots};

/// The directories of a store.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    /// `DATA/images`.
    images: PathBuf,
    /// `DATA/snapshots`.
    snapshots: PathBuf,
    known: Arc<Known>,
}

/// `layer.json`: what a layer's directory was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// The digest of the archive before compression.
    pub(crate) diff_id: Digest,
    /// What its files take on disk.
    pub(crate) bytes: u64,
    /// How many they are.
    pub(crate) inodes: u64,
    /// Whether it hides all layers below it: the mount leaves them away.
    #[serde(default)]
    pub(crate) hides_all_below: bool,
    /// Whether its archive says who owns `/`: then `diff/` does too.
    #[serde(default)]
    pub(crate) describes_root: bool,
}

/// Begins the name of a snapshot that is being deleted; no container's id does.
const REMOVED: &str = ".removed-";

/// The index, and the right to change it for as long as this lives.
pub(crate) struct LockedIndex {
    pub(crate) index: Index,
    _lock: File,
}

/// Keeps what it names from being deleted. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
    _lock: File,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A file that stays is one without a holder: the next opening deletes it.
        let _ = fs::remove_file(&self.path);
    }
}

/// What went when nothing used it any more.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    pub(crate) layers: usize,
    pub(crate) bytes: u64,
    trash: Vec<PathBuf>,
}

impl Freed {
    /// Deletes the files. Slow, so it comes after the lock was let go.
    pub(crate) fn delete(self) {
        for path in self.trash {
            // What stays in the trash is tried again by the next opening.
            let _ = fs::remove_dir_all(path);
        }
    }
}

impl Store {
    /// Makes the directories below `data_dir` and deletes what killed processes
    /// left there.
    pub(crate) fn open(data_dir: &Path) -> Result<Store, Error> {
        let store = Store {
            images: data_dir.join("images"),
            snapshots: data_dir.join("snapshots"),
            known: Arc::default(),
        };
        for folder in ["blobs/sha256", "layers", "ingest", "leases", "trash"] {
            disk::ensure_private_directory(&store.images.join(folder))?;
        }
        disk::ensure_private_directory(&store.snapshots)?;
        store.distrust_other_boots()?;
        store.sweep()?;
        Ok(store)
    }

    /// A layer is trusted because it has a name in `layers/`, but only once an
    /// image was put into the index, its files are known to be on the disk. If
    /// the power failed in between, the name may lead to empty files. So the
    /// first opening after a boot gives up every layer that no image or
    /// container needs.
    fn distrust_other_boots(&self) -> Result<(), Error> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read(path).context(|| format!("{} cannot be read", path.display()))?;
        let seen = self.images.join("boot");
        let is_seen = || fs::read(&seen).is_ok_and(|seen| seen == boot);
        if is_seen() {
            return Ok(());
        }
        let locked = self.lock_index()?;
        // Somebody may have done it while we waited.
        if is_seen() {
            return Ok(());
        }
        self.remove_dead_leases()?;
        let freed = self.collect(&locked)?;
        disk::write_whole(&seen, &boot)?;
        drop(locked);
        freed.delete();
        Ok(())
    }

    fn remove_dead_leases(&self) -> Result<(), Error> {
        let leases = self.images.join("leases");
        for name in names_in(&leases)? {
            if let Some(_held) = disk::try_lock(&leases.join(&name))? {
                remove_file(&leases.join(&name))?;
            }
        }
        Ok(())
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.images.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn layer(&self, chain: &Digest) -> PathBuf {
        self.images.join("layers").join(chain.hex())
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.images.join("layers")
    }

    /// The directory that an overlay takes as a lower one.
    pub(crate) fn layer_diff(&self, chain: &Digest) -> PathBuf {
        self.layer(chain).join("diff")
    }

    pub(crate) fn ingest(&self, chain: &Digest) -> PathBuf {
        self.images.join("ingest").join(chain.hex())
    }

    pub(crate) fn ingest_lock(&self, chain: &Digest) -> PathBuf {
        self.images
            .join("ingest")
            .join(format!("{}.lock", chain.hex()))
    }

    pub(crate) fn snapshots(&self) -> &Path {
        &self.snapshots
    }

    /// Whether the layer is there, whole.
    pub(crate) fn has_layer(&self, chain: &Digest) -> bool {
        self.layer(chain).join("layer.json").exists()
    }

    pub(crate) fn read_layer(&self, chain: &Digest) -> Result<LayerRecord, Error> {
        read_json(&self.layer(chain).join("layer.json"))
    }

    /// The directories of layers, the nearest first, down to one that hides all
    /// below it. `layers` begins with the lowest.
    pub(crate) fn visible_layers(&self, layers: &[Digest]) -> Result<Vec<PathBuf>, Error> {
        let mut visible = Vec::new();
        for chain in layers.iter().rev() {
            visible.push(self.layer_diff(chain));
            if self.read_layer(chain)?.hides_all_below {
                break;
            }
        }
        Ok(visible)
    }

    /// The bytes of a blob, checked against their name.
    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.blob(digest);
        let bytes = fs::read(&path).context(|| format!("{} cannot be read", path.display()))?;
        digest.verify(&Digest::of(&bytes), &format!("the file {}", path.display()))?;
        Ok(bytes)
    }

    /// The index as it is now. Needs no lock, for a rename replaces it whole.
    pub(crate) fn read_index(&self) -> Result<Index, Error> {
        let path = self.index_file();
        match path.try_exists() {
            Ok(false) => Ok(Index::default()),
            _ => read_json(&path),
        }
    }

    /// The index as it is now, for those who only look.
    pub(crate) fn known_index(&self) -> Result<Arc<Index>, Error> {
        self.known.index(&self.index_file(), || self.read_index())
    }

    /// An image's configuration, for those who only look.
    pub(crate) fn known_configuration(
        &self,
        id: &Digest,
    ) -> Result<Arc<ImageConfiguration>, Error> {
        let read = || pull::parse_config(&self.read_blob(id)?);
        self.known.configuration(id, &self.blob(id), read)
    }

    /// The index and the right to change it. Waits for others, briefly.
    pub(crate) fn lock_index(&self) -> Result<LockedIndex, Error> {
        let lock = disk::lock(&self.images.join("index.lock"))?;
        Ok(LockedIndex {
            index: self.read_index()?,
            _lock: lock,
        })
    }

    /// Writes the index.
    pub(crate) fn write_index(&self, locked: &LockedIndex) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(&locked.index)
            .map_err(|error| Error::caused(ErrorKind::Os, "index.json is not written", error))?;
        let path = self.index_file();
        disk::write_whole(&path, &text)?;
        self.known.note_index(&path, &locked.index);
        Ok(())
    }

    /// Writes a blob under its digest, which is computed here: it cannot have
    /// another content.
    pub(crate) fn write_blob(&self, _lock: &LockedIndex, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let path = self.blob(&digest);
        if !path.exists() {
            disk::write_whole(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Brings everything to the disk that was written so far. Slow, so it comes
    /// before any lock is taken.
    ///
    /// One `syncfs(2)` for a whole pull instead of an `fsync(2)` for each file:
    /// the kernel writes all of it in the order that suits the disk.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        let failed = || format!("{} is not brought to the disk", self.images.display());
        let directory = File::open(&self.images).context(failed)?;
        rustix::fs::syncfs(&directory).context(failed)
    }

    /// Keeps layers, present or to come, from being deleted.
    pub(crate) fn lease(&self, layers: &[Digest]) -> Result<Lease, Error> {
        let _index = self.lock_index()?;
        let path = self.images.join("leases").join(disk::unique_name());
        let lock = disk::lock(&path)?;
        let lease = Lease {
            path: path.clone(),
            _lock: lock,
        };
        let text = serde_json::to_vec(layers)
            .map_err(|error| Error::caused(ErrorKind::Os, "a lease is not written", error))?;
        fs::write(&path, text).context(|| format!("{} is not written", path.display()))?;
        Ok(lease)
    }

    /// Gives up the layers and blobs that no image, snapshot or lease needs.
    pub(crate) fn collect(&self, locked: &LockedIndex) -> Result<Freed, Error> {
        let mut layers = self.leased_layers()?;
        layers.extend(self.snapshot_layers()?);
        let mut blobs = BTreeSet::new();
        for record in &locked.index.images {
            layers.extend(record.layers.iter().cloned());
            blobs.extend(self.blobs_of(record));
        }
        let mut freed = Freed::default();
        for name in names_in(&self.images.join("layers"))? {
            if layers.iter().any(|chain| chain.hex() == name) {
                continue;
            }
            let path = self.images.join("layers").join(&name);
            let record = read_json::<LayerRecord>(&path.join("layer.json")).ok();
            let trash = self.images.join("trash").join(disk::unique_name());
            fs::rename(&path, &trash).context(|| format!("{} is not removed", path.display()))?;
            freed.layers += 1;
            freed.bytes += record.map_or(0, |record| record.bytes);
            freed.trash.push(trash);
        }
        for name in names_in(&self.images.join("blobs/sha256"))? {
            if !blobs.contains(&name) {
                let path = self.images.join("blobs/sha256").join(&name);
                freed.bytes += fs::metadata(&path).map_or(0, |file| file.len());
                fs::remove_file(&path).context(|| format!("{} is not removed", path.display()))?;
            }
        }
        Ok(freed)
    }

    fn blobs_of(&self, record: &Record) -> Vec<String> {
        let manifests = record
            .digests
            .iter()
            .filter_map(|name| name.rsplit_once("@sha256:").map(|(_, hex)| hex.to_owned()));
        manifests.chain([record.id.hex().to_owned()]).collect()
    }

    fn leased_layers(&self) -> Result<BTreeSet<Digest>, Error> {
        let mut layers = BTreeSet::new();
        for name in names_in(&self.images.join("leases"))? {
            // A lease that ended since has no file: its pull has put its image
            // into the index or has failed.
            if let Ok(leased) = read_json::<Vec<Digest>>(&self.images.join("leases").join(name)) {
                layers.extend(leased);
            }
        }
        Ok(layers)
    }

    fn snapshot_layers(&self) -> Result<BTreeSet<Digest>, Error> {
        let snapshots = self.read_snapshots()?;
        let layers = snapshots.into_iter().flat_map(|snapshot| snapshot.layers);
        Ok(layers.collect())
    }

    /// The images that containers stand on.
    pub(crate) fn snapshot_images(&self) -> Result<BTreeSet<Digest>, Error> {
        let snapshots = self.read_snapshots()?;
        Ok(snapshots
            .into_iter()
            .map(|snapshot| snapshot.image)
            .collect())
    }

    /// What the layers and the blobs take on disk.
    pub(crate) fn usage(&self) -> Result<Usage, Error> {
        let mut usage = Usage::default();
        for name in names_in(&self.images.join("layers"))? {
            let path = self.images.join("layers").join(name).join("layer.json");
            // One that was removed meanwhile takes nothing.
            if let Ok(record) = read_json::<LayerRecord>(&path) {
                usage.bytes += record.bytes;
                usage.inodes += record.inodes;
            }
        }
        let blobs = snapshots::tree_usage(&self.images.join("blobs"))?;
        usage.bytes += blobs.bytes;
        usage.inodes += blobs.inodes;
        Ok(usage)
    }

    fn read_snapshots(&self) -> Result<Vec<SnapshotRecord>, Error> {
        let mut snapshots = Vec::new();
        for name in names_in(&self.snapshots)? {
            if name.starts_with(REMOVED) {
                continue;
            }
            let path = self.snapshots.join(name).join(snapshots::SNAPSHOT_FILE);
            if snapshots::is_recorded(&path) {
                snapshots.push(read_json(&path)?);
            }
        }
        Ok(snapshots)
    }

    /// Removes a snapshot's directory: by one rename, for half a snapshot must
    /// not be taken for a whole one, and then file by file.
    pub(crate) fn remove_snapshot(&self, directory: &Path) -> Result<(), Error> {
        let removed = self
            .snapshots
            .join(format!("{REMOVED}{}", disk::unique_name()));
        match fs::rename(directory, &removed) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            renamed => renamed
                .context(|| format!("{} is not removed", directory.display()))
                .and_then(|()| remove_tree(&removed)),
        }
    }

    /// Deletes what has no living holder.
    fn sweep(&self) -> Result<(), Error> {
        // Somebody changes the store right now; the next to open it will sweep.
        let Some(_lock) = disk::try_lock(&self.images.join("index.lock"))? else {
            return Ok(());
        };
        let ingest = self.images.join("ingest");
        for name in names_in(&ingest)? {
            if let Some(hex) = name.strip_suffix(".lock")
                && let Some(_held) = disk::try_lock(&ingest.join(&name))?
            {
                remove_tree(&ingest.join(hex))?;
                remove_file(&ingest.join(&name))?;
            }
        }
        self.remove_dead_leases()?;
        for folder in ["", "blobs/sha256"] {
            let folder = self.images.join(folder);
            for name in names_in(&folder)? {
                // Written under the index's lock only, which is held here.
                if name.ends_with(UNFINISHED) {
                    remove_file(&folder.join(name))?;
                }
            }
        }
        let removed = names_in(&self.snapshots)?
            .into_iter()
            .filter(|name| name.starts_with(REMOVED))
            .map(|name| self.snapshots.join(name));
        let trash = self.images.join("trash");
        let trash = names_in(&trash)?.into_iter().map(|name| trash.join(name));
        for path in removed.chain(trash) {
            // Another process may be deleting the same tree: both may fail
            // half-way and the next opening finds what is left.
            let _ = fs::remove_dir_all(path);
        }
        Ok(())
    }

    fn index_file(&self) -> PathBuf {
        self.images.join("index.json")
    }
}

/// `snapshot.json`: what a container's root file system stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) image: Digest,
    /// Lowest first.
    pub(crate) layers: Vec<Digest>,
}

pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, Error> {
    let bytes = fs::read(path).context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let what = format!("{} is damaged", path.display());
        Error::caused(ErrorKind::Corrupt, what, error)
    })
}

pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("{} is not removed", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("{} is not removed", path.display()))
        }
        _ => Ok(()),
    }
}

fn names_in(directory: &Path) -> Result<Vec<String>, Error> {
    let read = || -> std::io::Result<Vec<String>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    read().context(|| format!("{} cannot be listed", directory.display()))
}

#[cfg(test)]
mod tests;
