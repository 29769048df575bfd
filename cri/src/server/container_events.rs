//! What pods do, as a stream of the CRI's events.
//!
//! A kubelet with evented PLEG takes its picture of a pod from the event, so
//! each carries the status of the sandbox and of all its containers, read after
//! the fact it tells of. A sandbox is told of like a container of its own id.

use std::collections::HashMap;
use std::sync::Arc;

use berth_runtime::monitor::protocol::Event;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::pages::Pages;
use crate::engine::Engine;
use crate::engine::events::{Change, EngineEvent};
use crate::service::CriService;
use crate::v1;
use v1::ContainerEventType as Kind;

/// Events that wait for a slow reader before the source waits too.
const BACKLOG: usize = 256;

/// From now on, until the reader goes.
pub(super) fn stream(engine: Arc<Engine>) -> Response<Pages<v1::ContainerEventResponse>> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        let mut events = engine.events();
        let mut last = HashMap::new();
        while let Some(event) = tokio::select! {
            event = events.next() => event,
            () = sender.closed() => None,
        } {
            for message in messages(&engine, event, &mut last).await {
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        }
    });
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}

/// Container, kind and time of what an event tells; a sandbox begins with two.
fn told(event: &EngineEvent) -> Vec<(String, Kind, i64)> {
    let pod = || event.pod_id.clone();
    match &event.change {
        Change::SandboxReady { at } => vec![
            (pod(), Kind::ContainerCreatedEvent, *at),
            (pod(), Kind::ContainerStartedEvent, *at),
        ],
        Change::SandboxStopped { at } => vec![(pod(), Kind::ContainerStoppedEvent, *at)],
        Change::SandboxRemoved { at } => vec![(pod(), Kind::ContainerDeletedEvent, *at)],
        Change::Container(event) => match event {
            Event::Created { id, at } => vec![(id.clone(), Kind::ContainerCreatedEvent, *at)],
            Event::Started { id, at } => vec![(id.clone(), Kind::ContainerStartedEvent, *at)],
            Event::Exited(exit) => {
                vec![(
                    exit.id.clone(),
                    Kind::ContainerStoppedEvent,
                    exit.finished_at,
                )]
            }
            Event::Deleted { id, at } => vec![(id.clone(), Kind::ContainerDeletedEvent, *at)],
            // The end that follows says it as its reason.
            Event::OomKilled { .. } => Vec::new(),
        },
    }
}

/// `last` keeps a sandbox's status for the event of its removal.
async fn messages(
    engine: &Engine,
    event: EngineEvent,
    last: &mut HashMap<String, v1::PodSandboxStatus>,
) -> Vec<v1::ContainerEventResponse> {
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: event.pod_id.clone(),
        verbose: false,
    };
    let seen: Result<_, Status> = engine.pod_sandbox_status(request).await;
    let (status, containers) = match seen {
        Ok(reply) => (reply.status, reply.containers_statuses),
        Err(_) => (None, Vec::new()),
    };
    let status = match (status, &event.change) {
        (Some(status), _) => {
            last.insert(event.pod_id.clone(), status.clone());
            Some(status)
        }
        (None, Change::SandboxRemoved { .. }) => last.remove(&event.pod_id),
        (None, _) => last.get(&event.pod_id).cloned(),
    };
    told(&event)
        .into_iter()
        .map(
            |(container_id, kind, created_at)| v1::ContainerEventResponse {
                container_id,
                container_event_type: kind as i32,
                created_at,
                pod_sandbox_status: status.clone(),
                containers_statuses: containers.clone(),
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_told_of_like_a_container() {
        let event = |change| EngineEvent {
            pod_id: "p".to_owned(),
            change,
        };
        let kinds = |change| -> Vec<Kind> {
            told(&event(change))
                .into_iter()
                .map(|(_, kind, _)| kind)
                .collect()
        };
        assert_eq!(
            kinds(Change::SandboxReady { at: 1 }),
            [Kind::ContainerCreatedEvent, Kind::ContainerStartedEvent]
        );
        assert_eq!(
            kinds(Change::SandboxRemoved { at: 1 }),
            [Kind::ContainerDeletedEvent]
        );
        let oom = Change::Container(Event::OomKilled {
            id: "c".to_owned(),
            at: 1,
        });
        assert!(kinds(oom).is_empty());
    }
}
