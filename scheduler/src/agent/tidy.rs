//! What nobody else tidies on a node: logs that grow, images that nobody uses.
//!
//! A runtime writes a container's log and never cuts it; it keeps every image that it
//! ever pulled. Both are a kubelet's to look after, and here an agent's.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use berth_cri::{service::CriService, v1};
use jiff::Timestamp;
use tonic::Status;
use tracing::{debug, info, warn};

use super::{
    node::observe::observe_space,
    port::logs::rotated,
    settings::{AgentConfig, ImageLimits, LogLimits},
};
use crate::pod::plan::names;

/// Tidies now and then, for ever.
pub async fn keep(service: Arc<dyn CriService>, config: Arc<AgentConfig>) {
    let mut uses = Uses::default();
    loop {
        tokio::time::sleep(config.periods.tidy).await;
        // A runtime that is away is tidied up when it is back.
        if let Err(status) = rotate_logs(&service, &config).await {
            debug!(message = status.message(), "logs were not looked at");
        }
        if let Err(status) = remove_images(&service, &config, &mut uses).await {
            debug!(message = status.message(), "images were not looked at");
        }
    }
}

/// Begins a new file for each log that has grown too large.
async fn rotate_logs(service: &Arc<dyn CriService>, config: &AgentConfig) -> Result<(), Status> {
    let running = v1::ContainerStateValue {
        state: v1::ContainerState::ContainerRunning.into(),
    };
    let filter = v1::ContainerFilter {
        state: Some(running),
        ..v1::ContainerFilter::default()
    };
    let request = v1::ListContainersRequest {
        filter: Some(filter),
    };
    for container in service.list_containers(request).await?.containers {
        let Some(path) = log_path(&config.logs_dir, &container) else {
            continue;
        };
        let size = std::fs::metadata(&path).map_or(0, |facts| facts.len());
        if size < config.logs.file_bytes {
            continue;
        }
        if let Err(error) = rotate(service, &container.id, &path).await {
            warn!(path = %path.display(), %error, "a log was not rotated");
        }
        if let Err(error) = remove_oldest(&path, &config.logs) {
            warn!(path = %path.display(), %error, "old logs were not removed");
        }
    }
    Ok(())
}

fn log_path(directory: &Path, container: &v1::Container) -> Option<PathBuf> {
    let label = |name: &str| container.labels.get(name);
    let (namespace, pod) = (label(names::POD_NAMESPACE)?, label(names::POD_NAME)?);
    let (uid, name) = (label(names::POD_UID)?, label(names::CONTAINER_NAME)?);
    let attempt = container.metadata.as_ref()?.attempt;
    let directory = directory.join(names::log_directory(namespace, pod, uid));
    Some(directory.join(name).join(format!("{attempt}.log")))
}

/// Renames a log and has the runtime begin another of its name.
async fn rotate(service: &Arc<dyn CriService>, id: &str, path: &Path) -> io::Result<()> {
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let mut old = path.as_os_str().to_owned();
    old.push(format!(".{stamp}"));
    std::fs::rename(path, &old)?;
    let request = v1::ReopenContainerLogRequest {
        container_id: id.to_owned(),
    };
    if let Err(status) = service.reopen_container_log(request).await {
        // The runtime writes on to the old file: it gets its name back.
        std::fs::rename(&old, path)?;
        return Err(io::Error::other(status.message().to_owned()));
    }
    Ok(())
}

/// Removes the oldest files of a log beyond those that may be kept.
fn remove_oldest(path: &Path, limits: &LogLimits) -> io::Result<()> {
    let files = rotated(path)?;
    // One is being written.
    let kept = limits.files.saturating_sub(1);
    for old in files.iter().take(files.len().saturating_sub(kept)) {
        std::fs::remove_file(old)?;
    }
    Ok(())
}

/// When images were seen first, and used last.
#[derive(Debug, Default)]
struct Uses {
    images: HashMap<String, Instant>,
}

impl Uses {
    /// Notes what there is and what is used; forgets what there is no more.
    fn note(&mut self, there: &[v1::Image], used: &HashSet<String>, now: Instant) {
        let ids: HashSet<&str> = there.iter().map(|image| image.id.as_str()).collect();
        self.images.retain(|id, _| ids.contains(id.as_str()));
        for image in there {
            let last = self.images.entry(image.id.clone()).or_insert(now);
            if is_used(image, used) {
                *last = now;
            }
        }
    }

    /// What may be removed, the longest unused first.
    fn removable<'a>(
        &self,
        there: &'a [v1::Image],
        used: &HashSet<String>,
        unused_for: Duration,
        now: Instant,
    ) -> Vec<&'a v1::Image> {
        let last = |image: &v1::Image| self.images.get(&image.id).copied().unwrap_or(now);
        let mut found: Vec<&v1::Image> = there
            .iter()
            .filter(|image| !image.pinned && !is_used(image, used))
            .filter(|image| now.saturating_duration_since(last(image)) >= unused_for)
            .collect();
        found.sort_by_key(|image| last(image));
        found
    }
}

