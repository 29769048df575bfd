//! One file a command.

/// `berth attach`.
pub mod attach;
/// `berth completion`.
pub mod completion;
/// `berth inspect`.
pub mod inspect;
/// `berth kill`.
pub mod kill;
/// `berth logs`.
pub mod logs;
/// `berth ps`.
pub mod ps;
/// `berth rm`.
pub mod rm;
/// `berth run`.
pub mod run;
/// `berth stats`.
pub mod stats;
/// `berth stop`.
pub mod stop;
/// The end of a pod that nobody looks after.
pub mod takeover;
/// `berth version`.
pub mod version;
/// `berth wait`.
pub mod wait;
