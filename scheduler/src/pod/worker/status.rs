//! What a pod's status says, worked out from what is known of its containers.
//!
//! ```text
//! Pending ──▶ Running ──▶ Succeeded   every main container exited with 0
//!    │           └──────▶ Failed      one did not, and is not started again
//!    └──────────────────▶ Failed      an init container failed for good
//! ```
//!
//! Read more: "Pod Lifecycle" in the Kubernetes documentation.

use std::net::IpAddr;

use berth_cri::v1;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateWaiting, ContainerStatus, HostIP, PodCondition, PodIP,
        PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::adopt::Found;
use crate::pod::plan::{
    PodPlan,
    container::ContainerPlan,
    restart::{AfterExit, Role},
};

/// The reason of a pod that the node ended because it needs what the pod used.
pub const EVICTED: &str = "Evicted";

/// The condition of a pod that is to have other resources and does not have them yet.
pub const RESIZE_PENDING: &str = "PodResizePending";

/// Why a pod does not have the resources yet that it is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// `Infeasible` if it never can on this node, `Deferred` if others have to leave first.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// What is known of a pod.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its containers, init containers first, each in the pod's order.
    pub containers: Vec<KnownContainer>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The node's addresses.
    pub host_addresses: Vec<IpAddr>,
    /// Its class, as the API writes it.
    pub qos: &'static str,
    /// When the node took it.
    pub start_time: Timestamp,
    /// Whether its sandbox runs.
    pub sandbox_ready: bool,
    /// Whether nothing will be started any more, and why.
    pub end: Option<End>,
    /// Why it does not have the resources that it is to have.
    pub pending: Option<Pending>,
}

/// How a pod ends other than by its containers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct End {
    /// One word for why the node ended it; none when it ended by itself or was asked to.
    pub reason: Option<String>,
    /// One sentence.
    pub message: Option<String>,
}

/// What is known of a container.
#[derive(Debug, Clone)]
pub struct KnownContainer {
    /// Its part in the pod.
    pub role: Role,
    /// What its last exit meant, once it is not started again.
    pub outcome: Option<AfterExit>,
    /// Its status as the API shows it.
    pub status: ContainerStatus,
}

impl Known {
    /// What is known of a pod that nothing was done for yet.
    pub fn new(plan: &PodPlan, host_addresses: &[IpAddr], start_time: Timestamp) -> Known {
        let initializing = !plan.init_containers.is_empty();
        let containers = plan.init_containers.iter().chain(&plan.containers);
        Known {
            containers: containers
                .map(|container| KnownContainer::new(container, initializing))
                .collect(),
            addresses: Vec::new(),
            host_addresses: host_addresses.to_vec(),
            qos: plan.qos.name(),
            start_time,
            sandbox_ready: false,
            end: None,
            pending: None,
        }
    }

    /// Goes on with what an earlier worker told of what was found on the node, so that
    /// a change of workers does not look like a pod that begins anew.
    pub fn resume(&mut self, earlier: &PodStatus, found: &Found) {
        if found.sandbox.is_some() {
            self.sandbox_ready = true;
            let addresses = earlier.pod_ips.iter().flatten();
            self.addresses = addresses.filter_map(|one| one.ip.parse().ok()).collect();
        }
        let mains_began = found.mains_began;
        for known in &mut self.containers {
            let told = earlier.container_statuses.iter().flatten();
            let mut told = told.chain(earlier.init_container_statuses.iter().flatten());
            let Some(told) = told.find(|told| told.name == known.status.name) else {
                continue;
            };
            known.resume(told, found.containers.get(&told.name), mains_began);
        }
    }

    /// The container of this name.
    pub fn container(&mut self, name: &str) -> Option<&mut KnownContainer> {
        let mut containers = self.containers.iter_mut();
        containers.find(|container| container.status.name == name)
    }
}

impl KnownContainer {
    fn new(plan: &ContainerPlan, initializing: bool) -> KnownContainer {
        let reason = match plan.role {
            Role::Main if initializing => "PodInitializing",
            _ => "ContainerCreating",
        };
        KnownContainer {
            role: plan.role,
            outcome: None,
            status: ContainerStatus {
                name: plan.name().to_owned(),
                image: plan.image.clone(),
                started: Some(false),
                state: Some(waiting(reason, None)),
                ..Default::default()
            },
        }
    }

    fn resume(&mut self, told: &ContainerStatus, found: Option<&v1::ContainerStatus>, began: bool) {
        let terminated = |state: &Option<ContainerState>| {
            state.clone().filter(|state| state.terminated.is_some())
        };
        let id = told.container_id.as_deref().unwrap_or_default();
        let same = found.is_some_and(|found| !id.is_empty() && id.ends_with(&found.id));
        if same || (began && self.role == Role::Init) {
            self.status = ContainerStatus {
                image: self.status.image.clone(),
                ..told.clone()
            };
            if began && self.role == Role::Init {
                self.outcome = Some(AfterExit::Succeeded);
            }
            if same || terminated(&self.status.state).is_some() {
                return;
            }
        }
        self.status.restart_count = told.restart_count;
        self.status.last_state = terminated(&told.state).or(terminated(&told.last_state));
    }

    /// The number of its next start.
    pub fn next_attempt(&self) -> u32 {
        let restarts = u32::try_from(self.status.restart_count).unwrap_or(0);
        restarts + u32::from(self.has_run())
    }

    fn is_running(&self) -> bool {
        let state = self.status.state.as_ref();
        state.is_some_and(|state| state.running.is_some())
    }

