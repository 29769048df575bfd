//! The heartbeat: a Lease that is renewed as long as the agent lives.
//!
//! A Lease is small, so that a thousand nodes can write theirs every two seconds.
//! Who does not see it renewed knows that the agent is gone or cut off; its pods
//! may go on running all the same.
//!
//! Read more: "Leases" in the Kubernetes documentation.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use super::{FIELD_MANAGER, is_not_found, settings::Periods};

/// The namespace of the nodes' Leases.
pub const LEASES: &str = "kube-node-lease";

/// Renews the node's Lease for ever.
pub async fn keep(client: Client, node: String, node_uid: String, periods: Periods) {
    let api: Api<Lease> = Api::namespaced(client, LEASES);
    let mut ticks = tokio::time::interval(periods.lease);
    // A renewal that took long is not made up for by two at once.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        ticks.tick().await;
        // A request that hangs must not keep the next one from being tried.
        let renewed = tokio::time::timeout(
            periods.lease_holds / 2,
            renew(&api, &node, &node_uid, periods.lease_holds),
        );
        match renewed.await {
            Ok(Ok(())) => {
                if told.take().is_some() {
                    debug!(node, "the node's lease is renewed again");
                }
            }
            Ok(Err(error)) => tell(&mut told, &error.to_string()),
            Err(_) => tell(&mut told, "the server did not answer in time"),
        }
    }
}

/// Says so once a minute: the same trouble every two seconds helps nobody.
fn tell(told: &mut Option<Instant>, trouble: &str) {
    if told.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
        warn!(trouble, "the node's lease was not renewed");
        *told = Some(Instant::now());
    }
}

async fn renew(
    api: &Api<Lease>,
    node: &str,
    node_uid: &str,
    holds: Duration,
) -> Result<(), kube::Error> {
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"holderIdentity": node, "renewTime": now}});
    let renewed = api
        .patch(node, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    match renewed {
        Err(error) if is_not_found(&error) => {
            let parameters = PostParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PostParams::default()
            };
            let lease = plan_lease(node, node_uid, holds, now);
            api.create(&parameters, &lease).await.map(|_| ())
        }
        other => other.map(|_| ()),
    }
}

/// The Lease of a node; it goes when the Node does.
fn plan_lease(node: &str, node_uid: &str, holds: Duration, now: MicroTime) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(LEASES.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.to_owned(),
                uid: node_uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: i32::try_from(holds.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}
