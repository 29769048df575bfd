//! `spec`: a configuration to begin with.

use std::fs::OpenOptions;
use std::io::Write;

use serde_json::{Value, json};

use crate::arguments::{Global, Rootless, SpecArguments};
use crate::error::{Error, ErrorKind};
use crate::plan::hiding::{DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS};

/// Writes `config.json` into a folder.
///
/// # Errors
///
/// When there is one already: it is not overwritten.
pub fn spec(global: &Global, arguments: &SpecArguments) -> Result<i32, Error> {
    let file = arguments.bundle.join(&arguments.file);
    let mut options = OpenOptions::new();
    let mut opened = options
        .write(true)
        .create_new(true)
        .open(&file)
        .map_err(|error| {
            let text = format!("{}: {error}; nothing was written", file.display());
            Error::new(ErrorKind::BadInput, text)
        })?;
    let mut config = starting_point();
    if global.rootless == Rootless::True {
        make_rootless(&mut config);
    }
    let text = format!("{config:#}\n");
    opened
        .write_all(text.as_bytes())
        .map_err(|error| Error::of_file(&file, &error))?;
    Ok(0)
}

/// A shell in a container with little: the usual mounts, namespaces of its own,
/// three capabilities, a read-only root.
pub fn starting_point() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    json!({
        "ociVersion": super::features::SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "berth",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                  &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"},
                {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}
            ],
            "maskedPaths": DEFAULT_MASKED_PATHS,
            "readonlyPaths": DEFAULT_READONLY_PATHS
        }
    })
}

/// The same for an ordinary user, who is root in a user namespace of that one id:
/// no limits, for there may be no cgroups, and the caller's network, for nobody
/// would connect another; sysfs goes with the network.
fn make_rootless(config: &mut Value) {
    let own = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let linux = &mut config["linux"];
    linux["uidMappings"] = own(nix::unistd::geteuid().as_raw());
    linux["gidMappings"] = own(nix::unistd::getegid().as_raw());
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        if mount["type"] == "sysfs" {
            *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
        }
        // A group that the one id does not bring along.
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
}
