//! The engine with real parts, in throw-away machines.
//!
//! A throw-away machine is a pair of namespaces, and the engine works in those
//! of its own process. So each test runs twice: outside it makes the machine
//! and the registry, starts itself again in there, and sweeps up; inside it
//! tests. Needs root.

#![allow(
    clippy::unwrap_used,
    reason = "a suite's own functions may panic as its tests may"
)]

#[path = "engine/world.rs"]
mod world;

/// Sandboxes and containers through the CRI's calls.
#[path = "engine/lifecycle.rs"]
mod lifecycle;

/// One more program in a container.
#[path = "engine/exec.rs"]
mod exec;

/// Several engines, dead engines, dead monitors.
#[path = "engine/survival.rs"]
mod survival;

/// What is refused, and leaves nothing.
#[path = "engine/refusal.rs"]
mod refusal;

/// What a request may ask for, seen from within.
#[path = "engine/options.rs"]
mod options;

/// Containers that are told of before they are made.
#[path = "engine/under_way.rs"]
mod under_way;
