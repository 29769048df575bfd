//! Scores: which of the nodes that fit is best, as a table with weights.
//!
//! Each score rates a node from 0 to 100, if needed by comparison with the other
//! nodes that fit (`normalise`). The sum of ratings times weights decides; a tie
//! is decided by lot. A score that has nothing to say of a pod is left out. The
//! weights are those of kube-scheduler.

use crate::placement::{census::Slot, facts::PodFacts, filter::Place, snapshot::Snapshot};

/// Processor and memory in equal parts.
pub mod balanced;
/// Images that the node already has.
pub mod image_locality;
/// Room that is left.
pub mod least_allocated;
/// Node affinity that is preferred.
pub mod node_affinity;
/// Company that is liked or disliked, in both directions.
pub mod pod_affinity;
/// An even spread that is preferred.
pub mod spread;
/// Taints that are only disliked.
pub mod taints;

/// The best rating of a score.
pub const BEST: i64 = 100;

/// A score that has read the pod.
pub trait Weigh {
    /// A node's rating, or what `normalise` makes ratings of.
    fn raw(&self, place: &Place<'_>) -> i64;

    /// Turns all nodes' numbers into ratings from 0 to [`BEST`].
    fn normalise(&self, _numbers: &mut [i64]) {}
}

/// A score made for one pod and the nodes that fit it.
pub type Prepared<'a> = Option<Box<dyn Weigh + 'a>>;

/// A row of the table of scores.
pub struct Score {
    /// Its name, as kube-scheduler calls the plugin that does the same.
    pub name: &'static str,
    /// What it prefers, in a line.
    pub about: &'static str,
    /// How much it counts.
    pub weight: i64,
    /// Reads a pod, given the nodes that fit.
    pub prepare: for<'a> fn(&'a Snapshot, &'a PodFacts, &'a [Slot]) -> Prepared<'a>,
}

/// All scores.
pub const SCORES: &[Score] = &[
    taints::SCORE,
    node_affinity::SCORE,
    spread::SCORE,
    pod_affinity::SCORE,
    least_allocated::SCORE,
    balanced::SCORE,
    image_locality::SCORE,
];

/// Makes the largest number the best rating, and zero the worst.
fn stretch(numbers: &mut [i64]) {
    let largest = numbers.iter().copied().max().unwrap_or(0);
    if largest > 0 {
        for number in numbers {
            *number = *number * BEST / largest;
        }
    }
}

#[cfg(test)]
mod tests;
