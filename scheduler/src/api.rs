//! The Kubernetes-shaped API: what a cluster is wanted to be and what it is, as objects behind HTTP.
//!
//! Every part of berth (controllers, placement, agents, netd, the command line) and every tool
//! made for Kubernetes meets here. The rules are those of the Kubernetes API conventions:
//! objects with metadata, optimistic concurrency by `resourceVersion`, lists that can be
//! watched from the revision they show.
//!
//! Read more: <https://kubernetes.io/docs/reference/using-api/api-concepts/> and `docs/api.md`.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    placement::priority,
    store::{Expected, SharedStore, StoreError},
};

/// What every object passes on its way into the store.
pub mod admit;
/// Addresses and ports that the cluster hands out to Services.
pub mod allocate;
/// Answers in the form that the client asked for.
pub mod answer;
/// Who may do what.
pub mod authorize;
/// What all readers share: the present, and the last changes of each kind.
pub mod cache;
/// What the API fills in where an object is silent.
pub mod defaults;
/// Deletion: at once, after a grace, or when finalizers let go.
pub mod delete;
/// What went wrong, as Kubernetes' `Status` object.
pub mod error;
/// The two shapes of events.
pub mod events;
/// The API over HTTP.
pub mod http;
/// The kinds that are served: a table, and nothing is served that is not in it.
pub mod kind;
/// Lists and pages: which moment, which objects.
pub mod list;
/// A client without a socket, for parts in the server's own process.
pub mod local;
/// Objects as they pass through: decoded where they change, bytes where they are sent on.
pub mod object;
/// What the API says about itself: discovery and OpenAPI.
pub mod openapi;
/// Pages about the server itself: health, version, metrics, discovery.
pub mod pages;
/// Changes to an object: four kinds of patch, and the book of who owns which field.
pub mod patch;
/// Logs, exec, attach and port-forward, passed on to agents.
pub mod proxy;
/// A request's path and parameters as values.
pub mod request;
/// The types of the served kinds: fields, shapes, ways of merging.
pub mod schema;
/// Which objects of a list are meant: selectors by label and by field.
pub mod selector;
/// What Services hold: addresses and node ports, each given once.
pub mod services;
/// Actions on objects: binding, eviction, scale, the end of a namespace.
pub mod subresources;
/// Objects as rows: what `kubectl get` prints.
pub mod table;
/// What an object must be to be stored.
pub mod validate;
/// Watches: what changes, one client's view of it.
pub mod watch;
/// Bodies in Kubernetes' protocol buffers.
pub mod wire;
/// Creating and changing objects.
pub mod write;

/// Who asks: put into the request's extensions by whoever took the connection.
///
/// With mTLS the user is the certificate's common name and the groups are its organisations.
/// A request without an identity is answered with 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's name, as `system:node:a` or `admin`.
    pub user: String,
    /// The user's groups, as `system:masters`.
    pub groups: Vec<String>,
}

impl Identity {
    /// An identity that may do everything: the server's own parts use it.
    #[must_use]
    pub fn master(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            groups: vec!["system:masters".to_owned()],
        }
    }
}

/// How long Events are kept after they last happened, as kube-apiserver keeps them.
pub const EVENT_LIFE: Duration = Duration::from_hours(1);

/// What can be set, with the defaults that a cluster uses.
#[derive(Clone)]
pub struct ApiConfig {
    /// Addresses and node ports for Services.
    pub pool: allocate::Pool,
    /// How agents are reached.
    pub nodes: Arc<dyn proxy::NodeDialer>,
    /// How long connecting to an agent may take.
    pub dial_timeout: Duration,
    /// How often an idle watch is told how far it is.
    pub bookmark_period: Duration,
    /// How long a watch lasts at least where the client does not say.
    pub watch_timeout: Duration,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long events are kept.
    pub event_ttl: Duration,
    /// How often old events and lost addresses are looked for; more often where events
    /// are kept for less than that.
    pub sweep_period: Duration,
    /// What is kept of the past for watchers that come back.
    pub ring: cache::RingLimits,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            pool: allocate::Pool::default(),
            nodes: Arc::new(proxy::PlainDialer),
            dial_timeout: Duration::from_secs(10),
            bookmark_period: Duration::from_secs(30),
            watch_timeout: Duration::from_secs(30 * 60),
            body_timeout: Duration::from_secs(30),
            event_ttl: EVENT_LIFE,
            sweep_period: Duration::from_secs(60),
            ring: cache::RingLimits::default(),
        }
    }
}

