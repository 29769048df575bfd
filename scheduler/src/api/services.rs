//! What Services hold: addresses and node ports, each given once, whatever server gives it.
//!
//! Each address and each node port in use has a key of its own below `/registry/berth/allotted/`,
//! made only if it is absent. So two servers on one store cannot give the same one twice, and the
//! set in memory is only a hint where to look for a free one.
//!
//! A server that dies between the key and its Service leaves a key without a Service. A sweep
//! takes such keys back once they are older than any request can last.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::Value;

use crate::{
    api::{
        Api,
        allocate::{Pool, Used, service},
        cache::store_error,
        error::ApiError,
        kind::{Kind, by_plural},
        object,
        write::{Mode, Place},
    },
    store::{Expected, ListRequest, StoreError},
};

/// Where the keys are.
const PREFIX: &str = "/registry/berth/allotted/";
/// How often another address is tried where the first was just taken by another server.
const ATTEMPTS: usize = 32;
/// How long a key may be without its Service: longer than a request can last.
const ORPHAN_AGE: Duration = Duration::from_secs(120);

/// What is free, as far as this server knows.
#[derive(Debug)]
pub struct Services {
    pool: Pool,
    used: Mutex<Used>,
    /// Keys that were seen without a Service, and since when.
    orphans: Mutex<HashMap<String, Instant>>,
}

/// Keys that one request made; they are given back if its object is not written.
#[derive(Debug, Default)]
#[must_use]
pub struct Allotted {
    keys: Vec<String>,
}

