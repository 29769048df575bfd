//! EndpointSlices: which addresses stand behind a Service, and whether they may be used.
//!
//! A Service with a selector gets slices of at most 100 endpoints each, one set for each family of
//! addresses, and within it one for each set of port numbers (a named port can have another number
//! in each pod). netd turns them into rules, the DNS server into records.
//!
//! Services without a selector are their owner's business: whoever made the slices by hand keeps
//! them. Nothing is made for `ExternalName`.
//!
//! Read more: "EndpointSlices" and "Services" in the Kubernetes documentation.

/// What slices a service needs.
pub mod plan;
/// The number behind the name of a port.
pub mod ports;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::cluster::{Cluster, Deletion, Mirrors, WriteError, has_labels, json_of};
use super::mirror::Key;
use super::names;
use super::work::{self, Again, Controller, Queue};
use plan::{Action, Facts, MANAGED_BY, MANAGER, SERVICE_NAME};

/// See the module.
pub struct Endpoints;

#[async_trait]
impl Controller for Endpoints {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn subscribe(&self, mirrors: &Arc<Mirrors>, queue: &Queue) {
        work::own_changes_due(&mirrors.services, queue);
        work::owners_due(&mirrors.endpoint_slices, "Service", queue);
        let queue = Arc::clone(queue);
        // Weak: the mirrors own this listener.
        let known = Arc::downgrade(mirrors);
        mirrors.pods.listen(move |change| {
            let Some(mirrors) = known.upgrade() else {
                return;
            };
            for pod in change.states() {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                for service in mirrors.services.of_namespace(namespace) {
                    let wanted = plan::selector_of(&service);
                    if wanted.is_some_and(|wanted| has_labels(pod.metadata.labels.as_ref(), wanted))
                    {
                        queue.add(Key::of(&*service));
                    }
                }
            }
        });
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Again, WriteError> {
        let Some(service) = cluster.mirrors.services.read(key) else {
            // Its slices name it as owner, so the garbage controller takes them.
            return Ok(Again::OnChange);
        };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(Again::OnChange);
        }
        for action in look(cluster, key, &service) {
            apply(cluster, &service, action).await?;
        }
        Ok(Again::OnChange)
    }
}

/// What to do about a service's slices, as the mirrors show it.
fn look(cluster: &Cluster, key: &Key, service: &Service) -> Vec<Action> {
    let mirrors = &cluster.mirrors;
    let mut slices = mirrors.endpoint_slices.of_namespace(&key.namespace);
    slices.retain(|slice| is_ours(slice, key));
    let pods = mirrors.pods.of_namespace(&key.namespace);
    let zone = |node: &str| {
        let node = mirrors.nodes.read(&Key::new("", node))?;
        let labels = node.metadata.labels.as_ref()?;
        labels.get("topology.kubernetes.io/zone").cloned()
    };
    let facts = Facts {
        service,
        pods: &pods,
        zone: &zone,
    };
    plan::plan(&facts, &slices)
}

/// Whether this controller made a slice, for this service.
fn is_ours(slice: &EndpointSlice, service: &Key) -> bool {
    let label = |name| {
        slice
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(name))
    };
    label(MANAGED_BY).is_some_and(|by| by == MANAGER)
        && label(SERVICE_NAME).is_some_and(|name| *name == service.name)
        && slice.metadata.deletion_timestamp.is_none()
}

async fn apply(cluster: &Cluster, service: &Service, action: Action) -> Result<(), WriteError> {
    match action {
        Action::Create(mut slice) => {
            let name = service.metadata.name.as_deref().unwrap_or_default();
            slice.metadata.name = Some(names::generate(&format!("{name}-")));
            cluster.create(&*slice).await?;
        }
        Action::Update { old, new } => {
            let body = json!({
                "metadata": { "labels": new.metadata.labels },
                "endpoints": json_of(&new.endpoints),
                "ports": json_of(&new.ports),
            });
            cluster.patch(&*old, body).await?;
        }
        Action::Delete(slice) => cluster.delete(&*slice, Deletion::Background).await?,
    }
    Ok(())
}
