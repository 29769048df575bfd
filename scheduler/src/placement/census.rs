//! How many pods of a kind run where, kept up to date pod by pod.
//!
//! "Not on a node, or in a zone, that has such a pod" must not cost a walk over
//! all pods for each pod that is placed. So the questions themselves are kept:
//!
//! ```text
//! pod --> cohort              pods with one namespace and one set of labels
//!           |  belongs to
//!           v
//!         set                 "app=web in namespace shop", said by some pod
//!           |  is counted by
//!           v
//!         term = set + key    counts for each value (domain) of the node label
//! ```
//!
//! A pod that comes to a node or leaves it changes one number for each term its
//! cohort is in. Which sets a cohort is in is worked out once for each pair, not
//! for each pod. A term also counts its *owners*: pods that run and refuse such
//! company (`refusals`), or like and dislike it (`pull`); that is the symmetric
//! half of affinity.
//!
//! Read more: "Inter-pod affinity and anti-affinity" in the Kubernetes
//! documentation; `podaffinity` of kube-scheduler keeps the same counts, but
//! makes them anew for each pod.

use std::collections::HashMap;

use crate::placement::{
    facts::PodFacts,
    selector::{Operator, Requirement, Selector},
    symbol::{Labels, Symbol, Symbols},
};

/// A node's place in the snapshot.
pub type Slot = usize;

/// The domain of a node that lacks the topology's label.
pub const NOWHERE: u32 = u32::MAX;

/// How much an owner's required affinity counts when others are scored.
const REQUIRED_PULL: i64 = 1;

/// The number of a topology key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(u32);

/// The number of a set of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SetId(u32);

/// The number of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TermId(u32);

/// The number of a cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CohortId(u32);

/// What splits nodes into domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Splitter {
    /// The value of this label.
    Label(Symbol),
    /// Every node is a domain of its own, whatever its labels.
    Node,
}

/// Some pods of some namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Clause {
    /// Namespaces by name.
    pub namespaces: Vec<Symbol>,
    /// And namespaces by their labels.
    pub namespace_selector: Selector,
    /// The pods' labels.
    pub selector: Selector,
}

/// Which pods a set holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetRule {
    /// A pod must fit every clause.
    pub clauses: Vec<Clause>,
    /// Whether pods that are being deleted count.
    pub ending: Ending,
}

/// Whether pods that are being deleted count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// They do: they still run.
    Counted,
    /// They do not: their place will be free.
    Ignored,
}

/// Pods with one namespace and one set of labels.
#[derive(Debug)]
pub struct Cohort {
    /// Their namespace.
    pub namespace: Symbol,
    /// Their labels.
    pub labels: Labels,
    sets: Vec<SetId>,
}

#[derive(Debug)]
struct PodSet {
    rule: SetRule,
    terms: Vec<TermId>,
}

/// A topology: how one label splits the nodes.
#[derive(Debug)]
pub struct Topology {
    /// What splits.
    pub splitter: Splitter,
    /// The domain of each node.
    pub domain_of: Vec<u32>,
    /// How many nodes each domain has; none where it is unused.
    pub nodes_in: Vec<u32>,
    /// How many nodes have the label.
    pub nodes: usize,
    values: HashMap<Symbol, u32>,
    free: Vec<u32>,
}

/// Counts for each domain of a topology.
#[derive(Debug)]
pub struct Term {
    /// The topology.
    pub key: KeyId,
    /// How many pods of the set are in each domain.
    pub members: Counts<u32>,
    /// How many pods in each domain demand that none of the set is with them.
    pub refusals: Counts<u32>,
    /// How much the pods in each domain like company of the set.
    pub pull: Counts<i64>,
    set: SetId,
}

/// Numbers by domain, with their sum; as long as the last that was not zero.
#[derive(Debug, Default)]
pub struct Counts<N> {
    of: Vec<N>,
    /// The sum over all domains; of `pull` the number of entries that are not zero.
    pub total: usize,
}

impl Counts<u32> {
    /// The number of a domain; of no domain none.
    pub fn at(&self, domain: u32) -> u32 {
        self.of.get(domain as usize).copied().unwrap_or(0)
    }

    fn change(&mut self, domain: u32, by: i32) {
        let place = domain as usize;
        if self.of.len() <= place {
            self.of.resize(place + 1, 0);
        }
        self.of[place] = self.of[place]
            .checked_add_signed(by)
            .expect("a pod leaves only where it was counted");
        self.total = self.total.wrapping_add_signed(by as isize);
    }
}

