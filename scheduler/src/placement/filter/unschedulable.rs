//! Filter `NodeUnschedulable`: no new pods on a cordoned node.
//!
//! `kubectl cordon` sets `spec.unschedulable`. Who tolerates the taint of the
//! same meaning comes all the same: pods of a DaemonSet.

use crate::placement::{
    facts::PodFacts,
    filter::{self, Check, Filter, Occasion, Place, Prepared},
    reason::Reason,
    snapshot::Snapshot,
    taint::Effect,
};

/// The filter's row.
pub const FILTER: Filter = Filter {
    name: "NodeUnschedulable",
    about: "the node is not cordoned",
    prepare,
    helps,
};

const TAINT: &str = "node.kubernetes.io/unschedulable";

struct NotCordoned;

fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a PodFacts) -> Prepared<'a> {
    let (key, value) = (snapshot.symbols.find(TAINT), snapshot.symbols.find(""));
    let tolerations = &pod.wishes.tolerations;
    let borne = tolerations
        .iter()
        .any(|one| one.bears_parts(key, value, Effect::NoSchedule));
    (!borne).then(|| Box::new(NotCordoned) as Box<dyn Check>)
}

impl Check for NotCordoned {
    fn judge(&self, place: &Place<'_>, found: &mut dyn FnMut(Reason)) {
        if place.object.cordoned {
            found(Reason::Cordoned);
        }
    }
}

fn helps(snapshot: &Snapshot, pod: &PodFacts, occasion: &Occasion<'_>) -> bool {
    matches!(occasion, Occasion::Node { slot, change }
        if change.taints && filter::accepts(&FILTER, snapshot, pod, *slot))
}
