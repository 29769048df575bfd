//! Score `NodeResourcesBalancedAllocation`: processor and memory are used up alike.
//!
//! A node whose memory is full has processors that nobody can use. Rated is how
//! much nearer to each other the two shares would come: about 75 if nothing
//! changes, 100 if a lopsided node becomes level, 50 for the contrary.

use crate::placement::{
    amounts::Amounts,
    census::Slot,
    facts::PodFacts,
    filter::Place,
    score::{BEST, Prepared, Score, Weigh},
    snapshot::Snapshot,
};

/// The score's row.
pub const SCORE: Score = Score {
    name: "NodeResourcesBalancedAllocation",
    about: "processor and memory are used up alike",
    weight: 1,
    prepare,
};

struct Alike<'a>(&'a Amounts);

fn prepare<'a>(_: &'a Snapshot, pod: &'a PodFacts, _: &'a [Slot]) -> Prepared<'a> {
    let wanted = &pod.demand;
    // A pod that asks for nothing changes no balance.
    (wanted.cpu_millis > 0 || wanted.memory_bytes > 0)
        .then(|| Box::new(Alike(wanted)) as Box<dyn Weigh>)
}

impl Weigh for Alike<'_> {
    fn raw(&self, place: &Place<'_>) -> i64 {
        let (used, all) = (&place.node.used, &place.object.allocatable);
        if all.cpu_millis <= 0 || all.memory_bytes <= 0 {
            return BEST;
        }
        let without = level(used.cpu_millis, used.memory_bytes, all);
        let with = level(
            used.cpu_millis + self.0.cpu_millis,
            used.memory_bytes + self.0.memory_bytes,
            all,
        );
        BEST / 2 + (BEST / 2 + with - without) / 2
    }
}

/// From 50, where one of the two is used up and the other not at all, to 100.
fn level(cpu_millis: i64, memory_bytes: i64, all: &Amounts) -> i64 {
    let cpu = share(cpu_millis, all.cpu_millis);
    let memory = share(memory_bytes, all.memory_bytes);
    // The standard deviation of two numbers is half their distance.
    let deviation = (cpu - memory).abs() / 2.0;
    ((1.0 - deviation) * BEST as f64) as i64
}

fn share(used: i64, all: i64) -> f64 {
    (used as f64 / all as f64).min(1.0)
}