fn is_used(image: &v1::Image, used: &HashSet<String>) -> bool {
    let names = image.repo_digests.iter().chain(&image.repo_tags);
    used.contains(&image.id) || names.into_iter().any(|name| used.contains(name))
}

/// Removes images that nobody uses while the file system is too full.
async fn remove_images(
    service: &Arc<dyn CriService>,
    config: &AgentConfig,
    uses: &mut Uses,
) -> Result<(), Status> {
    let (there, used) = observe_images(service).await?;
    let now = Instant::now();
    uses.note(&there, &used, now);
    let ImageLimits {
        high_percent,
        low_percent,
        unused_for,
    } = config.images;
    let Some(root) = ask_root(service).await? else {
        return Ok(());
    };
    let full = || 100 - observe_space(&root).free_percent;
    if full() < high_percent {
        return Ok(());
    }
    for image in uses.removable(&there, &used, unused_for, now) {
        if full() <= low_percent {
            return Ok(());
        }
        remove_image(service, image).await?;
    }
    Ok(())
}

/// Removes every image that no container uses, whatever its age: the disk is short now.
pub async fn remove_unused_images(service: &Arc<dyn CriService>) {
    let removed = async {
        let (there, used) = observe_images(service).await?;
        for image in there
            .iter()
            .filter(|image| !image.pinned && !is_used(image, &used))
        {
            remove_image(service, image).await?;
        }
        Ok::<(), Status>(())
    };
    if let Err(status) = removed.await {
        warn!(
            message = status.message(),
            "images that nobody uses were not removed"
        );
    }
}

/// The images that there are, and every name by which a container knows its own.
async fn observe_images(
    service: &Arc<dyn CriService>,
) -> Result<(Vec<v1::Image>, HashSet<String>), Status> {
    // Containers last: one that is made meanwhile keeps its image.
    let there = service
        .list_images(v1::ListImagesRequest::default())
        .await?
        .images;
    let containers = service
        .list_containers(v1::ListContainersRequest::default())
        .await?
        .containers;
    let used = containers
        .into_iter()
        .flat_map(|container| {
            let spec = container.image.unwrap_or_default();
            [container.image_ref, container.image_id, spec.image]
        })
        .filter(|name| !name.is_empty())
        .collect();
    Ok((there, used))
}

async fn remove_image(service: &Arc<dyn CriService>, image: &v1::Image) -> Result<(), Status> {
    let request = v1::RemoveImageRequest {
        image: Some(v1::ImageSpec {
            image: image.id.clone(),
            ..v1::ImageSpec::default()
        }),
    };
    service.remove_image(request).await?;
    info!(
        image = image.repo_tags.first(),
        id = image.id,
        "an image that nobody uses was removed"
    );
    Ok(())
}

/// Where the runtime keeps images.
async fn ask_root(service: &Arc<dyn CriService>) -> Result<Option<PathBuf>, Status> {
    let reply = service.image_fs_info(v1::ImageFsInfoRequest {}).await?;
    let mut systems = reply.image_filesystems.into_iter();
    let place = systems.find_map(|usage| usage.fs_id);
    Ok(place.map(|place| PathBuf::from(place.mountpoint)))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        time::{Duration, Instant},
    };

    use berth_cri::v1;

    use super::{Uses, remove_oldest};
    use crate::agent::settings::LogLimits;

    fn image(id: &str) -> v1::Image {
        v1::Image {
            id: id.to_owned(),
            repo_tags: vec![format!("{id}:1")],
            ..v1::Image::default()
        }
    }

    #[test]
    fn the_longest_unused_image_goes_first() {
        let mut there = vec![image("a"), image("b"), image("c"), image("d")];
        there[3].pinned = true;
        let mut uses = Uses::default();
        let begin = Instant::now();
        let later = |seconds| begin + Duration::from_secs(seconds);
        uses.note(
            &there,
            &HashSet::from(["a:1".to_owned(), "c".to_owned()]),
            begin,
        );
        uses.note(
            &there,
            &HashSet::from(["a:1".to_owned(), "c".to_owned()]),
            later(10),
        );
        let used = HashSet::from(["c".to_owned()]);
        uses.note(&there, &used, later(20));
        let ids = |unused_for, now| -> Vec<String> {
            let found = uses.removable(&there, &used, Duration::from_secs(unused_for), now);
            found.into_iter().map(|image| image.id.clone()).collect()
        };
        assert_eq!(ids(5, later(20)), ["b", "a"]);
        assert_eq!(ids(15, later(20)), ["b"]);
        assert!(ids(60, later(20)).is_empty());
    }

    #[test]
    fn the_oldest_files_of_a_log_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        for name in ["0.log", "0.log.1", "0.log.2", "0.log.3"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let limits = LogLimits {
            file_bytes: 1,
            files: 3,
        };
        remove_oldest(&path, &limits).unwrap();
        let left = super::rotated(&path).unwrap();
        assert_eq!(left.len(), 2);
        assert!(left[0].ends_with("0.log.2"));
    }
}
