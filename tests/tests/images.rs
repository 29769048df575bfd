//! The image store against a real registry, the kernel's overlayfs and the
//! tools that others use. Needs root.

mod images {
    /// A store in a directory of its own.
    pub mod fixture;
    /// What a pull brings, and what it refuses.
    mod pull;
}
