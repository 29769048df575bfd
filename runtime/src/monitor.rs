//! The per-pod monitor.

/// What the engine and a monitor say to each other.
pub mod protocol;
