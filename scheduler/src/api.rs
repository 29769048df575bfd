//! The Kubernetes-shaped API: what a cluster is wanted to be and what it is, as objects behind HTTP.
//!
//! Every part of berth (controllers, placement, agents, netd, the command line) and every tool
//! made for Kubernetes meets here. The rules are those of the Kubernetes API conventions:
//! objects with metadata, optimistic concurrency by `resourceVersion`, lists that can be
//! watched from the revision they show.
//!
//! Read more: <https://kubernetes.io/docs/reference/using-api/api-concepts/> and `docs/api.md`.

/// Addresses and ports that the cluster hands out to Services.
pub mod allocate;
/// What the API fills in where an object is silent.
pub mod defaults;
/// What went wrong, as Kubernetes' `Status` object.
pub mod error;
/// The kinds that are served: a table, and nothing is served that is not in it.
pub mod kind;
/// What the API says about itself: discovery and OpenAPI.
pub mod openapi;
/// Changes to an object: four kinds of patch, and the book of who owns which field.
pub mod patch;
/// The types of the served kinds: fields, shapes, ways of merging.
pub mod schema;
/// Which objects of a list are meant: selectors by label and by field.
pub mod selector;
/// Objects as rows: what `kubectl get` prints.
pub mod table;
/// What an object must be to be stored.
pub mod validate;

/// Who asks: put into the request's extensions by whoever took the connection.
///
/// With mTLS the user is the certificate's common name and the groups are its organisations.
/// A request without an identity is answered with 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's name, as `system:node:a` or `admin`.
    pub user: String,
    /// The user's groups, as `system:masters`.
    pub groups: Vec<String>,
}

impl Identity {
    /// An identity that may do everything: the server's own parts use it.
    #[must_use]
    pub fn master(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            groups: vec!["system:masters".to_owned()],
        }
    }
}
