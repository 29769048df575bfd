//! The image store against a real registry, the kernel's overlayfs and the
//! tools that others use. Needs root.

// A suite has no way to end but by a panic, also outside of its test functions.
#![allow(clippy::unwrap_used)]

mod images {
    /// A store in a directory of its own.
    pub mod fixture;
    /// What a pull brings, and what it refuses.
    mod pull;
}
