//! Other daemons that answer the CRI, and what they need on disk: configuration, network,
//! OCI runtime.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::write_program;

/// CRI-O.
pub mod crio;

/// What our bridge does too: an address, a route, masquerade.
const CNI: &str = r#"{"cniVersion": "1.0.0", "name": "bench", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables",
  "ipam": {"type": "host-local", "dataDir": "@/addresses", "ranges": [[{"subnet": "10.88.0.0/16"}]],
    "routes": [{"dst": "0.0.0.0/0"}]}}]}
"#;

/// Debian's crun refuses the version of the specification that containerd 2 and CRI-O
/// write. Rewriting it costs the row a shell and a
/// sed a container, as the page says.
const OLDER: &str = r#"s/"ociVersion": *"[^"]*"/"ociVersion":"1.0.2"/"#;

/// An OCI runtime that edits a container's configuration before the real one reads it.
const EDITING: &str = r#"#!/bin/sh
previous= bundle=
for word; do
  [ "$previous" != --bundle ] || bundle=$word
  previous=$word
done
[ -z "$bundle" ] || sed -i '%EDIT%' "$bundle/config.json"
exec %PROGRAM% "$@"
"#;

/// The folder of one daemon.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    plugins: PathBuf,
}

impl Folder {
    /// A folder that exists, and where the CNI plugins are.
    pub fn new(path: &Path, plugins: &Path) -> Folder {
        Folder {
            path: path.to_owned(),
            plugins: plugins.to_owned(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file: `@` is this folder, `%RUNTIME%` the OCI runtime, `%PLUGINS%` where the
    /// plugins are.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn write(&self, name: &str, text: &str, runtime: &Path) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
        let text = text
            .replace('@', &self.path.to_string_lossy())
            .replace("%RUNTIME%", &runtime.to_string_lossy())
            .replace("%PLUGINS%", &self.plugins.to_string_lossy());
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Writes what the CNI plugins do.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn write_network(&self) -> Result<()> {
        self.write("cni/10-bench.conflist", CNI, Path::new(""))
            .map(drop)
    }

    /// The program that a daemon is to call as its OCI runtime.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn runtime(&self, program: &Path) -> Result<PathBuf> {
        if !program.ends_with("crun") {
            return Ok(program.to_owned());
        }
        self.editing(program, OLDER)
    }

    /// An OCI runtime for CRI-O, which makes a pod's own process less likely to be killed than
    /// everybody else: not every root may, so this one asks for the score that we have.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn with_our_score(&self, program: &Path) -> Result<PathBuf> {
        let score = fs::read_to_string("/proc/self/oom_score_adj")?;
        let edit = format!(
            r#"s/"oomScoreAdj": *-[0-9]*/"oomScoreAdj":{}/"#,
            score.trim()
        );
        // Beside what else this folder edits, which has the program's name too.
        Folder::new(&self.path.join("scored"), &self.plugins).editing(program, &edit)
    }

    /// An OCI runtime of the same name that gives each `config.json` to sed first.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn editing(&self, program: &Path, edit: &str) -> Result<PathBuf> {
        let path = self
            .path
            .join(program.file_name().context("a program has a name")?);
        let text = EDITING.replace("%EDIT%", edit);
        fs::create_dir_all(&self.path)?;
        let text = text.replace("%PROGRAM%", &program.to_string_lossy());
        write_program(&path, &text)?;
        Ok(path)
    }
}
