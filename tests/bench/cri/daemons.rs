//! The daemons: `berth cri`, containerd with runc and with crun, and CRI-O.
//!
//! containerd, CRI-O and the CNI plugins are built by `./x bench cri` into
//! `target/bench/go`, because Debian's are years older.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use berth_tests::host::Host;
use berth_tests::registry::Registry;

use crate::report::first_line;

/// containerd, its configuration and its CNI plugins.
mod containerd;
/// CRI-O, the same way.
mod crio;

/// One that answers the CRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// `berth cri`.
    Berth,
    /// containerd, its shim with runc.
    ContainerdRunc,
    /// containerd, its shim with crun.
    ContainerdCrun,
    /// CRI-O, conmon with crun.
    CrioCrun,
    /// CRI-O, conmon with our OCI runtime: no peer, but what its users would get of us.
    CrioBerth,
}

impl Daemon {
    /// In the order of the tables.
    pub const ALL: [Daemon; 5] = [
        Daemon::Berth,
        Daemon::ContainerdRunc,
        Daemon::ContainerdCrun,
        Daemon::CrioCrun,
        Daemon::CrioBerth,
    ];

    /// As a table's row names it.
    pub fn name(self) -> &'static str {
        match self {
            Daemon::Berth => "berth cri",
            Daemon::ContainerdRunc => "containerd with runc",
            Daemon::ContainerdCrun => "containerd with crun",
            Daemon::CrioCrun => "CRI-O with crun",
            Daemon::CrioBerth => "CRI-O with berth-oci",
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
            Daemon::CrioCrun | Daemon::CrioBerth => {
                format!("{} with {}", line(&built("crio")), line(&self.runtime()))
            }
        }
    }

    fn runtime(self) -> PathBuf {
        match self {
            Daemon::Berth | Daemon::CrioBerth => berth().with_file_name("berth-oci"),
            Daemon::ContainerdRunc if built("runc").exists() => built("runc"),
            Daemon::ContainerdRunc => "/usr/sbin/runc".into(),
            Daemon::ContainerdCrun | Daemon::CrioCrun => "/usr/bin/crun".into(),
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
        let make = match self {
            Daemon::Berth => {
                let mut command = host.command(berth());
                command.arg("cri").arg("--socket").arg(socket);
                return Ok(command);
            }
            Daemon::ContainerdRunc | Daemon::ContainerdCrun => containerd::command,
            Daemon::CrioCrun | Daemon::CrioBerth => crio::command,
        };
        make(host, registry, socket, &self.runtime())
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
