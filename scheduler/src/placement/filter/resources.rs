//! Filter `NodeResourcesFit`: the node has what the pod asks for.
//!
//! Requests are promises, not measurements: what pods use does not count, only
//! what they asked for. The sum of promises never exceeds what the node may give
//! (`status.allocatable`).

use crate::placement::{
    amounts::Amounts,
    facts::PodFacts,
    filter::{self, Check, Filter, Occasion, Place, Prepared},
    reason::{Reason, Resource},
    snapshot::Snapshot,
};

/// The filter's row.
pub const FILTER: Filter = Filter {
    name: "NodeResourcesFit",
    about: "the node has room for what the pod requests",
    prepare,
    helps,
};

struct Room<'a>(&'a Amounts);

fn prepare<'a>(_: &'a Snapshot, pod: &'a PodFacts) -> Prepared<'a> {
    Some(Box::new(Room(&pod.demand)))
}

impl Check for Room<'_> {
    fn judge(&self, place: &Place<'_>, found: &mut dyn FnMut(Reason)) {
        let (used, all, wanted) = (&place.node.used, &place.object.allocatable, self.0);
        let fixed = [
            (Resource::Pods, wanted.pods, used.pods, all.pods),
            (
                Resource::Cpu,
                wanted.cpu_millis,
                used.cpu_millis,
                all.cpu_millis,
            ),
            (
                Resource::Memory,
                wanted.memory_bytes,
                used.memory_bytes,
                all.memory_bytes,
            ),
            (
                Resource::Ephemeral,
                wanted.ephemeral_bytes,
                used.ephemeral_bytes,
                all.ephemeral_bytes,
            ),
        ];
        let others = wanted.others.iter().map(|(name, amount)| {
            (
                Resource::Other(*name),
                *amount,
                used.other(*name),
                all.other(*name),
            )
        });
        for (resource, wanted, used, allocatable) in fixed.into_iter().chain(others) {
            // Who asks for nothing is let in even where others took too much.
            if wanted > 0 && wanted > allocatable - used {
                found(Reason::Insufficient {
                    resource,
                    wanted,
                    used,
                    allocatable,
                });
            }
        }
    }
}

fn helps(snapshot: &Snapshot, pod: &PodFacts, occasion: &Occasion<'_>) -> bool {
    match occasion {
        Occasion::Node { slot, change } => {
            change.roomier && filter::accepts(&FILTER, snapshot, pod, *slot)
        }
        Occasion::PodLeft(_, slot) => filter::accepts(&FILTER, snapshot, pod, *slot),
        Occasion::PodCame(_) | Occasion::PodChanged(_) | Occasion::Namespace => false,
    }
}
