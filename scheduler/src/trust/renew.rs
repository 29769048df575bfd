//! A node's certificate, renewed by the node itself before it ends.
//!
//! At two thirds of its time the node asks with the certificate that still holds,
//! and for a new key. The new pair is on disk before it is shown: a node killed in
//! between starts with the new one. Connections that are open keep the old one
//! until the server ends them, which it does when that certificate ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::servers::Servers;
use super::tls::Shown;
use super::{TrustError, join};

/// Between two renewals at the least.
const LEAST_PAUSE: Duration = Duration::from_secs(5);

/// Whose certificate is renewed, where it lies, and who renews it.
#[derive(Debug, Clone)]
pub struct Renewal {
    /// The directory of the node's files.
    pub directory: PathBuf,
    /// The files' name: `node` for `node.crt` and `node.key`.
    pub name: &'static str,
    /// Who may be asked.
    pub servers: Arc<Servers>,
    /// How long to wait after all of them failed.
    pub pause: Duration,
}

/// Renews for ever; ends when its future is dropped.
pub async fn run(renewal: Renewal, shown: Arc<Shown>) {
    loop {
        let due = match shown.credential().subject() {
            Ok(subject) => subject.renewal(),
            Err(error) => {
                tracing::error!("the node's certificate is not renewed: {error}");
                return;
            }
        };
        // Long sleeps are cut: a clock that was set forward must be noticed.
        let wait = due
            .duration_since(SystemTime::now())
            .unwrap_or_default()
            .min(Duration::from_hours(1));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
            continue;
        }
        match renew(&renewal, &shown).await {
            Ok(()) => {
                tracing::info!("the node's certificate was renewed");
                // However wrong a clock is, nobody is asked without a pause.
                tokio::time::sleep(LEAST_PAUSE).await;
            }
            Err(error) => {
                let chain = berth_runtime::causes::chain(&error);
                tracing::warn!("renew the node's certificate: {chain}");
                tokio::time::sleep(renewal.pause).await;
            }
        }
    }
}

async fn renew(renewal: &Renewal, shown: &Arc<Shown>) -> Result<(), TrustError> {
    let mut outcome = Ok(());
    for server in renewal.servers.known() {
        match join::renew(server, shown).await {
            Ok(credential) => {
                credential.write(&renewal.directory, renewal.name)?;
                return shown.replace(credential);
            }
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}
