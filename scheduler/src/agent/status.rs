//! Pods' statuses, on their way to the server.
//!
//! A pod's worker tells every change; the server is told the last one. One task a
//! pod at a time writes, so that an old status never lands on a newer one, and a
//! status that could not be written is written later, as it is then.
//!
//! Only what changed is sent, as a merge patch that names the pod's uid: a pod that
//! took the name of an earlier one refuses its statuses.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, Semaphore, watch};
use tracing::{debug, warn};

use super::{is_conflict, is_not_found};
use crate::pod::{events::PodIdentity, worker::status::RESIZE_PENDING};
use crate::waits::Waits;

/// Conditions that a pod is not ready without.
mod gates;

/// Statuses that are written at once.
const AT_ONCE: usize = 8;

/// Pods' statuses, on their way to the server.
pub struct Statuses {
    client: Client,
    gather: Duration,
    retry: (Duration, Duration),
    pods: Mutex<HashMap<String, Entry>>,
    work: Notify,
}

struct Entry {
    pod: PodIdentity,
    /// What the server has, as far as is known.
    told: PodStatus,
    /// When it had it, as it counts.
    revision: u64,
    wanted: PodStatus,
    /// Conditions that others set and that the pod is not ready without.
    gates: Vec<String>,
    /// Counts changes of `wanted`.
    version: u64,
    written: watch::Sender<u64>,
    writing: bool,
}

impl Statuses {
    /// A place for statuses; nothing is written before [`Statuses::write_all`] runs.
    pub fn new(client: Client, gather: Duration, retry: (Duration, Duration)) -> Arc<Statuses> {
        Arc::new(Statuses {
            client,
            gather,
            retry,
            pods: Mutex::new(HashMap::new()),
            work: Notify::new(),
        })
    }

    /// Says what the server has, as it tells itself. What this node says of its pods
    /// holds: where somebody else wrote another status, it is written again.
    pub fn seen(&self, identity: &PodIdentity, pod: &Pod) {
        let mut pods = self.lock();
        let entry = entry(&mut pods, identity);
        entry.gates = read_gates(pod);
        let revision = read_revision(pod);
        // While a write is under way the server's answer to it is newer; and a watch may
        // lag behind an answer.
        if entry.writing || revision < entry.revision {
            return;
        }
        entry.revision = revision;
        entry.told = pod.status.clone().unwrap_or_default();
        let said = entry.version > 0;
        if said && entry.plan_patch().is_some() {
            entry.version += 1;
            self.work.notify_one();
        }
    }

    /// Says which conditions of others a pod is not ready without, before anything else is
    /// known of it.
    pub fn note_gates(&self, identity: &PodIdentity, pod: &Pod) {
        entry(&mut self.lock(), identity).gates = read_gates(pod);
    }

    /// Says what is to be written; the last one counts.
    pub fn want(&self, pod: &PodIdentity, status: &PodStatus) {
        let mut pods = self.lock();
        let entry = entry(&mut pods, pod);
        entry.wanted = status.clone();
        entry.version += 1;
        self.work.notify_one();
    }

    /// Waits until what was wanted so far is with the server, or the pod is no more.
    pub async fn flushed(&self, uid: &str) {
        let (version, mut written) = {
            let pods = self.lock();
            let Some(entry) = pods.get(uid) else {
                return;
            };
            (entry.version, entry.written.subscribe())
        };
        // An error: the entry is forgotten, and nobody waits for its status.
        let _ = written.wait_for(|written| *written >= version).await;
    }

    /// Statuses that are not with the server.
    pub fn waiting(&self) -> usize {
        let pods = self.lock();
        let waits = |entry: &&Entry| *entry.written.borrow() < entry.version;
        pods.values().filter(waits).count()
    }

