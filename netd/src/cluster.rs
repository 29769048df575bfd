//! This node as one of many: overlay, services and names, from the cluster's API.

/// What netd knows of the cluster.
pub mod model;
/// Objects of the API as parts of the model.
pub mod objects;
