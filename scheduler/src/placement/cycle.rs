//! One decision: a snapshot and a pod in, a node or the reasons out.
//!
//! In a large cluster not every node is looked at: as soon as enough nodes fit
//! (half of them at a hundred nodes, a tenth at five thousand, never fewer than a
//! hundred), the best of these is taken, and the next pod starts where this one
//! stopped. [`Breadth`] says whether.

use rand::{Rng, RngExt};

use crate::placement::{
    census::Slot,
    facts::PodFacts,
    filter::{Check, FILTERS, Place, node_affinity},
    reason::Reason,
    score::SCORES,
    snapshot::Snapshot,
};

/// How many nodes are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breadth {
    /// All of them.
    All,
    /// Until enough of them fit, as kube-scheduler does.
    Enough,
}

/// Where the next decision starts to look, and the lot that decides ties.
#[derive(Debug)]
pub struct Draw<R> {
    /// Decides ties.
    pub lot: R,
    /// How many nodes are looked at.
    pub breadth: Breadth,
    next: usize,
}

/// Why no node fits: reasons by node and filter.
#[derive(Debug, Default, Clone)]
pub struct Refusals {
    /// Each with the node and the place of the filter in its table.
    pub reasons: Vec<(Slot, usize, Reason)>,
}

/// What came of a decision.
#[derive(Debug)]
pub struct Decision {
    /// The best node; none if no node fits.
    pub node: Option<Slot>,
    /// How many nodes fitted, of those looked at.
    pub fitting: usize,
    /// Why the others did not.
    pub refusals: Refusals,
}

impl<R: Rng> Draw<R> {
    /// A draw that starts with the first node.
    pub fn new(lot: R, breadth: Breadth) -> Draw<R> {
        Draw {
            lot,
            breadth,
            next: 0,
        }
    }
}

/// Finds the best node for a pod.
///
/// The snapshot is changed and restored where room is kept for other pods: the
/// node must fit with them there too.
pub fn decide<R: Rng>(snapshot: &mut Snapshot, pod: &PodFacts, draw: &mut Draw<R>) -> Decision {
    let candidates = candidates(snapshot, pod);
    let enough = match draw.breadth {
        Breadth::All => usize::MAX,
        Breadth::Enough => enough(snapshot.ready().len()),
    };
    let (mut fits, mut refusals) = find_fitting(snapshot, pod, candidates, enough, &mut draw.next);
    if snapshot.has_nominations() {
        fits.retain(|slot| {
            let against = judge_beside_nominated(snapshot, pod, *slot);
            let free = against.is_empty();
            let of_node = against.into_iter();
            refusals
                .reasons
                .extend(of_node.map(|(filter, reason)| (*slot, filter, reason)));
            free
        });
    }
    let totals = rate(snapshot, pod, &fits);
    Decision {
        node: best(&fits, &totals, &mut draw.lot),
        fitting: fits.len(),
        refusals,
    }
}

/// The nodes worth a look: those that the pod names, or all, with `None`.
fn candidates(snapshot: &Snapshot, pod: &PodFacts) -> Option<Vec<Slot>> {
    let names = node_affinity::named_nodes(&pod.wishes)?;
    Some(
        names
            .into_iter()
            .filter_map(|name| snapshot.slot_of(name))
            .collect(),
    )
}

/// How many nodes that fit are enough.
pub fn enough(nodes: usize) -> usize {
    const FEWEST: usize = 100;
    let percentage = 50_usize.saturating_sub(nodes / 125).max(5);
    if nodes < FEWEST {
        nodes
    } else {
        (nodes * percentage / 100).max(FEWEST)
    }
}

fn find_fitting(
    snapshot: &Snapshot,
    pod: &PodFacts,
    candidates: Option<Vec<Slot>>,
    enough: usize,
    next: &mut usize,
) -> (Vec<Slot>, Refusals) {
    let all = snapshot.ready();
    let named = candidates.is_some();
    let slots: &[Slot] = candidates.as_deref().unwrap_or(all);
    let checks = prepare_checks(snapshot, pod);
    let mut fits = Vec::with_capacity(slots.len().min(enough));
    let mut refusals = Refusals::default();
    let start = if named || slots.is_empty() {
        0
    } else {
        *next % slots.len()
    };
    let mut seen = 0;
    let mut found = Vec::new();
    let (before, after) = slots.split_at(start);
    for slot in after.iter().chain(before) {
        seen += 1;
        if judge(snapshot, &checks, *slot, &mut found) {
            fits.push(*slot);
            if fits.len() >= enough {
                break;
            }
        }
        let of_node = found.drain(..);
        refusals
            .reasons
            .extend(of_node.map(|(filter, reason)| (*slot, filter, reason)));
    }
    if named {
        // The other nodes were not asked, but the pod's message counts them.
        refuse_unnamed(snapshot, slots, &mut refusals);
    } else {
        *next = start + seen;
    }
    (fits, refusals)
}

