//! Filter `NodeName`: the node whose name the pod asks for.
//!
//! A pod that has `spec.nodeName` is not placed at all; the filter says in
//! `explain` why such a pod is where it is, and finds a pod's own node again
//! when its place is judged anew.

use crate::placement::{
    facts::PodFacts,
    filter::{Check, Filter, Occasion, Place, Prepared},
    reason::Reason,
    snapshot::Snapshot,
    symbol::Symbol,
};

/// The filter's row.
pub const FILTER: Filter = Filter {
    name: "NodeName",
    about: "the node has the name that the pod asks for",
    prepare,
    helps,
};

struct Named(Symbol);

fn prepare<'a>(_: &'a Snapshot, pod: &'a PodFacts) -> Prepared<'a> {
    pod.bound_to
        .map(|name| Box::new(Named(name)) as Box<dyn Check>)
}

impl Check for Named {
    fn judge(&self, place: &Place<'_>, found: &mut dyn FnMut(Reason)) {
        if place.node.name != self.0 {
            found(Reason::OtherName);
        }
    }
}

fn helps(_: &Snapshot, _: &PodFacts, occasion: &Occasion<'_>) -> bool {
    matches!(occasion, Occasion::Node { change, .. } if change.added)
}
