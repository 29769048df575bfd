//! Hollow nodes: hundreds of nodes that only pretend, in one process.
//!
//! A test or a benchmark of the server needs many nodes, not many machines. A
//! hollow node registers itself, renews its lease, says that its pods run as soon
//! as they are bound to it, and lets them go when they are deleted: what an agent
//! tells the API, without a container. All of them share one watch, so a thousand
//! cost little more than one.
//!
//! Where the agent's own behaviour is to count, [`agents`] runs its code for each
//! node, on a [`runtime`] that pretends.
//!
//! Read more: kubemark, in the documentation of Kubernetes' developers, is the
//! same idea with the kubelet's code.

/// Hollow nodes with the agent's own code.
pub mod agents;
/// A runtime that only pretends.
pub mod runtime;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, pin_mut, stream};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::waits::WatchWaits;

/// Writes under way at once.
const WRITERS: usize = 32;

/// Until what the server did not hear is said again.
const PAUSE: Duration = Duration::from_millis(200);

/// How many nodes pretend, and what they pretend to be.
#[derive(Debug, Clone)]
pub struct HollowConfig {
    /// Names begin with this.
    pub prefix: String,
    /// How many.
    pub nodes: usize,
    /// Zones, in turn.
    pub zones: usize,
    /// Processors of each.
    pub cpu: u32,
    /// Memory of each in GiB.
    pub memory_gib: u32,
    /// Pods that each takes.
    pub pods: u32,
    /// How often each renews its lease; unset never does, for servers where nobody looks.
    pub lease_period: Option<Duration>,
}

impl Default for HollowConfig {
    fn default() -> HollowConfig {
        HollowConfig {
            prefix: "hollow-".to_owned(),
            nodes: 100,
            zones: 10,
            cpu: 16,
            memory_gib: 64,
            pods: 110,
            lease_period: Some(Duration::from_secs(2)),
        }
    }
}

/// What a hollow node does about a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Pretence {
    /// Nothing: the pod is not ours, or all is said.
    Nothing,
    /// Says that it runs.
    Run(Value),
    /// Lets it go.
    End,
}

/// Registers the nodes.
///
/// # Errors
///
/// The API's, of the first node that it did not take.
pub async fn register(client: &Client, config: &HollowConfig) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    stream::iter(0..config.nodes)
        .map(|number| {
            let (nodes, node) = (nodes.clone(), node(config, number));
            async move {
                let status = Patch::Merge(json!({ "status": node["status"] }));
                let name = node["metadata"]["name"].as_str().unwrap_or_default();
                let made = Patch::Apply(&node);
                let by = PatchParams::apply("hollow").force();
                nodes.patch(name, &by, &made).await?;
                // A status comes with the subresource only.
                nodes
                    .patch_status(name, &PatchParams::default(), &status)
                    .await
                    .map(drop)
            }
        })
        .buffer_unordered(WRITERS)
        .fold(Ok(()), |all, one| async move { all.and(one) })
        .await
}

/// Registers the nodes and pretends to run what is bound to them, until told to stop.
///
/// # Errors
///
/// When a node could not be registered; later failures are tried again.
pub async fn run(
    client: Client,
    config: HollowConfig,
    shutdown: CancellationToken,
) -> Result<(), kube::Error> {
    register(&client, &config).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(pretend(client.clone(), config.prefix.clone()));
    if let Some(period) = config.lease_period {
        tasks.spawn(renew(client, config, period));
    }
    shutdown.cancelled().await;
    Ok(())
}

/// A node as it registers.
fn node(config: &HollowConfig, number: usize) -> Value {
    let name = format!("{}{number}", config.prefix);
    let all = json!({
        "cpu": config.cpu.to_string(),
        "memory": format!("{}Gi", config.memory_gib),
        "pods": config.pods.to_string(),
    });
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone-{}", number % config.zones.max(1)),
        }},
        "status": {
            "capacity": all,
            "allocatable": all,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Hollow",
                "message": "pretends to be a node", "lastHeartbeatTime": Time(Timestamp::now()),
                "lastTransitionTime": Time(Timestamp::now())}],
        },
    })
}

