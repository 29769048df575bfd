//! Filter `PodTopologySpread`: no domain has many more of these pods than another.
//!
//! ```text
//! zone a: ###   zone b: ##   zone c: #      maxSkew 1, emptiest has 1
//!   a would be 4 - 1 = 3 ahead, b 2 ahead: only c is left
//! ```
//!
//! Domains are those of nodes that have the labels of all the pod's spreads and,
//! as the policies say, that it may run on.

use crate::placement::{
    census::NOWHERE,
    facts::{PodFacts, Spread, Uneven},
    filter::{Check, Filter, Occasion, Place, Prepared},
    reason::Reason,
    snapshot::Snapshot,
    tally::Tally,
};

/// The filter's row.
pub const FILTER: Filter = Filter {
    name: "PodTopologySpread",
    about: "the node's domain is not too far ahead of the emptiest",
    prepare,
    helps,
};

struct Even<'a>(Vec<Limit<'a>>);

struct Limit<'a> {
    spread: &'a Spread,
    tally: Tally<'a>,
    least: i64,
}

fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a PodFacts) -> Prepared<'a> {
    let all: Vec<&Spread> = pod
        .wishes
        .spreads
        .iter()
        .filter(|spread| spread.uneven == Uneven::Refused)
        .collect();
    let limits = all
        .iter()
        .map(|spread| {
            let tally = Tally::of(snapshot, pod, spread, &all);
            let (least, domains) = tally.least();
            let enough = domains >= spread.min_domains;
            Limit {
                spread,
                tally,
                least: if enough { least } else { 0 },
            }
        })
        .collect();
    (!all.is_empty()).then(|| Box::new(Even(limits)) as Box<dyn Check>)
}

impl Check for Even<'_> {
    fn judge(&self, place: &Place<'_>, found: &mut dyn FnMut(Reason)) {
        for limit in &self.0 {
            let spread = limit.spread;
            let domain = limit.tally.topology.domain(place.slot);
            if domain == NOWHERE {
                found(Reason::NoSpreadLabel { key: spread.key });
                return;
            }
            let count = limit.tally.at(domain) + i64::from(spread.counts_itself);
            if count - limit.least > spread.max_skew {
                found(Reason::Uneven {
                    key: spread.key,
                    count,
                    least: limit.least,
                    max_skew: spread.max_skew,
                });
                return;
            }
        }
    }
}

fn helps(snapshot: &Snapshot, pod: &PodFacts, occasion: &Occasion<'_>) -> bool {
    match occasion {
        Occasion::Node { change, .. } => change.labels || change.taints,
        Occasion::PodCame(other) | Occasion::PodChanged(other) | Occasion::PodLeft(other, _) => pod
            .wishes
            .spreads
            .iter()
            .any(|spread| snapshot.census.concerns(spread.term, other)),
        Occasion::Namespace => false,
    }
}
