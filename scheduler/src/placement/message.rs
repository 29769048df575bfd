//! The message of a pod that no node fits, as kube-scheduler words it.
//!
//! `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
//! People and programs search for these texts, so they are kept.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem::{self, Discriminant},
};

use crate::placement::{
    census::Slot,
    cycle::Refusals,
    filter::FILTERS,
    preemption::Outcome,
    queue::FilterSet,
    reason::{Reason, Resource},
    snapshot::Snapshot,
};

/// The message of a pod's condition.
pub fn unschedulable(snapshot: &Snapshot, refusals: &Refusals, preemption: &Outcome) -> String {
    let nodes = snapshot.ready().len();
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut message = format!(
        "0/{nodes} nodes are available: {}.",
        counted(refusals.summaries(snapshot))
    );
    let unfit = match preemption {
        Outcome::Evict(_) => return message,
        Outcome::Waits => {
            return message + " preemption: waiting for the pods that were told to make room.";
        }
        Outcome::Never => {
            return message + " preemption: not eligible due to preemptionPolicy=Never.";
        }
        Outcome::Helpless {
            not_of_pods,
            no_victims,
        } => [
            (
                "No preemption victims found for incoming pod".to_owned(),
                *no_victims,
            ),
            (
                "Preemption is not helpful for scheduling".to_owned(),
                *not_of_pods,
            ),
        ],
    };
    let unfit = unfit.into_iter().filter(|(_, nodes)| *nodes > 0).collect();
    message += &format!(
        " preemption: 0/{nodes} nodes are available: {}.",
        counted(unfit)
    );
    message
}

/// `1 this, 2 that`, in the order of these texts.
fn counted(reasons: BTreeMap<String, usize>) -> String {
    let mut texts: Vec<String> = reasons
        .into_iter()
        .map(|(text, count)| format!("{count} {text}"))
        .collect();
    texts.sort();
    texts.join(", ")
}

impl Refusals {
    /// How many nodes have each reason, by its text.
    pub fn summaries(&self, snapshot: &Snapshot) -> BTreeMap<String, usize> {
        // Thousands of nodes have a handful of kinds of reasons: each is worded once.
        let mut counts: HashMap<Kind, (usize, Reason)> = HashMap::new();
        for (_, _, reason) in &self.reasons {
            counts.entry(Kind::of(reason)).or_insert((0, *reason)).0 += 1;
        }
        let mut texts = BTreeMap::new();
        for (count, reason) in counts.into_values() {
            *texts.entry(reason.summary(&snapshot.symbols)).or_default() += count;
        }
        texts
    }

    /// The filters that refused any node.
    pub fn filters(&self) -> FilterSet {
        self.reasons
            .iter()
            .fold(0, |set, (_, filter, _)| set | (1 << filter))
    }

    /// Nodes on which only pods stand against the pod.
    pub fn nodes_of_pods(&self) -> Vec<Slot> {
        let hopeless: HashSet<Slot> = self
            .reasons
            .iter()
            .filter(|(_, _, reason)| !reason.is_of_pods())
            .map(|(slot, _, _)| *slot)
            .collect();
        let mut nodes: Vec<Slot> = self
            .reasons
            .iter()
            .map(|(slot, _, _)| *slot)
            .filter(|slot| !hopeless.contains(slot))
            .collect();
        nodes.dedup();
        nodes
    }
}

/// What makes two reasons have the same text.
#[derive(PartialEq, Eq, Hash)]
enum Kind {
    Plain(Discriminant<Reason>),
    Short(Resource),
}

impl Kind {
    fn of(reason: &Reason) -> Kind {
        match reason {
            Reason::Insufficient { resource, .. } => Kind::Short(*resource),
            _ => Kind::Plain(mem::discriminant(reason)),
        }
    }
}

/// Names of the filters in a set.
pub fn filter_names(set: FilterSet) -> Vec<&'static str> {
    FILTERS
        .iter()
        .enumerate()
        .filter(|(place, _)| set & (1 << place) != 0)
        .map(|(_, filter)| filter.name)
        .collect()
}
