//! Who is who in a cluster: one authority, a certificate for everyone, tokens that let machines in.
//!
//! ```text
//!              ca.crt, ca.key          ECDSA P-256, 20 years; made once by `cluster init`
//!                    │ signs
//!    ┌───────────────┼──────────────────┬────────────────────────┐
//!    ▼               ▼                  ▼                        ▼
//!  server.crt     apiserver-client   node.crt                 admin.crt
//!  (what :6443    (how the server    CN=system:node:NAME      CN=admin
//!   shows)         asks agents)      O=system:nodes           O=system:masters
//! ```
//!
//! A machine that joins has nothing but a token. The token holds the SHA-256 of
//! the authority's public key, so the machine knows the right cluster *before* it
//! tells the secret: without that, whoever answers on the address would learn the
//! secret and could join in its place. What the machine gets in return is a
//! certificate for a key that never leaves it.
//!
//! Every node's certificate names the node and nothing else: it carries no address
//! and no name under which the API server is known, so a node cannot stand in for
//! the server ([`authority::node_host`]).
//!
//! More: RFC 5280 (certificates), RFC 7469 (pins of public keys), RFC 8446 (TLS 1.3),
//! Kubernetes: "PKI certificates and requirements", "Authenticating with Bootstrap Tokens".

/// The key above all, and the certificates it signs.
pub mod authority;
/// A kube client that speaks as a credential, wherever the server is.
pub mod connect;
/// A certificate and its key, as a process holds them.
pub mod credential;
/// Files that are root's alone, written whole.
pub mod files;
/// Asking a server for membership.
pub mod join;
/// Which certificates are refused although they are in date.
pub mod register;
/// A certificate renewed before its end.
pub mod renew;
/// Where the servers are, as a node knows it.
pub mod servers;
/// rustls configurations: who shows what, who checks what.
pub mod tls;
/// The words of a join token.
pub mod token;
/// Tokens as the cluster keeps them: made, checked, spent.
pub mod tokens;

use std::path::{Path, PathBuf};

/// What could not be trusted, or not be written down.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file could not be read or written.
    #[error("{verb} {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A file holds something else than it should.
    #[error("{} does not hold {expected}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A certificate could not be made or read.
    #[error("{attempt}: {reason}")]
    Certificate {
        /// What was tried.
        attempt: &'static str,
        /// What the library said.
        reason: String,
    },
    /// rustls refused a certificate or a key.
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    /// The words of a token are wrong.
    #[error(transparent)]
    Token(#[from] token::TokenError),
    /// A name that cannot be a node's.
    #[error(
        "{name:?} cannot name a node: expected at most 63 of a-z, 0-9, '-' and '.', a letter or digit first and last"
    )]
    NodeName {
        /// The name.
        name: String,
    },
    /// The API could not be asked.
    #[error("ask the API")]
    Api(#[source] Box<kube::Error>),
    /// A join was refused, or could not be asked for.
    #[error(transparent)]
    Join(#[from] join::JoinError),
}

impl TrustError {
    pub(crate) fn file(verb: &'static str, path: &Path, source: std::io::Error) -> TrustError {
        TrustError::File {
            verb,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn certificate(attempt: &'static str, reason: impl ToString) -> TrustError {
        TrustError::Certificate {
            attempt,
            reason: reason.to_string(),
        }
    }
}

impl From<kube::Error> for TrustError {
    fn from(error: kube::Error) -> TrustError {
        TrustError::Api(Box::new(error))
    }
}

/// The group of those who may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of nodes.
pub const NODES: &str = "system:nodes";
/// What precedes a node's name in its user name.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// The user that the API server is when it asks an agent.
pub const SERVER_USER: &str = "system:berth:server";

/// Whether a name can be a node's: an RFC 1123 subdomain of at most 63 bytes, so
/// that it is a host name, a label's value and a part of a certificate.
///
/// # Errors
///
/// [`TrustError::NodeName`].
pub fn check_node_name(name: &str) -> Result<(), TrustError> {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| edge(byte) || byte == b'-')
            && label.bytes().next().is_some_and(edge)
            && label.bytes().next_back().is_some_and(edge)
    };
    if name.len() <= 63 && name.split('.').all(label) {
        Ok(())
    } else {
        Err(TrustError::NodeName {
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests;
