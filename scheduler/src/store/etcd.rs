//! The store of a cluster with several servers: etcd, which has the manners that the trait asks for.
//!
//! Keys lie below `/berth`. A write is one transaction: *if the key's modification revision is
//! this, then put, else tell me what is there*. Reads are linearizable: they see every write that
//! was acknowledged before, whichever member answers.
//!
//! One watch over everything, the [`feed`], fills the hub of this server, and all its watchers live
//! from that; who resumes from further back than the hub remembers gets a short watch of his own.
//!
//! **A member that is lost** is not noticed by anybody: calls go to another one ([`calls`]), and
//! the feed opens its watch again behind the last revision that it told. Only when no member
//! answers for as long as [`EtcdConfig::patience`] do calls and watches fail.
//!
//! **An answer that is lost** leaves open whether the write happened. It is tried again, and where
//! the second try finds exactly the value that the first one wrote, that was the first try.
//! Objects carry a uid and a time, so nobody else writes the same bytes.
//!
//! Read more: etcd's "API guarantees"; "KV API: transactions" for what `compare` can see.

/// One call, on whichever member answers.
pub mod calls;
/// Forgetting history.
pub mod compact;
/// The one watch that feeds the hub.
pub mod feed;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::store::hub::{Hub, RingLimits};
use crate::store::watch::{self, Past, Wanted};
use crate::store::{
    Changes, Entry, Expected, Found, ListRequest, Page, Store, StoreError, VALUE_LIMIT_BYTES,
};
use calls::{Calls, Tried};

/// Which etcd, and what to keep there.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// `host:port`, or a URL, of each member.
    pub endpoints: Vec<String>,
    /// Files to speak TLS with; plain text without.
    pub tls: Option<TlsFiles>,
    /// What stands before every key.
    pub prefix: String,
    /// How long one try of a call may take.
    pub attempt: Duration,
    /// How long no member answers until a call or a watch fails.
    pub patience: Duration,
    /// How long nothing happens on a watch until progress is told.
    pub progress: Duration,
    /// How long history is kept for watches to resume from.
    pub history: Duration,
    /// And how many revisions at most.
    pub history_changes: u64,
    /// The changes that stay in memory for watches that resume.
    pub ring: RingLimits,
}

/// PEM files of the connection to etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who signed the members' certificates.
    pub authority: PathBuf,
    /// Who we are, and the key to prove it; absent if etcd asks nobody.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdConfig {
    /// The defaults for some members.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            tls: None,
            prefix: "/berth".to_owned(),
            attempt: Duration::from_secs(3),
            patience: Duration::from_secs(10),
            progress: Duration::from_secs(5),
            history: Duration::from_secs(600),
            history_changes: 100_000,
            ring: RingLimits::default(),
        }
    }

    /// Reads `etcd://a:2379,b:2379,c:2379`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Invalid`] if it is not that.
    pub fn parse(address: &str) -> Result<Self, StoreError> {
        let invalid = |reason: &str| {
            StoreError::Invalid(format!(
                "store {address:?}: {reason}; expected etcd://HOST:PORT,…"
            ))
        };
        let members = address
            .strip_prefix("etcd://")
            .ok_or_else(|| invalid("no etcd address"))?;
        let endpoints: Vec<String> = members.split(',').map(str::to_owned).collect();
        for endpoint in &endpoints {
            let (host, port) = endpoint
                .rsplit_once(':')
                .ok_or_else(|| invalid("a member without port"))?;
            if host.is_empty() || port.parse::<u16>().is_err() {
                return Err(invalid("a member is no HOST:PORT"));
            }
        }
        Ok(Self::new(endpoints))
    }
}

/// The leader key of a term: it was created at this revision and not since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The key, with the prefix.
    pub key: String,
    /// The revision that created it.
    pub created: u64,
}

/// See the module. A clone is the same store.
#[derive(Clone)]
pub struct EtcdStore {
    calls: Calls,
    hub: Arc<Hub>,
    past: Arc<feed::Watches>,
    config: EtcdConfig,
    /// What each write has to prove.
    fence: Option<Fence>,
    /// Ends the feed and the compaction with the last clone.
    _tasks: Arc<DropGuard>,
}