    /// Forgets a pod.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Writes what is wanted, for ever.
    pub async fn write_all(self: Arc<Self>) {
        let gate = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            self.work.notified().await;
            tokio::time::sleep(self.gather).await;
            for uid in self.begin_writing() {
                let statuses = Arc::clone(&self);
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { statuses.write_until_current(&uid, &gate).await });
            }
        }
    }

    /// Pods with something to write that nobody writes yet.
    fn begin_writing(&self) -> Vec<String> {
        let mut pods = self.lock();
        let waiting = pods
            .iter_mut()
            .filter(|(_, entry)| !entry.writing && *entry.written.borrow() < entry.version);
        waiting
            .map(|(uid, entry)| {
                entry.writing = true;
                uid.clone()
            })
            .collect()
    }

    /// Writes one pod's status until there is nothing newer.
    async fn write_until_current(&self, uid: &str, gate: &Semaphore) {
        let mut waits = Waits::new(self.retry);
        while let Some(write) = self.next_write(uid) {
            let answer = match &write.patch {
                None => Ok(None),
                Some(patch) => {
                    // Not while waiting to try again: others may be luckier.
                    let Ok(_permit) = gate.acquire().await else {
                        return;
                    };
                    let api: Api<Pod> = Api::namespaced(self.client.clone(), &write.pod.namespace);
                    let parameters = PatchParams::default();
                    let patch = Patch::Merge(patch);
                    let written = api.patch_status(&write.pod.name, &parameters, &patch);
                    written.await.map(Some)
                }
            };
            match answer {
                Ok(pod) => {
                    waits.reset();
                    self.note(uid, &write, pod);
                }
                // The pod is no more, or another has its name.
                Err(error) if is_not_found(&error) || is_conflict(&error) => {
                    debug!(pod = write.pod.name, %error, "nobody wants the pod's status any more");
                    self.note(uid, &write, None);
                }
                Err(error) => {
                    warn!(pod = write.pod.name, %error, "the pod's status was not written");
                    waits.wait().await;
                }
            }
        }
    }

    /// What is to be written next; nothing when the server has all.
    fn next_write(&self, uid: &str) -> Option<Write> {
        let mut pods = self.lock();
        let entry = pods.get_mut(uid)?;
        if *entry.written.borrow() >= entry.version {
            entry.writing = false;
            return None;
        }
        Some(Write {
            patch: entry.plan_patch(),
            pod: entry.pod.clone(),
            version: entry.version,
        })
    }

    fn note(&self, uid: &str, write: &Write, told: Option<Pod>) {
        let mut pods = self.lock();
        if let Some(entry) = pods.get_mut(uid) {
            if let Some(told) = told {
                let open = |status: &PodStatus| gates::closed(&entry.gates, status).is_none();
                let before = open(&entry.told);
                entry.revision = read_revision(&told);
                entry.told = told.status.unwrap_or_default();
                // Somebody set the condition meanwhile, and the watch that told of it was
                // not listened to.
                if open(&entry.told) != before {
                    entry.version = entry.version.max(write.version + 1);
                }
            }
            entry.written.send_replace(write.version);
        }
    }

    /// Each change under the lock is whole, so a panic elsewhere harms nothing.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server's count of changes. It is a number in every store that there is; where it
/// is none, the last one heard of counts.
fn read_revision(pod: &Pod) -> u64 {
    let text = pod.metadata.resource_version.as_deref();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Entry {
    fn plan_patch(&self) -> Option<Value> {
        let mut wanted = self.wanted.clone();
        gates::hold_back(&self.gates, &self.told, &mut wanted, Timestamp::now());
        plan_patch(&self.pod.uid, &self.told, &wanted)
    }
}

fn read_gates(pod: &Pod) -> Vec<String> {
    let gates = pod
        .spec
        .iter()
        .flat_map(|spec| spec.readiness_gates.iter().flatten());
    gates.map(|gate| gate.condition_type.clone()).collect()
}

struct Write {
    pod: PodIdentity,
    patch: Option<Value>,
    version: u64,
}

fn entry<'a>(pods: &'a mut HashMap<String, Entry>, pod: &PodIdentity) -> &'a mut Entry {
    pods.entry(pod.uid.clone()).or_insert_with(|| Entry {
        pod: pod.clone(),
        told: PodStatus::default(),
        revision: 0,
        wanted: PodStatus::default(),
        gates: Vec::new(),
        version: 0,
        written: watch::channel(0).0,
        writing: false,
    })
}