impl Counts<i64> {
    /// The number of a domain; of no domain none.
    pub fn at(&self, domain: u32) -> i64 {
        self.of.get(domain as usize).copied().unwrap_or(0)
    }

    fn change(&mut self, domain: u32, by: i64) {
        let place = domain as usize;
        if self.of.len() <= place {
            self.of.resize(place + 1, 0);
        }
        let before = self.of[place] != 0;
        self.of[place] += by;
        let after = self.of[place] != 0;
        self.total = self.total + usize::from(after) - usize::from(before);
    }
}

/// Whether a pod comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// It comes to the node.
    In,
    /// It leaves the node.
    Out,
}

/// All questions about pods by topology, with their answers.
#[derive(Debug, Default)]
pub struct Census {
    keys: Vec<Topology>,
    key_numbers: HashMap<Splitter, KeyId>,
    sets: Vec<PodSet>,
    set_numbers: HashMap<SetRule, SetId>,
    sets_by_pair: HashMap<(Symbol, Symbol), Vec<SetId>>,
    sets_without_pair: Vec<SetId>,
    terms: Vec<Term>,
    term_numbers: HashMap<(SetId, KeyId), TermId>,
    cohorts: Vec<Cohort>,
    cohort_numbers: HashMap<(Symbol, Labels), CohortId>,
    namespaces: HashMap<Symbol, Labels>,
    /// Topologies whose nodes the snapshot has not told yet.
    pub(super) fresh_keys: Vec<KeyId>,
    /// Terms whose pods the snapshot has not told yet.
    pub(super) fresh_terms: Vec<TermId>,
}

impl Census {
    /// The cohort of a namespace and labels.
    pub fn cohort(&mut self, namespace: Symbol, labels: Labels, symbols: &Symbols) -> CohortId {
        if let Some(known) = self.cohort_numbers.get(&(namespace, labels.clone())) {
            return *known;
        }
        let id = CohortId(number(self.cohorts.len()));
        let sets = self.sets_of(namespace, &labels, symbols);
        self.cohort_numbers.insert((namespace, labels.clone()), id);
        self.cohorts.push(Cohort {
            namespace,
            labels,
            sets,
        });
        id
    }

    /// The term that counts a set by a topology.
    pub fn term(&mut self, rule: &SetRule, splitter: Splitter, symbols: &Symbols) -> TermId {
        let set = self.set(rule, symbols);
        let key = self.key(splitter);
        if let Some(known) = self.term_numbers.get(&(set, key)) {
            return *known;
        }
        let id = TermId(number(self.terms.len()));
        self.terms.push(Term {
            key,
            set,
            members: Counts::default(),
            refusals: Counts::default(),
            pull: Counts::default(),
        });
        self.term_numbers.insert((set, key), id);
        self.sets[set.0 as usize].terms.push(id);
        self.fresh_terms.push(id);
        id
    }

    /// A term's counts.
    pub fn at(&self, term: TermId) -> &Term {
        &self.terms[term.0 as usize]
    }

    /// A term's topology.
    pub fn topology(&self, key: KeyId) -> &Topology {
        &self.keys[key.0 as usize]
    }

    /// A cohort.
    pub fn cohort_of(&self, id: CohortId) -> &Cohort {
        &self.cohorts[id.0 as usize]
    }

    /// The terms whose set holds the pod.
    pub fn terms_about<'a>(&'a self, pod: &'a PodFacts) -> impl Iterator<Item = &'a Term> {
        let cohort = &self.cohorts[pod.cohort.0 as usize];
        cohort
            .sets
            .iter()
            .map(|set| &self.sets[set.0 as usize])
            .filter(|set| set.counts(pod))
            .flat_map(|set| set.terms.iter().map(|term| self.at(*term)))
    }

    /// Whether a term's set holds the pod.
    pub fn holds(&self, term: TermId, pod: &PodFacts) -> bool {
        let set = self.at(term).set;
        self.cohort_of(pod.cohort).sets.contains(&set) && self.sets[set.0 as usize].counts(pod)
    }

    /// Whether a change of the pod can change a term's counts.
    pub fn concerns(&self, term: TermId, pod: &PodFacts) -> bool {
        let set = self.at(term).set;
        self.cohort_of(pod.cohort).sets.contains(&set)
    }

    /// How many sets and texts of pods it keeps, for the judgement whether it is worn.
    pub fn size(&self) -> usize {
        self.sets.len() + self.cohorts.len()
    }

