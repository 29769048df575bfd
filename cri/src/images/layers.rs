//! A layer on its way into the store.
//!
//! ```text
//! nothing ──begin──▶ Ingest ──fill──▶ Filled ──commit──▶ layers/HEX
//!    ▲                  │                │
//!    └──── dropped: files deleted, lock let go
//! ```
//!
//! Two pulls, in one process or in two, may need one layer at once. The first
//! takes the lock of `ingest/HEX.lock`; the other finds it busy, waits, and
//! then finds the layer. A holder that is killed loses the lock by its death,
//! and the other starts anew.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use crate::images::digest::Digest;
use crate::images::disk;
use crate::images::error::{Context, Error, ErrorKind};
use crate::images::store::{LayerRecord, Store, remove_tree};
use crate::images::unpack::tree::Written;
use crate::images::unpack::{self, Expected, below};

/// What the start of a layer's ingest found.
#[derive(Debug)]
pub(crate) enum Begin {
    /// The store has it.
    Exists,
    /// Somebody alive is at it.
    Busy,
    /// It is the caller's to make.
    Begun(Ingest),
}

/// The right to make a layer, and its directory.
#[derive(Debug)]
pub(crate) struct Ingest {
    store: Store,
    chain: Digest,
    lock: Option<File>,
}

/// A layer whose digests were verified, but that has no name yet.
#[derive(Debug)]
pub(crate) struct Filled {
    ingest: Ingest,
    diff_id: Digest,
    written: Written,
}

/// What came of an attempt to fill a layer.
#[derive(Debug)]
pub(crate) enum Fill {
    /// It is whole.
    Filled(Filled),
    /// It is not; the right to make it is given back.
    Failed(Ingest, Error),
}

/// The chain ids of layers, lowest first: each names a layer *and* all below
/// it, for what a layer shows depends on them (OCI image-spec, config.md).
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chains.push(match chains.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chains
}

/// Starts to make a layer unless it is there or somebody is at it.
pub(crate) fn begin(store: &Store, chain: &Digest) -> Result<Begin, Error> {
    if store.has_layer(chain) {
        return Ok(Begin::Exists);
    }
    let Some(lock) = disk::try_lock(&store.ingest_lock(chain))? else {
        return Ok(Begin::Busy);
    };
    let ingest = Ingest {
        store: store.clone(),
        chain: chain.clone(),
        lock: Some(lock),
    };
    // The last holder may have finished between the look above and the lock.
    if store.has_layer(chain) {
        return Ok(Begin::Exists);
    }
    ingest.clear()?;
    Ok(Begin::Begun(ingest))
}

impl Ingest {
    /// Unpacks the layer's blob and verifies it. On failure the directory is
    /// empty again and another source may be tried.
    pub(crate) fn fill<R: Read + Send>(self, blob: R, expected: &Expected) -> Fill {
        match unpack::unpack(blob, expected, &self.directory().join("diff")) {
            Ok(written) => Fill::Filled(Filled {
                diff_id: expected.diff_id.clone(),
                ingest: self,
                written,
            }),
            Err(error) => {
                // A directory that cannot be emptied is the next trouble, not
                // the cause of this one.
                let _ = self.clear();
                Fill::Failed(self, error)
            }
        }
    }

    fn directory(&self) -> PathBuf {
        self.store.ingest(&self.chain)
    }

    fn clear(&self) -> Result<(), Error> {
        let directory = self.directory();
        remove_tree(&directory)?;
        let diff = directory.join("diff");
        disk::ensure_private_directory(&diff)?;
        // This directory is the container's `/` if no layer says otherwise.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&diff, mode).context(|| format!("{}", diff.display()))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // A layer that was renamed away leaves nothing here. What cannot be
        // deleted now has no holder and goes with the next opening. The name of
        // the lock goes before the lock does: see `disk::try_lock`.
        let _ = remove_tree(&self.directory());
        let _ = fs::remove_file(self.store.ingest_lock(&self.chain));
        self.lock = None;
    }
}

impl Filled {
    /// Whether the layer can be named before those below it are there.
    pub(crate) fn stands_alone(&self) -> bool {
        let Written {
            implied, borrowed, ..
        } = &self.written;
        implied.is_empty() && borrowed.is_empty()
    }

    /// Gives the layer its name. `below` are the chain ids under it, lowest
    /// first; they must be in the store unless the layer stands alone.
    pub(crate) fn commit(self, below: &[Digest]) -> Result<(), Error> {
        let Filled {
            ingest,
            diff_id,
            mut written,
        } = self;
        let store = &ingest.store;
        let directory = ingest.directory();
        if !(written.implied.is_empty() && written.borrowed.is_empty()) {
            let below = store.visible_layers(below)?;
            below::complete(&directory.join("diff"), &mut written, &below)?;
        }
        let record = LayerRecord {
            diff_id,
            bytes: written.bytes,
            inodes: written.inodes,
            hides_all_below: written.hides_all_below,
            describes_root: written.describes_root,
        };
        let text = serde_json::to_vec(&record)
            .map_err(|error| Error::caused(ErrorKind::Os, "layer.json is not written", error))?;
        // Not synced: a pull does that once, for all its files.
        let file = directory.join("layer.json");
        fs::write(&file, text).context(|| format!("{} is not written", file.display()))?;
        let layer = store.layer(&ingest.chain);
        fs::rename(&directory, &layer)
            .context(|| format!("the layer {} cannot be named", layer.display()))
    }
}
