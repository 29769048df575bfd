//! Who runs the controllers, among servers that share a store.
//!
//! Every server serves the API; one *leads* and runs controllers and placement. With the embedded
//! store there is one server, and it leads ([`Sole`]). With etcd the servers campaign for a key
//! that hangs on a lease ([`EtcdElection`]):
//!
//! ```text
//!   campaign: put leader = NAME if absent, with lease -> reign
//!             else wait until the key is deleted, then again
//!   reign:    renew the lease every third of its time
//!             not renewed for a lease's time, or the key gone -> lost
//! ```
//!
//! The time of a lease is counted here from when a renewal was *sent*, by etcd from when it
//! *arrived*. So a leader that is cut off knows that it has lost before etcd lets another one in,
//! as long as both clocks run equally fast. A process that was frozen in between (a stopped
//! virtual machine) wakes up late all the same, and may have a write under way: that is what
//! the *fence* is for. [`EtcdStore::fenced`] adds to each write "and the leader key is still the
//! one of my term", so that etcd refuses the writes of a leader of the past.

use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use futures::StreamExt;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::store::etcd::calls::revision_in;
use crate::store::etcd::{EtcdStore, Fence};
use crate::store::{Change, Changes, SharedStore, Store, StoreError};

/// The key that the leader holds, below the store's prefix. It is no object of the API.
const LEADER_KEY: &str = "/election/leader";

/// How long the leader may be silent until another one is let in.
pub const LEASE: Duration = Duration::from_secs(6);

/// A way to become the leader.
#[async_trait]
pub trait Election: Send + Sync + 'static {
    /// Waits until this server leads.
    ///
    /// # Errors
    ///
    /// The store's. Campaign again.
    async fn campaign(&self) -> Result<Reign, StoreError>;

    /// The name of the server that leads, if one does.
    ///
    /// # Errors
    ///
    /// The store's.
    async fn leader(&self) -> Result<Option<String>, StoreError>;
}

/// The time of one leader.
pub struct Reign {
    /// Rises with each leader.
    pub term: u64,
    /// Cancelled when this server leads no longer: stop at once, then campaign again.
    pub lost: CancellationToken,
    /// What a write has to prove, with etcd.
    pub fence: Option<Fence>,
    /// The store as the leader writes to it, with etcd: behind the fence.
    pub store: Option<SharedStore>,
    lease: Option<(EtcdStore, i64)>,
}

impl Reign {
    /// A reign that nothing but its holder ends.
    pub fn new(term: u64, store: Option<SharedStore>) -> Reign {
        Reign {
            term,
            lost: CancellationToken::new(),
            fence: None,
            store,
            lease: None,
        }
    }

    /// Lets another server lead without waiting for the lease to end.
    pub async fn resign(mut self) {
        self.lost.cancel();
        if let Some((store, lease)) = self.lease.take() {
            store.calls().revoke(lease).await;
        }
    }
}

impl Drop for Reign {
    fn drop(&mut self) {
        // Ends the renewal: who forgot his reign shall not hold it.
        self.lost.cancel();
    }
}

/// The only server there is.
pub struct Sole {
    name: String,
}

impl Sole {
    /// It leads, by this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

#[async_trait]
impl Election for Sole {
    async fn campaign(&self) -> Result<Reign, StoreError> {
        Ok(Reign::new(1, None))
    }

    async fn leader(&self) -> Result<Option<String>, StoreError> {
        Ok(Some(self.name.clone()))
    }
}

/// One of several servers with one etcd.
pub struct EtcdElection {
    store: EtcdStore,
    name: String,
    lease: Duration,
}

impl EtcdElection {
    /// A candidate with a name that no other server has. etcd counts leases in whole seconds.
    pub fn new(store: EtcdStore, name: impl Into<String>, lease: Duration) -> Self {
        Self {
            store,
            name: name.into(),
            lease,
        }
    }

