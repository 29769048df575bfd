//! HTTP clients that pulls share.
//!
//! To make a client is to read and decode every certificate that the machine trusts:
//! hundreds of files on Debian, and milliseconds in which nothing is fetched. And a
//! client's connections are its own. So one is kept for all endpoints that trust the
//! same, until what the machine trusts is no longer what was read.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::Client;

use crate::file_identity::Identity;
use crate::images::error::{Context, Error, ErrorKind};
use crate::images::registries::Endpoint;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For a connection on which nothing moves.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Shorter than what registries and the balancers before them wait for, so that they do not
/// close a connection at the moment at which it is used again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// The clients of one store.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    kept: Mutex<Vec<(Trust, Client)>>,
}

/// Whom a client believes to be who they say they are.
#[derive(Debug, PartialEq, Eq)]
struct Trust {
    insecure: bool,
    /// Certificates of the endpoint's own authority.
    ca: Option<Vec<u8>>,
    /// Where the machine's authorities are.
    machine: Vec<(PathBuf, Identity)>,
}

impl Clients {
    /// The client for an endpoint.
    ///
    /// # Errors
    ///
    /// `InvalidConfiguration`: the endpoint's `ca` holds no certificates, or the machine has
    /// none. `Os`: the file cannot be read.
    pub(crate) fn client(&self, endpoint: &Endpoint) -> Result<Client, Error> {
        // Looked at before they are read: what is written meanwhile is read again next time.
        let trust = Trust::of(endpoint)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(other, _)| other.machine == trust.machine);
        if let Some((_, client)) = kept.iter().find(|(other, _)| *other == trust) {
            return Ok(client.clone());
        }
        let client = build(endpoint, trust.ca.as_deref())?;
        if trust.is_settled() {
            kept.push((trust, client.clone()));
        }
        Ok(client)
    }
}

impl Trust {
    fn of(endpoint: &Endpoint) -> Result<Trust, Error> {
        let ca = endpoint.ca.as_ref().map(|file| {
            std::fs::read(file).context(|| format!("ca: {} cannot be read", file.display()))
        });
        let machine = openssl_probe::probe();
        let places = machine.cert_file.into_iter().chain(machine.cert_dir);
        let looked_at = |place: PathBuf| {
            let identity = Identity::of(&std::fs::metadata(&place).ok()?);
            Some((place, identity))
        };
        Ok(Trust {
            insecure: endpoint.insecure,
            ca: ca.transpose()?,
            machine: places.filter_map(looked_at).collect(),
        })
    }

    /// Whether nothing else can look the same later.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now();
        let mut machine = self.machine.iter();
        machine.all(|(_, identity)| identity.is_settled(now))
    }
}

fn build(endpoint: &Endpoint, ca: Option<&[u8]>) -> Result<Client, Error> {
    // The process may have chosen a provider already; any will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tls_danger_accept_invalid_certs(endpoint.insecure);
    let invalid = |error: reqwest::Error, what: String| {
        Error::caused(ErrorKind::InvalidConfiguration, what, error)
    };
    if let (Some(text), Some(file)) = (ca, &endpoint.ca) {
        let what = || format!("ca: {} holds no certificates", file.display());
        let certificates =
            reqwest::Certificate::from_pem_bundle(text).map_err(|error| invalid(error, what()))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder
        .build()
        .map_err(|error| invalid(error, "no HTTP client can be made".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(ca: Option<PathBuf>, insecure: bool) -> Endpoint {
        Endpoint {
            urls: vec!["https://registry.test".to_owned()],
            insecure,
            ca,
            credentials: None,
        }
    }

    #[test]
    fn what_trusts_the_same_is_shared() {
        let clients = Clients::default();
        let kept = || clients.kept.lock().unwrap().len();
        clients.client(&endpoint(None, false)).unwrap();
        clients.client(&endpoint(None, false)).unwrap();
        assert_eq!(kept(), 1);
        clients.client(&endpoint(None, true)).unwrap();
        assert_eq!(kept(), 2);
        // What was read of a machine that trusts others now is not kept.
        for (trust, _) in clients.kept.lock().unwrap().iter_mut() {
            trust.machine.clear();
        }
        clients.client(&endpoint(None, false)).unwrap();
        assert_eq!(kept(), 1);
    }

    #[test]
    fn an_authority_that_changed_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let clients = Clients::default();
        let error = clients.client(&endpoint(Some(file.clone()), false));
        assert!(error.unwrap_err().to_string().contains("cannot be read"));
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\n???").unwrap();
        let error = clients.client(&endpoint(Some(file.clone()), false));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("holds no certificates"), "{error}");
        assert!(clients.kept.lock().unwrap().is_empty());
    }
}
