//! The Kubernetes-shaped API: what a cluster is wanted to be and what it is, as objects behind HTTP.
//!
//! Every part of berth (controllers, placement, agents, netd, the command line) and every tool
//! made for Kubernetes meets here. The rules are those of the Kubernetes API conventions:
//! objects with metadata, optimistic concurrency by `resourceVersion`, lists that can be
//! watched from the revision they show.
//!
//! Read more: <https://kubernetes.io/docs/reference/using-api/api-concepts/> and `docs/api.md`.

/// What went wrong, as Kubernetes' `Status` object.
pub mod error;
/// The kinds that are served: a table, and nothing is served that is not in it.
pub mod kind;

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
