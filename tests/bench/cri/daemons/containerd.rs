//! containerd with an OCI runtime of somebody's choice.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use berth_tests::host::Host;
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

/// What our bridge does too: an address, a route, masquerade.
const CNI: &str = r#"{"cniVersion": "1.0.0", "name": "bench", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables",
  "ipam": {"type": "host-local", "dataDir": "@/addresses", "ranges": [[{"subnet": "10.88.0.0/16"}]],
    "routes": [{"dst": "0.0.0.0/0"}]}}]}
"#;

/// Debian's crun refuses the version of the specification that containerd 2 writes, for the
/// sandbox's container whatever it is configured to. Rewriting it costs the row a shell and a
/// sed a container, as the page says.
const OLDER: &str = r#"#!/bin/sh
previous= bundle=
for word; do
  [ "$previous" != --bundle ] || bundle=$word
  previous=$word
done
[ -z "$bundle" ] || sed -i 's/"ociVersion":"[^"]*"/"ociVersion":"1.0.2"/' "$bundle/config.json"
exec %CRUN% "$@"
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
    let plugins = built("");
    let runtime = match runtime.ends_with("crun") {
        true => through_older(folder, runtime)?,
        false => runtime.to_owned(),
    };
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
        let text = text
            .replace('@', &folder.to_string_lossy())
            .replace("%RUNTIME%", &runtime.to_string_lossy())
            .replace("%PLUGINS%", &plugins.to_string_lossy());
        fs::write(&path, text)?;
        Ok(path)
    };
    let configuration = write("containerd.toml", CONTAINERD)?;
    write("cni/10-bench.conflist", CNI)?;
    let mirror = format!(
        "server = \"http://{0}\"\n[host.\"http://{0}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        registry.address()
    );
    write("certs.d/registry.k8s.io/hosts.toml", &mirror)?;
    let mut command = host.command(program);
    // It looks for its shim there.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", plugins.display()));
    command.arg("--config").arg(configuration);
    Ok(command)
}

/// The program that rewrites the version and becomes crun.
fn through_older(folder: &Path, crun: &Path) -> Result<PathBuf> {
    let path = folder.join("crun");
    fs::write(&path, OLDER.replace("%CRUN%", &crun.to_string_lossy()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
