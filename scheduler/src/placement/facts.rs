//! What placement needs to know of a pod, read once from its object.
//!
//! A pod's object has a hundred fields and hundreds of texts. Of a pod that waits
//! placement keeps its demands, of a pod that runs only what others may trip
//! over: its resources, ports, labels, and its opinion of company.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, TopologySpreadConstraint,
};

use crate::placement::{
    amounts::{self, Amounts, Weight},
    census::{self, Census, Clause, CohortId, Ending, SetRule, Splitter, TermId},
    selector::{Requirement, Selector},
    symbol::{Labels, Symbol, Symbols},
    taint::Toleration,
};

/// A pod's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within it.
    pub name: Arc<str>,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}/{}", self.namespace, self.name)
    }
}

impl PodName {
    /// The name of an object.
    pub fn of(pod: &Pod) -> PodName {
        PodName {
            namespace: pod
                .metadata
                .namespace
                .as_deref()
                .unwrap_or("default")
                .into(),
            name: pod.metadata.name.as_deref().unwrap_or_default().into(),
        }
    }
}

/// A port of the host that a pod wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The host's address; unset is every one.
    pub address: Option<Symbol>,
    /// TCP, UDP or SCTP.
    pub protocol: Symbol,
    /// The port.
    pub port: i32,
}

impl HostPort {
    /// Whether two wishes cannot both come true on one host.
    pub fn collides(&self, other: &HostPort) -> bool {
        let both = match (self.address, other.address) {
            (Some(one), Some(another)) => one == another,
            _ => true,
        };
        both && self.port == other.port && self.protocol == other.protocol
    }
}

/// Requirements on a node, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTerm {
    /// On its labels.
    pub labels: Vec<Requirement>,
    /// On its name.
    pub names: Vec<Requirement>,
}

/// A demand for company.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Company {
    /// Counts pods that fit every demand of the pod, which is what the filter asks.
    pub together: TermId,
    /// Counts pods that fit this demand alone, which is what others' scores ask.
    pub alone: TermId,
}

/// What happens where a spread would be uneven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uneven {
    /// The pod waits.
    Refused,
    /// Another node is better.
    Disliked,
}

/// Which nodes count for a spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Only those where the pod could run.
    Honour,
    /// All.
    Ignore,
}

/// An even spread over the domains of a topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// The label that makes the domains.
    pub key: Symbol,
    /// Counts pods by domain.
    pub term: TermId,
    /// Counts pods by node, for spreads over some of the nodes.
    pub by_node: TermId,
    /// The largest difference between two domains.
    pub max_skew: i64,
    /// With fewer domains the emptiest counts as having none.
    pub min_domains: i64,
    /// What happens otherwise.
    pub uneven: Uneven,
    /// Whether nodes that do not fit the pod's node affinity are left out.
    pub affinity: Policy,
    /// Whether nodes with taints the pod does not tolerate are left out.
    pub taints: Policy,
    /// Whether the pod itself is one of those counted.
    pub counts_itself: bool,
}

/// What a pod is and wants.
#[derive(Debug, Clone)]
pub struct PodFacts {
    /// Its name.
    pub name: PodName,
    /// Its uid: a name may come again.
    pub uid: Arc<str>,
    /// Where it runs.
    pub bound_to: Option<Symbol>,
    /// Whether it is being deleted.
    pub ending: bool,
    /// Whose needs come first.
    pub priority: i32,
    /// When it was made, in microseconds since 1970.
    pub created: i64,
    /// Whether it may take the place of less important pods.
    pub may_preempt: bool,
    /// The node that was cleared for it.
    pub nominated: Option<Symbol>,
    /// Its namespace and labels.
    pub cohort: CohortId,
    /// What it asks of a node.
    pub demand: Amounts,
    /// The same for scores.
    pub weight: Weight,
    /// Ports of the host.
    pub ports: Vec<HostPort>,
    /// Company it refuses.
    pub anti_affinity: Vec<TermId>,
    /// Company it demands.
    pub affinity: Vec<Company>,
    /// Company it likes, or with a negative weight dislikes.
    pub preferred_pods: Vec<(TermId, i64)>,
    /// What a pod that waits wants besides; of a running pod nothing is kept.
    pub wishes: Wishes,
}

