//! What containers wrote, for people to read.

/// Lines of several containers on one output.
pub mod print;
