//! The register of nodes' certificates: what was issued to whom, and what is refused
//! although it is in date.
//!
//! It is one ConfigMap, `berth-certificates` in `kube-system`: a key a certificate
//! (its serial number), so two servers that write at once do not overwrite each other.
//! A node that is removed is written down there, and every server refuses its
//! certificates from the moment it reads that.
//!
//! A certificate that the register does not know is let in: it was signed by the
//! authority, and a server may not have read yet what another one wrote a moment ago.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use super::TrustError;
use super::credential::Subject;
use super::tokens::NAMESPACE;
use crate::waits::WatchWaits;

/// The ConfigMap's name.
pub const NAME: &str = "berth-certificates";

/// One certificate of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Whose.
    pub node: String,
    /// Until when it matters.
    pub expires: Timestamp,
    /// The uid of the Node that was seen with it: when that Node is gone, it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Since when it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

/// What this process has read of the register.
#[derive(Debug, Default)]
pub struct Register {
    records: RwLock<HashMap<String, Record>>,
    changes: watch::Sender<()>,
}

impl Register {
    /// Nothing read yet.
    pub fn new() -> Arc<Register> {
        Arc::new(Register::default())
    }

    /// Whether a certificate is refused.
    pub fn is_revoked(&self, serial: &str) -> bool {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        records
            .get(serial)
            .is_some_and(|record| record.revoked.is_some())
    }

    /// Waits until a certificate is refused.
    pub async fn revoked(&self, serial: &str) {
        let mut changes = self.changes.subscribe();
        while !self.is_revoked(serial) {
            if changes.changed().await.is_err() {
                // The sender is ours: it is here as long as we are.
                return;
            }
        }
    }

    fn take(&self, map: &ConfigMap) {
        let read = map.data.iter().flatten().filter_map(|(serial, text)| {
            let record = serde_json::from_str(text).ok()?;
            Some((serial.clone(), record))
        });
        let records = read.collect();
        *self.records.write().unwrap_or_else(PoisonError::into_inner) = records;
        self.changes.send_replace(());
    }

    fn revoke_here(&self, serials: &[String], now: Timestamp) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        for serial in serials {
            if let Some(record) = records.get_mut(serial) {
                record.revoked = Some(now);
            }
        }
        drop(records);
        self.changes.send_replace(());
    }
}

/// Writes a new certificate down; the older ones of the same node are refused where
/// the caller says so (a join), and hold on where not (a renewal).
///
/// # Errors
///
/// [`TrustError::Api`].
pub async fn record(
    client: &kube::Client,
    node: &str,
    subject: &Subject,
    older: Older,
) -> Result<(), TrustError> {
    let maps = ensure(client).await?;
    if older == Older::Refused {
        revoke(client, &Register::new(), node).await?;
    }
    let expires = Timestamp::try_from(subject.not_after).unwrap_or(Timestamp::MAX);
    let record = Record {
        node: node.to_owned(),
        expires,
        uid: None,
        revoked: None,
    };
    write(&maps, [(subject.serial.clone(), Some(record))]).await
}

/// Whether the register says now that a certificate is refused.
///
/// # Errors
///
/// [`TrustError::Api`].
pub async fn is_revoked(client: &kube::Client, serial: &str) -> Result<bool, TrustError> {
    let map = ensure(client).await?.get(NAME).await?;
    let found = records(&map).find(|(known, _)| known == serial);
    Ok(found.is_some_and(|(_, record)| record.revoked.is_some()))
}

/// What becomes of a node's older certificates when it gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Older {
    /// They hold to their end: the node renews and uses the old one a little longer.
    Held,
    /// They are refused: another machine may have had them.
    Refused,
}

/// Has every certificate of a node refused, here at once and elsewhere when they read it.
///
/// # Errors
///
/// [`TrustError::Api`].
pub async fn revoke(
    client: &kube::Client,
    register: &Register,
    node: &str,
) -> Result<usize, TrustError> {
    let maps = ensure(client).await?;
    let map = maps.get(NAME).await?;
    let now = Timestamp::now();
    let changes: Vec<(String, Option<Record>)> = records(&map)
        .filter(|(_, record)| record.node == node && record.revoked.is_none())
        .map(|(serial, record)| {
            let revoked = Some(now);
            (serial, Some(Record { revoked, ..record }))
        })
        .collect();
    let serials: Vec<String> = changes.iter().map(|(serial, _)| serial.clone()).collect();
    write(&maps, changes).await?;
    register.take(&map);
    register.revoke_here(&serials, now);
    Ok(serials.len())
}

/// Keeps what this process knows of the register up to date, for ever.
pub async fn follow(client: kube::Client, register: Arc<Register>) {
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let only = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let mut changes = watcher(maps, only).backoff(WatchWaits::default()).boxed();
    while let Some(change) = changes.next().await {
        match change {
            Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) => register.take(&map),
            Ok(_) => {}
            Err(error) => tracing::debug!("watch the register of certificates: {error}"),
        }
    }
}

