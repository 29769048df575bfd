//! What a DaemonSet has to do, as values.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetStatus},
    core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec},
};

use super::{
    eligible::{self, Eligibility, eligibility},
    name_of,
};
use crate::controllers::{
    deployment::rolling::{Round, resolve},
    names,
    pods::{self, count, seconds},
};

/// Which template a pod is of.
pub const HASH: &str = "controller-revision-hash";

/// What a plan is made of.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// The set.
    pub set: &'a DaemonSet,
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
    /// The pods that it owns.
    pub pods: &'a [Arc<Pod>],
    /// Nodes on which pods failed, and how long they wait for the next.
    pub waits: BTreeMap<String, Duration>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A pod for a node.
    Create {
        /// The node.
        node: String,
    },
    /// A pod is to go.
    Delete {
        /// The pod.
        pod: Arc<Pod>,
        /// The reason.
        why: Why,
    },
}

/// Why a pod is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It has ended, and pods of a DaemonSet do not end.
    Ended,
    /// Its node shall not have it, or has another.
    Unwanted,
    /// It is of an older template.
    Outdated,
}

/// A plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What to do, in any order.
    pub actions: Vec<Action>,
    /// The nodes on which a pod was found that had ended.
    pub failed_on: Vec<String>,
    /// When to look again though nothing changes.
    pub again: Option<Duration>,
}

/// The pods of one eligible node, by what they are.
#[derive(Debug, Default)]
struct OnNode {
    old: Option<Arc<Pod>>,
    new: Option<Arc<Pod>>,
    /// One that is ending, or has ended and is to be deleted: its place is not
    /// free yet.
    leaving: bool,
}

/// Which node a pod is on, or is meant for.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pods::node(pod).or_else(|| {
        let affinity = pod
            .spec
            .as_ref()?
            .affinity
            .as_ref()?
            .node_affinity
            .as_ref()?;
        let required = affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()?;
        let mut fields = required
            .node_selector_terms
            .iter()
            .flat_map(|term| term.match_fields.iter().flatten());
        let name = fields.find(|field| field.key == "metadata.name" && field.operator == "In")?;
        name.values.as_ref()?.first().map(String::as_str)
    })
}

/// What a DaemonSet has to do.
pub fn plan_daemon_set(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan {
        actions: Vec::new(),
        failed_on: Vec::new(),
        again: observed.waits.values().min().copied(),
    };
    if observed.set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let hash = template_hash(observed.set);
    let min_ready = seconds(observed.set.spec.min_ready_seconds);
    let spec = observed.set.spec.template.spec.clone().unwrap_or_default();
    let mut by_node = pods_by_node(observed.pods);
    let mut eligible = BTreeMap::new();
    for node in observed.nodes {
        let pods = by_node.remove(name_of(node)).unwrap_or_default();
        let may = eligibility(&spec, &eligible::facts(node));
        if may == Eligibility::No {
            drop_all(&mut plan, &pods);
            continue;
        }
        let on_node = sort_pods(&mut plan, &pods, &hash);
        if may == Eligibility::Run || on_node.old.is_some() || on_node.new.is_some() {
            eligible.insert(name_of(node).to_owned(), (may, on_node));
        }
    }
    // Nodes that are gone.
    for pods in by_node.into_values() {
        drop_all(&mut plan, &pods);
    }
    fill(&mut plan, observed, &eligible);
    update(&mut plan, observed.set, &eligible, (min_ready, now));
    let ripe = observed
        .pods
        .iter()
        .filter(|pod| pods::is_active(pod))
        .filter_map(|pod| pods::available_in(pod, min_ready, now));
    plan.again = plan.again.into_iter().chain(ripe).min();
    plan
}

fn pods_by_node(pods: &[Arc<Pod>]) -> BTreeMap<&str, Vec<Arc<Pod>>> {
    let mut by_node: BTreeMap<&str, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = node_of(pod) {
            by_node.entry(node).or_default().push(Arc::clone(pod));
        }
    }
    by_node
}

fn drop_all(plan: &mut Plan, pods: &[Arc<Pod>]) {
    let living = pods.iter().filter(|pod| !pods::is_terminating(pod));
    plan.actions.extend(living.map(|pod| Action::Delete {
        pod: Arc::clone(pod),
        why: Why::Unwanted,
    }));
}

/// Finds a node's old and new pod; what has ended and what is too many goes.
fn sort_pods(plan: &mut Plan, pods: &[Arc<Pod>], hash: &str) -> OnNode {
    let mut on_node = OnNode::default();
    let mut pods: Vec<&Arc<Pod>> = pods.iter().collect();
    // One that serves stays, then one that is bound, then the oldest.
    pods.sort_by_key(|pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let idle = !pods::is_ready(pod);
        (
            idle,
            pods::node(pod).is_none(),
            created,
            pod.metadata.name.clone(),
        )
    });
    for pod in pods {
        if pods::is_terminating(pod) {
            on_node.leaving = true;
            continue;
        }
        if pods::has_ended(pod) {
            on_node.leaving = true;
            plan.failed_on.extend(node_of(pod).map(str::to_owned));
            plan.actions.push(Action::Delete {
                pod: Arc::clone(pod),
                why: Why::Ended,
            });
            continue;
        }
        let place = match is_new(pod, hash) {
            true => &mut on_node.new,
            false => &mut on_node.old,
        };
        match place {
            Some(_) => plan.actions.push(Action::Delete {
                pod: Arc::clone(pod),
                why: Why::Unwanted,
            }),
            None => *place = Some(Arc::clone(pod)),
        }
    }
    on_node
}

