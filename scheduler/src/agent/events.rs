//! What happens to pods, told to the server as Events.
//!
//! What happens again and again is one Event that counts. What cannot be told, for
//! the server is away, waits and folds; beyond a bound the oldest is given up, since
//! events are news and not records.
//!
//! Read more: `kubectl describe pod`; "Event" in the Kubernetes API reference.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::is_not_found;
use crate::pod::{
    events::{EventKind, PodEvent},
    plan::names::digest,
};
use crate::waits::Waits;

/// Events that wait to be told.
const WAITING: usize = 1000;
/// Events that are remembered, to be counted on.
const REMEMBERED: usize = 1000;
/// After this long without it, what happens again is a new Event.
const FOLD_FOR: Duration = Duration::from_secs(600);

/// Events on their way to the server.
pub struct Events {
    client: Client,
    node: String,
    retry: (Duration, Duration),
    waiting: Mutex<VecDeque<Occurrence>>,
    work: Notify,
}

/// What happened, once or several times.
#[derive(Debug, Clone)]
struct Occurrence {
    event: PodEvent,
    init: bool,
    first: Timestamp,
    count: i32,
}

/// What makes two occurrences one Event.
type Key = (String, Option<String>, &'static str, String, String);

fn key(event: &PodEvent) -> Key {
    (
        event.pod.uid.clone(),
        event.container.clone(),
        kind(event.kind),
        event.reason.clone(),
        event.message.clone(),
    )
}

fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Normal => "Normal",
        EventKind::Warning => "Warning",
    }
}

/// An Event that the server has.
struct Told {
    name: String,
    count: i32,
    last: Timestamp,
}

impl Events {
    /// A place for events; nothing is told before [`Events::tell_all`] runs.
    pub fn new(client: Client, node: String, retry: (Duration, Duration)) -> Arc<Events> {
        Arc::new(Events {
            client,
            node,
            retry,
            waiting: Mutex::new(VecDeque::new()),
            work: Notify::new(),
        })
    }

    /// Takes an event; `init` says whether its container is an init container.
    pub fn push(&self, event: &PodEvent, init: bool) {
        let mut waiting = self.lock();
        if let Some(same) = waiting
            .iter_mut()
            .find(|other| key(&other.event) == key(event))
        {
            same.count = same.count.saturating_add(1);
            same.event.at = event.at;
        } else {
            if waiting.len() == WAITING {
                waiting.pop_front();
            }
            waiting.push_back(Occurrence {
                event: event.clone(),
                init,
                first: event.at,
                count: 1,
            });
        }
        self.work.notify_one();
    }

    /// Events that the server does not have yet.
    pub fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Tells what waits, for ever.
    pub async fn tell_all(self: Arc<Self>) {
        let mut told: HashMap<Key, Told> = HashMap::new();
        let mut waits = Waits::new(self.retry);
        loop {
            let next = self.lock().front().cloned();
            let Some(next) = next else {
                self.work.notified().await;
                continue;
            };
            match self.tell(&next, &mut told).await {
                Ok(()) => {
                    waits.reset();
                    self.told(&next);
                }
                // Its namespace is going, or the server will never take it.
                Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                    debug!(
                        reason = next.event.reason,
                        error = status.message,
                        "an event was refused"
                    );
                    self.told(&next);
                }
                Err(error) => {
                    warn!(%error, "events were not told");
                    waits.wait().await;
                }
            }
        }
    }

    /// Takes what was told out of what waits; what came meanwhile stays.
    fn told(&self, done: &Occurrence) {
        let mut waiting = self.lock();
        let Some(at) = waiting
            .iter()
            .position(|other| key(&other.event) == key(&done.event))
        else {
            return;
        };
        waiting[at].count -= done.count;
        if waiting[at].count <= 0 {
            waiting.remove(at);
        }
    }

    async fn tell(
        &self,
        occurrence: &Occurrence,
        told: &mut HashMap<Key, Told>,
    ) -> Result<(), kube::Error> {
        let event = &occurrence.event;
        let api: Api<Event> = Api::namespaced(self.client.clone(), &event.pod.namespace);
        let key = key(event);
        if let Some(known) = told.get_mut(&key)
            && age(known.last, event.at) < FOLD_FOR
        {
            let count = known.count.saturating_add(occurrence.count);
            let patch = json!({"count": count, "lastTimestamp": Time(event.at)});
            let patched = api
                .patch(&known.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            match patched {
                Ok(_) => {
                    known.count = count;
                    known.last = event.at;
                    return Ok(());
                }
                // The server forgot it; it is told anew.
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let new = plan_event(&self.node, occurrence);
        let name = new.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &new).await?;
        if told.len() >= REMEMBERED {
            let now = event.at;
            told.retain(|_, known| age(known.last, now) < FOLD_FOR / 2);
        }
        if told.len() < REMEMBERED {
            let (count, last) = (occurrence.count, event.at);
            told.insert(key, Told { name, count, last });
        }
        Ok(())
    }

    /// Each change under the lock is whole, so a panic elsewhere harms nothing.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Occurrence>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn age(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// The Event of an occurrence; its name holds the moment, as Kubernetes' do.
fn plan_event(node: &str, occurrence: &Occurrence) -> Event {
    let event = &occurrence.event;
    let list = match occurrence.init {
        true => "initContainers",
        false => "containers",
    };
    let moment = digest(&(key(event), occurrence.first.as_nanosecond()));
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{moment}", event.pod.name)),
            namespace: Some(event.pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(event.pod.namespace.clone()),
            name: Some(event.pod.name.clone()),
            uid: Some(event.pod.uid.clone()),
            field_path: event
                .container
                .as_ref()
                .map(|container| format!("spec.{list}{{{container}}}")),
            ..ObjectReference::default()
        },
        type_: Some(kind(event.kind).to_owned()),
        reason: Some(event.reason.clone()),
        message: Some(event.message.clone()),
        source: Some(EventSource {
            component: Some("kubelet".to_owned()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(node.to_owned()),
        first_timestamp: Some(Time(occurrence.first)),
        last_timestamp: Some(Time(event.at)),
        count: Some(occurrence.count),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Occurrence, plan_event};
    use crate::pod::events::{EventKind, PodEvent, PodIdentity};

    #[test]
    fn an_event_says_whom_it_happened_to() {
        let event = PodEvent {
            at: "2026-01-01T00:00:00Z".parse().unwrap(),
            pod: PodIdentity {
                namespace: "shop".to_owned(),
                name: "web".to_owned(),
                uid: "u-1".to_owned(),
            },
            container: Some("app".to_owned()),
            kind: EventKind::Warning,
            reason: "BackOff".to_owned(),
            message: "m".to_owned(),
        };
        let occurrence = Occurrence {
            first: event.at,
            event,
            init: true,
            count: 3,
        };
        let told = plan_event("n1", &occurrence);
        let object = &told.involved_object;
        assert_eq!(
            object.field_path.as_deref(),
            Some("spec.initContainers{app}")
        );
        assert_eq!(object.uid.as_deref(), Some("u-1"));
        assert_eq!(
            (told.type_.as_deref(), told.count),
            (Some("Warning"), Some(3))
        );
        assert!(told.metadata.name.unwrap().starts_with("web."));
    }
}
