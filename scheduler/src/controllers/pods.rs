//! What all controllers ask of a pod.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::Resource;

/// Whether it ended by itself: nothing of it runs or will.
pub fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Its phase, `Pending` if nobody said.
pub fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// Whether it was told to end.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether it counts as one that runs, or will.
pub fn is_active(pod: &Pod) -> bool {
    !has_ended(pod) && !is_terminating(pod)
}

/// One of its conditions.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Since when it has been ready without a break.
pub fn ready_since(pod: &Pod) -> Option<Option<Timestamp>> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    Some(ready.last_transition_time.as_ref().map(|time| time.0))
}

/// Whether it is ready.
pub fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// Whether it has been ready for long enough.
pub fn is_available(pod: &Pod, min_ready: Duration, now: Timestamp) -> bool {
    is_ready(pod) && available_in(pod, min_ready, now).is_none()
}

/// In how long it becomes available if it stays ready; none if it is, or is not
/// ready.
pub fn available_in(pod: &Pod, min_ready: Duration, now: Timestamp) -> Option<Duration> {
    let since = ready_since(pod)?;
    if min_ready.is_zero() {
        return None;
    }
    let Some(since) = since else {
        return Some(min_ready);
    };
    let ready_for = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    min_ready
        .checked_sub(ready_for)
        .filter(|left| !left.is_zero())
}

/// How often its containers were restarted.
pub fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.iter();
    status
        .flat_map(|status| {
            let init = status.init_container_statuses.iter().flatten();
            init.chain(status.container_statuses.iter().flatten())
        })
        .map(|container| container.restart_count)
        .fold(0, i32::saturating_add)
}

/// When the last of its containers ended; when it was deleted or made, if no
/// container tells.
pub fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.iter();
    let containers = status.flat_map(|status| status.container_statuses.iter().flatten());
    let ended = containers.filter_map(|container| {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        ended.finished_at.as_ref().map(|time| time.0)
    });
    let meta = &pod.metadata;
    let fallback = meta
        .deletion_timestamp
        .as_ref()
        .or(meta.creation_timestamp.as_ref());
    ended.max().or(fallback.map(|time| time.0))
}

/// The node it is bound to.
pub fn node(pod: &Pod) -> Option<&str> {
    let node = pod.spec.as_ref()?.node_name.as_deref();
    node.filter(|node| !node.is_empty())
}

/// A pod of a template, owned by `owner`, under a name of its own.
pub fn of_template(template: &PodTemplateSpec, owner: &ObjectMeta, name: String) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: owner.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The reference that makes an object one's own; none if the owner was never in
/// the store.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> Option<OwnerReference> {
    owner.controller_owner_ref(&())
}

/// A field's seconds as a duration; none and less are zero.
pub fn seconds(field: Option<i32>) -> Duration {
    Duration::from_secs(u64::try_from(field.unwrap_or(0)).unwrap_or(0))
}

/// A count as the API has it.
pub fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
