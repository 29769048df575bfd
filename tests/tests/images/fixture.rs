//! A store in a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use berth_cri::images::error::Error;
use berth_cri::images::registries::RegistriesConfig;
use berth_cri::images::{Image, ImageStore, LayerState, PullProgress, PullRequest};
use berth_tests::image::layer::{Compression, Entry};
use berth_tests::image::{self, ImagePlan, LayerPlan};
use serde_json::json;
use tempfile::TempDir;

/// A store, the directory it lives in, and room beside it.
pub struct Fixture {
    pub store: ImageStore,
    directory: TempDir,
}

impl Fixture {
    pub fn new(registries: &str) -> Fixture {
        assert!(
            rustix::process::geteuid().is_root(),
            "layers and overlays need root"
        );
        let directory = tempfile::Builder::new()
            .prefix("berth-images-")
            .tempdir()
            .unwrap();
        let store = open(&directory.path().join("data"), registries);
        Fixture { store, directory }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The names in one of the store's directories.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.data_dir().join("images").join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Nothing is half-made: no leftovers, and no layer without its record.
    pub fn assert_tidy(&self) {
        for folder in ["ingest", "leases", "trash"] {
            assert_eq!(self.names(folder), [""; 0], "left in {folder}");
        }
        for layer in self.names("layers") {
            let record = self.data_dir().join("images/layers").join(layer);
            assert!(record.join("layer.json").exists());
        }
    }

    pub fn pull(&self, reference: &str) -> Result<Image, Error> {
        run(self.store.pull(reference, PullRequest::default()))
    }

    /// Mounts an image and hands its root to a function.
    pub fn with_root<T>(&self, image: &Image, look: impl FnOnce(&Path) -> T) -> T {
        let target = self.path("root");
        self.store
            .mount_snapshot("look", image, &target, None)
            .unwrap();
        let mounted = Mounted {
            store: &self.store,
            target: &target,
        };
        let seen = look(&target);
        drop(mounted);
        seen
    }
}

/// Unmounts also when the test fails.
struct Mounted<'a> {
    store: &'a ImageStore,
    target: &'a Path,
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        self.store.unmount_snapshot("look", self.target).unwrap();
    }
}

pub fn open(data_dir: &Path, registries: &str) -> ImageStore {
    ImageStore::open(data_dir, RegistriesConfig::parse(registries).unwrap()).unwrap()
}

pub fn run<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

/// Connections end with the runtime in which they were made.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// An image of these layers, gzip unless said otherwise.
pub fn layered(layers: Vec<Vec<Entry>>) -> image::Image {
    image::build(&plan(layers, Compression::Gzip)).unwrap()
}

pub fn plan(layers: Vec<Vec<Entry>>, compression: Compression) -> ImagePlan {
    ImagePlan {
        layers: layers
            .into_iter()
            .map(|entries| LayerPlan {
                entries,
                compression,
            })
            .collect(),
        config: json!({"Cmd": ["/bin/true"]}),
    }
}

/// An image of one layer that was packed by hand, uncompressed.
pub fn of_blob(layer: image::Blob) -> image::Image {
    let mut built = layered(vec![vec![Entry::file("x", 0o644, "x")]]);
    let mut config: serde_json::Value = serde_json::from_slice(&built.config.bytes).unwrap();
    config["rootfs"]["diff_ids"] = json!([layer.digest]);
    let config = serde_json::to_vec(&config).unwrap();
    built.config = image::Blob::new(built.config.media_type, config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": image::MANIFEST,
        "config": built.config.descriptor(),
        "layers": [layer.descriptor()],
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    built.manifest = image::Blob::new(image::MANIFEST, manifest);
    built.layers = vec![layer];
    built
}

/// Remembers what it was told.
#[derive(Default)]
pub struct Record(pub Mutex<Vec<(String, LayerState)>>);

impl PullProgress for Record {
    fn layer(&self, digest: &str, total_bytes: Option<u64>, state: LayerState) {
        assert!(total_bytes.is_some());
        self.0.lock().unwrap().push((digest.to_owned(), state));
    }
}

impl Record {
    pub fn request(self: &Arc<Record>) -> PullRequest {
        PullRequest {
            progress: self.clone(),
            ..PullRequest::default()
        }
    }

    pub fn count(&self, state: LayerState) -> usize {
        let states = self.0.lock().unwrap();
        states.iter().filter(|(_, seen)| *seen == state).count()
    }
}
