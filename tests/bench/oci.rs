//! `berth-oci` beside crun, runc and a C program that makes only the kernel's calls.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use serde_json::{Value, json};

use crate::measure::{Contender, in_turn};
use crate::report::{Section, first_line};

/// Runs of each; a run takes some milliseconds.
const ROUNDS: usize = 100;

/// Measures `run` of `true`, then create + start + delete.
pub fn run(section: &mut Section) -> Result<()> {
    hide_the_hybrid_tree()?;
    let scratch = tempfile::tempdir()?;
    let bench = Bundle::make(scratch.path())?;
    let runtimes = runtimes();
    let minimal = bench.minimal()?;
    section.say(versions(&runtimes));

    let mut contenders: Vec<Contender<'_>> = runtimes
        .iter()
        .map(|runtime| Contender::new(&runtime.name, || bench.run(runtime)))
        .collect();
    contenders.push(Contender::new("minimal", || {
        quietly(
            Command::new(&minimal)
                .arg(bench.folder.join("rootfs"))
                .arg("/bin/true"),
        )
    }));
    let times = in_turn(&mut contenders, ROUNDS)?;
    drop(contenders);
    section.table("`run` of `true`", &times, "crun");
    section.table("The same, against the floor", &times, "minimal");

    let mut contenders: Vec<Contender<'_>> = runtimes
        .iter()
        .map(|runtime| Contender::new(&runtime.name, || bench.create_start_delete(runtime)))
        .collect();
    let times = in_turn(&mut contenders, ROUNDS)?;
    section.table("create + start + delete", &times, "crun");
    Ok(())
}

/// Debian's crun refuses a v2 tree beside v1 controllers, so nobody gets to see it.
fn hide_the_hybrid_tree() -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace needs root")?;
    nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.exists() {
        nix::mount::umount2(unified, MntFlags::MNT_DETACH).context("unmounting the v2 tree")?;
    }
    Ok(())
}

/// An OCI runtime by name and path.
struct Runtime {
    name: String,
    program: PathBuf,
}

fn runtimes() -> Vec<Runtime> {
    let ours = std::env::var_os("BERTH_OCI").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/berth/berth-oci"),
        PathBuf::from,
    );
    let mut runtimes = vec![Runtime {
        name: "berth-oci".to_owned(),
        program: ours,
    }];
    for peer in ["crun", "runc", "youki"] {
        if first_line(peer, &["--version"]).is_empty() {
            eprintln!("oci: {peer} is not installed, so it is not measured");
        } else {
            runtimes.push(Runtime {
                name: peer.to_owned(),
                program: peer.into(),
            });
        }
    }
    runtimes
}

fn versions(runtimes: &[Runtime]) -> String {
    let lines: Vec<String> = runtimes
        .iter()
        .map(|runtime| first_line(&runtime.program.to_string_lossy(), &["--version"]))
        .collect();
    format!("Versions: {}.", lines.join("; "))
}

/// The default spec, with `true` from busybox for its program.
struct Bundle {
    folder: PathBuf,
    root: PathBuf,
}

impl Bundle {
    fn make(scratch: &Path) -> Result<Bundle> {
        let folder = scratch.join("bundle");
        let rootfs = folder.join("rootfs");
        for name in ["bin", "proc", "sys", "dev"] {
            std::fs::create_dir_all(rootfs.join(name))?;
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/true"))
            .context("busybox-static is missing")?;
        // A referee writes the spec, so that nobody is measured on a spec of its own.
        quietly(Command::new("runc").arg("spec").current_dir(&folder))?;
        let path = folder.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/true"]);
        std::fs::write(&path, serde_json::to_vec(&config)?)?;
        // State belongs on a tmpfs, as /run is wherever these runtimes are used.
        let root = scratch.join("root");
        std::fs::create_dir(&root)?;
        let (none, kind) = (Some("tmpfs"), Some("tmpfs"));
        nix::mount::mount(none, &root, kind, MsFlags::empty(), None::<&str>)
            .context("mounting a tmpfs for state")?;
        Ok(Bundle { folder, root })
    }

    /// Compiles the floor.
    fn minimal(&self) -> Result<PathBuf> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/minimal.c");
        let program = self.folder.with_file_name("minimal");
        quietly(
            Command::new("gcc")
                .args(["-O2", "-static", "-o"])
                .arg(&program)
                .arg(source),
        )?;
        Ok(program)
    }

    fn run(&self, runtime: &Runtime) -> Result<()> {
        quietly(
            self.call(runtime)
                .args(["run", "--bundle"])
                .arg(&self.folder)
                .arg("bench-run"),
        )
    }

    fn create_start_delete(&self, runtime: &Runtime) -> Result<()> {
        quietly(
            self.call(runtime)
                .args(["create", "--bundle"])
                .arg(&self.folder)
                .arg("bench-csd"),
        )?;
        quietly(self.call(runtime).args(["start", "bench-csd"]))?;
        quietly(self.call(runtime).args(["delete", "--force", "bench-csd"]))
    }

    fn call(&self, runtime: &Runtime) -> Command {
        let mut command = Command::new(&runtime.program);
        command.arg("--root").arg(self.root.join(&runtime.name));
        command
    }
}

/// Runs a program that must succeed. Its streams are `/dev/null`: a created
/// container keeps them, and a pipe would be waited for.
fn quietly(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
