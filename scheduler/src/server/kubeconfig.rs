//! The file that kubectl reads: where the server is, whom to trust, who one is.

use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::trust::authority::SERVER_HOST;
use crate::trust::credential::Credential;
use crate::trust::{TrustError, files};

/// Writes a kubeconfig for one who shows `credential`, mode 0600: it holds the key.
///
/// # Errors
///
/// [`TrustError::File`].
pub fn write(path: &Path, server: SocketAddr, credential: &Credential) -> Result<(), TrustError> {
    // JSON is YAML, and needs no second writer here.
    let text = format!("{:#}\n", kubeconfig(server, credential));
    files::write(path, text.as_bytes())
}

fn kubeconfig(server: SocketAddr, credential: &Credential) -> Value {
    let data = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "berth",
            "cluster": {
                "server": format!("https://{server}"),
                // The server is known by this name whatever address leads to it.
                "tls-server-name": SERVER_HOST,
                "certificate-authority-data": data(&credential.authority),
            },
        }],
        "users": [{
            "name": "admin",
            "user": {
                "client-certificate-data": data(&credential.certificate),
                "client-key-data": data(&credential.key),
            },
        }],
        "contexts": [{
            "name": "berth",
            "context": { "cluster": "berth", "user": "admin" },
        }],
        "current-context": "berth",
    })
}
