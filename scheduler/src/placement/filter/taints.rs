//! Filter `TaintToleration`: no taint that the pod does not tolerate.
//!
//! Only `NoSchedule` and `NoExecute` keep a pod away; `PreferNoSchedule` is a
//! matter of the score of the same name.

use crate::placement::{
    facts::PodFacts,
    filter::{self, Check, Filter, Occasion, Place, Prepared},
    reason::Reason,
    snapshot::Snapshot,
    taint::{self, Toleration},
};

/// The filter's row.
pub const FILTER: Filter = Filter {
    name: "TaintToleration",
    about: "the pod tolerates the node's taints",
    prepare,
    helps,
};

struct Tolerated<'a>(&'a [Toleration]);

fn prepare<'a>(_: &'a Snapshot, pod: &'a PodFacts) -> Prepared<'a> {
    Some(Box::new(Tolerated(&pod.wishes.tolerations)))
}

impl Check for Tolerated<'_> {
    fn judge(&self, place: &Place<'_>, found: &mut dyn FnMut(Reason)) {
        // One taint is enough, and the first is what kube-scheduler names.
        let against = place
            .object
            .taints
            .iter()
            .find(|taint| taint.effect.repels() && !taint::is_borne(taint, self.0));
        if let Some(reason) = against.map(|taint| Reason::Tainted(*taint)) {
            found(reason);
        }
    }
}

fn helps(snapshot: &Snapshot, pod: &PodFacts, occasion: &Occasion<'_>) -> bool {
    matches!(occasion, Occasion::Node { slot, change }
        if change.taints && filter::accepts(&FILTER, snapshot, pod, *slot))
}
