//! `features`: what this runtime can do, for callers that ask first
//! (runtime-spec, features.md).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::state::print_json;
use crate::causes::chain;
use crate::error::{Error, ErrorKind};
use crate::plan::options;
use crate::seccomp::compile;
use crate::seccomp::error::SeccompError;

/// The newest runtime spec whose configurations are read.
pub const SPEC_VERSION: &str = "1.3.0";

/// Flags of seccomp(2) that a profile may ask for.
const SECCOMP_FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// What it was built from, if whoever built it said so.
const COMMIT: &str = match option_env!("BERTH_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Prints it.
///
/// # Errors
///
/// When standard output is closed.
pub fn features() -> Result<i32, Error> {
    print_json(&describe()?)
}

/// What `--version` prints: the lines that docker looks for.
pub fn version_lines() -> String {
    // Who put this program where runc was asks runc for its version (go-runc).
    let called = std::env::args_os().next().map(PathBuf::from);
    let name = called.as_deref().and_then(Path::file_name);
    let name = if name == Some("runc".as_ref()) {
        "runc"
    } else {
        "berth-oci"
    };
    let version = env!("CARGO_PKG_VERSION");
    format!("{name} version {version}\ncommit: {COMMIT}\nspec: {SPEC_VERSION}\n")
}

fn describe() -> Result<Value, Error> {
    let failed = |error: SeccompError| Error::new(ErrorKind::Failed, chain(&error));
    let architectures = compile::known_architectures().map_err(failed)?;
    let mut capabilities: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
    capabilities.sort();
    Ok(json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": options::known_words(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                            "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY",
                            "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
                "knownFlags": SECCOMP_FLAGS,
                "supportedFlags": SECCOMP_FLAGS,
                "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                              "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
                "archs": architectures
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "netDevices": {"enabled": true},
            "memoryPolicy": {
                "modes": ["MPOL_BIND", "MPOL_DEFAULT", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED",
                          "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE"],
                "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"]
            },
            "mountExtensions": {"idmap": {"enabled": true}}
        },
        "annotations": {
            "org.berth.version": env!("CARGO_PKG_VERSION"),
            "org.berth.commit": COMMIT,
            "io.github.seccomp.libseccomp.version": compile::library_version().map_err(failed)?,
            "org.opencontainers.runc.checkpoint.enabled": "false"
        },
        "potentiallyUnsafeConfigAnnotations": ["run.oci."]
    }))
}