fn refuse_unnamed(snapshot: &Snapshot, named: &[Slot], refusals: &mut Refusals) {
    let filter = FILTERS
        .iter()
        .position(|filter| filter.name == node_affinity::FILTER.name)
        .unwrap_or_default();
    let others = snapshot.ready().iter().filter(|slot| !named.contains(slot));
    refusals
        .reasons
        .extend(others.map(|slot| (*slot, filter, Reason::NotSelected)));
}

/// The checks that have something to say of the pod, with their filters' places.
pub fn prepare_checks<'a>(
    snapshot: &'a Snapshot,
    pod: &'a PodFacts,
) -> Vec<(usize, Box<dyn Check + 'a>)> {
    FILTERS
        .iter()
        .enumerate()
        .filter_map(|(place, filter)| Some((place, (filter.prepare)(snapshot, pod)?)))
        .collect()
}

/// Whether a node passes all checks; the first that it fails leaves its reasons.
fn judge(
    snapshot: &Snapshot,
    checks: &[(usize, Box<dyn Check + '_>)],
    slot: Slot,
    found: &mut Vec<(usize, Reason)>,
) -> bool {
    let Some(place) = Place::of(snapshot, slot) else {
        return false;
    };
    for (filter, check) in checks {
        check.judge(&place, &mut |reason| found.push((*filter, reason)));
        if !found.is_empty() {
            return false;
        }
    }
    true
}

/// Whether a pod fits a node, with the pods that are expected there.
pub fn fits_beside_nominated(snapshot: &mut Snapshot, pod: &PodFacts, slot: Slot) -> bool {
    let checks = prepare_checks(snapshot, pod);
    let fits = judge(snapshot, &checks, slot, &mut Vec::new());
    drop(checks);
    fits && judge_beside_nominated(snapshot, pod, slot).is_empty()
}

/// What stands against a node once the pods have come for which room is kept there.
fn judge_beside_nominated(
    snapshot: &mut Snapshot,
    pod: &PodFacts,
    slot: Slot,
) -> Vec<(usize, Reason)> {
    let node = snapshot.node(slot).name;
    let expected: Vec<_> = snapshot
        .nominated_to(node)
        .iter()
        .filter(|other| other.priority >= pod.priority && other.name != pod.name)
        .filter(|other| snapshot.pod(&other.name).is_none())
        .cloned()
        .collect();
    let mut found = Vec::new();
    if expected.is_empty() {
        return found;
    }
    for other in &expected {
        snapshot.place(other.clone(), node);
    }
    let checks = prepare_checks(snapshot, pod);
    judge(snapshot, &checks, slot, &mut found);
    drop(checks);
    for other in &expected {
        snapshot.displace(&other.name);
    }
    found
}

/// The weighted sum of each node's ratings.
fn rate(snapshot: &Snapshot, pod: &PodFacts, fits: &[Slot]) -> Vec<i64> {
    let mut totals = vec![0; fits.len()];
    // With one node there is nothing to choose.
    if fits.len() < 2 {
        return totals;
    }
    let mut numbers = Vec::with_capacity(fits.len());
    for score in SCORES {
        let Some(weigh) = (score.prepare)(snapshot, pod, fits) else {
            continue;
        };
        numbers.clear();
        numbers.extend(
            fits.iter()
                .map(|slot| Place::of(snapshot, *slot).map_or(0, |place| weigh.raw(&place))),
        );
        weigh.normalise(&mut numbers);
        for (total, number) in totals.iter_mut().zip(&numbers) {
            *total += number * score.weight;
        }
    }
    totals
}

/// One of the nodes with the largest sum, each with the same chance.
fn best<R: Rng>(fits: &[Slot], totals: &[i64], lot: &mut R) -> Option<Slot> {
    let most = totals.iter().max()?;
    let equal: Vec<Slot> = fits
        .iter()
        .zip(totals)
        .filter(|(_, total)| *total == most)
        .map(|(slot, _)| *slot)
        .collect();
    Some(equal[lot.random_range(0..equal.len())])
}

#[cfg(test)]
mod tests;
