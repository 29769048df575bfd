//! The metrics that a kubelet passes on to Prometheus.
//!
//! A kubelet that does not run cAdvisor over the containers asks for them here
//! (KEP-2371) and shows them under the same names on `/metrics/cadvisor`.
//!
//! ```text
//! observe  the pod's and its containers' groups, /proc, the store, the links
//!    │     Facts
//! render   Facts ─▶ one Metric for each number that is known
//! ```
//!
//! What this machine's kernel does not count is left out of the list, never
//! told as zero. A value is a whole number by the CRI's message: the names that
//! end in `seconds` are cut to whole seconds.

use tonic::Status;

use super::CriServer;
use crate::engine::error::ErrorKind;
use crate::service::CriService;
use crate::v1;

/// The names, what they mean and their labels.
mod descriptors;
/// What is looked at.
mod observe;
/// Numbers under their names.
mod render;

/// The whole table.
pub(super) fn descriptors() -> Vec<v1::MetricDescriptor> {
    descriptors::DESCRIPTORS
        .iter()
        .map(|descriptor| v1::MetricDescriptor {
            name: descriptor.name.to_owned(),
            help: descriptor.help.to_owned(),
            label_keys: descriptors::BASE_LABELS
                .iter()
                .chain(descriptor.labels)
                .map(|label| (*label).to_owned())
                .collect(),
        })
        .collect()
}

impl CriServer {
    /// The numbers of all sandboxes; one that goes away meanwhile is left out.
    pub(super) async fn pod_metrics(&self) -> Result<Vec<v1::PodSandboxMetrics>, Status> {
        let list = v1::ListPodSandboxRequest::default();
        let mut metrics = Vec::new();
        for sandbox in self.engine.list_pod_sandbox(list).await?.items {
            match observe::pod(&self.engine, &sandbox.id).await {
                Ok(pod) => metrics.push(render::pod(&pod)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(metrics)
    }
}
