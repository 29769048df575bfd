//! CRI-O with conmon of Debian's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Folder;
use crate::image::critest::REGISTRIES as REGISTRIES_OF_IMAGES;
use crate::registry::Registry;

/// As little of the machine's as can be; what is not said here is CRI-O's default. The folder of
/// the sockets for attaching has a short name: below it comes a container's id, and a socket's path
/// ends after 107 characters.
const CRIO: &str = r#"[crio]
root = "@/storage"
runroot = "@/storage-run"
storage_driver = "overlay"
log_dir = "@/pods"
version_file = "@/version"
clean_shutdown_file = "@/clean"
[crio.api]
listen = "@/cri.sock"
[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
apparmor_profile = "unconfined"
namespaces_dir = "@/namespaces"
container_exits_dir = "@/exits"
container_attach_socket_dir = "@/a"
pinns_path = "%PINNS%"
hooks_dir = []
default_runtime = "bench"
[crio.runtime.runtimes.bench]
runtime_path = "%RUNTIME%"
runtime_type = "oci"
runtime_root = "@/runtime"
monitor_path = "/usr/bin/conmon"
monitor_cgroup = "pod"
[crio.image]
pause_image = "registry.k8s.io/pause:3.9"
signature_policy = "@/policy.json"
signature_policy_dir = "@/policies"
[crio.network]
network_dir = "@/cni"
plugin_dirs = ["%PLUGINS%"]
[crio.nri]
enable_nri = false
"#;

/// The one configuration that CRI-O has no flag for.
pub const REGISTRIES: &str = "/etc/containers/registries.conf";
const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// Writes all that CRI-O reads; the socket will be `cri.sock` in the folder. The arguments to
/// call it with, and a file that has to stand for [`REGISTRIES`].
///
/// # Errors
///
/// Those of the file system.
pub fn write(
    folder: &Folder,
    registry: &Registry,
    runtime: &Path,
    pinns: &Path,
) -> Result<(Vec<OsString>, PathBuf)> {
    let runtime = folder.runtime(runtime)?;
    let text = CRIO.replace("%PINNS%", &pinns.to_string_lossy());
    let configuration = folder.write("crio.toml", &text, &runtime)?;
    folder.write_network()?;
    folder.write("policy.json", POLICY, &runtime)?;
    let mirror = |host: &str| {
        let address = registry.address();
        format!("[[registry]]\nprefix = \"{host}\"\nlocation = \"{address}\"\ninsecure = true\n")
    };
    let mirrors: String = REGISTRIES_OF_IMAGES.map(mirror).concat();
    let registries = folder.write("registries.conf", &mirrors, &runtime)?;
    let arguments = ["--config-dir", "", "--config"].map(OsString::from);
    let arguments = arguments
        .into_iter()
        .chain([configuration.into_os_string()]);
    Ok((arguments.collect(), registries))
}
