//! Watches of the API, as updates of the model.
//!
//! A watch begins with a listing. Its objects are gathered and replace what was
//! known only when the listing is whole: an API that answers half a listing and
//! goes away takes nothing from this node.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cluster::{model, objects};

/// News of one kind of object.
#[derive(Debug)]
pub(crate) enum Update {
    /// Of a node.
    Node(News<model::Node>),
    /// Of a service.
    Service(News<model::Service>),
    /// Of a slice.
    Slice(News<model::Slice>),
}

/// What happened.
#[derive(Debug)]
pub(crate) enum News<T> {
    /// These are all there are.
    All(BTreeMap<String, T>),
    /// This one is so, or is gone.
    One(String, Option<T>),
}

impl<T> News<T> {
    /// Whether this is everything.
    pub(crate) fn is_all(&self) -> bool {
        matches!(self, News::All(_))
    }
}

/// So many wait while the keeper is at work.
const QUEUE: usize = 4096;

/// Starts the watches. They go on until `shutdown`, over any failure.
pub(crate) fn start(client: &Client, shutdown: &CancellationToken) -> mpsc::Receiver<Update> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    watch(
        Api::<Node>::all(client.clone()),
        |node| Some(objects::node(node)),
        Node::name_any,
        Update::Node,
        (sender.clone(), shutdown.clone()),
    );
    watch(
        Api::<Service>::all(client.clone()),
        |service| Some(objects::service(service)),
        |service| key(&service.metadata),
        Update::Service,
        (sender.clone(), shutdown.clone()),
    );
    watch(
        Api::<EndpointSlice>::all(client.clone()),
        objects::slice,
        |slice| key(&slice.metadata),
        Update::Slice,
        (sender, shutdown.clone()),
    );
    receiver
}

fn key(metadata: &ObjectMeta) -> String {
    objects::key(metadata)
}

fn watch<K, T>(
    api: Api<K>,
    part: impl Fn(&K) -> Option<T> + Send + 'static,
    name: impl Fn(&K) -> String + Send + 'static,
    update: impl Fn(News<T>) -> Update + Send + 'static,
    (sender, shutdown): (mpsc::Sender<Update>, CancellationToken),
) where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
    T: Send + 'static,
{
    // The default of five minutes per listing is fine; the default back-off of
    // up to half a minute is not, for a node that was cut off and is back.
    let stream = watcher::watcher(api, watcher::Config::default()).backoff(Patience::default());
    tokio::spawn(async move {
        let mut stream = Box::pin(stream);
        let mut listing = BTreeMap::new();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = stream.next() => event,
            };
            let news = match event {
                None => return,
                Some(Err(error)) => {
                    tracing::debug!(
                        kind = std::any::type_name::<K>(),
                        error = &error as &dyn std::error::Error,
                        "the API does not answer"
                    );
                    continue;
                }
                Some(Ok(Event::Init)) => {
                    listing.clear();
                    continue;
                }
                Some(Ok(Event::InitApply(object))) => {
                    if let Some(part) = part(&object) {
                        listing.insert(name(&object), part);
                    }
                    continue;
                }
                Some(Ok(Event::InitDone)) => News::All(std::mem::take(&mut listing)),
                Some(Ok(Event::Apply(object))) => News::One(name(&object), part(&object)),
                Some(Ok(Event::Delete(object))) => News::One(name(&object), None),
            };
            if sender.send(update(news)).await.is_err() {
                return;
            }
        }
    });
}

/// How long to wait after a failure: twice as long each time, two seconds at most.
#[derive(Debug, Clone, Default)]
struct Patience {
    failures: u32,
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(100) * 2u32.pow(self.failures.min(5));
        self.failures = self.failures.saturating_add(1);
        Some(wait.min(Duration::from_secs(2)))
    }
}

impl kube::runtime::utils::Backoff for Patience {
    fn reset(&mut self) {
        self.failures = 0;
    }
}
