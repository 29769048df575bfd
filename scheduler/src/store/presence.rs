//! Which servers are there: keys that stand as long as the process that put them.
//!
//! ```text
//!   announce: put /servers/NAME = who, on a lease ──▶ renew it every third of its time
//!                     ▲                                     │ etcd knows no such lease
//!                     └─────────────────────────────────────┘ (frozen for longer than it holds)
//! ```
//!
//! etcd deletes the key when nobody has renewed its lease: a server that was killed, frozen
//! or cut off is gone for all others, by etcd's clock alone. A renewal is no write: it costs
//! no revision and no disk. While etcd has no majority no lease runs out, so its trouble is not
//! taken for that of the servers.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{PutOptions, Txn, TxnOp};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::etcd::EtcdStore;
use super::{Change, ListRequest, Store, StoreError};

/// Where the keys are, below the store's prefix. They are no objects of the API.
const SERVERS: &str = "/servers/";

/// For how long a server may be silent until it counts as gone.
pub const LEASE: Duration = Duration::from_secs(6);

/// A server that serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Present {
    /// Where it answers.
    pub address: SocketAddr,
    /// The node that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Says that a server is there until `shutdown`, and takes it back then.
pub async fn announce(store: EtcdStore, server: Present, shutdown: CancellationToken) {
    let mut told = false;
    while !shutdown.is_cancelled() {
        let work = shutdown.run_until_cancelled(stay(&store, &server));
        if let Some(Err(error)) = work.await
            && !std::mem::replace(&mut told, true)
        {
            tracing::warn!("other servers cannot be told of this one: {error}");
        }
        shutdown.run_until_cancelled(sleep(LEASE / 6)).await;
    }
}

/// Puts the key and keeps it, until its lease is lost.
async fn stay(store: &EtcdStore, server: &Present) -> Result<(), StoreError> {
    let calls = store.calls();
    let lease = calls.grant(LEASE).await?.id();
    // Given back when this future is dropped, too: the key goes with it at once.
    let _held = Held {
        store: store.clone(),
        lease,
    };
    let key = store.full(&format!("{SERVERS}{}", server.address));
    let value = serde_json::to_vec(server).unwrap_or_default();
    let options = PutOptions::new().with_lease(lease);
    let put = TxnOp::put(key.as_str(), value, Some(options));
    calls.write(Txn::new().and_then([put])).await?;
    loop {
        sleep(LEASE / 3).await;
        let mut client = calls.client();
        match timeout(LEASE / 3, client.lease_keep_alive(lease)).await {
            Err(_) | Ok(Ok(_)) => {}
            Ok(Err(etcd_client::Error::LeaseKeepAliveError(_))) => return Ok(()),
            Ok(Err(error)) => tracing::debug!("this server's presence is not renewed: {error}"),
        }
    }
}

/// A lease that is given back.
struct Held {
    store: EtcdStore,
    lease: i64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let (calls, lease) = (self.store.calls().clone(), self.lease);
        tokio::spawn(async move { calls.revoke(lease).await });
    }
}

/// Who is there, by address.
///
/// # Errors
///
/// The store's.
pub async fn read(store: &dyn Store) -> Result<(Vec<Present>, u64), StoreError> {
    let request = ListRequest {
        prefix: SERVERS.to_owned(),
        ..ListRequest::default()
    };
    let page = store.list(request).await?;
    let values = page.entries.iter().map(|entry| &entry.value);
    // What a later berth wrote and this one cannot read is not told.
    let mut servers: Vec<Present> = values.filter_map(read_one).collect();
    servers.sort();
    Ok((servers, page.revision))
}

/// Waits until somebody came or went after a revision.
///
/// # Errors
///
/// The store's: look again.
pub async fn changed(store: &dyn Store, after: u64) -> Result<(), StoreError> {
    let mut changes = store.watch(SERVERS, after).await?;
    while let Some(change) = changes.next().await {
        if !matches!(change?, Change::Progress { .. }) {
            return Ok(());
        }
    }
    Ok(())
}

fn read_one(value: &Bytes) -> Option<Present> {
    serde_json::from_slice(value).ok()
}
