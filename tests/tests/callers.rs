//! `berth-oci` where runc was: below podman, containerd, docker and buildah, and
//! judged by the validation suite of OCI's runtime-tools.
//!
//! Each test drives the real program as its user would and looks at what comes
//! out. Where podman has both, the same calls are made under crun, and exit codes
//! and outputs must be the same. Each test has a machine of its own, control
//! groups included, and afterwards no container, process or group may be left.
//!
//! Needs root, `podman`, `buildah`, `containerd`, `docker.io`, `crun`, `runc`,
//! `busybox-static`, and `go` to build the validation suite from its module.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

/// A machine for a caller of runtimes.
#[path = "callers/world.rs"]
mod world;

/// `buildah run` and `buildah build`.
#[path = "callers/buildah.rs"]
mod buildah;
/// containerd, through its shim for runc.
#[path = "callers/containerd.rs"]
mod containerd;
/// CRI-O, judged by critest.
#[path = "callers/crio.rs"]
mod crio;
/// docker: the daemon and its client.
#[path = "callers/docker.rs"]
mod docker;
/// podman, through conmon.
#[path = "callers/podman.rs"]
mod podman;
/// The validation programs of OCI's runtime-tools.
#[path = "callers/validation.rs"]
mod validation;