    fn has_run(&self) -> bool {
        let terminated = |state: &Option<ContainerState>| {
            state
                .as_ref()
                .is_some_and(|state| state.terminated.is_some())
        };
        self.is_running() || terminated(&self.status.state) || terminated(&self.status.last_state)
    }

    /// Whether what comes after it may start.
    fn is_initialized(&self) -> bool {
        match self.role {
            Role::Init => self.outcome == Some(AfterExit::Succeeded),
            Role::Sidecar => self.status.started == Some(true),
            Role::Main => true,
        }
    }
}

/// A state in which a container waits.
pub fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..Default::default()
    }
}

/// The status, with times of conditions taken from the one before.
pub fn compose(known: &Known, before: &PodStatus, now: Timestamp) -> PodStatus {
    let statuses = |wanted: fn(Role) -> bool| {
        let containers = known.containers.iter();
        let list: Vec<ContainerStatus> = containers
            .filter(|container| wanted(container.role))
            .map(|container| container.status.clone())
            .collect();
        (!list.is_empty()).then_some(list)
    };
    let end = known.end.clone().unwrap_or_default();
    let phase = phase(known);
    PodStatus {
        conditions: Some(conditions(known, phase, before, now)),
        container_statuses: statuses(|role| role == Role::Main),
        init_container_statuses: statuses(|role| role != Role::Main),
        host_ip: known.host_addresses.first().map(ToString::to_string),
        host_ips: list(&known.host_addresses, |ip| HostIP { ip }),
        pod_ip: known.addresses.first().map(ToString::to_string),
        pod_ips: list(&known.addresses, |ip| PodIP { ip }),
        phase: Some(phase.to_owned()),
        qos_class: Some(known.qos.to_owned()),
        start_time: Some(Time(known.start_time)),
        reason: end.reason,
        message: end.message,
        ..Default::default()
    }
}

fn list<T>(addresses: &[IpAddr], entry: fn(String) -> T) -> Option<Vec<T>> {
    let entries: Vec<T> = addresses
        .iter()
        .map(|address| entry(address.to_string()))
        .collect();
    (!entries.is_empty()).then_some(entries)
}

/// Where the pod is on its way.
pub fn phase(known: &Known) -> &'static str {
    let mains = || {
        let containers = known.containers.iter();
        containers.filter(|container| container.role == Role::Main)
    };
    if let Some(end) = &known.end {
        let succeeded = |container: &KnownContainer| match container.outcome {
            Some(outcome) => outcome == AfterExit::Succeeded,
            // Stopped before it ended by itself: its exit code tells.
            None => exit_code(container) == Some(0),
        };
        return match end.reason.is_none() && mains().all(succeeded) {
            true => "Succeeded",
            false => "Failed",
        };
    }
    let initialized = known.containers.iter().all(KnownContainer::is_initialized);
    let begun = mains().any(KnownContainer::has_run);
    let waits = mains().any(|container| !container.has_run());
    match (initialized || begun) && !waits {
        true => "Running",
        false => "Pending",
    }
}

fn exit_code(container: &KnownContainer) -> Option<i32> {
    let state = container.status.state.as_ref()?;
    Some(state.terminated.as_ref()?.exit_code)
}

fn conditions(known: &Known, phase: &str, before: &PodStatus, now: Timestamp) -> Vec<PodCondition> {
    let names = |wanted: &dyn Fn(&KnownContainer) -> bool| -> Vec<&str> {
        let containers = known.containers.iter();
        containers
            .filter(|container| wanted(container))
            .map(|container| container.status.name.as_str())
            .collect()
    };
    let not_initialized = names(&|container| !container.is_initialized());
    let not_ready = names(&|container| container.role != Role::Init && !container.status.ready);
    let initialized = match not_initialized.as_slice() {
        [] => (true, None, None),
        names => lacking("ContainersNotInitialized", "incomplete", names),
    };
    let ready = match (phase, not_ready.as_slice()) {
        ("Succeeded", _) => (false, Some("PodCompleted"), None),
        ("Failed", _) => (false, Some("PodFailed"), None),
        (_, []) => (true, None, None),
        (_, names) => lacking("ContainersNotReady", "unready", names),
    };
    let evicted = known
        .end
        .as_ref()
        .filter(|end| end.reason.as_deref() == Some(EVICTED));
    // Who counts failures does not count this one against the pod.
    let disrupted = evicted.map(|end| {
        let reason = Some("TerminationByKubelet");
        ("DisruptionTarget", (true, reason, end.message.clone()))
    });
    let pending = known.pending.as_ref().map(|pending| {
        let message = Some(pending.message.clone());
        (RESIZE_PENDING, (true, Some(pending.reason), message))
    });
    [
        (
            "PodReadyToStartContainers",
            (known.sandbox_ready, None, None),
        ),
        ("Initialized", initialized),
        ("Ready", ready.clone()),
        ("ContainersReady", ready),
        ("PodScheduled", (true, None, None)),
    ]
    .into_iter()
    .chain(disrupted)
    .chain(pending)
    .map(|(kind, (holds, reason, message))| {
        let status = if holds { "True" } else { "False" };
        let earlier = before
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == kind && condition.status == status);
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_transition_time: match earlier {
                Some(earlier) => earlier.last_transition_time.clone(),
                None => Some(Time(now)),
            },
            ..Default::default()
        }
    })
    .collect()
}

/// A condition that does not hold because of these containers.
fn lacking(
    reason: &'static str,
    what: &str,
    names: &[&str],
) -> (bool, Option<&'static str>, Option<String>) {
    let message = format!("containers with {what} status: [{}]", names.join(" "));
    (false, Some(reason), Some(message))
}

#[cfg(test)]
mod tests;
