//! Pods' networks, in throw-away machines: each test makes its own and sweeps it.
//!
//! The library is called as the engine calls it; everything below it is the
//! kernel's. Needs root.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

#[path = "net/world.rs"]
mod world;

/// Who reaches whom.
#[path = "net/reach.rs"]
mod reach;

/// Ports of the host.
#[path = "net/host_ports.rs"]
mod host_ports;

/// What happens when something goes wrong.
#[path = "net/trouble.rs"]
mod trouble;
