//! The authority and the server's certificates, in files below `DATA/server/pki`.
//!
//! Where several servers share a store, the store holds the authority's *certificate*, so
//! that a server with another authority is refused. The key is not there: whoever reads
//! etcd would be the cluster's authority. It goes from server to server by a join
//! ([`crate::trust::join`]), and lies in a file of each.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ServerConfig, ServerError, StorePlace};
use crate::store::{Expected, SharedStore, StoreError};
use crate::trust::TrustError;
use crate::trust::authority::Authority;
use crate::trust::credential::Credential;
use crate::trust::tls::Shown;

/// Where the store has the authority's certificate, beside the API's objects and not one of them.
const KEY: &str = "/berth/authority";

#[derive(Serialize, Deserialize)]
struct Shared {
    certificate: String,
}

/// The authority in this directory; a new one where there is none.
///
/// # Errors
///
/// Its files cannot be read or written, or hold something else.
pub fn ensure_authority(directory: &Path) -> Result<Authority, TrustError> {
    if let Some(authority) = Authority::read(directory)? {
        return Ok(authority);
    }
    let authority = Authority::create()?;
    authority.write(directory)?;
    Ok(authority)
}

/// The authority of this server's cluster: the one in its files, which is the store's.
/// A store that has none yet takes ours.
///
/// # Errors
///
/// Files and store hold different clusters, or one of them cannot be read.
pub async fn settle(config: &ServerConfig, store: &SharedStore) -> Result<Authority, ServerError> {
    let directory = config.pki();
    if matches!(config.store, StorePlace::Embedded(_)) {
        return Ok(ensure_authority(&directory)?);
    }
    let ours = Authority::read(&directory)?;
    let found = match read_shared(store).await? {
        Some(found) => found,
        None => {
            // Written down before it is shared: a server that dies in between is the
            // same one when it comes back.
            let ours = ensure_authority(&directory)?;
            share(store, &ours).await?;
            return Ok(ours);
        }
    };
    match ours {
        Some(ours) if ours.certificate() == found => Ok(ours),
        _ => Err(ServerError::OtherCluster { directory }),
    }
}

async fn read_shared(store: &SharedStore) -> Result<Option<String>, ServerError> {
    let Some(entry) = store.read(KEY).await?.entry else {
        return Ok(None);
    };
    let shared: Shared = serde_json::from_slice(&entry.value).map_err(|_| {
        ServerError::Store(StoreError::Invalid(format!(
            "{KEY} does not hold the certificate of the cluster's authority"
        )))
    })?;
    Ok(Some(shared.certificate))
}

/// Puts the authority's certificate into the store.
async fn share(store: &SharedStore, authority: &Authority) -> Result<(), ServerError> {
    let shared = Shared {
        certificate: authority.certificate().to_owned(),
    };
    let value = serde_json::to_vec(&shared).map_err(|error| {
        ServerError::Trust(TrustError::certificate("share the authority", error))
    })?;
    Ok(store
        .put(KEY, Bytes::from(value), Expected::Absent)
        .await
        .map(drop)?)
}

/// The certificates that a server makes anew at each start: nobody pins them.
#[derive(Debug)]
pub struct ServerCredentials {
    /// What its port shows.
    pub port: Arc<Shown>,
    /// What it is when it asks an agent.
    pub reach: Arc<Shown>,
}

/// Makes the server's own certificates, and the administrator's where there is none
/// or it is about to end.
///
/// # Errors
///
/// [`TrustError`].
pub fn credentials(
    config: &ServerConfig,
    authority: &Authority,
) -> Result<(ServerCredentials, Credential), TrustError> {
    let directory = config.pki();
    let (addresses, names): (Vec<IpAddr>, Vec<String>) = known_as(config);
    let port = authority.server(&names, &addresses)?;
    port.write(&directory, "server")?;
    let reach = authority.server_client()?;
    reach.write(&directory, "apiserver-client")?;
    let made = ServerCredentials {
        port: Shown::new(port)?,
        reach: Shown::new(reach)?,
    };
    Ok((made, ensure_admin(&directory, authority)?))
}

fn ensure_admin(directory: &Path, authority: &Authority) -> Result<Credential, TrustError> {
    let fresh = |credential: &Credential| {
        let is_ours = credential.authority == authority.certificate();
        let renewal = credential.subject().map(|subject| subject.renewal());
        is_ours && renewal.is_ok_and(|renewal| renewal > std::time::SystemTime::now())
    };
    if let Some(admin) = Credential::read(directory, "admin")?.filter(fresh) {
        return Ok(admin);
    }
    let admin = authority.admin()?;
    admin.write(directory, "admin")?;
    Ok(admin)
}

/// By which addresses and names a server is known.
fn known_as(config: &ServerConfig) -> (Vec<IpAddr>, Vec<String>) {
    let mut addresses = vec![
        IpAddr::from(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        config.advertise,
    ];
    // The address of the Service "kubernetes", by which pods reach the API.
    addresses.extend(super::founding::first_address(&config.layout.service_range));
    let domain = &config.layout.domain;
    let mut names: Vec<String> = [
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{domain}"),
    ]
    .into();
    for name in &config.names {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(name.clone()),
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    (addresses, names)
}
