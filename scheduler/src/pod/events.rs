//! What happens to a pod, for whoever watches.
//!
//! The reasons are the kubelet's (`Pulled`, `Created`, `Unhealthy`, `BackOff`),
//! so that what people know from `kubectl describe` holds here.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

/// Whether somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum EventKind {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// The names that tell one pod from all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct PodIdentity {
    /// Its namespace, `default` where a manifest is silent.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Unique for all time.
    pub uid: String,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodEvent {
    /// When.
    pub at: Timestamp,
    /// To which pod.
    pub pod: PodIdentity,
    /// To which of its containers, if to one.
    pub container: Option<String>,
    /// Whether somebody should look.
    pub kind: EventKind,
    /// One word, the kubelet's.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

/// Is told what happens. Called from the worker's task: it must not block.
pub trait PodObserver: Send + Sync {
    /// Something happened.
    fn event(&self, event: &PodEvent);
    /// The status is another than before.
    fn status(&self, pod: &PodIdentity, status: &PodStatus);
    /// The pod is over: no container of it runs and none will. Called before its
    /// sandbox is stopped; its last status follows when that is done.
    fn settled(&self, _pod: &PodIdentity, _status: &PodStatus) {}
}

/// An observer that does not care.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl PodObserver for Unobserved {
    fn event(&self, _event: &PodEvent) {}
    fn status(&self, _pod: &PodIdentity, _status: &PodStatus) {}
}