/// Has the certificates of removed Nodes refused, for ever; one server does it, the leader.
///
/// A Node that went while nobody looked is noticed at the start: its certificates
/// carry the uid of a Node that is not there.
pub async fn tend(client: kube::Client, register: Arc<Register>) {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut changes = watcher(nodes, watcher::Config::default())
        .backoff(WatchWaits::default())
        .boxed();
    let mut here: HashMap<String, String> = HashMap::new();
    let mut listed: HashMap<String, String> = HashMap::new();
    while let Some(change) = changes.next().await {
        let identity = |node: &Node| {
            let metadata = node.metadata.clone();
            metadata.name.zip(metadata.uid)
        };
        let outcome = match change {
            Ok(watcher::Event::Init) => {
                listed.clear();
                Ok(())
            }
            Ok(watcher::Event::InitApply(node)) => {
                listed.extend(identity(&node));
                Ok(())
            }
            Ok(watcher::Event::InitDone) => {
                here = std::mem::take(&mut listed);
                reconcile(&client, &register, &here).await
            }
            Ok(watcher::Event::Apply(node)) => match identity(&node) {
                Some((name, uid)) if here.get(&name) != Some(&uid) => {
                    here.insert(name, uid);
                    reconcile(&client, &register, &here).await
                }
                _ => Ok(()),
            },
            Ok(watcher::Event::Delete(node)) => match identity(&node) {
                Some((name, _)) => {
                    here.remove(&name);
                    revoke(&client, &register, &name).await.map(drop)
                }
                None => Ok(()),
            },
            Err(error) => {
                tracing::debug!("watch nodes for their certificates: {error}");
                Ok(())
            }
        };
        if let Err(error) = outcome {
            let chain = berth_runtime::causes::chain(&error);
            tracing::warn!("tend the register of certificates: {chain}");
        }
    }
}

async fn reconcile(
    client: &kube::Client,
    register: &Register,
    here: &HashMap<String, String>,
) -> Result<(), TrustError> {
    let maps = ensure(client).await?;
    let map = maps.get(NAME).await?;
    let changes: Vec<_> = plan_changes(records(&map), here, Timestamp::now());
    if changes.is_empty() {
        register.take(&map);
        return Ok(());
    }
    write(&maps, changes).await?;
    register.take(&maps.get(NAME).await?);
    Ok(())
}

/// What is to be written: uids of Nodes that are seen, ends of those that are gone,
/// nothing more of what is out of date.
fn plan_changes(
    records: impl Iterator<Item = (String, Record)>,
    here: &HashMap<String, String>,
    now: Timestamp,
) -> Vec<(String, Option<Record>)> {
    records
        .filter_map(|(serial, record)| {
            if record.expires < now {
                return Some((serial, None));
            }
            if record.revoked.is_some() {
                return None;
            }
            let uid = here.get(&record.node).cloned();
            let change = match (&record.uid, uid) {
                (None, Some(uid)) => Record {
                    uid: Some(uid),
                    ..record
                },
                (Some(seen), found) if found.as_ref() != Some(seen) => Record {
                    revoked: Some(now),
                    ..record
                },
                _ => return None,
            };
            Some((serial, Some(change)))
        })
        .collect()
}

fn records(map: &ConfigMap) -> impl Iterator<Item = (String, Record)> {
    let data = map.data.iter().flatten();
    data.filter_map(|(serial, text)| Some((serial.clone(), serde_json::from_str(text).ok()?)))
}

async fn ensure(client: &kube::Client) -> Result<Api<ConfigMap>, TrustError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    if maps.get_opt(NAME).await?.is_none() {
        let mut empty = ConfigMap::default();
        empty.metadata.name = Some(NAME.to_owned());
        match maps.create(&PostParams::default(), &empty).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            outcome => drop(outcome?),
        }
    }
    Ok(maps)
}

/// Writes single records: a merge patch leaves what others write meanwhile.
async fn write(
    maps: &Api<ConfigMap>,
    changes: impl IntoIterator<Item = (String, Option<Record>)>,
) -> Result<(), TrustError> {
    let mut data = serde_json::Map::new();
    for (serial, record) in changes {
        let text = record.map(|record| json!(record).to_string());
        data.insert(serial, json!(text));
    }
    if data.is_empty() {
        return Ok(());
    }
    let patch = Patch::Merge(json!({ "data": data }));
    maps.patch(NAME, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Whether a certificate is in date; rustls looks only when a connection is made.
pub fn is_in_date(subject: &Subject, now: SystemTime) -> bool {
    subject.not_before <= now && now < subject.not_after
}

#[cfg(test)]
mod tests;
