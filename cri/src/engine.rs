//! The engine: sandboxes and containers of one machine.

/// What went wrong, and the kind that callers branch on.
pub mod error;
/// Names that the engine gives to sandboxes and containers.
pub mod id;
/// What the engine remembers: one JSON file a sandbox, one a container.
pub mod records;
/// From a CRI request to an OCI configuration, without touching the machine.
pub mod spec;
