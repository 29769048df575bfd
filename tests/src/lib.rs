//! The harness: throw-away hosts, images, registries, and a sweep for what is left behind.
