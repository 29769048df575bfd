//! The one door to the kernel: every raw call of the runtime, one wrapper each.
//!
//! A wrapper adds close-on-exec, takes borrowed descriptors and returns owned
//! ones, and its error prints the call as strace(1) would. When narration is
//! on, the same words are printed for calls that succeed.

/// Device programs on version 2 cgroups: bpf(2).
pub mod bpf;
/// Errors that print a call, and the narration of calls.
pub mod call;
/// Sockets between the runtime and init, and descriptors sent over them.
pub mod channel;
/// What runs before the C library does.
#[cfg(target_arch = "x86_64")]
pub mod first;
/// Ctrl-C that only interrupts.
pub mod interrupt;
/// Mounts without paths: fsopen(2), open_tree(2), move_mount(2).
pub mod mount;
/// Links and addresses: rtnetlink(7).
pub mod netlink;
/// Lookups that cannot leave a root: openat2(2).
pub mod path;
/// User, groups, capabilities, limits.
pub mod privilege;
/// clone3(2), setns(2), execve(2), pidfds and waiting.
pub mod process;
/// fork(2) without execve(2), and what such a copy must not keep.
pub mod process_copy;
/// Reads and writes below `/proc` that nothing can redirect.
pub mod procfs;
/// Extended regular expressions: regex(7).
pub mod regex;
/// Memory that is held and not needed.
pub mod residence;
/// Scheduling, processors, memory nodes.
pub mod schedule;
/// Filters on system calls: seccomp(2).
pub mod seccomp;
/// Sockets whose path is too long for an address.
pub mod socket_path;
/// What comes before everything else in `main`.
pub mod start;
/// Pseudo terminals.
pub mod terminal;
