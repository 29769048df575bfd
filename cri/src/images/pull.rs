//! A whole pull: from a name to an image in the index.
//!
//! 1. The manifest, by tag or digest; of an index, the platform's.
//! 2. The configuration, which names the layers' contents (diff ids).
//! 3. A lease, so that nothing of what follows is deleted meanwhile.
//! 4. Every layer that the store lacks, several at once.
//! 5. The blobs and the index entry, under the index's lock.
//!
//! Until the last step no name means the new image, so a pull that fails or is
//! killed changes nothing that anybody sees; the layers it finished stay for
//! the next attempt until they are pruned.

use std::sync::Arc;

use bytes::Bytes;
use oci_spec::image::ImageConfiguration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::images::digest::Digest;
use crate::images::error::{Error, ErrorKind};
use crate::images::fetch::{self, Repository};
use crate::images::index::Record;
use crate::images::layers::{self, Begin, Fill, Filled, Ingest};
use crate::images::manifest::{Descriptor, Document, Manifest};
use crate::images::platform::Platform;
use crate::images::reference::Reference;
use crate::images::store::Store;
use crate::images::unpack::{Chunks, Expected};
use crate::images::{LayerState, PullProgress};

/// What is known of an image before its layers are fetched.
#[derive(Debug, Clone)]
pub(crate) struct PullPlan {
    /// The config's digest.
    pub(crate) id: Digest,
    pub(crate) config: Bytes,
    /// The manifest, and before it the index that led to it.
    pub(crate) manifests: Vec<Bytes>,
    pub(crate) layers: Vec<LayerPlan>,
}

/// One layer of an image.
#[derive(Debug, Clone)]
pub(crate) struct LayerPlan {
    pub(crate) blob: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) chain: Digest,
}

/// How fast, and who is told.
#[derive(Clone)]
pub(crate) struct Pace {
    pub(crate) progress: Arc<dyn PullProgress>,
    /// Layers on their way at once; the machine decides if absent.
    pub(crate) layers_at_once: Option<usize>,
}

/// How many layers are on their way at once: each keeps two threads busy, and
/// on a slow line the wait of one is the chance of another.
const FEWEST_AT_ONCE: usize = 3;

/// Queued chunks between a connection and the thread that inflates.
const QUEUED_CHUNKS: usize = 64;

/// How often a layer that somebody else makes is looked for.
pub(crate) const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Asks for the manifest and the configuration.
pub(crate) async fn fetch_plan(
    repository: &mut Repository,
    reference: &Reference,
    platform: Option<&Platform>,
    store: &Store,
) -> Result<PullPlan, Error> {
    let this_machine = Platform::of_this_machine();
    let wanted = platform.unwrap_or(&this_machine);
    let mut manifests = vec![repository.manifest(reference.version()).await?];
    let manifest = loop {
        match Document::parse(&manifests[manifests.len() - 1])? {
            Document::Manifest(manifest) => break manifest,
            Document::Index(_) if manifests.len() > 2 => {
                let what = "the index leads to an index that leads to an index";
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
            Document::Index(index) => {
                let digest = index.choose(wanted)?.digest.clone();
                manifests.push(repository.manifest(digest.as_str()).await?);
            }
        }
    };
    let config = match store.read_blob(&manifest.config.digest) {
        Ok(bytes) => Bytes::from(bytes),
        Err(_) => repository.blob(&manifest.config).await?,
    };
    plan_layers(&manifest, config, manifests, platform)
}

/// Pairs the manifest's blobs with the configuration's diff ids.
pub(crate) fn plan_layers(
    manifest: &Manifest,
    config: Bytes,
    manifests: Vec<Bytes>,
    platform: Option<&Platform>,
) -> Result<PullPlan, Error> {
    let corrupt = |what: String| Error::new(ErrorKind::Corrupt, what);
    let parsed = parse_config(&config)?;
    let diff_ids: Vec<Digest> = parsed
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    if diff_ids.len() != manifest.layers.len() {
        return Err(corrupt(format!(
            "the manifest has {} layers and the configuration {}",
            manifest.layers.len(),
            diff_ids.len()
        )));
    }
    let offered = Platform {
        os: parsed.os().to_string(),
        architecture: parsed.architecture().to_string(),
        variant: parsed.variant().clone(),
    };
    match platform {
        Some(wanted) if wanted.suitability(&offered).is_none() => {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no image for {wanted}, only for {offered}"),
            ));
        }
        None if Platform::of_this_machine().suitability(&offered).is_none() => {
            tracing::warn!(%offered, "the image is not for this machine");
        }
        _ => {}
    }
    let layers = manifest
        .layers
        .iter()
        .zip(layers::chain_ids(&diff_ids))
        .zip(diff_ids)
        .map(|((blob, chain), diff_id)| LayerPlan {
            blob: blob.clone(),
            diff_id,
            chain,
        })
        .collect();
    Ok(PullPlan {
        id: manifest.config.digest.clone(),
        config,
        manifests,
        layers,
    })
}

