//! `busybox`, with a link for each applet, from Debian's `busybox-static`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::layer::Entry;
use super::{ImagePlan, LayerPlan, host_file};

/// Where Debian's package puts the program.
const PROGRAM: &str = "/bin/busybox";

/// The image `busybox`: one layer, `sh` as the command.
///
/// # Errors
///
/// `busybox-static` is not installed.
pub fn plan() -> Result<ImagePlan> {
    let config = json!({"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]});
    Ok(ImagePlan {
        layers: vec![layer()?],
        config,
    })
}

/// The layer alone, for images that want a shell below their own files.
///
/// # Errors
///
/// `busybox-static` is not installed.
pub fn layer() -> Result<LayerPlan> {
    let program = Path::new(PROGRAM);
    ensure!(
        program.exists(),
        "{PROGRAM} is missing: apt-get install busybox-static"
    );
    let mut entries = folders();
    entries.push(host_file(program, "bin/busybox")?);
    for applet in applets()? {
        // Hard links, as in the image that everybody knows; they also keep the
        // unpacker honest.
        entries.push(Entry::hard_link(&format!("bin/{applet}"), "bin/busybox"));
    }
    entries.extend(accounts());
    Ok(LayerPlan {
        entries,
        ..LayerPlan::default()
    })
}

fn applets() -> Result<Vec<String>> {
    let output = Command::new(PROGRAM)
        .arg("--list")
        .output()
        .context("busybox --list")?;
    let names = String::from_utf8(output.stdout)?;
    Ok(names
        .lines()
        .filter(|name| *name != "busybox")
        .map(str::to_owned)
        .collect())
}

fn folders() -> Vec<Entry> {
    let mut entries: Vec<Entry> = [
        "bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "usr/sbin", "var", "run",
    ]
    .into_iter()
    .map(|path| Entry::directory(path, 0o755))
    .collect();
    entries.push(Entry::directory("root", 0o700));
    entries.push(Entry::directory("tmp", 0o1777));
    // Scripts ask for env by this path.
    entries.push(Entry::symlink("usr/bin/env", "/bin/env"));
    entries
}

fn accounts() -> Vec<Entry> {
    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
        www-data:x:33:33:www-data:/var/www:/bin/false\n\
        nobody:x:65534:65534:nobody:/home:/bin/false\n";
    const GROUP: &str = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nnobody:x:65534:\n";
    vec![
        Entry::file("etc/passwd", 0o644, PASSWD),
        Entry::file("etc/group", 0o644, GROUP),
        Entry::file("etc/nsswitch.conf", 0o644, "hosts: files dns\n"),
    ]
}
