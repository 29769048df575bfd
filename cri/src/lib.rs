//! Images, sandboxes and containers: the engine that `berth run` and the CRI
//! server call.

#![forbid(unsafe_code)]

/// The messages and services of `proto/cri.proto`, as the compiler wrote them.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}
/// The messages and services of `proto/admin.proto`, as the compiler wrote them.
#[allow(missing_docs, clippy::all)]
pub mod admin_v1 {
    tonic::include_proto!("berth.admin.v1");
}
/// The server's file: checked, and merged with the defaults.
pub mod configuration;
/// The engine: sandboxes and containers of one machine.
pub mod engine;
/// Whether a file is the one that was read before.
mod file_identity;
/// Images: pulled, unpacked, mounted.
pub mod images;
/// The CRI v1 server: the engine, behind gRPC on a Unix socket.
pub mod server;
/// What a pod worker asks of a node: the CRI's calls, whoever answers them.
pub mod service;
