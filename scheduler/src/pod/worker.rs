//! One pod, kept as its spec says until it ends.

use std::{sync::Arc, time::Duration};

use berth_cri::service::CriService;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::mpsc;

use super::{events::PodObserver, objects::PodObjects, settings::WorkerConfig};

/// What a worker can be asked while its pod runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerCommand {
    /// End the pod in order: `preStop`, the stop signal, the grace, SIGKILL.
    Stop {
        /// How long it may take; the pod's own grace if none is named.
        grace: Option<Duration>,
    },
    /// End the pod at once.
    Kill,
}

/// Why a worker could not do its work; a pod that fails is no such error.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The pod's own text does not hold; nothing was made.
    #[error("pod {pod} cannot run: {reason}")]
    Invalid {
        /// NAMESPACE/NAME.
        pod: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// The node did not answer a call that the worker cannot do without.
    #[error("the node did not {action}")]
    Node {
        /// What was asked.
        action: &'static str,
        /// Its answer.
        #[source]
        source: Box<tonic::Status>,
    },
    /// Something of the pod is left on the node.
    #[error("pod {pod} ended, but {leftover} is left")]
    Leftover {
        /// NAMESPACE/NAME.
        pod: String,
        /// What, and why it could not be removed.
        leftover: String,
    },
}

/// Keeps one pod at a time as its spec says.
#[derive(Clone)]
pub struct PodWorker {
    service: Arc<dyn CriService>,
    config: WorkerConfig,
    objects: Arc<PodObjects>,
}

impl PodWorker {
    /// A worker that speaks to `service` and finds ConfigMaps and Secrets in `objects`.
    pub fn new(
        service: Arc<dyn CriService>,
        config: WorkerConfig,
        objects: PodObjects,
    ) -> PodWorker {
        PodWorker {
            service,
            config,
            objects: Arc::new(objects),
        }
    }

    /// Runs a pod until it ends or is stopped, and tells its last status.
    ///
    /// A pod that already runs here, because an earlier worker was lost, is
    /// taken over as it is.
    ///
    /// # Errors
    ///
    /// When the pod is not valid, the node does not answer, or something could
    /// not be removed. A container that fails is a status, not an error.
    pub async fn run(
        &self,
        pod: Pod,
        _commands: mpsc::Receiver<WorkerCommand>,
        _observer: Arc<dyn PodObserver>,
    ) -> Result<PodStatus, WorkerError> {
        // The first landing: the signature for those who call it.
        let _ = (&self.service, &self.config, &self.objects);
        Err(WorkerError::Invalid {
            pod: pod.metadata.name.unwrap_or_default(),
            reason: "this build has no pod worker yet".to_owned(),
        })
    }
}