/// Fields of a status that this node writes; others keep theirs.
const OWN: [&str; 12] = [
    "conditions",
    "containerStatuses",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "phase",
    "podIP",
    "podIPs",
    "qosClass",
    "reason",
    "startTime",
];

/// What makes the server's status the wanted one; nothing if it is.
///
/// A pod that is over stays over, whatever is wanted later.
pub fn plan_patch(uid: &str, told: &PodStatus, wanted: &PodStatus) -> Option<Value> {
    let over = |status: &PodStatus| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let mut wanted = wanted.clone();
    if over(told) && !over(&wanted) {
        wanted.phase.clone_from(&told.phase);
    }
    if wanted.conditions.is_some() {
        wanted.conditions = Some(merge_conditions(told, &wanted));
    }
    let before = json!(told);
    let after = json!(wanted);
    let changed: Map<String, Value> = OWN
        .into_iter()
        // A pod that was refused has no conditions of this node's; those of others stay.
        .filter(|field| *field != "conditions" || after.get(field).is_some())
        .filter(|field| before.get(field) != after.get(field))
        // A null takes the field away.
        .map(|field| {
            (
                field.to_owned(),
                after.get(field).cloned().unwrap_or_default(),
            )
        })
        .collect();
    (!changed.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changed}))
}

/// Conditions of others stay, and so do times of those that did not change.
fn merge_conditions(told: &PodStatus, wanted: &PodStatus) -> Vec<PodCondition> {
    let earlier = told.conditions.as_deref().unwrap_or_default();
    let own = wanted.conditions.as_deref().unwrap_or_default();
    let foreign = earlier
        .iter()
        .filter(|condition| own.iter().all(|own| own.type_ != condition.type_))
        // This node's, and over.
        .filter(|condition| condition.type_ != RESIZE_PENDING);
    let own = own.iter().map(|condition| {
        let same = earlier
            .iter()
            .find(|known| known.type_ == condition.type_ && known.status == condition.status);
        PodCondition {
            last_transition_time: match same {
                Some(same) => same.last_transition_time.clone(),
                None => condition.last_transition_time.clone(),
            },
            observed_generation: same.and_then(|same| same.observed_generation),
            ..condition.clone()
        }
    });
    own.chain(foreign.cloned()).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodStatus;
    use serde_json::{Value, json};

    use super::plan_patch;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_changed_is_sent() {
        let told = status(
            json!({"phase": "Pending", "podIP": "10.0.0.2", "reason": "x",
            "nominatedNodeName": "n2", "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "gate.example/ready", "status": "False"}]}),
        );
        let wanted = status(
            json!({"phase": "Running", "podIP": "10.0.0.2", "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-02-02T00:00:00Z"}]}),
        );
        let patch = plan_patch("u-1", &told, &wanted).unwrap();
        let expected = json!({"metadata": {"uid": "u-1"},
            "status": {"phase": "Running", "reason": null}});
        assert_eq!(patch, expected);
        assert_eq!(plan_patch("u-1", &told, &told), None);
    }

    #[test]
    fn a_condition_of_this_nodes_goes_when_it_is_over() {
        let told = status(json!({"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "PodResizePending", "status": "True"},
            {"type": "gate.example/ready", "status": "False"}]}));
        let wanted = status(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        let patch = plan_patch("u-1", &told, &wanted).unwrap();
        let kinds: Vec<&Value> = patch["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["type"])
            .collect();
        assert_eq!(kinds, ["Ready", "gate.example/ready"]);
    }

    #[test]
    fn a_pod_that_is_over_stays_over() {
        let told = status(json!({"phase": "Failed", "reason": "Evicted"}));
        let wanted = status(json!({"phase": "Running", "reason": "Evicted"}));
        assert_eq!(plan_patch("u-1", &told, &wanted), None);
    }
}
