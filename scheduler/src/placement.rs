//! Placement: which node a pod runs on.
//!
//! ```text
//!  watch pods, nodes --> Snapshot --+
//!                                   v
//!  pods without a node --> Queue --> cycle: filters --> scores --> node
//!                            ^         |                            |
//!                            |         | nothing fits               | assume at once,
//!                            |         v                            v bind in the background
//!                            +--- preemption, backoff        POST pods/NAME/binding
//! ```
//!
//! A decision is pure: a snapshot and a pod in, a node or the reasons out. The
//! loop around it observes and applies. Nothing is kept outside the API, so the
//! loop may die anywhere: bindings that were not made are made again, and one
//! that was made cannot be made twice (the API binds a pod only once).
//!
//! Read more: "Kubernetes Scheduler" and "Scheduling Framework" in the
//! Kubernetes documentation, whose plugins' names and defaults are kept here.

/// Resources as integers, and what a pod asks for.
pub mod amounts;
/// Counts of pods by topology, kept up to date.
pub mod census;
/// One decision.
pub mod cycle;
/// What placement knows of a pod.
pub mod facts;
/// What a node must satisfy.
pub mod filter;
/// The message of a pod that no node fits.
pub mod message;
/// What placement knows of a node.
pub mod node;
/// Who must go so that a pod finds room.
pub mod preemption;
/// Numbers of priority classes.
pub mod priority;
/// Pods that wait.
pub mod queue;
/// Why a node does not fit.
pub mod reason;
/// Which of the nodes that fit is best.
pub mod score;
/// Selectors of labels.
pub mod selector;
/// Nodes and pods: the input of a decision.
pub mod snapshot;
/// Texts as numbers.
pub mod symbol;
/// Taints and tolerations.
pub mod taint;
/// Pods by domain for spreads.
pub mod tally;
