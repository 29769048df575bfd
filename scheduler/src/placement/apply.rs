//! What the loop writes: bindings, conditions, events, and deletions of victims.
//!
//! Every write is a task of its own, so that a decision never waits for the API.
//! Bindings and conditions matter and report back; events are for people, wait
//! in a line of their own, and are dropped when it is full.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Binding, Event, EventSource, ObjectReference, Pod, PodCondition, PodStatus},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

use crate::placement::{
    counters::Counters,
    facts::{PodFacts, PodName},
    news::News,
};

/// Events that wait at most.
const WAITING_EVENTS: usize = 4096;
/// Events under way at once.
const EVENT_WRITERS: usize = 4;
/// Who says so, in events.
const COMPONENT: &str = "default-scheduler";

/// What became of a write.
pub enum Written {
    /// A binding.
    Binding {
        /// The pod.
        pod: Arc<PodFacts>,
        /// The node's name.
        node: String,
        /// What the API said.
        result: Result<(), kube::Error>,
    },
    /// Victims were told to go, or one could not be.
    Eviction {
        /// The pod that needs their room.
        pod: PodName,
        /// Whether all went well.
        complete: bool,
    },
}

/// A condition of a pod without a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `Unschedulable` or `SchedulingGated`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The node that is being cleared for the pod.
    pub nominated: Option<String>,
}

/// The loop's hands.
pub struct Writer {
    client: Client,
    news: mpsc::Sender<News>,
    events: mpsc::Sender<Event>,
    counters: Arc<Counters>,
    tasks: JoinSet<()>,
}

impl Writer {
    /// A writer whose results arrive as news.
    pub fn start(client: &Client, news: mpsc::Sender<News>, counters: Arc<Counters>) -> Writer {
        let (events, line) = mpsc::channel(WAITING_EVENTS);
        let mut tasks = JoinSet::new();
        tasks.spawn(send_events(client.clone(), line));
        Writer {
            client: client.clone(),
            news,
            events,
            counters,
            tasks,
        }
    }

    /// Binds a pod to a node. The API refuses if the pod has a node by now.
    pub fn bind(&mut self, pod: Arc<PodFacts>, node: String) {
        let (client, news) = (self.client.clone(), self.news.clone());
        self.spawn(async move {
            let result = bind(&client, &pod, &node).await;
            let written = Written::Binding { pod, node, result };
            let _ = news.send(News::Written(written)).await;
        });
    }

    /// Writes the condition of a pod that has no node.
    pub fn report(&mut self, pod: &PodFacts, report: Report) {
        let (client, name) = (self.client.clone(), pod.name.clone());
        self.spawn(async move {
            if let Err(error) = patch_status(&client, &name, &report).await {
                // The pod may be gone; if not, the next attempt writes it again.
                tracing::debug!(%error, pod = %name, "placement: the pod's condition was not written");
            }
        });
    }

    /// Deletes the victims of a preemption, each with an event.
    pub fn evict(&mut self, pod: &PodFacts, victims: Vec<Arc<PodFacts>>, node: &str) {
        for victim in &victims {
            let message = format!("Preempted by pod {} on node {node}", pod.uid);
            self.event(victim, "Normal", "Preempted", message);
        }
        let (client, news, name) = (self.client.clone(), self.news.clone(), pod.name.clone());
        let preemptor = pod.name.to_string();
        self.spawn(async move {
            let mut complete = true;
            for victim in victims {
                if let Err(error) = delete(&client, &victim, &preemptor).await {
                    complete = false;
                    tracing::warn!(%error, victim = %victim.name, "placement: a victim was not deleted");
                }
            }
            let written = Written::Eviction {
                pod: name,
                complete,
            };
            let _ = news.send(News::Written(written)).await;
        });
    }

    /// Tells people of a pod.
    pub fn event(&self, pod: &PodFacts, kind: &str, reason: &str, message: String) {
        if self
            .events
            .try_send(event(pod, kind, reason, message))
            .is_err()
        {
            self.counters.dropped_events.add(1);
        }
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
        // Ended tasks are taken away as new ones come.
        while self.tasks.try_join_next().is_some() {}
    }
}

async fn bind(client: &Client, pod: &PodFacts, node: &str) -> Result<(), kube::Error> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name.name.to_string()),
            namespace: Some(pod.name.namespace.to_string()),
            // A pod that came again under the same name is another pod.
            uid: Some(pod.uid.to_string()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.name.namespace);
    pods.create_subresource::<Binding, Value>(
        "binding",
        &pod.name.name,
        &PostParams::default(),
        &binding,
    )
    .await
    .map(drop)
}

async fn patch_status(client: &Client, pod: &PodName, report: &Report) -> Result<(), kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let status = PodStatus {
        conditions: Some(vec![PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some(report.reason.to_owned()),
            message: Some(report.message.clone()),
            last_transition_time: Some(Time(Timestamp::now())),
            ..PodCondition::default()
        }]),
        nominated_node_name: report.nominated.clone(),
        ..PodStatus::default()
    };
    let patch = Patch::Strategic(json!({ "status": status }));
    pods.patch_status(&pod.name, &PatchParams::default(), &patch)
        .await
        .map(drop)
}

async fn delete(client: &Client, victim: &PodFacts, preemptor: &str) -> Result<(), kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &victim.name.namespace);
    let condition = json!({ "status": { "conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": format!("default-scheduler: preempting to accommodate {preemptor}"),
        "lastTransitionTime": Time(Timestamp::now()),
    }] } });
    // Who owns the victim may ask why it went; that it goes matters more.
    let told = pods
        .patch_status(
            &victim.name.name,
            &PatchParams::default(),
            &Patch::Strategic(condition),
        )
        .await;
    if let Err(error) = told {
        tracing::debug!(%error, victim = %victim.name, "placement: a victim's condition was not written");
    }
    let only_this = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(victim.uid.to_string()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match pods.delete(&victim.name.name, &only_this).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

async fn send_events(client: Client, line: mpsc::Receiver<Event>) {
    let stream = tokio_stream::wrappers::ReceiverStream::new(line);
    futures::StreamExt::for_each_concurrent(stream, EVENT_WRITERS, |event| {
        let client = client.clone();
        async move {
            let namespace = event.metadata.namespace.clone().unwrap_or_default();
            let events: Api<Event> = Api::namespaced(client, &namespace);
            if let Err(error) = events.create(&PostParams::default(), &event).await {
                tracing::debug!(%error, "placement: an event was not written");
            }
        }
    })
    .await;
}

fn event(pod: &PodFacts, kind: &str, reason: &str, message: String) -> Event {
    let now = Timestamp::now();
    Event {
        metadata: ObjectMeta {
            namespace: Some(pod.name.namespace.to_string()),
            // As client-go names events: the object, and the time in hexadecimal.
            name: Some(format!("{}.{:x}", pod.name.name, now.as_nanosecond())),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.name.namespace.to_string()),
            name: Some(pod.name.name.to_string()),
            uid: Some(pod.uid.to_string()),
            ..ObjectReference::default()
        },
        type_: Some(kind.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            ..EventSource::default()
        }),
        reporting_component: Some(COMPONENT.to_owned()),
        ..Event::default()
    }
}
