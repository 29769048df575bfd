//! Filter `NodeAffinity`: `nodeSelector` and required node affinity select the node.
//!
//! Every pair of `nodeSelector` must hold, and one of the terms of the affinity.
//! A term may ask for the node's name (`matchFields: metadata.name`): so the
//! pods of a DaemonSet ask for their node. Then there is no need to look at the
//! others (`named_nodes`).

use crate::placement::{
    facts::{NodeTerm, PodFacts, Wishes},
    filter::{self, Check, Filter, Occasion, Place, Prepared},
    reason::Reason,
    selector::Operator,
    snapshot::Snapshot,
    symbol::{Symbol, Symbols},
};

/// The filter's row.
pub const FILTER: Filter = Filter {
    name: "NodeAffinity",
    about: "nodeSelector and required node affinity select the node",
    prepare,
    helps,
};

struct Selected<'a> {
    wishes: &'a Wishes,
    symbols: &'a Symbols,
}

fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a PodFacts) -> Prepared<'a> {
    let wishes = &pod.wishes;
    let asks = !wishes.node_selector.is_empty() || wishes.node_terms.is_some();
    asks.then(|| {
        Box::new(Selected {
            wishes,
            symbols: &snapshot.symbols,
        }) as Box<dyn Check>
    })
}

impl Check for Selected<'_> {
    fn judge(&self, place: &Place<'_>, found: &mut dyn FnMut(Reason)) {
        if !selects(self.wishes, place, self.symbols) {
            found(Reason::NotSelected);
        }
    }
}

/// Whether a pod's demands on nodes select this one.
pub fn selects(wishes: &Wishes, place: &Place<'_>, symbols: &Symbols) -> bool {
    let labels = &place.object.labels;
    wishes
        .node_selector
        .iter()
        .all(|wanted| wanted.matches(labels, symbols))
        && wishes
            .node_terms
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| fits(term, place, symbols)))
}

/// Whether a node satisfies all requirements of a term.
pub fn fits(term: &NodeTerm, place: &Place<'_>, symbols: &Symbols) -> bool {
    let labels = &place.object.labels;
    term.labels
        .iter()
        .all(|wanted| wanted.matches(labels, symbols))
        && term.names.iter().all(|wanted| {
            symbols.text(wanted.key) == "metadata.name"
                && wanted.admits(Some(place.node.name), symbols)
        })
}

/// The nodes that a pod's affinity asks for by name, if each of its terms does.
pub fn named_nodes(wishes: &Wishes) -> Option<Vec<Symbol>> {
    let terms = wishes
        .node_terms
        .as_ref()
        .filter(|terms| !terms.is_empty())?;
    let mut all = Vec::new();
    for term in terms {
        let named = term
            .names
            .iter()
            .find_map(|wanted| match &wanted.operator {
                Operator::In(names) => Some(names),
                _ => None,
            })?;
        all.extend(named);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

fn helps(snapshot: &Snapshot, pod: &PodFacts, occasion: &Occasion<'_>) -> bool {
    matches!(occasion, Occasion::Node { slot, change }
        if change.labels && filter::accepts(&FILTER, snapshot, pod, *slot))
}
