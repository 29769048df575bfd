//! Images: from a registry's name to a root file system that a container can
//! write to.
//!
//! ```text
//! reference ─▶ registry ─▶ manifest ─▶ layers ──▶ unpacked, verified directories
//!  nginx       mirrors,     platform    streams        │ overlayfs: lower, lower, …
//!              tokens                                  ▼ upper of the container
//! ```
//!
//! On disk, below the data directory:
//!
//! ```text
//! images/index.json          which names mean which image
//! images/index.lock          held while the index or what it names changes
//! images/blobs/sha256/HEX    manifests and configurations
//! images/layers/HEX/         one unpacked layer, HEX being its chain id
//!     diff/                  the lower directory of an overlay
//!     layer.json             what it was made from, and its size
//! images/ingest/HEX{,.lock}  a layer on its way; without a name until verified
//! images/leases/             what pulls that run now will need
//! images/trash/              removed, not yet deleted
//! snapshots/CONTAINER/       upper and work directory, and the layers below
//! ```
//!
//! Many processes use one store at once and none of them is a daemon: whoever
//! changes the index holds a lock of `flock(2)`, which the kernel lets go when
//! its holder dies. What a killed process left is found by trying its lock.

/// The name of content.
pub mod digest;
/// Files that are whole or absent, and locks.
pub(crate) mod disk;
/// What went wrong, and of what kind it is.
pub mod error;
/// The distribution protocol.
pub(crate) mod fetch;
/// Which names mean which image.
pub(crate) mod index;
/// A layer on its way into the store.
pub(crate) mod layers;
/// Manifests and indices.
pub(crate) mod manifest;
/// Which machine an image is for.
pub mod platform;
/// What an image is called.
pub mod reference;
/// Where images are fetched from, and as whom.
pub mod registries;
/// The store's directories.
pub(crate) mod store;
/// A layer's archive becomes a directory.
pub(crate) mod unpack;