pub(crate) fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration, Error> {
    ImageConfiguration::from_reader(bytes).map_err(|error| {
        Error::caused(
            ErrorKind::Corrupt,
            "the image's configuration cannot be read",
            error,
        )
    })
}

/// Brings every layer into the store that it lacks.
pub(crate) async fn fetch_layers(
    store: &Store,
    repository: &Repository,
    plan: &PullPlan,
    pace: &Pace,
) -> Result<(), Error> {
    let progress = &pace.progress;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let at_once = pace.layers_at_once;
    let turns = Arc::new(Semaphore::new(
        at_once.unwrap_or(processors.max(FEWEST_AT_ONCE)),
    ));
    // Dropping the set, when one layer fails or the caller gives up, ends the
    // downloads; the unpacking threads see their queues end and clean up.
    let mut tasks = JoinSet::new();
    for (at, layer) in plan.layers.iter().enumerate() {
        let layer_progress = LayerProgress::new(progress, layer);
        layer_progress.report(LayerState::Waiting);
        let fetch = LayerFetch {
            store: store.clone(),
            repository: repository.clone(),
            layer: layer.clone(),
            below: plan.layers[..at]
                .iter()
                .map(|layer| layer.chain.clone())
                .collect(),
            progress: layer_progress,
            turns: Arc::clone(&turns),
        };
        tasks.spawn(async move { (at, fetch.run().await) });
    }
    // A layer that depends on lower ones gets its turn as soon as all of them
    // are there, and not when all tasks have ended: one of those may be waiting
    // for another pull that waits for this layer.
    let mut ended: Vec<Option<Option<Filled>>> = plan.layers.iter().map(|_| None).collect();
    let mut lowest = 0;
    while let Some(joined) = tasks.join_next().await {
        let (at, outcome) =
            joined.map_err(|error| Error::caused(ErrorKind::Os, "a layer's task ended", error))?;
        ended[at] = Some(outcome?);
        while let Some(filled) = ended.get_mut(lowest).and_then(Option::take) {
            if let Some(filled) = filled {
                complete(plan, lowest, filled).await?;
                LayerProgress::new(progress, &plan.layers[lowest]).report(LayerState::Done);
            }
            lowest += 1;
        }
    }
    Ok(())
}

/// Names a layer that had to wait for those below it.
async fn complete(plan: &PullPlan, at: usize, filled: Filled) -> Result<(), Error> {
    let layer = &plan.layers[at];
    let below: Vec<Digest> = plan.layers[..at]
        .iter()
        .map(|layer| layer.chain.clone())
        .collect();
    let completed = in_thread(move || filled.commit(&below)).await;
    completed.map_err(|error| not_stored(layer, error))
}

fn not_stored(layer: &LayerPlan, error: Error) -> Error {
    error.within(format!("the layer {} was not stored", layer.blob.digest))
}

/// One layer's part of a pull.
struct LayerFetch {
    store: Store,
    repository: Repository,
    layer: LayerPlan,
    below: Vec<Digest>,
    progress: LayerProgress,
    turns: Arc<Semaphore>,
}

impl LayerFetch {
    /// Brings the layer into the store, or gives it back if it has to wait for
    /// those below it.
    async fn run(self) -> Result<Option<Filled>, Error> {
        let Some(ingest) = self.begin().await? else {
            self.progress.report(LayerState::Exists);
            return Ok(None);
        };
        let _turn = self
            .turns
            .acquire()
            .await
            .map_err(|error| Error::caused(ErrorKind::Os, "no turn to fetch a layer", error))?;
        let filled = self.fill(ingest).await;
        let filled = filled.map_err(|error| not_stored(&self.layer, error))?;
        if !filled.stands_alone() {
            return Ok(Some(filled));
        }
        let below = self.below;
        in_thread(move || filled.commit(&below)).await?;
        self.progress.report(LayerState::Done);
        Ok(None)
    }

    async fn begin(&self) -> Result<Option<Ingest>, Error> {
        loop {
            let (store, chain) = (self.store.clone(), self.layer.chain.clone());
            match in_thread(move || layers::begin(&store, &chain)).await? {
                Begin::Exists => return Ok(None),
                Begin::Begun(ingest) => return Ok(Some(ingest)),
                Begin::Busy => tokio::time::sleep(BUSY_PAUSE).await,
            }
        }
    }