/// What matters only until a pod has a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Labels of the node by `nodeSelector`.
    pub node_selector: Vec<Requirement>,
    /// Node terms of which one must hold; unset if any node will do.
    pub node_terms: Option<Vec<NodeTerm>>,
    /// Node terms that are liked.
    pub preferred_nodes: Vec<(NodeTerm, i64)>,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// Even spreads.
    pub spreads: Vec<Spread>,
    /// Images of its containers.
    pub images: Vec<Symbol>,
    /// Names of gates that hold it back.
    pub gates: Vec<String>,
}

impl PodFacts {
    /// Whether another reading of the pod asks for the same.
    pub fn wants_same(&self, other: &PodFacts) -> bool {
        self.cohort == other.cohort
            && self.priority == other.priority
            && self.may_preempt == other.may_preempt
            && self.asks_same(other)
            && self.wishes == other.wishes
    }

    /// Whether another reading takes the same of a node, and says the same of company.
    pub fn asks_same(&self, other: &PodFacts) -> bool {
        self.demand == other.demand
            && self.weight == other.weight
            && self.ports == other.ports
            && self.anti_affinity == other.anti_affinity
            && self.affinity == other.affinity
            && self.preferred_pods == other.preferred_pods
    }
}

/// How much of a pod is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What others may trip over.
    Running,
    /// Its wishes too.
    Waiting,
}

/// Whether a pod takes room on its node: one that has ended gives it back.
pub fn takes_room(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Reads a pod.
pub fn read(symbols: &mut Symbols, census: &mut Census, pod: &Pod, extent: Extent) -> PodFacts {
    let absent = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&absent);
    let name = PodName::of(pod);
    let namespace = symbols.intern(&name.namespace);
    let labels = Labels::read(symbols, pod.metadata.labels.iter().flatten());
    let cohort = census.cohort(namespace, labels.clone(), symbols);
    let (demand, weight) = amounts::read_demand(symbols, spec);
    let mut reader = Reader {
        symbols,
        census,
        namespace,
        labels,
    };
    let (affinity, anti_affinity, preferred_pods) = reader.company(spec);
    let wishes = match extent {
        Extent::Running => Wishes::default(),
        Extent::Waiting => reader.wishes(pod, spec),
    };
    let ports = reader.ports(spec);
    let status = pod.status.as_ref();
    PodFacts {
        uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
        bound_to: named(symbols, spec.node_name.as_deref()),
        ending: pod.metadata.deletion_timestamp.is_some(),
        priority: spec.priority.unwrap_or(0),
        created: pod
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(0, |time| time.0.as_microsecond()),
        may_preempt: spec.preemption_policy.as_deref() != Some("Never"),
        nominated: named(
            symbols,
            status.and_then(|status| status.nominated_node_name.as_deref()),
        ),
        name,
        cohort,
        demand,
        weight,
        ports,
        anti_affinity,
        affinity,
        preferred_pods,
        wishes,
    }
}

fn named(symbols: &mut Symbols, name: Option<&str>) -> Option<Symbol> {
    name.filter(|name| !name.is_empty())
        .map(|name| symbols.intern(name))
}

struct Reader<'a> {
    symbols: &'a mut Symbols,
    census: &'a mut Census,
    namespace: Symbol,
    labels: Labels,
}

