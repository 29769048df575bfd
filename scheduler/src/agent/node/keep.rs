//! Making the Node, and telling its status.

use std::sync::Arc;

use berth_cri::{service::CriService, v1};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tokio::{sync::watch, time::Instant};
use tonic::Code;
use tracing::{info, warn};

use super::{
    differs, is_doubted, observe, observe::RuntimeName, plan_labels, plan_node, plan_status,
};
use crate::agent::{FIELD_MANAGER, is_conflict, is_not_found, settings::AgentConfig};
use crate::waits::{Waits, WatchWaits};

/// The node's own Node, for whoever asks what it says now.
pub type OwnNode = watch::Receiver<Option<Arc<Node>>>;

/// What is needed to keep a Node.
#[derive(Clone)]
pub struct NodeKeeper {
    /// The server.
    pub client: Client,
    /// The runtime.
    pub service: Arc<dyn CriService>,
    /// The agent's settings.
    pub config: Arc<AgentConfig>,
    /// Who the runtime is.
    pub runtime: RuntimeName,
    /// Where the agent listens.
    pub port: Option<u16>,
}

impl NodeKeeper {
    /// Makes the Node, or gives the one that is there this agent's labels and status;
    /// again and again until the server took it.
    pub async fn register(&self) -> Node {
        let mut waits = Waits::new(self.config.periods.retry);
        loop {
            match self.try_register().await {
                Ok(node) => {
                    info!(node = self.config.node.name, "the node is registered");
                    return node;
                }
                Err(error) => {
                    warn!(node = self.config.node.name, %error, "the node was not registered");
                    waits.wait().await;
                }
            }
        }
    }

    async fn try_register(&self) -> Result<Node, kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let name = &self.config.node.name;
        let seen = observe::observe(&self.service, &self.config, &self.runtime).await;
        if api.get_opt(name).await?.is_none() {
            let status = plan_status(&self.config, self.port, &seen, &NodeStatus::default());
            let parameters = PostParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PostParams::default()
            };
            match api
                .create(&parameters, &plan_node(&self.config, status))
                .await
            {
                // Made by somebody else a moment ago.
                Err(error) if is_conflict(&error) => {}
                other => drop(other?),
            }
        }
        let labels = json!({"metadata": {"labels": plan_labels(&self.config)}});
        let node = api
            .patch(name, &PatchParams::default(), &Patch::Merge(&labels))
            .await?;
        let before = node.status.clone().unwrap_or_default();
        let status = plan_status(&self.config, self.port, &seen, &before);
        self.write_status(&api, &node, &status).await
    }

    /// Writes a status unless somebody wrote the Node since it was read.
    async fn write_status(
        &self,
        api: &Api<Node>,
        read: &Node,
        status: &NodeStatus,
    ) -> Result<Node, kube::Error> {
        let patch = json!({
            "metadata": {"resourceVersion": read.metadata.resource_version},
            "status": status,
        });
        let name = &self.config.node.name;
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
    }

    /// Tells the node's status when it changed, at once when the cluster doubts that the node
    /// lives, and now and then anyway.
    pub async fn keep(self, mut node: OwnNode) {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut written = Instant::now();
        loop {
            let next = tokio::time::sleep(self.config.periods.node);
            tokio::select! {
                () = next => {}
                () = self.until_doubted(&mut node) => {}
            }
            let seen = observe::observe(&self.service, &self.config, &self.runtime).await;
            let Some(current) = node.borrow().clone() else {
                continue;
            };
            let before = current.status.clone().unwrap_or_default();
            let status = plan_status(&self.config, self.port, &seen, &before);
            let due = written.elapsed() >= self.config.periods.node_again;
            if !due && !differs(&status, &before) {
                continue;
            }
            match self.write_status(&api, &current, &status).await {
                Ok(_) => written = Instant::now(),
                // The watch brings the newer one, and the next round writes to it.
                Err(error) if is_conflict(&error) => {}
                Err(error) if is_not_found(&error) => {
                    warn!("the node's Node is gone: it is made again");
                    self.register().await;
                }
                Err(error) => warn!(%error, "the node's status was not written"),
            }
        }
    }

    /// Waits until somebody writes that nothing is known of this node. Its pods are moved
    /// elsewhere within seconds of that.
    async fn until_doubted(&self, node: &mut OwnNode) {
        while node.changed().await.is_ok() {
            let doubted = node.borrow_and_update().as_deref().is_some_and(is_doubted);
            if doubted {
                // Two who disagree must not write as fast as they can.
                tokio::time::sleep(self.config.periods.retry.0).await;
                return;
            }
        }
        // Nobody follows the Node any more.
        std::future::pending().await
    }

    /// Follows the node's Node for ever.
    pub async fn follow(self, node: watch::Sender<Option<Arc<Node>>>) {
        let api: Api<Node> = Api::all(self.client.clone());
        let chosen = watcher::Config::default()
            .fields(&format!("metadata.name={}", self.config.node.name))
            .any_semantic();
        let changes = watcher(api, chosen).backoff(WatchWaits::default());
        let mut changes = std::pin::pin!(changes);
        let mut told = String::new();
        while let Some(change) = changes.next().await {
            let Ok(watcher::Event::Apply(new) | watcher::Event::InitApply(new)) = change else {
                continue;
            };
            self.tell_range(&new, &mut told).await;
            node.send_replace(Some(Arc::new(new)));
        }
    }

    /// Tells the runtime the addresses that its pods get, once the cluster has chosen them.
    async fn tell_range(&self, node: &Node, told: &mut String) {
        let range = read_ranges(node).join(",");
        if range.is_empty() || range == *told {
            return;
        }
        let network_config = Some(v1::NetworkConfig {
            pod_cidr: range.clone(),
        });
        let request = v1::UpdateRuntimeConfigRequest {
            runtime_config: Some(v1::RuntimeConfig { network_config }),
        };
        match self.service.update_runtime_config(request).await {
            Ok(_) => info!(range, "the runtime knows its pods' range"),
            Err(status) if status.code() == Code::Unimplemented => {}
            Err(status) => {
                warn!(
                    range,
                    message = status.message(),
                    "the runtime did not take its pods' range"
                );
                return;
            }
        }
        *told = range;
    }
}

/// The ranges of a node's pods.
pub fn read_ranges(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    match (&spec.pod_cidrs, &spec.pod_cidr) {
        (Some(ranges), _) if !ranges.is_empty() => ranges.clone(),
        (_, Some(range)) => vec![range.clone()],
        _ => Vec::new(),
    }
}
