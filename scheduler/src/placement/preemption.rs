//! Preemption: which less important pods must go so that a pod finds room.
//!
//! For each node where pods are what stands against it, all less important pods
//! are taken off the snapshot. If the pod fits then, they are put back one by
//! one, the most important first, and each that leaves the pod its room stays:
//! what is left over are the victims. Every question is asked of the same
//! filters as ever, so no rule of theirs is known here.
//!
//! Of all nodes the one is taken whose victims break the fewest disruption
//! budgets, then have the lowest highest priority, the lowest sum of priorities,
//! are the fewest, and among those the youngest.
//!
//! Read more: "Pod Priority and Preemption" in the Kubernetes documentation.

use std::{cmp::Reverse, sync::Arc};

use crate::placement::{
    census::Slot,
    cycle::{self, Refusals},
    facts::PodFacts,
    selector::Selector,
    snapshot::Snapshot,
    symbol::Symbol,
};

/// How many pods of a group may go.
#[derive(Debug, Clone)]
pub struct Budget {
    /// The pods' namespace.
    pub namespace: Symbol,
    /// The pods.
    pub selector: Selector,
    /// How many more may go now.
    pub allowed: i64,
}

/// Who must go.
#[derive(Debug, Clone)]
pub struct Preemption {
    /// The node that gets room.
    pub node: Slot,
    /// The pods that go.
    pub victims: Vec<Arc<PodFacts>>,
    /// How many of them a budget would keep.
    pub breaches: usize,
}

/// What came of the search.
#[derive(Debug)]
pub enum Outcome {
    /// These go.
    Evict(Preemption),
    /// Pods that were told to go have not gone yet.
    Waits,
    /// The pod says that it takes nobody's place.
    Never,
    /// On so many nodes pods do not matter, on so many no set of victims helps.
    Helpless {
        /// Nodes where fewer pods would change nothing.
        not_of_pods: usize,
        /// Nodes without less important pods that would do.
        no_victims: usize,
    },
}

/// Finds the pods that must go for a pod that no node fits.
///
/// The snapshot is restored before the function returns.
pub fn plan_preemption(
    snapshot: &mut Snapshot,
    pod: &PodFacts,
    refusals: &Refusals,
    budgets: &[Budget],
) -> Outcome {
    if !pod.may_preempt {
        return Outcome::Never;
    }
    if waits_for_victims(snapshot, pod) {
        return Outcome::Waits;
    }
    let nodes = snapshot.ready().len();
    let promising = refusals.nodes_of_pods();
    let not_of_pods = nodes.saturating_sub(promising.len());
    let most = (nodes / 10).max(100);
    let mut found: Vec<Preemption> = Vec::new();
    for slot in promising.iter().copied() {
        found.extend(plan_on(snapshot, pod, slot, budgets));
        if found.len() >= most {
            break;
        }
    }
    match found.into_iter().min_by_key(harm) {
        Some(least) => Outcome::Evict(least),
        None => Outcome::Helpless {
            not_of_pods,
            no_victims: promising.len(),
        },
    }
}

/// Whether pods that made room for this one are still on their way out.
fn waits_for_victims(snapshot: &Snapshot, pod: &PodFacts) -> bool {
    pod.nominated
        .and_then(|node| snapshot.slot_of(node))
        .is_some_and(|slot| {
            snapshot
                .node(slot)
                .pods
                .iter()
                .any(|other| other.ending && other.priority < pod.priority)
        })
}

fn plan_on(
    snapshot: &mut Snapshot,
    pod: &PodFacts,
    slot: Slot,
    budgets: &[Budget],
) -> Option<Preemption> {
    let node = snapshot.node(slot).name;
    let mut lower: Vec<Arc<PodFacts>> = snapshot
        .node(slot)
        .pods
        .iter()
        .filter(|other| other.priority < pod.priority)
        .cloned()
        .collect();
    if lower.is_empty() {
        return None;
    }
    for other in &lower {
        snapshot.displace(&other.name);
    }
    let plan = cycle::fits_beside_nominated(snapshot, pod, slot).then(|| {
        // The most important and longest running are asked first whether they may stay.
        lower.sort_by_key(|other| (Reverse(other.priority), other.created));
        let (kept_by_budget, free) = split_by_budgets(snapshot, &lower, budgets);
        let mut victims = Vec::new();
        let mut breaches = 0;
        for (other, breach) in kept_by_budget
            .into_iter()
            .map(|other| (other, 1))
            .chain(free.into_iter().map(|other| (other, 0)))
        {
            snapshot.place(other.clone(), node);
            if !cycle::fits_beside_nominated(snapshot, pod, slot) {
                snapshot.displace(&other.name);
                victims.push(other);
                breaches += breach;
            }
        }
        Preemption {
            node: slot,
            victims,
            breaches,
        }
    });
    for other in lower {
        if snapshot.pod(&other.name).is_none() {
            snapshot.place(other, node);
        }
    }
    plan.filter(|plan| !plan.victims.is_empty())
}

/// Pods whose going would break a budget, and the others.
fn split_by_budgets(
    snapshot: &Snapshot,
    pods: &[Arc<PodFacts>],
    budgets: &[Budget],
) -> (Vec<Arc<PodFacts>>, Vec<Arc<PodFacts>>) {
    let mut left: Vec<i64> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.iter().cloned().partition(|pod| {
        let cohort = snapshot.census.cohort_of(pod.cohort);
        let mut breaks = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            if budget.namespace == cohort.namespace
                && budget.selector.matches(&cohort.labels, &snapshot.symbols)
            {
                *left -= 1;
                breaks |= *left < 0;
            }
        }
        breaks
    })
}

/// The order of plans, the least harmful first.
fn harm(plan: &Preemption) -> (usize, i32, i64, usize, Reverse<i64>) {
    let highest = plan.victims.iter().map(|victim| victim.priority).max();
    let highest = highest.unwrap_or(i32::MIN);
    // Shifted, so that many victims with negative priorities are not better than few.
    let sum = plan
        .victims
        .iter()
        .map(|victim| i64::from(victim.priority) + i64::from(i32::MAX) + 1)
        .sum();
    let oldest = plan
        .victims
        .iter()
        .filter(|victim| victim.priority == highest)
        .map(|victim| victim.created)
        .min();
    (
        plan.breaches,
        highest,
        sum,
        plan.victims.len(),
        Reverse(oldest.unwrap_or(0)),
    )
}

#[cfg(test)]
mod tests;