    /// Tries once; `None` if somebody else leads.
    async fn stand(&self) -> Result<Option<Reign>, StoreError> {
        let calls = self.store.calls();
        let asked = Instant::now();
        let granted = calls.grant(self.lease).await?;
        let lease = granted.id();
        let time = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
        let key = self.store.full(LEADER_KEY);
        let put = TxnOp::put(
            key.as_str(),
            self.name.as_str(),
            Some(PutOptions::new().with_lease(lease)),
        );
        let txn = Txn::new()
            .when([Compare::create_revision(key.as_str(), CompareOp::Equal, 0)])
            .and_then([put, TxnOp::get(key.as_str(), None)])
            .or_else([TxnOp::get(key.as_str(), None)]);
        let tried = calls.write(txn).await?;
        let Some(term) = term_of(&tried.answer, lease) else {
            calls.revoke(lease).await;
            return Ok(None);
        };
        let after = revision_in(tried.answer.header());
        let changes = self.store.watch(LEADER_KEY, after).await?;
        let lost = CancellationToken::new();
        let tenure = Tenure {
            store: self.store.clone(),
            lease,
            time,
            since: asked,
        };
        tokio::spawn(tenure.keep(changes, lost.clone()));
        let fence = Fence { key, created: term };
        let fenced = self.store.fenced(fence.clone());
        Ok(Some(Reign {
            term,
            lost,
            fence: Some(fence),
            store: Some(std::sync::Arc::new(fenced)),
            lease: Some((self.store.clone(), lease)),
        }))
    }

    /// Waits until the key of another leader is deleted.
    async fn wait_for_vacancy(&self) -> Result<(), StoreError> {
        let found = self.store.read(LEADER_KEY).await?;
        if found.entry.is_none() {
            return Ok(());
        }
        let mut changes = self.store.watch(LEADER_KEY, found.revision).await?;
        while let Some(change) = changes.next().await {
            if matches!(change?, Change::Deleted { .. }) {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Election for EtcdElection {
    async fn campaign(&self) -> Result<Reign, StoreError> {
        loop {
            if let Some(reign) = self.stand().await? {
                tracing::info!("{} leads, term {}", self.name, reign.term);
                return Ok(reign);
            }
            self.wait_for_vacancy().await?;
        }
    }

    async fn leader(&self) -> Result<Option<String>, StoreError> {
        let found = self.store.read(LEADER_KEY).await?;
        Ok(found
            .entry
            .map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
    }
}

/// The leader key's revision of creation if it hangs on our lease. (Also when the answer to the
/// first try was lost, and the second found the key there: then it is ours.)
fn term_of(answer: &etcd_client::TxnResponse, lease: i64) -> Option<u64> {
    answer
        .op_responses()
        .into_iter()
        .find_map(|operation| match operation {
            TxnOpResponse::Get(found) => {
                let found = found.kvs().iter().find(|found| found.lease() == lease)?;
                u64::try_from(found.create_revision()).ok()
            }
            _ => None,
        })
}

/// What keeps a reign up.
struct Tenure {
    store: EtcdStore,
    lease: i64,
    time: Duration,
    /// When the renewal was sent that was acknowledged last.
    since: Instant,
}

impl Tenure {
    async fn keep(mut self, changes: Changes, lost: CancellationToken) {
        tokio::select! {
            () = self.renew() => {}
            () = until_deleted(changes) => {}
            () = lost.cancelled() => {}
        }
        lost.cancel();
    }

    /// Renews until the lease's time has passed without an answer, or etcd knows no such lease.
    async fn renew(&mut self) {
        loop {
            let end = self.since + self.time;
            let sent = Instant::now();
            let mut client = self.store.calls().client();
            // Each renewal is a call of its own, so that each may meet another member.
            let limit = end.min(sent + self.time / 3);
            match timeout_at(limit, client.lease_keep_alive(self.lease)).await {
                Ok(Ok(_)) => {
                    self.since = sent;
                    sleep(self.time / 3).await;
                }
                Ok(Err(error)) if is_unknown(&error) => return,
                _ if Instant::now() >= end => return,
                _ => sleep(self.time / 30).await,
            }
        }
    }
}

/// The lease has run out, or somebody revoked it.
fn is_unknown(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::LeaseKeepAliveError(_))
}

/// An operator may delete the key by hand; then another server leads.
async fn until_deleted(mut changes: Changes) {
    loop {
        match changes.next().await {
            Some(Ok(Change::Deleted { .. })) => return,
            Some(Ok(_)) => {}
            // A watch that breaks says nothing about the lease: the renewal will tell.
            Some(Err(_)) | None => std::future::pending().await,
        }
    }
}
