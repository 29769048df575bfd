//! The harness: throw-away hosts, images, registries, terminals, and a sweep for what is left behind.
//!
//! Everything here is real: `docker-registry` and `nginx` as Debian ships them,
//! network and mount namespaces of the kernel, pseudo-terminals. Nothing is
//! mocked, so a suite that passes says something about a machine.
//!
//! ```text
//! Host ── a namespace for network and one for mounts, with its own directories
//!  ├─ Registry   docker-registry that listens inside the host
//!  ├─ image      builds nginx and busybox from the machine's packages, pushes
//!  ├─ Terminal   a program on a pseudo-terminal: type keys, read the screen
//!  ├─ Fabric     several hosts on one wire, and a cable to pull
//!  ├─ Load       requests at a steady pace, and what became of each
//!  └─ Sweep      what was there before, what is left after
//! ```

/// Numbers that look random and can be had again.
pub mod chance;
/// The plugins of the CNI project.
pub mod cni_plugins;
/// critest of cri-tools.
pub mod critest;
/// Members of etcd on loopback.
pub mod etcd;
/// Several hosts on one wire.
pub mod fabric;
/// A machine of its own for one test: network and mount namespaces, directories.
pub mod host;
/// One HTTP/1.1 exchange over a connection, wherever that connection lives.
pub mod http;
/// Container images, built from files and from Debian's packages.
pub mod image;
/// Requests at a steady pace, and what became of each.
pub mod load;
/// A host with a registry that holds the examples' images, and `berth` on it.
pub mod machine;
/// A program's end and its words.
pub mod outcome;
/// How long to wait, on a machine that may be slow.
pub mod patience;
/// Other daemons that answer the CRI.
pub mod peers;
/// A real registry on loopback.
pub mod registry;
/// An API of three kinds, in memory.
pub mod small_api;
/// What a test left behind.
pub mod sweep;
/// A program on a pseudo-terminal.
pub mod terminal;
/// A virtual machine with cgroup version 2 only and a real systemd.
pub mod vm;