    /// Counts a pod that comes to a node or leaves it.
    pub fn count(&mut self, pod: &PodFacts, slot: Slot, direction: Move) {
        let by = match direction {
            Move::In => 1,
            Move::Out => -1,
        };
        let cohort = &self.cohorts[pod.cohort.0 as usize];
        for set in &cohort.sets {
            let set = &self.sets[set.0 as usize];
            if !set.counts(pod) {
                continue;
            }
            for term in &set.terms {
                let term = &mut self.terms[term.0 as usize];
                let domain = self.keys[term.key.0 as usize].domain(slot);
                if domain != NOWHERE {
                    term.members.change(domain, by);
                }
            }
        }
        for (term, weight) in opinions(pod) {
            let term = &mut self.terms[term.0 as usize];
            let domain = self.keys[term.key.0 as usize].domain(slot);
            if domain == NOWHERE {
                continue;
            }
            match weight {
                None => term.refusals.change(domain, by),
                Some(weight) => term.pull.change(domain, weight * i64::from(by)),
            }
        }
    }

    /// Counts a pod for one new term only.
    pub(super) fn count_for(&mut self, id: TermId, pod: &PodFacts, slot: Slot) {
        let member = self.holds(id, pod);
        let term = &mut self.terms[id.0 as usize];
        let domain = self.keys[term.key.0 as usize].domain(slot);
        if domain == NOWHERE {
            return;
        }
        if member {
            term.members.change(domain, 1);
        }
        for (owned, weight) in opinions(pod).filter(|(owned, _)| *owned == id) {
            let term = &mut self.terms[owned.0 as usize];
            match weight {
                None => term.refusals.change(domain, 1),
                Some(weight) => term.pull.change(domain, weight),
            }
        }
    }

    /// Puts a node into the domains that its labels name; its pods are not counted then.
    pub(super) fn settle_node(&mut self, slot: Slot, labels: Option<&Labels>) {
        for topology in &mut self.keys {
            topology.settle(slot, labels);
        }
    }

    /// Puts a node into one topology.
    pub(super) fn settle_node_in(&mut self, key: KeyId, slot: Slot, labels: Option<&Labels>) {
        self.keys[key.0 as usize].settle(slot, labels);
    }

    /// The labels of a namespace changed, or it went; no pod of it is counted then.
    pub(super) fn set_namespace(
        &mut self,
        namespace: Symbol,
        labels: Option<Labels>,
        symbols: &Symbols,
    ) {
        match labels {
            Some(labels) => self.namespaces.insert(namespace, labels),
            None => self.namespaces.remove(&namespace),
        };
        for place in 0..self.cohorts.len() {
            if self.cohorts[place].namespace == namespace {
                let sets = self.sets_of(namespace, &self.cohorts[place].labels, symbols);
                self.cohorts[place].sets = sets;
            }
        }
    }

    /// The labels of a namespace.
    pub(super) fn namespace(&self, namespace: Symbol) -> Option<&Labels> {
        self.namespaces.get(&namespace)
    }

    /// Whether any set selects namespaces by their labels.
    pub(super) fn reads_namespaces(&self) -> bool {
        self.sets.iter().any(|set| {
            set.rule
                .clauses
                .iter()
                .any(|clause| matches!(&clause.namespace_selector, Selector::All(all) if !all.is_empty()))
        })
    }

    fn set(&mut self, rule: &SetRule, symbols: &Symbols) -> SetId {
        if let Some(known) = self.set_numbers.get(rule) {
            return *known;
        }
        let id = SetId(number(self.sets.len()));
        self.sets.push(PodSet {
            rule: rule.clone(),
            terms: Vec::new(),
        });
        self.set_numbers.insert(rule.clone(), id);
        let pair = rule
            .clauses
            .iter()
            .find_map(|clause| clause.selector.sure_pair());
        match pair {
            Some(pair) => self.sets_by_pair.entry(pair).or_default().push(id),
            None => self.sets_without_pair.push(id),
        }
        for cohort in &mut self.cohorts {
            if rule.matches(cohort.namespace, &cohort.labels, &self.namespaces, symbols) {
                cohort.sets.push(id);
            }
        }
        id
    }