impl EtcdStore {
    /// Connects, and begins to follow everything below the prefix.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if no member answers within the patience;
    /// [`StoreError::Invalid`] for addresses and files that cannot be used.
    pub async fn open(config: EtcdConfig) -> Result<Self, StoreError> {
        let calls = Calls::connect(&config).await?;
        let revision = calls.revision().await?;
        let hub = Arc::new(Hub::new(config.ring, revision));
        let shutdown = CancellationToken::new();
        let past = Arc::new(feed::Watches::new(calls.clone(), &config));
        tokio::spawn(feed::run(
            Arc::clone(&past),
            Arc::clone(&hub),
            shutdown.clone(),
        ));
        tokio::spawn(compact::run(
            calls.clone(),
            config.clone(),
            shutdown.clone(),
        ));
        let _tasks = Arc::new(shutdown.drop_guard());
        Ok(Self {
            calls,
            hub,
            past,
            config,
            fence: None,
            _tasks,
        })
    }

    /// The connection, for an election among the servers.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The same store for a leader's writes: etcd refuses them when the leader is another one.
    pub fn fenced(&self, fence: Fence) -> Self {
        Self {
            fence: Some(fence),
            ..self.clone()
        }
    }

    /// A key as etcd has it.
    pub fn full(&self, key: &str) -> String {
        format!("{}{key}", self.config.prefix)
    }

    fn entry(&self, found: &KeyValue) -> Result<Entry, StoreError> {
        entry_of(&self.config.prefix, found)
    }

    /// What must hold for a write to happen.
    fn conditions(&self, key: &str, expected: Expected) -> Vec<Compare> {
        let mut conditions: Vec<Compare> = compare(key, expected).into_iter().collect();
        conditions.extend(self.fence.as_ref().map(Fence::compare));
        conditions
    }

    /// What to read where it does not hold: the key, and the fence.
    fn reasons(&self, get: TxnOp) -> Vec<TxnOp> {
        let fence = self
            .fence
            .as_ref()
            .map(|fence| TxnOp::get(fence.key.as_str(), None));
        std::iter::once(get).chain(fence).collect()
    }

    /// Refuses if the write failed because another server leads.
    fn check_fence(&self, answer: &TxnResponse) -> Result<(), StoreError> {
        let Some(fence) = self.fence.as_ref().filter(|_| !answer.succeeded()) else {
            return Ok(());
        };
        let stands = answer
            .op_responses()
            .into_iter()
            .any(|operation| match operation {
                TxnOpResponse::Get(found) => found.kvs().iter().any(|found| {
                    found.key() == fence.key.as_bytes()
                        && revision_of(found.create_revision()) == fence.created
                }),
                _ => false,
            });
        if stands {
            return Ok(());
        }
        let term = fence.created;
        Err(StoreError::Unavailable(format!(
            "this server leads no longer (its term was {term})"
        )))
    }

    /// What stands in the answer of the `else` branch: one range with at most one key.
    fn current(&self, answer: &TxnResponse) -> Result<Option<Entry>, StoreError> {
        for operation in answer.op_responses() {
            if let TxnOpResponse::Get(found) = operation {
                return found
                    .kvs()
                    .first()
                    .map(|found| self.entry(found))
                    .transpose();
            }
        }
        Ok(None)
    }
}

impl Fence {
    fn compare(&self) -> Compare {
        let created = i64::try_from(self.created).unwrap_or(i64::MAX);
        Compare::create_revision(self.key.as_str(), CompareOp::Equal, created)
    }
}

/// Whether a key is as expected, as etcd compares it. Revision 0 means that there is none.
fn compare(key: &str, expected: Expected) -> Option<Compare> {
    let modified = match expected {
        Expected::Anything => return None,
        Expected::Absent => 0,
        Expected::Revision(revision) => i64::try_from(revision).unwrap_or(i64::MAX),
    };
    Some(Compare::mod_revision(key, CompareOp::Equal, modified))
}

/// An entry as etcd holds it, without our prefix.
fn entry_of(prefix: &str, found: &KeyValue) -> Result<Entry, StoreError> {
    let foreign = || StoreError::Unavailable("etcd holds a key that is no text".to_owned());
    let key = std::str::from_utf8(found.key()).map_err(|_| foreign())?;
    Ok(Entry {
        key: key.strip_prefix(prefix).unwrap_or(key).to_owned(),
        value: Bytes::copy_from_slice(found.value()),
        created: revision_of(found.create_revision()),
        modified: revision_of(found.mod_revision()),
    })
}

