//! Score `NodeAffinity`: the weights of the preferred terms that select the node.

use crate::placement::{
    census::Slot,
    facts::{NodeTerm, PodFacts},
    filter::{Place, node_affinity},
    score::{self, Prepared, Score, Weigh},
    snapshot::Snapshot,
    symbol::Symbols,
};

/// The score's row.
pub const SCORE: Score = Score {
    name: "NodeAffinity",
    about: "preferred node affinity selects the node",
    weight: 2,
    prepare,
};

struct Liked<'a> {
    terms: &'a [(NodeTerm, i64)],
    symbols: &'a Symbols,
}

fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a PodFacts, _: &'a [Slot]) -> Prepared<'a> {
    let terms = &pod.wishes.preferred_nodes;
    (!terms.is_empty()).then(|| {
        Box::new(Liked {
            terms,
            symbols: &snapshot.symbols,
        }) as Box<dyn Weigh>
    })
}

impl Weigh for Liked<'_> {
    fn raw(&self, place: &Place<'_>) -> i64 {
        self.terms
            .iter()
            .filter(|(term, _)| node_affinity::fits(term, place, self.symbols))
            .map(|(_, weight)| weight)
            .sum()
    }

    fn normalise(&self, numbers: &mut [i64]) {
        score::stretch(numbers);
    }
}
