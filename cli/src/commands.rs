//! One file a command.

/// `berth agent`.
pub mod agent;
/// `berth apply`.
pub mod apply;
/// `berth attach`.
pub mod attach;
/// `berth cluster`.
pub mod cluster;
/// `berth completion`.
pub mod completion;
/// `berth cordon`, `berth uncordon` and `berth drain`.
pub mod cordon;
/// `berth cri`.
pub mod cri;
/// `berth delete`.
pub mod delete;
/// `berth describe`.
pub mod describe;
/// `berth events`.
pub mod events;
/// `berth exec`.
pub mod exec;
/// `berth explain`.
pub mod explain;
/// `berth get`.
pub mod get;
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
/// `berth netd`.
pub mod netd;
/// `berth node`.
pub mod node;
/// `berth ps`.
pub mod ps;
/// `berth pull`.
pub mod pull;
/// `berth logs --cluster` and `berth exec --cluster`.
pub mod remote;
/// `berth rm`.
pub mod rm;
/// `berth rmi` and `berth prune`.
pub mod rmi;
/// `berth rollout`.
pub mod rollout;
/// `berth run`.
pub mod run;
/// `berth scale`.
pub mod scale;
/// `berth server`.
pub mod server;
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
