//! Score `InterPodAffinity`: company that is liked, less company that is disliked.
//!
//! Counts in both directions: what this pod thinks of the pods in the domain,
//! and what they think of it. Where a running pod demands such company, one more
//! is a little better than none.

use crate::placement::{
    census::{Counts, NOWHERE, Slot},
    facts::PodFacts,
    filter::Place,
    score::{BEST, Prepared, Score, Weigh},
    snapshot::Snapshot,
};

/// The score's row.
pub const SCORE: Score = Score {
    name: "InterPodAffinity",
    about: "liked pods are in the node's domain, disliked ones are not",
    weight: 2,
    prepare,
};

struct Company<'a> {
    /// Of each preference: domains, pods in them, and the weight of one.
    mine: Vec<(&'a [u32], &'a Counts<u32>, i64)>,
    /// Of each opinion about the pod: domains, and the sum of weights in them.
    theirs: Vec<(&'a [u32], &'a Counts<i64>)>,
}

fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a PodFacts, _: &'a [Slot]) -> Prepared<'a> {
    let census = &snapshot.census;
    let mine: Vec<_> = pod
        .preferred_pods
        .iter()
        .map(|(term, weight)| (census.at(*term), *weight))
        .filter(|(term, _)| term.members.total > 0)
        .map(|(term, weight)| {
            let domain_of = census.topology(term.key).domain_of.as_slice();
            (domain_of, &term.members, weight)
        })
        .collect();
    let theirs: Vec<_> = census
        .terms_about(pod)
        .filter(|term| term.pull.total > 0)
        .map(|term| {
            let domain_of = census.topology(term.key).domain_of.as_slice();
            (domain_of, &term.pull)
        })
        .collect();
    (!mine.is_empty() || !theirs.is_empty())
        .then(|| Box::new(Company { mine, theirs }) as Box<dyn Weigh>)
}

impl Weigh for Company<'_> {
    fn raw(&self, place: &Place<'_>) -> i64 {
        let domain = |of: &[u32]| of.get(place.slot).copied().unwrap_or(NOWHERE);
        let mine: i64 = self
            .mine
            .iter()
            .map(|(of, members, weight)| i64::from(members.at(domain(of))) * weight)
            .sum();
        let theirs: i64 = self
            .theirs
            .iter()
            .map(|(of, pull)| pull.at(domain(of)))
            .sum();
        mine + theirs
    }

    fn normalise(&self, numbers: &mut [i64]) {
        let least = numbers.iter().copied().min().unwrap_or(0);
        let most = numbers.iter().copied().max().unwrap_or(0);
        for number in numbers {
            *number = if most > least {
                (*number - least) * BEST / (most - least)
            } else {
                0
            };
        }
    }
}
