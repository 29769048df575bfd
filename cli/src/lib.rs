//! The program `berth`: what people type, and what they read.
//!
//! ```text
//! words ─▶ arguments ─▶ commands/NAME ─▶ engine (berth-cri), pod worker (berth-scheduler)
//!                            │
//!                            ├── objects   which pod or container a word means
//!                            ├── workers   the process that looks after a pod
//!                            ├── logs      what containers wrote
//!                            ├── terminal  raw mode, and back
//!                            └── output    tables, JSON, YAML
//! ```
//!
//! Each command is one file, and none of them knows how a container is made.
#![forbid(unsafe_code)]

/// Sizes, times and names as people write and read them.
pub mod amounts;
/// The words of the command line.
pub mod arguments;
/// A machine as a member of a cluster.
pub mod cluster;
/// One file a command.
pub mod commands;
/// What ends a command.
pub mod error;
/// What containers wrote, from their log files.
pub mod logs;
/// The engine of this machine.
pub mod node;
/// Which pod or container a word means.
pub mod objects;
/// Tables, JSON, YAML and names.
pub mod output;
/// What a person sees of a running pod.
pub mod screen;
/// What all commands share: directories, the form of the output.
pub mod settings;
/// A container's streams and this process's own, joined.
pub mod streams;
/// The caller's terminal.
pub mod terminal;
/// The process that looks after a pod.
pub mod workers;
