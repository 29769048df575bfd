//! containerd with an OCI runtime of somebody's choice.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use berth_tests::host::Host;
use berth_tests::peers::Folder;
use berth_tests::registry::Registry;

use super::built;

/// Root of the build machines may not lower a score; a hybrid tree is not what
/// crun takes, so the hosts have none.
const CONTAINERD: &str = r#"version = 3
root = "@/root"
state = "@/state"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
address = "@/cri.sock"
[ttrpc]
address = "@/cri.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "@/opt"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "registry.k8s.io/pause:3.9"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "@/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "bench"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.bench]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.bench.options]
BinaryName = "%RUNTIME%"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["%PLUGINS%"]
conf_dir = "@/cni"
"#;

/// Prepares a host: the command that serves on a socket.
///
/// # Errors
///
/// containerd is not here.
pub fn command(host: &Host, registry: &Registry, socket: &Path, runtime: &Path) -> Result<Command> {
    let program = built("containerd");
    ensure!(
        program.exists(),
        "{} is missing: ./x bench cri builds it",
        program.display()
    );
    let folder = socket.parent().context("a socket is in a folder")?;
    let folder = Folder::new(folder, &built(""));
    let runtime = folder.runtime(runtime)?;
    let configuration = folder.write("containerd.toml", CONTAINERD, &runtime)?;
    folder.write_network()?;
    let mirror = format!(
        "server = \"http://{0}\"\n[host.\"http://{0}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        registry.address()
    );
    folder.write("certs.d/registry.k8s.io/hosts.toml", &mirror, &runtime)?;
    let mut command = host.command(program);
    // It looks for its shim there.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", built("").display()));
    command.arg("--config").arg(configuration);
    Ok(command)
}
