//! The daemons: `berth cri`, and containerd with runc and with crun.
//!
//! containerd and its CNI plugins are built by `./x bench cri` into
//! `target/bench/go`, because Debian's are years older.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use berth_tests::host::Host;
use berth_tests::registry::Registry;

use crate::report::first_line;

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

/// One that answers the CRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// `berth cri`.
    Berth,
    /// containerd, its shim with runc.
    ContainerdRunc,
    /// containerd, its shim with crun.
    ContainerdCrun,
}

impl Daemon {
    /// In the order of the tables.
    pub const ALL: [Daemon; 3] = [
        Daemon::Berth,
        Daemon::ContainerdRunc,
        Daemon::ContainerdCrun,
    ];

    /// As a table's row names it.
    pub fn name(self) -> &'static str {
        match self {
            Daemon::Berth => "berth cri",
            Daemon::ContainerdRunc => "containerd with runc",
            Daemon::ContainerdCrun => "containerd with crun",
        }
    }

    /// Whether a failure is ours.
    pub fn is_ours(self) -> bool {
        self == Daemon::Berth
    }

    /// Its own words about itself and its OCI runtime.
    pub fn version(self) -> String {
        let line = |program: &Path| first_line(&program.to_string_lossy(), &["--version"]);
        match self {
            Daemon::Berth => line(&berth()),
            Daemon::ContainerdRunc | Daemon::ContainerdCrun => {
                let (containerd, runtime) = (built("containerd"), self.runtime());
                format!("{} with {}", line(&containerd), line(&runtime))
            }
        }
    }

    fn runtime(self) -> PathBuf {
        match self {
            Daemon::Berth => berth().with_file_name("berth-oci"),
            Daemon::ContainerdRunc if built("runc").exists() => built("runc"),
            Daemon::ContainerdRunc => "/usr/sbin/runc".into(),
            Daemon::ContainerdCrun => "/usr/bin/crun".into(),
        }
    }

    /// Prepares a host for it: the command that serves on a socket.
    ///
    /// # Errors
    ///
    /// It is not here.
    pub fn command(self, host: &Host, registry: &Registry, socket: &Path) -> Result<Command> {
        ensure!(
            self.runtime().exists(),
            "{} is missing",
            self.runtime().display()
        );
        // Not all hosts have it.
        let _ = host
            .command("umount")
            .arg("/sys/fs/cgroup/unified")
            .output();
        if self == Daemon::Berth {
            let mut command = host.command(berth());
            command.arg("cri").arg("--socket").arg(socket);
            return Ok(command);
        }
        let program = built("containerd");
        ensure!(
            program.exists(),
            "{} is missing: ./x bench cri builds it",
            program.display()
        );
        let folder = socket.parent().context("a socket is in a folder")?;
        let plugins = built("");
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
            let text = text
                .replace('@', &folder.to_string_lossy())
                .replace("%RUNTIME%", &self.runtime().to_string_lossy())
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
}

/// The program as it is shipped.
fn berth() -> PathBuf {
    std::env::var_os("BERTH").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/berth/berth"),
        PathBuf::from,
    )
}

fn built(program: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench/go/bin");
    let folder = folder.canonicalize().unwrap_or(folder);
    folder.join(program)
}
