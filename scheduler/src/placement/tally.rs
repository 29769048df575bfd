//! How many pods of a spread are in each domain.
//!
//! Usually all nodes count, and the census already has the numbers. Where the
//! pod's node affinity or its tolerations leave nodes out (`nodeAffinityPolicy`,
//! `nodeTaintsPolicy`), or nodes lack the label of another of its spreads, the
//! domains are added up from the nodes that are left.

use crate::placement::{
    census::{Counts, NOWHERE, Topology},
    facts::{PodFacts, Policy, Spread},
    filter::{Place, node_affinity},
    snapshot::Snapshot,
    taint,
};

/// Pods by domain for one spread.
pub struct Tally<'a> {
    /// The topology.
    pub topology: &'a Topology,
    counts: Source<'a>,
}

enum Source<'a> {
    Kept(&'a Counts<u32>),
    Made(Vec<Option<u32>>),
}

impl<'a> Tally<'a> {
    /// Counts for one of the pod's spreads; `all` are those of its kind.
    pub fn of(
        snapshot: &'a Snapshot,
        pod: &PodFacts,
        spread: &Spread,
        all: &[&Spread],
    ) -> Tally<'a> {
        let census = &snapshot.census;
        let term = census.at(spread.term);
        let topology = census.topology(term.key);
        let nodes = snapshot.ready().len();
        let everywhere = all.len() == 1
            || all.iter().all(|one| {
                let term = census.at(one.term);
                census.topology(term.key).nodes == nodes
            });
        let choosy = spread.affinity == Policy::Honour
            && (!pod.wishes.node_selector.is_empty() || pod.wishes.node_terms.is_some());
        let counts = if everywhere && !choosy && spread.taints == Policy::Ignore {
            Source::Kept(&term.members)
        } else {
            Source::Made(add_up(snapshot, pod, spread, all))
        };
        Tally { topology, counts }
    }

    /// Pods in a domain; none where no node counts.
    pub fn at(&self, domain: u32) -> i64 {
        match &self.counts {
            Source::Kept(counts) => i64::from(counts.at(domain)),
            Source::Made(counts) => counts
                .get(domain as usize)
                .copied()
                .flatten()
                .map_or(0, i64::from),
        }
    }

    /// Pods in the emptiest domain, and the number of domains.
    pub fn least(&self) -> (i64, i64) {
        let mut least = i64::MAX;
        let mut domains = 0;
        let mut see = |count: u32| {
            least = least.min(i64::from(count));
            domains += 1;
        };
        match &self.counts {
            Source::Kept(counts) => {
                for (domain, nodes) in (0_u32..).zip(&self.topology.nodes_in) {
                    if *nodes > 0 {
                        see(counts.at(domain));
                    }
                }
            }
            Source::Made(counts) => counts.iter().flatten().for_each(|count| see(*count)),
        }
        (if domains == 0 { 0 } else { least }, domains)
    }
}

fn add_up(
    snapshot: &Snapshot,
    pod: &PodFacts,
    spread: &Spread,
    all: &[&Spread],
) -> Vec<Option<u32>> {
    let census = &snapshot.census;
    let term = census.at(spread.term);
    let topology = census.topology(term.key);
    let by_node = &census.at(spread.by_node).members;
    let mut counts = vec![None; topology.nodes_in.len()];
    for slot in snapshot.ready() {
        let Some(place) = Place::of(snapshot, *slot) else {
            continue;
        };
        let labelled = all.iter().all(|one| {
            let key = census.at(one.term).key;
            census.topology(key).domain(*slot) != NOWHERE
        });
        if labelled && counts_for(snapshot, pod, spread, &place) {
            let count = counts[topology.domain(*slot) as usize].get_or_insert(0);
            *count += by_node.at(u32::try_from(*slot).unwrap_or(NOWHERE));
        }
    }
    counts
}

fn counts_for(snapshot: &Snapshot, pod: &PodFacts, spread: &Spread, place: &Place<'_>) -> bool {
    let wishes = &pod.wishes;
    let selected = spread.affinity == Policy::Ignore
        || node_affinity::selects(wishes, place, &snapshot.symbols);
    let tolerated = spread.taints == Policy::Ignore
        || place
            .object
            .taints
            .iter()
            .all(|taint| !taint.effect.repels() || taint::is_borne(taint, &wishes.tolerations));
    selected && tolerated
}
