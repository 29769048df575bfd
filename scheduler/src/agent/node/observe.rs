//! What is to be seen of the machine and its runtime.
//!
//! Read more: proc_meminfo(5), proc_loadavg(5), statvfs(3), os-release(5).

use std::{path::Path, sync::Arc};

use berth_cri::{service::CriService, v1};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSystemInfo,
};
use tonic::Code;

use super::architecture;
use crate::agent::settings::AgentConfig;

/// Images that a Node names; the largest ones, as a kubelet does.
const IMAGES: usize = 50;
/// Names of one image.
const NAMES: usize = 5;

/// What was seen at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    /// When.
    pub at: Timestamp,
    /// Why no pod can be run here now, if so.
    pub trouble: Option<String>,
    /// Memory that programs can still get.
    pub memory_free_bytes: u64,
    /// Space for pods' files.
    pub storage_bytes: u64,
    /// How much of it is free.
    pub disk_free_percent: u8,
    /// How much of the process ids is free.
    pub pid_free_percent: u8,
    /// What the machine is.
    pub info: NodeSystemInfo,
    /// The largest images.
    pub images: Vec<ContainerImage>,
    /// Runtimes that a pod may ask for.
    pub handlers: Vec<NodeRuntimeHandler>,
}

/// The runtime's name and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeName {
    /// One word, which containers' ids begin with.
    pub name: String,
    /// Its own version.
    pub version: String,
}

/// Asks the runtime who it is.
///
/// # Errors
///
/// What it answered instead.
pub async fn ask_name(service: &Arc<dyn CriService>) -> Result<RuntimeName, tonic::Status> {
    let request = v1::VersionRequest {
        version: "v1".to_owned(),
    };
    match service.version(request).await {
        Ok(reply) => Ok(RuntimeName {
            name: reply.runtime_name,
            version: reply.runtime_version,
        }),
        // A node in this process, which has no version of its own.
        Err(status) if status.code() == Code::Unimplemented => Ok(RuntimeName {
            name: "berth".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        Err(status) => Err(status),
    }
}

/// Looks at the machine and asks the runtime.
pub async fn observe(
    service: &Arc<dyn CriService>,
    config: &AgentConfig,
    runtime: &RuntimeName,
) -> Observation {
    let (trouble, handlers) = ask_health(service).await;
    let space = observe_space(&config.data_dir);
    Observation {
        at: Timestamp::now(),
        trouble,
        memory_free_bytes: observe_free_memory(),
        storage_bytes: config.storage_bytes.unwrap_or(space.total_bytes),
        disk_free_percent: space.free_percent,
        pid_free_percent: observe_free_pids(),
        info: describe(runtime),
        images: ask_images(service).await,
        handlers,
    }
}

/// Why no pod can be run, and which runtimes one may ask for.
async fn ask_health(service: &Arc<dyn CriService>) -> (Option<String>, Vec<NodeRuntimeHandler>) {
    let reply = match service.status(v1::StatusRequest { verbose: false }).await {
        Ok(reply) => reply,
        Err(status) if status.code() == Code::Unimplemented => return (None, Vec::new()),
        Err(status) => {
            let text = format!("container runtime is down: {}", status.message());
            return (Some(text), Vec::new());
        }
    };
    let conditions = reply.status.unwrap_or_default().conditions;
    let bad: Vec<String> = conditions
        .iter()
        .filter(|condition| !condition.status)
        .map(|condition| {
            format!(
                "{} is not so: {}: {}",
                condition.r#type, condition.reason, condition.message
            )
        })
        .collect();
    let handlers = reply.runtime_handlers.into_iter().map(|handler| {
        let features = handler.features.unwrap_or_default();
        NodeRuntimeHandler {
            name: Some(handler.name),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
                user_namespaces: Some(features.user_namespaces),
            }),
        }
    });
    let trouble = (!bad.is_empty()).then(|| bad.join("; "));
    (trouble, handlers.collect())
}