    /// Downloads and unpacks in one pass. An endpoint that sends wrong bytes is
    /// left out of the next attempt.
    async fn fill(&self, mut ingest: Ingest) -> Result<Filled, Error> {
        let mut failures = Vec::new();
        loop {
            let (given_back, error) = match self.fill_from(failures.len(), ingest).await? {
                Fill::Filled(filled) => return Ok(filled),
                Fill::Failed(given_back, error) => (given_back, error),
            };
            let is_endpoints_fault = error.kind() == ErrorKind::Corrupt;
            failures.push(error);
            if !is_endpoints_fault || failures.len() == self.repository.len() {
                return Err(fetch::most_telling(failures));
            }
            ingest = given_back;
        }
    }

    async fn fill_from(&self, first: usize, ingest: Ingest) -> Result<Fill, Error> {
        let (sender, mut receiver) = mpsc::channel(QUEUED_CHUNKS);
        let expected = Expected {
            digest: self.layer.blob.digest.clone(),
            diff_id: self.layer.diff_id.clone(),
        };
        let mut meter = self.progress.meter();
        let unpacking = tokio::task::spawn_blocking(move || {
            let chunks = Chunks::new(|| {
                let chunk: Option<std::io::Result<Bytes>> = receiver.blocking_recv();
                if let Some(Ok(bytes)) = &chunk {
                    meter.advance(bytes.len());
                }
                chunk
            });
            ingest.fill(chunks, &expected)
        });
        // An empty blob needs no connection, but is a layer all the same.
        self.repository
            .stream(first, &self.layer.blob, sender)
            .await;
        self.progress.report(LayerState::Unpacking {
            done: self.layer.blob.size,
        });
        unpacking
            .await
            .map_err(|error| Error::caused(ErrorKind::Os, "the unpacking thread ended", error))
    }
}

/// Tells the caller how far one layer is.
#[derive(Clone)]
struct LayerProgress {
    observer: Arc<dyn PullProgress>,
    digest: String,
    total_bytes: u64,
}

impl LayerProgress {
    fn new(observer: &Arc<dyn PullProgress>, layer: &LayerPlan) -> LayerProgress {
        LayerProgress {
            observer: Arc::clone(observer),
            digest: layer.blob.digest.to_string(),
            total_bytes: layer.blob.size,
        }
    }

    fn report(&self, state: LayerState) {
        self.observer
            .layer(&self.digest, Some(self.total_bytes), state);
    }

    fn meter(&self) -> Meter {
        Meter {
            progress: self.clone(),
            done: 0,
            reported: 0,
        }
    }
}

/// Reports now and then, not with every chunk.
struct Meter {
    progress: LayerProgress,
    done: u64,
    reported: u64,
}

const REPORT_EVERY_BYTES: u64 = 512 * 1024;

impl Meter {
    fn advance(&mut self, bytes: usize) {
        self.done += bytes as u64;
        if self.done - self.reported >= REPORT_EVERY_BYTES {
            self.reported = self.done;
            self.progress
                .report(LayerState::Downloading { done: self.done });
        }
    }
}

/// Writes the blobs and lets names mean the image.
pub(crate) fn put_image(
    store: &Store,
    plan: &PullPlan,
    references: Vec<String>,
    repository: Option<&str>,
) -> Result<Record, Error> {
    let layers: Vec<Digest> = plan
        .layers
        .iter()
        .map(|layer| layer.chain.clone())
        .collect();
    // What the index names survives a power cut. Layers that it names already
    // have been synced.
    let index = store.read_index()?;
    let is_named = |chain| {
        index
            .images
            .iter()
            .any(|image| image.layers.contains(chain))
    };
    if !layers.iter().all(is_named) {
        store.sync()?;
    }
    let mut locked = store.lock_index()?;
    store.write_blob(&locked, &plan.config)?;
    let mut size_bytes = plan.config.len() as u64;
    let mut digests = Vec::new();
    for manifest in &plan.manifests {
        let digest = store.write_blob(&locked, manifest)?;
        size_bytes += manifest.len() as u64;
        digests.extend(repository.map(|repository| format!("{repository}@{digest}")));
    }
    for chain in &layers {
        size_bytes += store.read_layer(chain)?.bytes;
    }
    let record = Record {
        id: plan.id.clone(),
        references,
        digests,
        layers,
        size_bytes,
        stored_at: jiff::Timestamp::now(),
    };
    locked.index.put(record);
    store.write_index(&locked)?;
    match locked.index.images.iter().find(|image| image.id == plan.id) {
        Some(record) => Ok(record.clone()),
        None => Err(Error::new(
            ErrorKind::NotFound,
            "the image was not put into the index",
        )),
    }
}

/// Runs what waits for the disk where it holds up nobody.
pub(crate) async fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::caused(
            ErrorKind::Os,
            "a thread for files ended",
            error,
        )),
    }
}