impl Reader<'_> {
    fn company(&mut self, spec: &PodSpec) -> (Vec<Company>, Vec<TermId>, Vec<(TermId, i64)>) {
        let Some(affinity) = &spec.affinity else {
            return Default::default();
        };
        let near = affinity.pod_affinity.as_ref();
        let far = affinity.pod_anti_affinity.as_ref();
        let demanded = near
            .and_then(|near| {
                near.required_during_scheduling_ignored_during_execution
                    .as_deref()
            })
            .unwrap_or_default();
        let clauses: Vec<Clause> = demanded.iter().map(|term| self.clause(term)).collect();
        let together = SetRule {
            clauses: clauses.clone(),
            ending: Ending::Counted,
        };
        let wanted = demanded
            .iter()
            .zip(clauses)
            .map(|(term, clause)| {
                let splitter = Splitter::Label(self.symbols.intern(&term.topology_key));
                Company {
                    together: self.census.term(&together, splitter, self.symbols),
                    alone: self.census.term(&one(clause), splitter, self.symbols),
                }
            })
            .collect();
        let refused = far
            .and_then(|far| {
                far.required_during_scheduling_ignored_during_execution
                    .as_deref()
            })
            .unwrap_or_default()
            .iter()
            .map(|term| self.term(term))
            .collect();
        let liked = near
            .and_then(|near| {
                near.preferred_during_scheduling_ignored_during_execution
                    .as_deref()
            })
            .unwrap_or_default()
            .iter()
            .map(|liked| (&liked.pod_affinity_term, i64::from(liked.weight)));
        let disliked = far
            .and_then(|far| {
                far.preferred_during_scheduling_ignored_during_execution
                    .as_deref()
            })
            .unwrap_or_default()
            .iter()
            .map(|liked| (&liked.pod_affinity_term, -i64::from(liked.weight)));
        let preferred = liked
            .chain(disliked)
            .map(|(term, weight)| (self.term(term), weight))
            .collect();
        (wanted, refused, preferred)
    }

    fn term(&mut self, source: &PodAffinityTerm) -> TermId {
        let clause = self.clause(source);
        let splitter = Splitter::Label(self.symbols.intern(&source.topology_key));
        self.census.term(&one(clause), splitter, self.symbols)
    }

    fn clause(&mut self, source: &PodAffinityTerm) -> Clause {
        let mut selector = Selector::read(self.symbols, source.label_selector.as_ref());
        self.narrow(&mut selector, &source.match_label_keys, census::same_value);
        self.narrow(
            &mut selector,
            &source.mismatch_label_keys,
            census::other_value,
        );
        let mut namespaces: Vec<Symbol> = source
            .namespaces
            .iter()
            .flatten()
            .map(|name| self.symbols.intern(name))
            .collect();
        // Without any word on namespaces the pod's own is meant.
        if namespaces.is_empty() && source.namespace_selector.is_none() {
            namespaces.push(self.namespace);
        }
        namespaces.sort_unstable();
        Clause {
            namespaces,
            namespace_selector: Selector::read(self.symbols, source.namespace_selector.as_ref()),
            selector,
        }
    }

    /// Adds what `matchLabelKeys` says: the value that this pod has, if it has one.
    fn narrow(
        &mut self,
        selector: &mut Selector,
        keys: &Option<Vec<String>>,
        demand: fn(Symbol, Symbol) -> Requirement,
    ) {
        for key in keys.iter().flatten() {
            let key = self.symbols.intern(key);
            if let Some(value) = self.labels.value(key) {
                selector.require(demand(key, value));
            }
        }
    }

    fn wishes(&mut self, pod: &Pod, spec: &PodSpec) -> Wishes {
        let nodes = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref());
        let required = nodes.and_then(|nodes| {
            nodes
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        let preferred = nodes.and_then(|nodes| {
            nodes
                .preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
        Wishes {
            node_selector: spec
                .node_selector
                .iter()
                .flatten()
                .map(|(key, value)| {
                    Requirement::equal(self.symbols.intern(key), self.symbols.intern(value))
                })
                .collect(),
            node_terms: required.map(|required| {
                required
                    .node_selector_terms
                    .iter()
                    .filter_map(|term| self.node_term(term))
                    .collect()
            }),
            preferred_nodes: preferred
                .into_iter()
                .flatten()
                .filter_map(|liked| {
                    Some((self.node_term(&liked.preference)?, i64::from(liked.weight)))
                })
                .collect(),
            tolerations: spec
                .tolerations
                .iter()
                .flatten()
                .map(|source| Toleration::read(self.symbols, source))
                .collect(),
            spreads: self.spreads(pod, spec),
            images: spec
                .containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
                .filter_map(|container| container.image.as_deref())
                .map(|image| self.symbols.intern(&full_image_name(image)))
                .collect(),
            gates: spec
                .scheduling_gates
                .iter()
                .flatten()
                .map(|gate| gate.name.clone())
                .collect(),
        }
    }

    /// A term without any requirement selects no node, so it is left out.
    fn node_term(&mut self, source: &NodeSelectorTerm) -> Option<NodeTerm> {
        let mut read = |list: &Option<Vec<_>>| -> Vec<Requirement> {
            list.iter()
                .flatten()
                .map(|one| Requirement::of_node(self.symbols, one))
                .collect()
        };
        let term = NodeTerm {
            labels: read(&source.match_expressions),
            names: read(&source.match_fields),
        };
        (!term.labels.is_empty() || !term.names.is_empty()).then_some(term)
    }

    fn spreads(&mut self, pod: &Pod, spec: &PodSpec) -> Vec<Spread> {
        match spec.topology_spread_constraints.as_deref() {
            Some(said) if !said.is_empty() => said.iter().map(|one| self.spread(one)).collect(),
            _ => self.default_spreads(pod),
        }
    }

    fn spread(&mut self, source: &TopologySpreadConstraint) -> Spread {
        let mut selector = Selector::read(self.symbols, source.label_selector.as_ref());
        self.narrow(&mut selector, &source.match_label_keys, census::same_value);
        let counts_itself = selector.matches(&self.labels, self.symbols);
        let key = self.symbols.intern(&source.topology_key);
        let (term, by_node) = self.spread_terms(key, selector);
        Spread {
            key,
            term,
            by_node,
            max_skew: i64::from(source.max_skew.max(1)),
            min_domains: i64::from(source.min_domains.unwrap_or(1)),
            uneven: match source.when_unsatisfiable.as_str() {
                "ScheduleAnyway" => Uneven::Disliked,
                _ => Uneven::Refused,
            },
            affinity: match source.node_affinity_policy.as_deref() {
                Some("Ignore") => Policy::Ignore,
                _ => Policy::Honour,
            },
            taints: match source.node_taints_policy.as_deref() {
                Some("Honor") => Policy::Honour,
                _ => Policy::Ignore,
            },
            counts_itself,
        }
    }

    /// Replicas that say nothing are spread over hosts and zones where that costs nothing.
    ///
    /// kube-scheduler takes the selectors of the pod's services and of its
    /// owner; the pod's own labels say the same for pods of one template.
    fn default_spreads(&mut self, pod: &Pod) -> Vec<Spread> {
        let replica = pod.metadata.owner_references.iter().flatten().any(|owner| {
            owner.controller == Some(true)
                && ["ReplicaSet", "StatefulSet", "ReplicationController"]
                    .contains(&owner.kind.as_str())
        });
        if !replica {
            return Vec::new();
        }
        let same: Vec<Requirement> = self
            .labels
            .pairs()
            .iter()
            .map(|(key, value)| Requirement::equal(*key, *value))
            .collect();
        [
            ("kubernetes.io/hostname", 3),
            ("topology.kubernetes.io/zone", 5),
        ]
        .into_iter()
        .map(|(key, max_skew)| {
            let key = self.symbols.intern(key);
            let (term, by_node) = self.spread_terms(key, Selector::All(same.clone()));
            Spread {
                key,
                term,
                by_node,
                max_skew,
                min_domains: 1,
                uneven: Uneven::Disliked,
                affinity: Policy::Honour,
                taints: Policy::Ignore,
                counts_itself: true,
            }
        })
        .collect()
    }

    fn spread_terms(&mut self, key: Symbol, selector: Selector) -> (TermId, TermId) {
        let rule = SetRule {
            clauses: vec![Clause {
                namespaces: vec![self.namespace],
                namespace_selector: Selector::Nothing,
                selector,
            }],
            ending: Ending::Ignored,
        };
        (
            self.census.term(&rule, Splitter::Label(key), self.symbols),
            self.census.term(&rule, Splitter::Node, self.symbols),
        )
    }

    fn ports(&mut self, spec: &PodSpec) -> Vec<HostPort> {
        let sidecars = spec
            .init_containers
            .iter()
            .flatten()
            .filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let host_network = spec.host_network == Some(true);
        spec.containers
            .iter()
            .chain(sidecars)
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| {
                // On the host's own network every port is the host's.
                let wanted = match port.host_port {
                    Some(port) if port > 0 => port,
                    _ if host_network => port.container_port,
                    _ => return None,
                };
                let address = port
                    .host_ip
                    .as_deref()
                    .filter(|address| !["", "0.0.0.0", "::"].contains(address));
                Some(HostPort {
                    address: address.map(|address| self.symbols.intern(address)),
                    protocol: self
                        .symbols
                        .intern(port.protocol.as_deref().unwrap_or("TCP")),
                    port: wanted,
                })
            })
            .collect()
    }
}

fn one(clause: Clause) -> SetRule {
    SetRule {
        clauses: vec![clause],
        ending: Ending::Counted,
    }
}

/// An image's name with its tag, as nodes list what they hold.
pub fn full_image_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}