/// The API over one store. Its tasks end when the last one that shares them is dropped.
pub struct Api {
    store: SharedStore,
    config: ApiConfig,
    cache: Arc<cache::Cache>,
    services: Arc<services::Services>,
    requests: Arc<AtomicU64>,
    _tasks: Arc<DropGuard>,
}

impl Api {
    /// Reads the store, makes what every cluster has, and keeps itself current from then on.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn open(store: SharedStore, config: ApiConfig) -> Result<Arc<Self>, error::ApiError> {
        let cache = Arc::new(cache::Cache::load(&store, config.ring).await?);
        let stop = CancellationToken::new();
        let follow = cache
            .clone()
            .follow(store.clone(), Duration::from_millis(100));
        tokio::spawn(stop.clone().run_until_cancelled_owned(follow));
        let api = Arc::new(Self {
            services: Arc::new(services::Services::new(config.pool.clone())),
            requests: Arc::default(),
            _tasks: Arc::new(stop.clone().drop_guard()),
            store,
            config,
            cache,
        });
        api.services.sweep(&api).await?;
        api.make_system_objects().await?;
        tokio::spawn(stop.run_until_cancelled_owned(sweep_often(
            Arc::downgrade(&api),
            api.config.sweep_period.min(api.config.event_ttl),
        )));
        Ok(api)
    }

    /// The same API, but reads and writes go by another way to the same store: a leader's go
    /// through its fence. Everything that is remembered is shared.
    #[must_use]
    pub fn through(&self, store: SharedStore) -> Arc<Self> {
        Arc::new(Self {
            store,
            config: self.config.clone(),
            cache: self.cache.clone(),
            services: self.services.clone(),
            requests: self.requests.clone(),
            _tasks: self._tasks.clone(),
        })
    }

    /// Namespaces and priority classes that every cluster has.
    async fn make_system_objects(&self) -> Result<(), error::ApiError> {
        let options = write::WriteOptions {
            account: write::Account::Kept,
            ..write::WriteOptions::default()
        };
        for (group, plural, body) in system_objects() {
            let Some(kind) = kind::by_plural(group, plural) else {
                continue;
            };
            let place = write::Place {
                kind,
                namespace: String::new(),
                name: object::name(&body).to_owned(),
            };
            match self
                .store
                .read(&place.key())
                .await
                .map_err(cache::store_error)?
                .entry
            {
                Some(_) => {}
                None => match self.create(&place, body, &options).await {
                    // Another server was first.
                    Err(error) if error.reason == "AlreadyExists" => {}
                    outcome => drop(outcome?),
                },
            }
        }
        Ok(())
    }

    /// Removes events that are older than they are kept.
    async fn remove_old_events(&self) -> Result<(), error::ApiError> {
        let Some(kind) = kind::by_plural("", "events") else {
            return Ok(());
        };
        let oldest = jiff::Timestamp::now()
            .as_second()
            .saturating_sub_unsigned(self.config.event_ttl.as_secs());
        for event in self.cache.snapshot(kind, None)?.objects {
            let value = event.value()?;
            let times = [
                &value["lastTimestamp"],
                &value["series"]["lastObservedTime"],
                &value["eventTime"],
                &value["metadata"]["creationTimestamp"],
            ];
            let read = |time: &Value| time.as_str()?.parse::<jiff::Timestamp>().ok();
            let newest = times
                .into_iter()
                .filter_map(read)
                .map(jiff::Timestamp::as_second)
                .max();
            if newest.is_some_and(|newest| newest < oldest) {
                let key = kind.key(&event.namespace, &event.name);
                match self
                    .store
                    .delete(&key, Expected::Revision(event.modified))
                    .await
                {
                    Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Conflict { .. }) => {}
                    Err(error) => return Err(cache::store_error(error)),
                }
            }
        }
        Ok(())
    }
}

async fn sweep_often(api: std::sync::Weak<Api>, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        let Some(api) = api.upgrade() else { return };
        for outcome in [
            api.services.sweep(&api).await,
            api.remove_old_events().await,
        ] {
            if let Err(error) = outcome {
                tracing::warn!(%error, "old events and lost addresses were not all removed; trying again later");
            }
        }
    }
}

fn system_objects() -> Vec<(&'static str, &'static str, Value)> {
    let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"];
    let mut objects: Vec<_> = namespaces
        .map(|name| ("", "namespaces", json!({ "metadata": { "name": name } })))
        .into_iter()
        .collect();
    for (name, value) in priority::BUILT_IN {
        let class = json!({ "metadata": { "name": name }, "value": value });
        objects.push(("scheduling.k8s.io", "priorityclasses", class));
    }
    objects
}

#[cfg(test)]
mod tests;
