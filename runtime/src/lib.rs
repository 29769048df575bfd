//! The OCI runtime and the per-pod monitor.
//!
//! The program `berth-oci` is a thin shell around this library. The engine in
//! `berth-cri` uses [`monitor::protocol`] to talk to a pod's monitor.

/// What to do about a failure.
pub mod advice;
/// The command line.
pub mod arguments;
/// An error with its causes as text.
pub mod causes;
/// Control groups: counting and limiting.
pub mod cgroup;
/// Wall-clock time as text.
pub mod clock;
/// Copies a folder's content, by descriptors.
pub mod copy;
/// The runtime's side of a container's making.
pub mod creation;
/// The bus on which systemd is asked.
pub mod dbus;
/// What differs between two configurations, by meaning.
pub mod difference;
/// What berth-oci answers when it cannot.
pub mod error;
/// Programs of the caller at moments of a container's life.
pub mod hooks;
/// Names that cannot be mixed up.
pub mod ids;
/// Init's side of it.
pub mod init;
/// Labels of SELinux and AppArmor.
pub mod labels;
/// Network devices that move into a container.
pub mod links;
/// Who is asked about system calls.
pub mod listener;
/// The process that outlives every daemon: one a pod.
pub mod monitor;
/// The kernel's list of mounts.
pub mod mountinfo;
/// A service manager that waits for the program.
pub mod notify;
/// A plan as it is shown.
pub mod outline;
/// What is to be done, decided before anything is.
pub mod plan;
/// A runtime in the foreground: signals, terminal, end.
pub mod relay;
/// How a failure is told.
pub mod report;
/// Classes of cache and memory bandwidth.
pub mod resctrl;
/// Containers of an ordinary user.
pub mod rootless;
/// This program, as nobody in a container can write to it.
pub mod sealing;
/// Filters of system calls.
pub mod seccomp;
/// Signals by name and number.
pub mod signals;
/// Steps as data.
pub mod stage;
/// The tables of steps, and each step in a file.
pub mod stages;
/// What outlives a call: a folder a container.
pub mod state;
/// The one door to the kernel.
pub mod sys;
/// Ids for a user namespace.
pub mod user_namespace;
/// The commands.
pub mod verbs;
/// A walk through the stages, with a question before each.
pub mod walk;
/// Files that are whole or absent.
pub mod whole_file;
