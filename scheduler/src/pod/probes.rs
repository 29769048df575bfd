//! Asking a container how it is.
//!
//! Three questions, each with its own consequence. *Startup* holds the others
//! back until it was answered once; *liveness* has the container killed and
//! started again; *readiness* says whether it should be sent work.
//!
//! ```text
//!              ┌────────── startup fails too often ─────────▶ kill
//!  started ────┤
//!              └─ startup passes ─┬─ liveness fails too often ▶ kill
//!                (or is absent)   └─ readiness passes / fails ▶ ready / not ready
//! ```
//!
//! What counts when is a value ([`machine::ProbeMachine`]) that is told the time
//! and the answers; asking is in `ask`.
//!
//! Read more: "Configure Liveness, Readiness and Startup Probes" in the
//! Kubernetes documentation.

/// Asking: a command, a request, a connection, a health service.
pub mod ask;
/// When which question is due, and what an answer means.
pub mod machine;
