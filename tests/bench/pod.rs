//! A pod of two containers from the command to the first page: `berth run`
//! beside `podman kube play`.
//!
//! Both read one manifest, have the images already, publish nginx on a port of
//! the host, and run in one throw-away host. What is timed ends with the first
//! answer on that port.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_tests::host::Host;
use berth_tests::image::examples;
use berth_tests::registry::{Access, Registry};

use crate::measure::{Contender, in_turn, quietly};
use crate::report::{Section, first_line};

const ROUNDS: usize = 15;
/// How long a page may take before the run counts as failed.
const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 8080;

const MANIFEST: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: bench
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: nginx
      image: docker.io/library/nginx:1.29
      imagePullPolicy: IfNotPresent
      ports:
        - containerPort: 80
          hostPort: 8080
    - name: beside
      image: docker.io/library/busybox:1.37
      imagePullPolicy: IfNotPresent
      command: [\"sleep\", \"1000\"]
";

/// Root of the build machines may not raise limits, which podman's defaults ask for.
const CONTAINERS_CONF: &str = "\
[containers]
default_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]
[engine]
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
runtime = \"runc\"
[network]
network_backend = \"netavark\"
";

/// Measures both, from the command to the page.
pub fn run(section: &mut Section) -> Result<()> {
    let host = Host::new()?;
    let registry = Registry::start_in(&host, Access::Open)?;
    examples::push_all(&registry)?;
    host.write_registries(&registry.mirror_configuration())?;
    let manifest = host.work_dir().join("bench.yaml");
    fs::write(&manifest, MANIFEST)?;
    let podman = Podman::prepare(&host, &registry)?;
    section.say(format!(
        "nginx and a container beside it, from the command to the first page; images are there. \
         {}; {}; {} with {}.",
        first_line(&berth().to_string_lossy(), &["version"]),
        first_line("runc", &["--version"]),
        first_line("podman", &["--version"]),
        first_line("runc", &["--version"]),
    ));
    quietly(&mut berth_command(&host, &["run", "-d"], Some(&manifest)))?;
    quietly(&mut berth_command(&host, &["rm", "-f", "bench"], None))?;

    let mut foreground: Option<Child> = None;
    let slot = std::cell::RefCell::new(&mut foreground);
    let mut ours = Contender::new("berth run", || {
        let child = berth_command(&host, &["run"], Some(&manifest))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting berth")?;
        **slot.borrow_mut() = Some(child);
        await_page(&host)
    });
    ours.reset = Box::new(|| {
        quietly(&mut berth_command(&host, &["rm", "-f", "bench"], None))?;
        if let Some(mut child) = slot.borrow_mut().take() {
            child.wait()?;
        }
        Ok(())
    });
    let mut theirs = Contender::new("podman kube play", || {
        quietly(podman.command(&host).args(["kube", "play"]).arg(&manifest))?;
        await_page(&host)
    });
    theirs.reset = Box::new(|| {
        quietly(
            podman
                .command(&host)
                .args(["pod", "rm", "-f", "-t", "0", "bench"]),
        )
    });
    let times = in_turn(&mut [ours, theirs], ROUNDS)?;
    section.table("Until nginx answers", &times, "podman kube play");
    podman.clean(&host);
    Ok(())
}

/// The program as it is shipped.
/// The release that `./x bench` built, or `BERTH`.
pub fn berth() -> PathBuf {
    std::env::var_os("BERTH").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/berth/berth"),
        PathBuf::from,
    )
}

fn berth_command(host: &Host, arguments: &[&str], manifest: Option<&Path>) -> Command {
    let mut command = host.command(berth());
    command.args(arguments).args(manifest);
    command
}

/// Asks every millisecond until nginx answers.
fn await_page(host: &Host) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if host
            .get(address, "/")
            .is_ok_and(|answer| answer.status == 200)
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("no answer on {address} within {LIMIT:?}")
}

/// podman with storage and configuration of its own.
struct Podman {
    folder: PathBuf,
}

impl Podman {
    fn prepare(host: &Host, registry: &Registry) -> Result<Podman> {
        let folder = host.work_dir().join("podman");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("containers.conf"), CONTAINERS_CONF)?;
        let mirror = format!(
            "[[registry]]\nprefix = \"docker.io\"\nlocation = \"{}\"\ninsecure = true\n",
            registry.address()
        );
        fs::write(folder.join("registries.conf"), mirror)?;
        let podman = Podman { folder };
        for image in ["nginx:1.29", "busybox:1.37"] {
            let name = format!("docker.io/library/{image}");
            quietly(podman.command(host).args(["pull", "-q", &name]))?;
        }
        Ok(podman)
    }

    fn command(&self, host: &Host) -> Command {
        let mut command = host.command("podman");
        command
            .env("CONTAINERS_CONF", self.folder.join("containers.conf"))
            .env(
                "CONTAINERS_REGISTRIES_CONF",
                self.folder.join("registries.conf"),
            )
            .arg("--root")
            .arg(self.folder.join("root"))
            .arg("--runroot")
            .arg(self.folder.join("run"))
            .arg("--network-config-dir")
            .arg(self.folder.join("networks"))
            .arg("--storage-driver=overlay");
        command
    }

    /// Its pause container and mounts go with it.
    fn clean(&self, host: &Host) {
        let _ = quietly(self.command(host).args(["system", "reset", "-f"]));
    }
}
