//! The bundle that is run: the default spec, with `true` from busybox for its program.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::MsFlags;
use serde_json::{Value, json};

use super::runtime::{Runtime, quietly};

/// Begins the name of each cgroup that the benchmark asks for.
pub const MARK: &str = "berth-bench";

/// A variable that the runtimes have while they are measured; its value is our pid.
pub const MARK_VARIABLE: &str = "BERTH_BENCH_OF";

/// A bundle, and where the runtimes keep what they know of its containers.
pub struct Bundle {
    /// Holds `config.json` and `rootfs`.
    pub folder: PathBuf,
    /// Holds a folder for each runtime's state.
    pub root: PathBuf,
}

impl Bundle {
    /// The plain one.
    pub fn make(scratch: &Path) -> Result<Bundle> {
        // State belongs on a tmpfs, as /run is wherever these runtimes are used.
        let root = scratch.join("root");
        fs::create_dir(&root)?;
        let (none, kind) = (Some("tmpfs"), Some("tmpfs"));
        nix::mount::mount(none, &root, kind, MsFlags::empty(), None::<&str>)
            .context("mounting a tmpfs for state")?;
        Bundle::make_with(scratch, "bundle", |_| {})
    }

    /// Another one beside it, of another name; `change` has the last word on its
    /// configuration.
    pub fn make_with(
        scratch: &Path,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Bundle> {
        let folder = scratch.join(name);
        let rootfs = folder.join("rootfs");
        for name in ["bin", "proc", "sys", "dev"] {
            fs::create_dir_all(rootfs.join(name))?;
        }
        fs::copy("/bin/busybox", rootfs.join("bin/true")).context("busybox-static is missing")?;
        symlink("true", rootfs.join("bin/sleep"))?;
        // A referee writes the spec, so that nobody is measured on a spec of its own.
        quietly(Command::new("runc").arg("spec").current_dir(&folder))?;
        let bundle = Bundle {
            folder,
            root: scratch.join("root"),
        };
        bundle.change(|config| {
            config["process"]["terminal"] = json!(false);
            config["process"]["args"] = json!(["/bin/true"]);
            change(config);
        })?;
        Ok(bundle)
    }

    /// Writes the configuration anew.
    pub fn change(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let path = self.folder.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
        change(&mut config);
        fs::write(&path, serde_json::to_vec(&config)?)?;
        Ok(())
    }

    /// Names the cgroup of the containers that are made from now on.
    pub fn settle_in(&self, group: &str) -> Result<()> {
        self.change(|config| config["linux"]["cgroupsPath"] = json!(group))
    }

    /// Compiles a C program beside the bundle.
    pub fn compile(&self, name: &str, source: &str) -> Result<PathBuf> {
        let program = self.folder.with_file_name(name);
        let file = program.with_extension("c");
        fs::write(&file, source)?;
        let words = ["-O2", "-static", "-o"];
        quietly(Command::new("gcc").args(words).arg(&program).arg(&file))?;
        Ok(program)
    }

    /// `run` to the end.
    pub fn run(&self, runtime: &Runtime, id: &str) -> Result<()> {
        quietly(&mut self.making(runtime, "run", id))
    }

    /// `create`.
    pub fn create(&self, runtime: &Runtime, id: &str) -> Result<()> {
        quietly(&mut self.making(runtime, "create", id))
    }

    /// `delete --force`.
    pub fn delete(&self, runtime: &Runtime, id: &str) -> Result<()> {
        quietly(self.call(runtime).args(["delete", "--force", id]))
    }

    /// Three calls.
    pub fn create_start_delete(&self, runtime: &Runtime, id: &str) -> Result<()> {
        self.create(runtime, id)?;
        quietly(self.call(runtime).args(["start", id]))?;
        self.delete(runtime, id)
    }

    /// A call that makes a container.
    pub fn making(&self, runtime: &Runtime, verb: &str, id: &str) -> Command {
        let mut command = self.call(runtime);
        command.args([verb, "--bundle"]).arg(&self.folder).arg(id);
        command
    }

    /// A call of a runtime, with a place for its state.
    pub fn call(&self, runtime: &Runtime) -> Command {
        let mut command = Command::new(&runtime.program);
        command.arg("--root").arg(self.root.join(&runtime.name));
        command.env(MARK_VARIABLE, std::process::id().to_string());
        command
    }
}