/// etcd's revisions are signed and never negative.
fn revision_of(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The first key behind all those with a prefix.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[async_trait]
impl Store for EtcdStore {
    async fn read(&self, key: &str) -> Result<Found, StoreError> {
        let key = self.full(key);
        let answer = self.calls.read(key.as_str(), GetOptions::new()).await?;
        Ok(Found {
            revision: calls::revision_in(answer.header()),
            entry: answer
                .kvs()
                .first()
                .map(|found| self.entry(found))
                .transpose()?,
        })
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StoreError> {
        let start = match request.after.as_deref() {
            // The smallest key behind K is K and a zero byte.
            Some(after) if after >= request.prefix.as_str() => self.full(after) + "\0",
            _ => self.full(&request.prefix),
        };
        let end = end_of(&self.full(&request.prefix));
        if start.as_bytes() >= end.as_slice() {
            // Nothing can be behind the last key; etcd calls such a range an error.
            let revision = self.calls.revision().await?;
            let revision = request.revision.unwrap_or(revision);
            return Ok(Page {
                entries: Vec::new(),
                revision,
                remaining: 0,
                more: false,
            });
        }
        let at = request.revision.unwrap_or(0);
        let options = GetOptions::new()
            .with_range(end)
            .with_revision(i64::try_from(at).unwrap_or(i64::MAX))
            .with_limit(
                request
                    .limit
                    .and_then(|limit| i64::try_from(limit).ok())
                    .unwrap_or(0),
            )
            .with_sort(SortTarget::Key, SortOrder::None);
        let answer =
            self.calls
                .read(start.as_str(), options)
                .await
                .map_err(|error| match error {
                    StoreError::Compacted { .. } => StoreError::Compacted {
                        asked: at,
                        oldest: at + 1,
                    },
                    StoreError::Ahead { current, .. } => StoreError::Ahead { asked: at, current },
                    other => other,
                })?;
        let entries = answer
            .kvs()
            .iter()
            .map(|found| self.entry(found))
            .collect::<Result<Vec<_>, _>>()?;
        let remaining = revision_of(answer.count()).saturating_sub(entries.len() as u64);
        let current = calls::revision_in(answer.header());
        Ok(Page {
            entries,
            revision: request.revision.unwrap_or(current),
            remaining,
            more: remaining > 0,
        })
    }

    async fn put(&self, key: &str, value: Bytes, expected: Expected) -> Result<Entry, StoreError> {
        if value.len() > VALUE_LIMIT_BYTES {
            let (key, bytes) = (key.to_owned(), value.len());
            return Err(StoreError::TooLarge {
                key,
                bytes,
                limit: VALUE_LIMIT_BYTES,
            });
        }
        let full = self.full(key);
        let put = TxnOp::put(full.as_str(), value.to_vec(), None);
        let get = TxnOp::get(full.as_str(), None);
        // The read behind the put, in the same transaction, tells the revision of creation.
        let txn = Txn::new()
            .when(self.conditions(&full, expected))
            .and_then([put, get.clone()])
            .or_else(self.reasons(get));
        let Tried { answer, twice } = self.calls.write(txn).await?;
        self.check_fence(&answer)?;
        let current = self.current(&answer)?;
        match current {
            Some(entry) if answer.succeeded() => Ok(entry),
            Some(entry) if twice && entry.value == value => Ok(entry),
            current => Err(StoreError::Conflict {
                key: key.to_owned(),
                current: current.map(Box::new),
            }),
        }
    }

    async fn delete(&self, key: &str, expected: Expected) -> Result<Entry, StoreError> {
        let full = self.full(key);
        let get = TxnOp::get(full.as_str(), None);
        let txn = Txn::new()
            .when(self.conditions(&full, expected))
            .and_then([get.clone(), TxnOp::delete(full.as_str(), None)])
            .or_else(self.reasons(get));
        let Tried { answer, twice } = self.calls.write(txn).await?;
        self.check_fence(&answer)?;
        let revision = calls::revision_in(answer.header());
        match self.current(&answer)? {
            Some(before) if answer.succeeded() => Ok(Entry {
                modified: revision,
                ..before
            }),
            Some(other) => Err(StoreError::Conflict {
                key: key.to_owned(),
                current: Some(Box::new(other)),
            }),
            None if twice => Err(StoreError::Unavailable(format!(
                "an answer was lost; {key} is gone, and whether by this call is not known"
            ))),
            None => Err(StoreError::NotFound {
                key: key.to_owned(),
            }),
        }
    }

    async fn watch(&self, prefix: &str, after_revision: u64) -> Result<Changes, StoreError> {
        let current = self.hub.published();
        if after_revision > current {
            // The feed may be a little behind a list that went straight to etcd.
            let current = self.calls.revision().await?;
            if after_revision > current {
                return Err(StoreError::Ahead {
                    asked: after_revision,
                    current,
                });
            }
        }
        self.past.check(after_revision, &self.hub).await?;
        let wanted = Wanted {
            prefix: prefix.to_owned(),
            after: after_revision,
            progress: self.config.progress,
        };
        let past: Arc<dyn Past> = self.past.clone();
        watch::watch(Arc::clone(&self.hub), Arc::downgrade(&past), wanted)
    }
}

#[cfg(test)]
mod tests;