/// Watches pods, and tells of those on hollow nodes what an agent would.
async fn pretend(client: Client, prefix: String) {
    let prefix: Arc<str> = prefix.into();
    let pods = watcher::watcher(Api::<Pod>::all(client.clone()), watcher::Config::default());
    let acts = pods
        .backoff(WatchWaits::default())
        .filter_map(|event| async move {
            match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => Some(pod),
                Ok(_) => None,
                Err(error) => {
                    tracing::warn!(%error, "hollow nodes: the watch of pods broke");
                    None
                }
            }
        })
        .map(|pod| {
            let act = plan_pretence(&pod, &prefix);
            apply(client.clone(), pod, act)
        })
        .buffer_unordered(WRITERS);
    pin_mut!(acts);
    while acts.next().await.is_some() {}
}

/// What a hollow node does about a pod, by the pod alone.
pub fn plan_pretence(pod: &Pod, prefix: &str) -> Pretence {
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|spec| spec.node_name.as_deref());
    if !node.is_some_and(|node| node.starts_with(prefix)) {
        return Pretence::Nothing;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Pretence::End;
    }
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if !matches!(phase, None | Some("Pending")) {
        return Pretence::Nothing;
    }
    let now = Time(Timestamp::now());
    let containers: Vec<Value> = spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .map(|container| {
            json!({
                "name": container.name, "image": container.image, "imageID": "",
                "containerID": format!("hollow://{}", pod.uid().unwrap_or_default()),
                "ready": true, "started": true, "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            })
        })
        .collect();
    let holds = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
    Pretence::Run(json!({"status": {
        "phase": "Running",
        "startTime": now,
        "conditions": [holds("Initialized"), holds("ContainersReady"), holds("Ready")],
        "containerStatuses": containers,
    }}))
}

async fn apply(client: Client, pod: Pod, act: Pretence) {
    if act == Pretence::Nothing {
        return;
    }
    let pods: Api<Pod> = Api::namespaced(client, &pod.namespace().unwrap_or_default());
    // The watch goes on where it was when a server comes back, and does not tell twice
    // of a pod: what was not said must be said again from here.
    while let Err(error) = tell(&pods, &pod, &act).await {
        if matches!(&error, kube::Error::Api(status) if status.code < 500) {
            tracing::debug!(%error, pod = pod.name_any(), "hollow nodes: the pod is gone");
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn tell(pods: &Api<Pod>, pod: &Pod, act: &Pretence) -> Result<(), kube::Error> {
    let name = pod.name_any();
    match act {
        Pretence::Nothing => Ok(()),
        Pretence::Run(status) => pods
            .patch_status(&name, &PatchParams::default(), &Patch::Strategic(status))
            .await
            .map(drop),
        Pretence::End => {
            let only_this = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: pod.uid(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            pods.delete(&name, &only_this).await.map(drop)
        }
    }
}

/// Renews all leases, spread over the period.
async fn renew(client: Client, config: HollowConfig, period: Duration) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let mut tick = tokio::time::interval(period);
    loop {
        tick.tick().await;
        stream::iter(0..config.nodes)
            .map(|number| renew_one(leases.clone(), format!("{}{number}", config.prefix), period))
            .buffer_unordered(WRITERS)
            .for_each(|()| async {})
            .await;
    }
}

async fn renew_one(leases: Api<Lease>, node: String, period: Duration) {
    let now = MicroTime(Timestamp::now());
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.clone()),
            lease_duration_seconds: i32::try_from(period.as_secs().max(1) * 4).ok(),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    let patch = Patch::Merge(json!({ "spec": lease.spec }));
    let result = match leases.patch(&node, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            leases.create(&PostParams::default(), &lease).await
        }
        other => other,
    };
    if let Err(error) = result {
        tracing::debug!(%error, node, "hollow nodes: a lease was not renewed");
    }
}

#[cfg(test)]
mod tests;
