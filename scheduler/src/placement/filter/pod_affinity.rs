//! Filter `InterPodAffinity`, first half: the company that the pod demands is there.
//!
//! Every demand must find a pod in the node's domain that fits all of the pod's
//! demands. The first pod of a group that wants to be together would wait for
//! ever; where no such pod runs anywhere and it fits its own demands, any node
//! with the labels will do.

use crate::placement::{
    census::{NOWHERE, Splitter},
    facts::PodFacts,
    filter::{Check, Filter, Occasion, Place, Prepared},
    reason::Reason,
    snapshot::Snapshot,
};

/// The filter's row.
pub const FILTER: Filter = Filter {
    name: "InterPodAffinity",
    about: "the pods that its affinity demands are in the node's domain",
    prepare,
    helps,
};

struct Together<'a> {
    snapshot: &'a Snapshot,
    pod: &'a PodFacts,
    /// Nobody to be with runs anywhere, and the pod would be company to itself.
    first: bool,
}

fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a PodFacts) -> Prepared<'a> {
    let census = &snapshot.census;
    let first = pod.affinity.iter().all(|company| {
        census.at(company.together).members.total == 0 && census.holds(company.together, pod)
    });
    (!pod.affinity.is_empty()).then(|| {
        Box::new(Together {
            snapshot,
            pod,
            first,
        }) as Box<dyn Check>
    })
}

impl Check for Together<'_> {
    fn judge(&self, place: &Place<'_>, found: &mut dyn FnMut(Reason)) {
        let census = &self.snapshot.census;
        for company in &self.pod.affinity {
            let term = census.at(company.together);
            let topology = census.topology(term.key);
            let domain = topology.domain(place.slot);
            if domain == NOWHERE || (term.members.at(domain) == 0 && !self.first) {
                if let Splitter::Label(key) = topology.splitter {
                    found(Reason::NoCompany { key });
                }
                return;
            }
        }
    }
}

fn helps(snapshot: &Snapshot, pod: &PodFacts, occasion: &Occasion<'_>) -> bool {
    match occasion {
        Occasion::Node { change, .. } => change.labels,
        Occasion::PodCame(other) | Occasion::PodChanged(other) | Occasion::PodLeft(other, _) => pod
            .affinity
            .iter()
            .any(|company| snapshot.census.concerns(company.together, other)),
        Occasion::Namespace => true,
    }
}
