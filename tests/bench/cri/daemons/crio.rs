//! CRI-O with conmon of Debian's.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use berth_tests::host::Host;
use berth_tests::registry::Registry;

use super::built;
use super::folder::Folder;

/// As little of the machine's as can be; what is not said here is CRI-O's default.
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
container_attach_socket_dir = "@/attach"
pinns_path = "%PLUGINS%/pinns"
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

const REGISTRIES: &str = "/etc/containers/registries.conf";
const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// Prepares a host: the command that serves on a socket.
///
/// # Errors
///
/// CRI-O is not here.
pub fn command(host: &Host, registry: &Registry, socket: &Path, runtime: &Path) -> Result<Command> {
    let program = built("crio");
    for needed in [&program, &built("pinns"), Path::new("/usr/bin/conmon")] {
        ensure!(
            needed.exists(),
            "{} is missing: ./x bench cri builds or installs it",
            needed.display()
        );
    }
    let folder = Folder::of(socket)?;
    let runtime = folder.runtime(runtime)?;
    let configuration = folder.write("crio.toml", CRIO, &runtime)?;
    folder.write_network()?;
    folder.write("policy.json", POLICY, &runtime)?;
    let mirror = format!(
        "[[registry]]\nprefix = \"registry.k8s.io\"\nlocation = \"{}\"\ninsecure = true\n",
        registry.address()
    );
    let registries = folder.write("registries.conf", &mirror, &runtime)?;
    // The one configuration that it has no flag for; the mount is the host's own.
    let bound = host
        .command("mount")
        .args([Path::new("--bind"), &registries, Path::new(REGISTRIES)])
        .output()?;
    ensure!(
        bound.status.success(),
        "{}",
        String::from_utf8_lossy(&bound.stderr)
    );
    let mut command = host.command(program);
    command
        .arg("--config")
        .arg(configuration)
        .args(["--config-dir", ""]);
    Ok(command)
}
