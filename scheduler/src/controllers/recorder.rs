//! Events, folded where they repeat.
//!
//! An event that says the same of the same object as one a while before does not
//! become a second object: the first one's count grows. Writing is a task of its
//! own, so that no controller waits for an event; when too many are waiting, the
//! newest are dropped and the log says how many. Events are remarks, nothing is
//! decided on them.
//!
//! Read more: `kubectl explain event`.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    ControllersConfig,
    mirror::{Key, chain},
};

/// How many events may wait to be written.
const WAITING: usize = 4096;
/// How many written events are remembered for folding.
const REMEMBERED: usize = 8192;
/// What events name as their source.
const COMPONENT: &str = "berth-controllers";

/// Whether somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weight {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Said {
    uid: String,
    weight: Weight,
    reason: String,
    message: String,
}

#[derive(Debug, Clone)]
struct Remark {
    of: ObjectReference,
    said: Said,
    at: Timestamp,
}

/// A remark that was written, under this name.
#[derive(Debug, Clone)]
struct Written {
    name: String,
    count: i32,
    last: Instant,
}

/// Takes events and writes them.
pub struct Recorder {
    client: Client,
    instance: String,
    fold: Duration,
    remarks: mpsc::Sender<Remark>,
    /// Until the writer runs and takes it.
    waiting: Mutex<Option<mpsc::Receiver<Remark>>>,
    dropped: AtomicU64,
}

impl Recorder {
    /// A recorder; nothing is written before it runs.
    pub fn new(client: Client, config: &ControllersConfig) -> Recorder {
        let (remarks, waiting) = mpsc::channel(WAITING);
        Recorder {
            client,
            instance: config.instance.clone(),
            fold: config.fold_events,
            remarks,
            waiting: Mutex::new(Some(waiting)),
            dropped: AtomicU64::new(0),
        }
    }

    /// Says something of an object. Never waits.
    pub fn say<K>(&self, of: &K, weight: Weight, reason: &str, message: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        let of = of.object_ref(&());
        let remark = Remark {
            said: Said {
                uid: of.uid.clone().unwrap_or_default(),
                weight,
                reason: reason.to_owned(),
                message: message.into(),
            },
            of,
            at: Timestamp::now(),
        };
        if self.remarks.try_send(remark).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes what is said until `shutdown`; what waits then is still tried for
    /// a moment.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let taken = match self.waiting.lock() {
            Ok(mut waiting) => waiting.take(),
            Err(_) => None,
        };
        let Some(mut waiting) = taken else { return };
        let mut written = HashMap::new();
        loop {
            tokio::select! {
                remark = waiting.recv() => match remark {
                    Some(remark) => self.write(&mut written, remark).await,
                    None => return,
                },
                () = shutdown.cancelled() => return,
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "events were dropped: too many waited to be written"
                );
            }
        }
    }

    async fn write(&self, written: &mut HashMap<Said, Written>, remark: Remark) {
        if written.len() > REMEMBERED {
            written.retain(|_, event| event.last.elapsed() < self.fold);
        }
        // Still too many: folding is a courtesy, memory is not.
        if written.len() > REMEMBERED {
            written.clear();
        }
        let namespace = remark.of.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let known = written.get_mut(&remark.said);
        if let Some(event) = known.filter(|event| event.last.elapsed() < self.fold) {
            event.count += 1;
            event.last = Instant::now();
            let patch = json!({"count": event.count, "lastTimestamp": Time(remark.at)});
            let patched = api
                .patch(&event.name, &PatchParams::default(), &Patch::Merge(patch))
                .await;
            // One that expired is written anew.
            if patched.is_ok() {
                return;
            }
        }
        let event = self.event(&remark);
        let name = event.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                let event = Written {
                    name,
                    count: 1,
                    last: Instant::now(),
                };
                written.insert(remark.said, event);
            }
            Err(error) => {
                let key = Key::of(&event);
                tracing::debug!(%key, error = %chain(&error), "an event was not written");
            }
        }
    }

    fn event(&self, remark: &Remark) -> Event {
        let subject = remark.of.name.as_deref().unwrap_or_default();
        let nanos = remark.at.as_nanosecond();
        let namespace = remark.of.namespace.as_deref().unwrap_or("default");
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{subject}.{nanos:x}{:04x}", rand::random::<u16>())),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: remark.of.clone(),
            type_: Some(format!("{:?}", remark.said.weight)),
            reason: Some(remark.said.reason.clone()),
            message: Some(remark.said.message.clone()),
            count: Some(1),
            first_timestamp: Some(Time(remark.at)),
            last_timestamp: Some(Time(remark.at)),
            event_time: None::<MicroTime>,
            source: Some(EventSource {
                component: Some(COMPONENT.to_owned()),
                host: None,
            }),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}
