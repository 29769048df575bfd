//! The pod worker, and later the cluster around it.