/// Makes a pod on each eligible node that has none.
fn fill(
    plan: &mut Plan,
    observed: &Observed<'_>,
    eligible: &BTreeMap<String, (Eligibility, OnNode)>,
) {
    for (node, (may, on_node)) in eligible {
        let empty = on_node.old.is_none() && on_node.new.is_none() && !on_node.leaving;
        if *may == Eligibility::Run && empty && !observed.waits.contains_key(node) {
            plan.actions.push(Action::Create { node: node.clone() });
        }
    }
}

/// Goes on with a rolling update.
fn update(
    plan: &mut Plan,
    set: &DaemonSet,
    eligible: &BTreeMap<String, (Eligibility, OnNode)>,
    (min_ready, now): (Duration, Timestamp),
) {
    let Some(limits) = Limits::of(set, eligible.len()) else {
        return;
    };
    let available = |pod: &Arc<Pod>| pods::is_available(pod, min_ready, now);
    let has_available = |on_node: &OnNode| on_node.old.iter().chain(&on_node.new).any(available);
    let nodes = eligible.values();
    let unavailable = nodes.filter(|(_, on_node)| !has_available(on_node)).count();
    let nodes = eligible.values();
    let doubled = nodes.filter(|(_, on_node)| on_node.old.is_some() && on_node.new.is_some());
    let mut may_fail = limits.unavailable.saturating_sub(unavailable);
    let mut may_double = limits.surge.saturating_sub(doubled.count());
    for (node, (may, on_node)) in eligible {
        // Where no new pod may be made, the old one is better than none.
        let Some(old) = on_node.old.as_ref().filter(|_| *may == Eligibility::Run) else {
            continue;
        };
        let mut replace = || {
            plan.actions.push(Action::Delete {
                pod: Arc::clone(old),
                why: Why::Outdated,
            });
        };
        match &on_node.new {
            Some(new) if available(new) => replace(),
            // The new pod is on its way, beside the old one.
            Some(_) if limits.surge > 0 && available(old) => {}
            // Nobody misses it.
            _ if !available(old) => replace(),
            None if limits.surge > 0 && may_double > 0 => {
                may_double -= 1;
                plan.actions.push(Action::Create { node: node.clone() });
            }
            _ if may_fail > 0 && limits.surge == 0 => {
                may_fail -= 1;
                replace();
            }
            _ => {}
        }
    }
}

/// How far an update may go at once.
struct Limits {
    unavailable: usize,
    surge: usize,
}

impl Limits {
    /// None where pods are replaced only when somebody deletes them.
    fn of(set: &DaemonSet, nodes: usize) -> Option<Limits> {
        let strategy = set.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let nodes = count(nodes);
        let surge = resolve(surge, "0%", nodes, Round::Up);
        let unavailable = match unavailable {
            None => i32::from(surge == 0),
            given => resolve(given, "0%", nodes, Round::Up),
        };
        let unavailable = if surge + unavailable == 0 {
            1
        } else {
            unavailable
        };
        Some(Limits {
            unavailable: usize::try_from(unavailable).unwrap_or(0),
            surge: usize::try_from(surge).unwrap_or(0),
        })
    }
}

/// What tells the set's template from an edited one.
pub fn template_hash(set: &DaemonSet) -> String {
    names::hash(&set.spec.template, 0)
}

fn is_new(pod: &Pod, hash: &str) -> bool {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(HASH))
        .map(String::as_str)
        == Some(hash)
}

/// The pod of a set for a node.
pub fn pod_for(set: &DaemonSet, node: &str, name: String) -> Pod {
    let mut pod = pods::of_template(&set.spec.template, &set.metadata, name);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), template_hash(set));
    pod.metadata.owner_references = Some(pods::controller_reference(set).into_iter().collect());
    let spec = pod.spec.get_or_insert_with(PodSpec::default);
    spec.tolerations = Some(eligible::tolerations(spec));
    let affinity = spec.affinity.get_or_insert_default();
    let affinity = affinity.node_affinity.get_or_insert_default();
    // In place of the template's own terms, which the node was chosen by: terms
    // are alternatives, and one of them beside this would allow other nodes.
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
            match_expressions: None,
        }],
    });
    pod
}

/// The status of a set.
pub fn status(observed: &Observed<'_>, now: Timestamp) -> DaemonSetStatus {
    let set = observed.set;
    let hash = template_hash(set);
    let min_ready = seconds(set.spec.min_ready_seconds);
    let spec = set.spec.template.spec.clone().unwrap_or_default();
    let by_node = pods_by_node(observed.pods);
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: set
            .status
            .as_ref()
            .and_then(|status| status.collision_count),
        conditions: set
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone()),
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    for node in observed.nodes {
        let pods = by_node
            .get(name_of(node))
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut living = pods.iter().filter(|pod| pods::is_active(pod));
        if eligibility(&spec, &eligible::facts(node)) != Eligibility::Run {
            status.number_misscheduled += i32::from(living.next().is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        status.current_number_scheduled += i32::from(living.clone().next().is_some());
        status.number_ready += i32::from(living.clone().any(|pod| pods::is_ready(pod)));
        available += i32::from(
            living
                .clone()
                .any(|pod| pods::is_available(pod, min_ready, now)),
        );
        updated += i32::from(living.any(|pod| is_new(pod, &hash)));
    }
    status.updated_number_scheduled = Some(updated);
    status.number_available = Some(available);
    status.number_unavailable = Some(status.desired_number_scheduled - available);
    status
}

#[cfg(test)]
mod tests;