impl Services {
    /// Nothing is in use yet; [`Services::sweep`] reads what is.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            used: Mutex::default(),
            orphans: Mutex::default(),
        }
    }

    /// Fills in a Service's addresses and ports and takes hold of them. Other kinds pass.
    ///
    /// # Errors
    ///
    /// 422 where an address or port that was asked for is taken, outside of the ranges, or all are taken.
    pub async fn allot(
        &self,
        api: &Api,
        place: &Place,
        value: &mut Value,
        before: Option<&Value>,
        mode: Mode,
    ) -> Result<Allotted, ApiError> {
        if !is_service(place.kind) {
            return Ok(Allotted::default());
        }
        let held: BTreeSet<String> = before.map(keys_of).unwrap_or_default();
        for _ in 0..ATTEMPTS {
            let mut tried = value.clone();
            let others = self.used_by_others(before);
            service::complete(&self.pool, &others, &mut tried, before, rand::random())
                .map_err(|errors| ApiError::invalid(place.kind, &place.name, &errors))?;
            let wanted: Vec<String> = keys_of(&tried).difference(&held).cloned().collect();
            let owner = format!("{}/{}", place.namespace, object::name(value));
            if mode == Mode::DryRun || self.take(api, &wanted, &owner).await? {
                *value = tried;
                let keys = if mode == Mode::DryRun {
                    Vec::new()
                } else {
                    wanted
                };
                return Ok(Allotted { keys });
            }
        }
        Err(ApiError::too_many_requests(
            "other requests took every address that was tried",
            1,
        ))
    }

    /// Takes hold of all keys or of none; false if somebody has one of them.
    async fn take(&self, api: &Api, keys: &[String], owner: &str) -> Result<bool, ApiError> {
        for (count, key) in keys.iter().enumerate() {
            let value = Bytes::from(serde_json::json!({ "service": owner }).to_string());
            let failure = match api
                .store
                .put(&format!("{PREFIX}{key}"), value, Expected::Absent)
                .await
            {
                Ok(_) => {
                    self.note(key);
                    continue;
                }
                Err(StoreError::Conflict { .. }) => None,
                Err(error) => Some(store_error(error)),
            };
            self.note(key);
            self.give_back(
                api,
                Allotted {
                    keys: keys[..count].to_vec(),
                },
            )
            .await;
            return failure.map_or(Ok(false), Err);
        }
        Ok(true)
    }

    /// Gives back what a request took whose object was not written.
    pub async fn give_back(&self, api: &Api, allotted: Allotted) {
        self.remove(api, allotted.keys).await;
    }

    /// Gives back what a Service held and, if there is a next state, does not hold any more.
    pub async fn free(&self, api: &Api, kind: &'static Kind, before: &Value, next: Option<&Value>) {
        if is_service(kind) {
            let kept = next.map(keys_of).unwrap_or_default();
            self.remove(api, keys_of(before).difference(&kept).cloned().collect())
                .await;
        }
    }

    async fn remove(&self, api: &Api, keys: Vec<String>) {
        for key in keys {
            match api
                .store
                .delete(&format!("{PREFIX}{key}"), Expected::Anything)
                .await
            {
                Ok(_) | Err(StoreError::NotFound { .. }) => self.forget(&key),
                // The sweep takes it back later.
                Err(error) => tracing::warn!(%error, key, "an address could not be given back yet"),
            }
        }
    }

    /// Reads which keys there are, and takes back those that no Service holds.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn sweep(&self, api: &Api) -> Result<(), ApiError> {
        let request = ListRequest {
            prefix: PREFIX.into(),
            ..ListRequest::default()
        };
        let page = api.store.list(request).await.map_err(store_error)?;
        let kind = by_plural("", "services")
            .ok_or_else(|| ApiError::internal("services are not served"))?;
        let request = ListRequest {
            prefix: kind.prefix(),
            ..ListRequest::default()
        };
        let services = api.store.list(request).await.map_err(store_error)?;
        let mut held = BTreeSet::new();
        for entry in &services.entries {
            held.extend(keys_of(&object::decode(entry)?));
        }
        let found: BTreeSet<String> = page
            .entries
            .iter()
            .filter_map(|entry| entry.key.strip_prefix(PREFIX))
            .map(str::to_owned)
            .collect();
        let old = self.old_orphans(found.difference(&held));
        let mut used = Used::default();
        found.union(&held).for_each(|key| note_in(&mut used, key));
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = used;
        self.remove(api, old).await;
        Ok(())
    }

    /// Notes keys without a Service; returns those that have been so for long.
    fn old_orphans<'a>(&self, now: impl Iterator<Item = &'a String>) -> Vec<String> {
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        let seen: HashMap<String, Instant> = now
            .map(|key| {
                (
                    key.clone(),
                    orphans.get(key).copied().unwrap_or_else(Instant::now),
                )
            })
            .collect();
        *orphans = seen;
        orphans
            .iter()
            .filter(|(_, since)| since.elapsed() > ORPHAN_AGE)
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn used_by_others(&self, before: Option<&Value>) -> Used {
        let mut used = self
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let own = before
            .map(|before| Used::of(std::iter::once(before)))
            .unwrap_or_default();
        used.addresses
            .retain(|address| !own.addresses.contains(address));
        used.node_ports
            .retain(|port| !own.node_ports.contains(port));
        used
    }

    fn note(&self, key: &str) {
        note_in(
            &mut self.used.lock().unwrap_or_else(PoisonError::into_inner),
            key,
        );
    }

    fn forget(&self, key: &str) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        match key.split_once('_') {
            Some((protocol, port)) => {
                if let Ok(port) = port.parse() {
                    used.node_ports.remove(&(protocol.to_owned(), port));
                }
            }
            None => {
                if let Ok(address) = key.parse() {
                    used.addresses.remove(&address);
                }
            }
        }
    }
}

fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.kind == "Service"
}

/// `10.211.0.7` for an address, `TCP_30080` for a node port.
fn keys_of(service: &Value) -> BTreeSet<String> {
    let used = Used::of(std::iter::once(service));
    let addresses = used.addresses.iter().map(ToString::to_string);
    let ports = used
        .node_ports
        .iter()
        .map(|(protocol, port)| format!("{protocol}_{port}"));
    addresses.chain(ports).collect()
}

fn note_in(used: &mut Used, key: &str) {
    match key.split_once('_') {
        Some((protocol, port)) => {
            if let Ok(port) = port.parse() {
                used.node_ports.insert((protocol.to_owned(), port));
            }
        }
        None => {
            if let Ok(address) = key.parse() {
                used.addresses.insert(address);
            }
        }
    }
}
