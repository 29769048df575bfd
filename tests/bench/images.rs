//! Pulling and unpacking an image: berth beside skopeo + umoci and podman.
//!
//! All pull from one `docker-registry` on loopback and end with unpacked files
//! on the same file system. The image is made of this machine's own programs and
//! libraries, so that it compresses as images do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use berth_cri::images::registries::RegistriesConfig;
use berth_cri::images::{ImageStore, PullRequest};
use berth_tests::image::layer::{Compression, Entry};
use berth_tests::image::{self, ImagePlan, LayerPlan};
use berth_tests::registry::{Access, Registry};

use crate::measure::{Contender, in_turn, quietly};
use crate::report::{Section, first_line};

const ROUNDS: usize = 5;
const LAYERS: usize = 6;
const IMAGE_BYTES: usize = 200 << 20;
const REPOSITORY: &str = "bench/image";

/// Measures a whole pull into an empty store.
pub fn run(section: &mut Section) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("berth-bench-").tempdir()?;
    let registry = Registry::start(Access::Open)?;
    let (plan, files) = plan()?;
    let built = image::build(&plan)?;
    let packed: usize = built.layers.iter().map(|layer| layer.bytes.len()).sum();
    registry.push(&built, REPOSITORY, "1")?;
    section.say(format!(
        "{} MiB in {files} files and {LAYERS} gzip layers ({} MiB packed), from a registry on \
         loopback into an empty store. {}; {}; {}.",
        IMAGE_BYTES >> 20,
        packed >> 20,
        first_line("skopeo", &["--version"]),
        first_line("umoci", &["--version"]),
        first_line("podman", &["--version"]),
    ));
    drop((plan, built));

    let ours = scratch.path().join("berth");
    let umoci = scratch.path().join("umoci");
    let podman = scratch.path().join("podman");
    let mut contenders = vec![
        Contender::new("berth", || pull(&registry, &ours)),
        Contender::new("skopeo copy + umoci unpack", || {
            copy_and_unpack(&registry, &umoci)
        }),
        Contender::new("podman pull", || podman_pull(&registry, &podman)),
    ];
    let directories = [&ours, &umoci, &podman];
    for (contender, directory) in contenders.iter_mut().zip(directories) {
        // The file system writes back in its own time; nobody is to pay for
        // what another left behind.
        contender.reset = Box::new(move || {
            fs::remove_dir_all(directory)?;
            rustix::fs::sync();
            Ok(())
        });
    }
    let times = in_turn(&mut contenders, ROUNDS)?;
    section.table("Pull and unpack", &times, "podman pull");
    section.table(
        "The same, against the separate tools",
        &times,
        "skopeo copy + umoci unpack",
    );
    Ok(())
}

fn pull(registry: &Registry, directory: &Path) -> Result<()> {
    let config = format!("[registry.\"{}\"]\ninsecure = true\n", registry.address());
    let store = ImageStore::open(directory, RegistriesConfig::parse(&config)?)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let reference = registry.reference(REPOSITORY, "1");
    runtime.block_on(store.pull(&reference, PullRequest::default()))?;
    Ok(())
}

fn copy_and_unpack(registry: &Registry, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let layout = directory.join("layout").display().to_string() + ":1";
    let source = format!("docker://{}", registry.reference(REPOSITORY, "1"));
    quietly(
        Command::new("skopeo")
            .args(["copy", "--src-tls-verify=false"])
            .arg(source)
            .arg(format!("oci:{layout}")),
    )?;
    quietly(
        Command::new("umoci")
            .args(["unpack", "--image", &layout])
            .arg(directory.join("bundle")),
    )
}

fn podman_pull(registry: &Registry, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    quietly(
        Command::new("podman")
            .arg("--root")
            .arg(directory.join("root"))
            .arg("--runroot")
            .arg(directory.join("run"))
            .args(["--storage-driver=overlay", "pull", "--tls-verify=false"])
            .arg(registry.reference(REPOSITORY, "1")),
    )?;
    // Its driver leaves a mount on its own directory.
    let mount = directory.join("root/overlay");
    let _ = rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH);
    Ok(())
}

/// This machine's files, dealt to the layers until there is enough.
fn plan() -> Result<(ImagePlan, usize)> {
    let mut layers = vec![LayerPlan::default(); LAYERS];
    for layer in &mut layers {
        layer.compression = Compression::Gzip;
    }
    let (mut bytes, mut files) = (0, 0);
    for (at, path) in source_files()?.iter().enumerate() {
        let Ok(mut content) = fs::read(path) else {
            continue;
        };
        content.truncate(IMAGE_BYTES - bytes);
        bytes += content.len();
        files += 1;
        let name = path.display().to_string();
        let name = name.trim_start_matches('/');
        let layer = &mut layers[at % LAYERS];
        layer.entries.push(Entry::file(name, 0o644, content));
        if bytes == IMAGE_BYTES {
            break;
        }
    }
    ensure!(
        bytes == IMAGE_BYTES,
        "/usr holds too few files to make an image of"
    );
    let config = serde_json::json!({"Cmd": ["/bin/true"]});
    Ok((ImagePlan { layers, config }, files))
}

/// Files of `/usr`, none larger than 8 MiB, small ones and large ones mixed.
fn source_files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut left: Vec<PathBuf> = ["/usr/bin", "/usr/lib", "/usr/share"]
        .map(PathBuf::from)
        .to_vec();
    while let Some(directory) = left.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() && entry.metadata()?.len() <= 8 << 20 {
                files.push(entry.path());
            }
        }
    }
    // A stride that has no common factor with most counts deals them evenly.
    let count = files.len();
    Ok((0..count)
        .map(|at| files[at * 7919 % count].clone())
        .collect())
}
