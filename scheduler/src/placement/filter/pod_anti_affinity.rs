//! Filter `InterPodAntiAffinity`: nobody is with whom they refuse, in both directions.
//!
//! A refusal binds the pods that come later too: if a running pod refuses the
//! company of this one, its domain is closed, whatever this pod says itself.
//! For kube-scheduler both halves of affinity are one plugin, `InterPodAffinity`.

use crate::placement::{
    census::{Census, NOWHERE, Splitter, Term},
    facts::PodFacts,
    filter::{Check, Filter, Occasion, Place, Prepared},
    reason::Reason,
    snapshot::Snapshot,
    symbol::Symbol,
};

/// The filter's row.
pub const FILTER: Filter = Filter {
    name: "InterPodAntiAffinity",
    about: "no pod in the node's domain refuses this one, nor this one it",
    prepare,
    helps,
};

struct Apart<'a> {
    /// Terms with members that the pod refuses.
    refuses: Vec<Closed<'a>>,
    /// Terms about the pod, of which running pods refuse it.
    refused: Vec<Closed<'a>>,
}

/// A term some of whose domains are closed.
struct Closed<'a> {
    key: Symbol,
    domain_of: &'a [u32],
    term: &'a Term,
}

fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a PodFacts) -> Prepared<'a> {
    let census = &snapshot.census;
    let refuses: Vec<_> = pod
        .anti_affinity
        .iter()
        .map(|term| census.at(*term))
        .filter(|term| term.members.total > 0)
        .filter_map(|term| closed(census, term))
        .collect();
    let refused: Vec<_> = census
        .terms_about(pod)
        .filter(|term| term.refusals.total > 0)
        .filter_map(|term| closed(census, term))
        .collect();
    (!refuses.is_empty() || !refused.is_empty())
        .then(|| Box::new(Apart { refuses, refused }) as Box<dyn Check>)
}

fn closed<'a>(census: &'a Census, term: &'a Term) -> Option<Closed<'a>> {
    let topology = census.topology(term.key);
    let Splitter::Label(key) = topology.splitter else {
        return None;
    };
    Some(Closed {
        key,
        domain_of: &topology.domain_of,
        term,
    })
}

impl Closed<'_> {
    fn domain(&self, slot: usize) -> u32 {
        self.domain_of.get(slot).copied().unwrap_or(NOWHERE)
    }
}

impl Check for Apart<'_> {
    fn judge(&self, place: &Place<'_>, found: &mut dyn FnMut(Reason)) {
        let company = self.refuses.iter().find_map(|closed| {
            let pods = closed.term.members.at(closed.domain(place.slot));
            (pods > 0).then_some(Reason::Company {
                key: closed.key,
                pods,
            })
        });
        if let Some(company) = company {
            found(company);
            return;
        }
        let refused = self.refused.iter().find_map(|closed| {
            let pods = closed.term.refusals.at(closed.domain(place.slot));
            (pods > 0).then_some(Reason::Refused {
                key: closed.key,
                pods,
            })
        });
        if let Some(reason) = refused {
            found(reason);
        }
    }
}

fn helps(snapshot: &Snapshot, pod: &PodFacts, occasion: &Occasion<'_>) -> bool {
    match occasion {
        Occasion::Node { change, .. } => change.labels,
        Occasion::PodLeft(gone, _) => {
            let census = &snapshot.census;
            pod.anti_affinity
                .iter()
                .any(|term| census.concerns(*term, gone))
                || gone
                    .anti_affinity
                    .iter()
                    .any(|term| census.concerns(*term, pod))
        }
        // A pod whose labels changed may be refused no longer; one more helps nobody.
        Occasion::PodChanged(other) => {
            !pod.anti_affinity.is_empty() || !other.anti_affinity.is_empty()
        }
        Occasion::PodCame(_) => false,
        Occasion::Namespace => true,
    }
}
