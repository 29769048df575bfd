//! Score `PodTopologySpread`: few of these pods in the node's domain.
//!
//! For each spread that is only preferred: the pods in the domain, the more
//! important the more domains there are (the logarithm of their number). A node
//! without the label rates nothing.

use crate::placement::{
    census::{NOWHERE, Slot},
    facts::{PodFacts, Spread, Uneven},
    filter::Place,
    score::{BEST, Prepared, Score, Weigh},
    snapshot::Snapshot,
    tally::Tally,
};

/// The score's row.
pub const SCORE: Score = Score {
    name: "PodTopologySpread",
    about: "few of the pods to be spread are in the node's domain",
    weight: 2,
    prepare,
};

/// The number of a node that lacks a label.
const UNLABELLED: i64 = -1;

struct Even<'a>(Vec<(Tally<'a>, f64, i64)>);

fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a PodFacts, fits: &'a [Slot]) -> Prepared<'a> {
    let all: Vec<&Spread> = pod
        .wishes
        .spreads
        .iter()
        .filter(|spread| spread.uneven == Uneven::Disliked)
        // A label that no node has splits nothing.
        .filter(|spread| {
            let key = snapshot.census.at(spread.term).key;
            snapshot.census.topology(key).nodes > 0
        })
        .collect();
    let rows: Vec<_> = all
        .iter()
        .map(|spread| {
            let tally = Tally::of(snapshot, pod, spread, &all);
            let domains = domains(&tally, fits);
            let weight = ((domains + 2) as f64).ln();
            (tally, weight, spread.max_skew)
        })
        .collect();
    (!rows.is_empty()).then(|| Box::new(Even(rows)) as Box<dyn Weigh>)
}

/// How many domains the nodes that fit are in.
fn domains(tally: &Tally<'_>, fits: &[Slot]) -> usize {
    let mut seen = vec![false; tally.topology.nodes_in.len()];
    fits.iter()
        .map(|slot| tally.topology.domain(*slot))
        .filter(|domain| {
            *domain != NOWHERE && !std::mem::replace(&mut seen[*domain as usize], true)
        })
        .count()
}

impl Weigh for Even<'_> {
    fn raw(&self, place: &Place<'_>) -> i64 {
        let mut sum = 0.0;
        for (tally, weight, max_skew) in &self.0 {
            let domain = tally.topology.domain(place.slot);
            if domain == NOWHERE {
                return UNLABELLED;
            }
            sum += tally.at(domain) as f64 * weight + (max_skew - 1) as f64;
        }
        sum.round() as i64
    }

    fn normalise(&self, numbers: &mut [i64]) {
        let labelled = || numbers.iter().copied().filter(|number| *number >= 0);
        let (least, most) = (labelled().min().unwrap_or(0), labelled().max().unwrap_or(0));
        for number in numbers {
            *number = match *number {
                UNLABELLED => 0,
                _ if most == 0 => BEST,
                some => BEST * (most + least - some) / most,
            };
        }
    }
}
