//! Patches against what Kubernetes documents of them.
