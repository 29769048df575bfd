//! What the API says about itself: discovery, and OpenAPI documents of two versions.
//!
//! Clients know nothing of an API beforehand. `kubectl get po` asks discovery
//! what `po` is; `kubectl explain` and `kubectl apply` read the types and the ways
//! of merging from OpenAPI, version 3 (a document for each group) or 2 (one).

/// Which groups, kinds and verbs there are.
pub mod discovery;
