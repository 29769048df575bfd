//! Score `NodeResourcesFit`: the share of the node that stays free.
//!
//! The mean over processor and memory of what would be left with the pod there.
//! So pods are spread over nodes by what they ask for.

use crate::placement::{
    amounts::Weight,
    census::Slot,
    facts::PodFacts,
    filter::Place,
    score::{BEST, Prepared, Score, Weigh},
    snapshot::Snapshot,
};

/// The score's row.
pub const SCORE: Score = Score {
    name: "NodeResourcesFit",
    about: "much of the node stays free",
    weight: 1,
    prepare,
};

struct Left(Weight);

fn prepare<'a>(_: &'a Snapshot, pod: &'a PodFacts, _: &'a [Slot]) -> Prepared<'a> {
    Some(Box::new(Left(pod.weight)))
}

impl Weigh for Left {
    fn raw(&self, place: &Place<'_>) -> i64 {
        let (used, all) = (&place.node.weight, &place.object.allocatable);
        let cpu = (used.cpu_millis + self.0.cpu_millis, all.cpu_millis);
        let memory = (used.memory_bytes + self.0.memory_bytes, all.memory_bytes);
        let mut sum = 0;
        let mut resources = 0;
        for (used, all) in [cpu, memory] {
            if all > 0 {
                sum += left(used, all);
                resources += 1;
            }
        }
        if resources == 0 { 0 } else { sum / resources }
    }
}

fn left(used: i64, all: i64) -> i64 {
    if used > all {
        0
    } else {
        // Bytes times a hundred stay far below 2^63.
        (all - used) * BEST / all
    }
}
