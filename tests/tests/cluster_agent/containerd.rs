//! Debian's containerd as the runtime below the agent.
//!
//! It has root, state and socket of its own, and a `/run` of its own, for its shims'
//! sockets have fixed places there. Pods get their addresses from Debian's CNI plugins.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_tests::image::{self, ImagePlan, busybox};
use berth_tests::machine::Machine;
use berth_tests::patience::stretched;
use serde_json::json;

use crate::world::succeed;

/// How long it may take to come up, or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where Debian's package puts CNI's plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// Everything that containerd would keep elsewhere is in a folder of the machine. Root in
/// a container may not lower a score, and this suite may run in one.
const CONFIG: &str = r#"version = 2
root = "@/root"
state = "@/state"
oom_score = 0
[grpc]
address = "%SOCKET%"
[ttrpc]
address = "%SOCKET%.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "@/opt"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
sandbox_image = "%REGISTRY%/library/pause:1"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "@/certs.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "%PLUGINS%"
conf_dir = "@/cni"
"#;

/// An address for each pod, and no more.
const NETWORK: &str = r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isGateway": true,
  "ipam": {"type": "host-local", "dataDir": "@/addresses", "ranges": [[{"subnet": "10.88.0.0/16"}]],
    "routes": [{"dst": "0.0.0.0/0"}]}}]}
"#;

/// A containerd that runs until it is told to end.
pub struct Containerd {
    process: Child,
    folder: PathBuf,
    socket: PathBuf,
}

impl Containerd {
    /// Starts it on a machine's socket.
    pub fn start(machine: &Machine, socket: &Path) -> Result<Containerd> {
        ensure!(
            Path::new(PLUGINS).join("bridge").exists(),
            "{PLUGINS}/bridge is missing: apt-get install containernetworking-plugins"
        );
        machine
            .registry()
            .push(&image::build(&pause()?)?, "library/pause", "1")?;
        let folder = machine.host().directory().join("containerd");
        prepare(machine, &folder, socket)?;
        let process = spawn(machine, &folder, socket)?;
        Ok(Containerd {
            process,
            folder,
            socket: socket.to_owned(),
        })
    }

    /// Kills it; its shims and their containers go on.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Starts it again.
    pub fn start_again(&mut self, machine: &Machine) -> Result<()> {
        // Its own does not remove it.
        let _ = fs::remove_file(&self.socket);
        self.process = spawn(machine, &self.folder, &self.socket)?;
        Ok(())
    }

    /// Ends it, and takes away what it leaves on a machine: mounts and a bridge.
    pub fn end(&mut self, machine: &Machine) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let deadline = Instant::now() + stretched(PATIENCE);
        while self.process.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "containerd does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        succeed(
            machine
                .host()
                .command("ip")
                .args(["link", "delete", "cni0"]),
        )?;
        succeed(machine.host().command("umount").arg("/run"))?;
        // The group above those of pods, which nobody else would remove.
        let name = machine.host().name();
        for group in fs::read_dir("/sys/fs/cgroup")?.flatten() {
            let _ = fs::remove_dir(group.path().join(name));
        }
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(name));
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // It has ended in every test that went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An image whose program does nothing: it holds a sandbox's namespaces.
fn pause() -> Result<ImagePlan> {
    Ok(ImagePlan {
        layers: vec![busybox::layer()?],
        config: json!({"Entrypoint": ["/bin/sleep", "1000000"]}),
    })
}

/// Files that it reads, and a `/run` of its own.
fn prepare(machine: &Machine, folder: &Path, socket: &Path) -> Result<()> {
    let mirror = format!(
        "[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        machine.registry().address()
    );
    let files = [
        ("config.toml", CONFIG),
        ("cni/10-pods.conflist", NETWORK),
        ("certs.d/docker.io/hosts.toml", &mirror),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
        let text = text
            .replace('@', &folder.to_string_lossy())
            .replace("%SOCKET%", &socket.to_string_lossy())
            .replace("%REGISTRY%", &machine.registry().address().to_string())
            .replace("%PLUGINS%", PLUGINS);
        fs::write(path, text)?;
    }
    let mount = ["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"];
    succeed(machine.host().command("mount").args(mount)).map(drop)
}

/// Starts the program and waits until it listens.
fn spawn(machine: &Machine, folder: &Path, socket: &Path) -> Result<Child> {
    let log = folder.join("log");
    let file = File::options().create(true).append(true).open(&log)?;
    let mut process = machine
        .host()
        .command("containerd")
        .arg("--config")
        .arg(folder.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .context("run containerd")?;
    let deadline = Instant::now() + stretched(PATIENCE);
    while !socket.exists() {
        if process.try_wait()?.is_some() || Instant::now() > deadline {
            bail!("containerd does not serve:\n{}", fs::read_to_string(&log)?);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}
