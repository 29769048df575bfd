//! One file a command.

/// `berth completion`.
pub mod completion;
/// `berth run`.
pub mod run;
/// `berth version`.
pub mod version;