/// The largest images, and not all their names: a Node is sent to all who watch nodes.
async fn ask_images(service: &Arc<dyn CriService>) -> Vec<ContainerImage> {
    let Ok(reply) = service.list_images(v1::ListImagesRequest::default()).await else {
        return Vec::new();
    };
    let mut images = reply.images;
    images.sort_by(|one, other| (other.size, &one.id).cmp(&(one.size, &other.id)));
    images.truncate(IMAGES);
    images
        .into_iter()
        .map(|image| {
            let names = image.repo_digests.into_iter().chain(image.repo_tags);
            ContainerImage {
                names: Some(names.take(NAMES).collect()),
                size_bytes: i64::try_from(image.size).ok(),
            }
        })
        .collect()
}

/// A file system's size and what is free of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its size.
    pub total_bytes: u64,
    /// What is left, of what others than root may use.
    pub free_percent: u8,
}

/// The space of the file system that a path is on.
pub fn observe_space(path: &Path) -> Space {
    match rustix::fs::statvfs(path) {
        Ok(facts) => {
            // What is kept back for root is nobody's to fill: it counts neither as free nor
            // as used, as in df(1).
            let used = facts.f_blocks.saturating_sub(facts.f_bfree);
            Space {
                total_bytes: facts.f_blocks.saturating_mul(facts.f_frsize),
                free_percent: percent(facts.f_bavail, used.saturating_add(facts.f_bavail)),
            }
        }
        // What cannot be measured is no reason to refuse pods.
        Err(_) => Space {
            total_bytes: 0,
            free_percent: 100,
        },
    }
}

/// A part of a whole; all of it if the whole is not known.
pub fn percent(part: u64, whole: u64) -> u8 {
    match whole {
        0 => 100,
        whole => u8::try_from(part.saturating_mul(100) / whole).unwrap_or(100),
    }
}

/// Memory that programs can still get, in bytes.
pub fn observe_free_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    read_available_memory(&text).unwrap_or(u64::MAX)
}

fn read_available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn observe_free_pids() -> u8 {
    let number =
        |path: &str| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let most = number("/proc/sys/kernel/pid_max").into_iter();
    let most = most.chain(number("/proc/sys/kernel/threads-max")).min();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    match (most, read_threads(&load)) {
        (Some(most), Some(used)) => percent(most.saturating_sub(used), most),
        _ => 100,
    }
}

/// `0.20 0.18 0.12 1/80 11206`: the number after the slash counts all threads.
fn read_threads(loadavg: &str) -> Option<u64> {
    let (_, threads) = loadavg.split_whitespace().nth(3)?.split_once('/')?;
    threads.parse().ok()
}

fn describe(runtime: &RuntimeName) -> NodeSystemInfo {
    let uname = rustix::system::uname();
    let line = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.trim().to_owned()
    };
    let release = line("/etc/os-release");
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("{}://{}", runtime.name, runtime.version),
        kernel_version: uname.release().to_string_lossy().into_owned(),
        kubelet_version: format!("v{}-berth", env!("CARGO_PKG_VERSION")),
        machine_id: line("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: read_os_name(&release).unwrap_or("Linux").to_owned(),
        system_uuid: line("/sys/class/dmi/id/product_uuid"),
        ..NodeSystemInfo::default()
    }
}

fn read_os_name(release: &str) -> Option<&str> {
    let mut lines = release.lines();
    let name = lines.find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::{percent, read_available_memory, read_os_name, read_threads};

    #[test]
    fn the_kernels_files_are_read() {
        let meminfo = "MemTotal:  100 kB\nMemAvailable:   50 kB\n";
        assert_eq!(read_available_memory(meminfo), Some(51_200));
        assert_eq!(read_available_memory("MemTotal: 1 kB"), None);
        assert_eq!(read_threads("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        assert_eq!(read_threads(""), None);
        let release = "ID=x\nPRETTY_NAME=\"A System 12\"\n";
        assert_eq!(read_os_name(release), Some("A System 12"));
    }

    #[test]
    fn a_part_of_nothing_is_all() {
        assert_eq!(
            (percent(1, 0), percent(1, 3), percent(3, 3)),
            (100, 33, 100)
        );
    }
}
