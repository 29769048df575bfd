//! One file a command.

/// `berth attach`.
pub mod attach;
/// `berth completion`.
pub mod completion;
/// `berth cri`.
pub mod cri;
/// `berth events`.
pub mod events;
/// `berth exec`.
pub mod exec;
/// `berth images`.
pub mod images;
/// `berth info`.
pub mod info;
/// `berth inspect`.
pub mod inspect;
/// `berth kill`.
pub mod kill;
/// `berth load`.
pub mod load;
/// `berth logs`.
pub mod logs;
/// `berth ps`.
pub mod ps;
/// `berth pull`.
pub mod pull;
/// `berth rm`.
pub mod rm;
/// `berth rmi` and `berth prune`.
pub mod rmi;
/// `berth run`.
pub mod run;
/// `berth stats`.
pub mod stats;
/// `berth stop`.
pub mod stop;
/// The end of a pod that nobody looks after.
pub mod takeover;
/// `berth top`.
pub mod top;
/// `berth version`.
pub mod version;
/// `berth wait`.
pub mod wait;
/// `berth worker`, the process behind `berth run -d`.
pub mod worker;
