//! The image store against a real registry, a registry that misbehaves, the
//! kernel's overlayfs and the tools that others use. Needs root.

// A suite has no way to end but by a panic, also outside of its test functions.
#![allow(clippy::unwrap_used)]

mod images {
    /// A full disk, a killed process, a pull that is given up.
    mod crash;
    /// A store in a directory of its own.
    mod fixture;
    /// Files whose directory only a lower layer describes.
    mod implied;
    /// Archives.
    mod import;
    /// Registries that are gone, wrong, slow, cut off or wary.
    mod network;
    /// What a container sees of several layers.
    mod overlay;
    /// What a pull brings.
    mod pull;
    /// A registry that misbehaves on order.
    mod server;
}