    fn key(&mut self, splitter: Splitter) -> KeyId {
        if let Some(known) = self.key_numbers.get(&splitter) {
            return *known;
        }
        let id = KeyId(number(self.keys.len()));
        self.keys.push(Topology {
            splitter,
            domain_of: Vec::new(),
            nodes_in: Vec::new(),
            nodes: 0,
            values: HashMap::new(),
            free: Vec::new(),
        });
        self.key_numbers.insert(splitter, id);
        self.fresh_keys.push(id);
        id
    }

    fn sets_of(&self, namespace: Symbol, labels: &Labels, symbols: &Symbols) -> Vec<SetId> {
        labels
            .pairs()
            .iter()
            .filter_map(|pair| self.sets_by_pair.get(pair))
            .flatten()
            .chain(&self.sets_without_pair)
            .copied()
            .filter(|id| {
                let rule = &self.sets[id.0 as usize].rule;
                rule.matches(namespace, labels, &self.namespaces, symbols)
            })
            .collect()
    }
}

impl PodSet {
    fn counts(&self, pod: &PodFacts) -> bool {
        self.rule.ending == Ending::Counted || !pod.ending
    }
}

impl SetRule {
    fn matches(
        &self,
        namespace: Symbol,
        labels: &Labels,
        namespaces: &HashMap<Symbol, Labels>,
        symbols: &Symbols,
    ) -> bool {
        let nothing = Labels::default();
        self.clauses.iter().all(|clause| {
            let inside = clause.namespaces.contains(&namespace)
                || clause
                    .namespace_selector
                    .matches(namespaces.get(&namespace).unwrap_or(&nothing), symbols);
            inside && clause.selector.matches(labels, symbols)
        })
    }
}

impl Topology {
    /// The domain of a node, or [`NOWHERE`].
    pub fn domain(&self, slot: Slot) -> u32 {
        self.domain_of.get(slot).copied().unwrap_or(NOWHERE)
    }

    fn settle(&mut self, slot: Slot, labels: Option<&Labels>) {
        if self.domain_of.len() <= slot {
            self.domain_of.resize(slot + 1, NOWHERE);
        }
        let before = self.domain_of[slot];
        if before != NOWHERE {
            self.nodes -= 1;
            self.nodes_in[before as usize] -= 1;
        }
        let after = match self.splitter {
            Splitter::Node => labels.map_or(NOWHERE, |_| number(slot)),
            Splitter::Label(key) => match labels.and_then(|labels| labels.value(key)) {
                Some(value) => self.domain_named(value),
                None => NOWHERE,
            },
        };
        self.domain_of[slot] = after;
        if after != NOWHERE {
            let place = after as usize;
            if self.nodes_in.len() <= place {
                self.nodes_in.resize(place + 1, 0);
            }
            self.nodes_in[place] += 1;
            self.nodes += 1;
        }
        // The number of a domain that lost its last node is given out again.
        if before != NOWHERE
            && self.nodes_in[before as usize] == 0
            && self.splitter != Splitter::Node
        {
            self.values.retain(|_, domain| *domain != before);
            self.free.push(before);
        }
    }

    fn domain_named(&mut self, value: Symbol) -> u32 {
        if let Some(known) = self.values.get(&value) {
            return *known;
        }
        let domain = self
            .free
            .pop()
            .unwrap_or_else(|| number(self.nodes_in.len()));
        if self.nodes_in.len() <= domain as usize {
            self.nodes_in.resize(domain as usize + 1, 0);
        }
        self.values.insert(value, domain);
        domain
    }
}

/// What a running pod thinks of company: terms with a weight, none where it refuses.
fn opinions(pod: &PodFacts) -> impl Iterator<Item = (TermId, Option<i64>)> + '_ {
    let refused = pod.anti_affinity.iter().map(|term| (*term, None));
    let demanded = pod
        .affinity
        .iter()
        .map(|term| (term.alone, Some(REQUIRED_PULL)));
    let preferred = pod
        .preferred_pods
        .iter()
        .map(|(term, weight)| (*term, Some(*weight)));
    refused.chain(demanded).chain(preferred)
}

/// A requirement that a label has one of the pod's own values, for `matchLabelKeys`.
pub fn same_value(key: Symbol, value: Symbol) -> Requirement {
    Requirement::equal(key, value)
}

/// A requirement that a label has another value than the pod's, for `mismatchLabelKeys`.
pub fn other_value(key: Symbol, value: Symbol) -> Requirement {
    Requirement {
        key,
        operator: Operator::NotIn(vec![value]),
    }
}

fn number(length: usize) -> u32 {
    u32::try_from(length).expect("fewer than 2^32 of anything")
}
