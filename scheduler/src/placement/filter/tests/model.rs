//! A slow plain model of the filters, and random clusters to compare with.
//!
//! The model knows the objects of the API only: it walks over all pods for every
//! question. The snapshot is led through a random history (pods come, go and end,
//! nodes come, go and change labels), so that what it keeps up to date is compared
//! with what the model counts anew.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Node, NodeSelectorTerm, Pod, PodAffinityTerm, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use proptest::{prelude::any, prop_assert_eq, proptest};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::placement::{
    facts::PodName,
    fixture::{self, node, pod, read, refusals, snapshot},
    snapshot::Snapshot,
};

type Map = BTreeMap<String, String>;

/// A cluster as its objects.
#[derive(Default)]
struct World {
    nodes: BTreeMap<String, Node>,
    pods: BTreeMap<String, Pod>,
}

fn labels(of: &Option<Map>) -> Map {
    of.clone().unwrap_or_default()
}

fn selects(selector: Option<&LabelSelector>, labels: &Map) -> bool {
    let Some(selector) = selector else {
        return false;
    };
    let pairs = selector.match_labels.iter().flatten();
    let mut all = pairs.map(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten();
    all.all(|holds| holds)
        && expressions.into_iter().all(|one| {
            let value = labels.get(&one.key);
            let listed = value.is_some_and(|value| one.values.iter().flatten().any(|x| x == value));
            match one.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}

fn cpu(of: &Pod) -> i64 {
    let spec = of.spec.as_ref().expect("a spec");
    let text = &spec.containers[0].resources.as_ref().expect("resources");
    let text = text.requests.as_ref().expect("requests")["cpu"].0.clone();
    text.trim_end_matches('m').parse().expect("thousandths")
}

impl World {
    fn on(&self, node: &str) -> impl Iterator<Item = &Pod> {
        let node = node.to_owned();
        self.pods
            .values()
            .filter(move |pod| node_of(pod) == Some(node.as_str()))
    }

    /// Pods on nodes whose label has the value that the node's has.
    fn in_domain(&self, node: &str, key: &str) -> Option<Vec<&Pod>> {
        let value = labels(&self.nodes[node].metadata.labels).get(key)?.clone();
        let inside = self
            .nodes
            .iter()
            .filter(|(_, other)| labels(&other.metadata.labels).get(key) == Some(&value));
        Some(inside.flat_map(|(name, _)| self.on(name)).collect())
    }

    fn term_selects(term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
        let own = owner.metadata.namespace.clone().expect("a namespace");
        let spaces = term.namespaces.clone().unwrap_or(vec![own]);
        spaces.contains(other.metadata.namespace.as_ref().expect("a namespace"))
            && selects(
                term.label_selector.as_ref(),
                &labels(&other.metadata.labels),
            )
    }

    /// The filters that turn the node down, by name.
    fn judge(&self, pod: &Pod, node: &str) -> Vec<&'static str> {
        let rows: [(&str, bool); 7] = [
            (
                "NodeUnschedulable",
                self.spec(node)["unschedulable"] != json!(true),
            ),
            ("TaintToleration", self.tolerates(pod, node)),
            ("NodeAffinity", self.selected(pod, node)),
            ("NodeResourcesFit", self.has_room(pod, node)),
            ("PodTopologySpread", self.is_even(pod, node)),
            ("InterPodAffinity", self.has_company(pod, node)),
            ("InterPodAntiAffinity", self.is_apart(pod, node)),
        ];
        rows.into_iter()
            .filter(|(_, fits)| !fits)
            .map(|(name, _)| name)
            .collect()
    }

    fn spec(&self, node: &str) -> Value {
        serde_json::to_value(&self.nodes[node].spec).expect("a spec")
    }

    fn tolerates(&self, pod: &Pod, node: &str) -> bool {
        let taints = self.spec(node)["taints"].clone();
        let bears = serde_json::to_value(&pod.spec).expect("a spec")["tolerations"].clone();
        taints.as_array().into_iter().flatten().all(|taint| {
            taint["effect"] == "PreferNoSchedule"
                || bears.as_array().into_iter().flatten().any(|one| {
                    one["key"] == taint["key"]
                        && (one["operator"] == "Exists" || one["value"] == taint["value"])
                })
        })
    }

    fn selected(&self, pod: &Pod, node: &str) -> bool {
        let have = labels(&self.nodes[node].metadata.labels);
        let spec = pod.spec.as_ref().expect("a spec");
        let pairs = spec.node_selector.iter().flatten();
        let mut pairs = pairs.map(|(key, value)| have.get(key) == Some(value));
        let fits = |term: &NodeSelectorTerm| {
            let selector = json!({"matchExpressions": term.match_expressions});
            let selector: LabelSelector = serde_json::from_value(selector).expect("a selector");
            selects(Some(&selector), &have)
        };
        let affinity = spec
            .affinity
            .as_ref()
            .and_then(|all| all.node_affinity.as_ref());
        let required = affinity.and_then(|nodes| {
            nodes
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        pairs.all(|holds| holds)
            && required.is_none_or(|required| required.node_selector_terms.iter().any(fits))
    }

    fn has_room(&self, pod: &Pod, node: &str) -> bool {
        let status = serde_json::to_value(&self.nodes[node].status).expect("a status");
        let all: i64 = status["allocatable"]["cpu"]
            .as_str()
            .expect("cpu")
            .parse()
            .expect("processors");
        let used: i64 = self.on(node).map(cpu).sum();
        used + cpu(pod) <= all * 1000
    }

    fn is_even(&self, pod: &Pod, node: &str) -> bool {
        let spec = pod.spec.as_ref().expect("a spec");
        let all: Vec<&TopologySpreadConstraint> = spec
            .topology_spread_constraints
            .iter()
            .flatten()
            .filter(|one| one.when_unsatisfiable == "DoNotSchedule")
            .collect();
        let has_all = |name: &str| {
            let have = labels(&self.nodes[name].metadata.labels);
            all.iter().all(|one| have.contains_key(&one.topology_key))
        };
        all.iter().all(|one| {
            let mut counts: BTreeMap<String, i64> = BTreeMap::new();
            for name in self.nodes.keys().filter(|name| has_all(name)) {
                let ignored = one.node_affinity_policy.as_deref() == Some("Ignore");
                let borne =
                    one.node_taints_policy.as_deref() != Some("Honor") || self.tolerates(pod, name);
                if (ignored || self.selected(pod, name)) && borne {
                    let value =
                        labels(&self.nodes[name].metadata.labels)[&one.topology_key].clone();
                    let of_kind = self.on(name).filter(|other| {
                        other.metadata.deletion_timestamp.is_none()
                            && other.metadata.namespace == pod.metadata.namespace
                            && selects(one.label_selector.as_ref(), &labels(&other.metadata.labels))
                    });
                    *counts.entry(value).or_default() +=
                        i64::try_from(of_kind.count()).expect("few");
                }
            }
            let Some(value) = labels(&self.nodes[node].metadata.labels)
                .get(&one.topology_key)
                .cloned()
            else {
                return false;
            };
            let least = if i64::try_from(counts.len()).expect("few")
                < i64::from(one.min_domains.unwrap_or(1))
            {
                0
            } else {
                counts.values().copied().min().unwrap_or(0)
            };
            let itself = i64::from(selects(
                one.label_selector.as_ref(),
                &labels(&pod.metadata.labels),
            ));
            counts.get(&value).copied().unwrap_or(0) + itself - least <= i64::from(one.max_skew)
        })
    }

    fn has_company(&self, pod: &Pod, node: &str) -> bool {
        let terms = near(pod);
        let fits_all = |other: &Pod| {
            terms
                .iter()
                .all(|term| World::term_selects(term, pod, other))
        };
        let anywhere = self.nodes.keys().any(|name| {
            let have = labels(&self.nodes[name].metadata.labels);
            terms
                .iter()
                .any(|term| have.contains_key(&term.topology_key))
                && self.on(name).any(fits_all)
        });
        let inside: Vec<_> = terms
            .iter()
            .map(|term| self.in_domain(node, &term.topology_key))
            .collect();
        if inside.iter().any(Option::is_none) {
            return false;
        }
        let there = inside
            .iter()
            .flatten()
            .all(|pods| pods.iter().any(|other| fits_all(other)));
        there || (!anywhere && fits_all(pod))
    }

    fn is_apart(&self, pod: &Pod, node: &str) -> bool {
        let mine = far(pod).into_iter().all(|term| {
            let inside = self.in_domain(node, &term.topology_key).unwrap_or_default();
            !inside
                .into_iter()
                .any(|other| World::term_selects(&term, pod, other))
        });
        let theirs = self.pods.values().all(|other| {
            far(other).into_iter().all(|term| {
                !World::term_selects(&term, other, pod)
                    || !self
                        .in_domain(node, &term.topology_key)
                        .unwrap_or_default()
                        .iter()
                        .any(|inside| inside.metadata.name == other.metadata.name)
            })
        });
        mine && theirs
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn near(pod: &Pod) -> Vec<PodAffinityTerm> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    near.and_then(|near| {
        near.required_during_scheduling_ignored_during_execution
            .clone()
    })
    .unwrap_or_default()
}

fn far(pod: &Pod) -> Vec<PodAffinityTerm> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let far = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    far.and_then(|far| {
        far.required_during_scheduling_ignored_during_execution
            .clone()
    })
    .unwrap_or_default()
}

const APPS: [&str; 3] = ["web", "db", "cache"];
const KEYS: [&str; 3] = ["kubernetes.io/hostname", "zone", "rack"];
const SPACES: [&str; 2] = ["default", "other"];
const NODES: [&str; 6] = ["n0", "n1", "n2", "n3", "n4", "n5"];

fn pick<'a>(lot: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(lot).expect("a choice")
}

fn random_node(lot: &mut StdRng, name: &str) -> Node {
    let mut labels = json!({"disk": pick(lot, &["ssd", "hdd"])});
    if lot.random_bool(0.8) {
        labels["zone"] = json!(pick(lot, &["a", "b", "c"]));
    }
    if lot.random_bool(0.5) {
        labels["rack"] = json!(pick(lot, &["1", "2"]));
    }
    let mut spec = json!({});
    if lot.random_bool(0.2) {
        spec["unschedulable"] = json!(true);
    }
    if lot.random_bool(0.3) {
        spec["taints"] = json!([{"key": "k", "value": pick(lot, &["v", "w"]),
            "effect": pick(lot, &["NoSchedule", "PreferNoSchedule", "NoExecute"])}]);
    }
    node(name, json!({"metadata": {"labels": labels}, "spec": spec}))
}

fn random_terms(lot: &mut StdRng) -> Value {
    let mut terms = Vec::new();
    for _ in 0..lot.random_range(1..3) {
        let selector = match lot.random_range(0..3) {
            0 => json!({"matchLabels": {"app": pick(lot, &APPS)}}),
            1 => {
                json!({"matchExpressions": [{"key": "app", "operator": pick(lot, &["In", "NotIn"]),
                "values": [pick(lot, &APPS), pick(lot, &APPS)]}]})
            }
            _ => {
                json!({"matchExpressions": [{"key": "tier", "operator": pick(lot, &["Exists", "DoesNotExist"])}]})
            }
        };
        let mut term = json!({"labelSelector": selector, "topologyKey": pick(lot, &KEYS)});
        if lot.random_bool(0.3) {
            term["namespaces"] = json!([pick(lot, &SPACES)]);
        }
        terms.push(term);
    }
    json!({"requiredDuringSchedulingIgnoredDuringExecution": terms})
}

fn random_pod(lot: &mut StdRng, name: &str) -> Pod {
    let mut labels = json!({"app": pick(lot, &APPS)});
    if lot.random_bool(0.3) {
        labels["tier"] = json!("x");
    }
    let mut spec = json!({"containers": [{"name": "main", "resources":
        {"requests": {"cpu": format!("{}m", lot.random_range(1..=10) * 100)}}}]});
    if lot.random_bool(0.3) {
        spec["affinity"]["podAntiAffinity"] = random_terms(lot);
    }
    if lot.random_bool(0.3) {
        spec["affinity"]["podAffinity"] = random_terms(lot);
    }
    if lot.random_bool(0.2) {
        spec["affinity"]["nodeAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": pick(lot, &["zone", "rack"]),
                "operator": pick(lot, &["In", "NotIn"]), "values": [pick(lot, &["a", "1"])]}]}]}});
    }
    if lot.random_bool(0.3) {
        spec["nodeSelector"] = json!({"disk": pick(lot, &["ssd", "hdd"])});
    }
    if lot.random_bool(0.4) {
        spec["tolerations"] =
            json!([{"key": "k", "operator": pick(lot, &["Exists", "Equal"]), "value": "v"}]);
    }
    if lot.random_bool(0.5) {
        let mut spreads = Vec::new();
        for _ in 0..lot.random_range(1..3) {
            let mut spread = json!({"maxSkew": lot.random_range(1..3), "topologyKey": pick(lot, &KEYS),
                "whenUnsatisfiable": pick(lot, &["DoNotSchedule", "DoNotSchedule", "ScheduleAnyway"]),
                "labelSelector": {"matchLabels": {"app": pick(lot, &APPS)}},
                "nodeAffinityPolicy": pick(lot, &["Honor", "Ignore"]),
                "nodeTaintsPolicy": pick(lot, &["Honor", "Ignore"])});
            if lot.random_bool(0.2) {
                spread["minDomains"] = json!(3);
            }
            spreads.push(spread);
        }
        spec["topologySpreadConstraints"] = json!(spreads);
    }
    pod(
        name,
        json!({"metadata": {"labels": labels, "namespace": pick(lot, &SPACES)}, "spec": spec}),
    )
}

/// Does one random thing to both.
fn live_on(lot: &mut StdRng, world: &mut World, snapshot: &mut Snapshot, step: usize) {
    let some_pod = |lot: &mut StdRng, world: &World| {
        let names: Vec<String> = world.pods.keys().cloned().collect();
        names.choose(lot).cloned()
    };
    match lot.random_range(0..10) {
        0..=4 => {
            let mut pod = random_pod(lot, &format!("p{step}"));
            let target = pick(lot, &NODES).to_owned();
            pod.spec.as_mut().expect("a spec").node_name = Some(target);
            fixture::place(snapshot, &pod);
            world.pods.insert(format!("p{step}"), pod);
        }
        5 => {
            if let Some(pod) = some_pod(lot, world).and_then(|name| world.pods.remove(&name)) {
                snapshot.displace(&PodName::of(&pod));
            }
        }
        6 => {
            if let Some(pod) = some_pod(lot, world).and_then(|name| world.pods.get_mut(&name)) {
                let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
                pod.metadata.deletion_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
                fixture::place(snapshot, pod);
            }
        }
        7 => {
            let name = pick(lot, &NODES);
            world.nodes.remove(name);
            snapshot.remove_node(name);
        }
        _ => {
            let name = pick(lot, &NODES);
            let node = random_node(lot, name);
            snapshot.set_node(&node);
            world.nodes.insert(name.to_owned(), node);
        }
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    #[test]
    fn filters_agree_with_the_plain_model(seed in any::<u64>()) {
        let mut lot = StdRng::seed_from_u64(seed);
        let mut world = World::default();
        let mut snapshot = snapshot(&[], &[]);
        for step in 0..40 {
            live_on(&mut lot, &mut world, &mut snapshot, step);
            if step % 4 != 3 {
                continue;
            }
            let waiting = random_pod(&mut lot, "waiting");
            let facts = read(&mut snapshot, &waiting);
            for name in world.nodes.keys() {
                let mut expected = world.judge(&waiting, name);
                let mut found: Vec<&str> =
                    refusals(&snapshot, &facts, name).into_iter().map(|(filter, _)| filter).collect();
                expected.sort_unstable();
                found.sort_unstable();
                found.dedup();
                prop_assert_eq!(found, expected, "node {} at step {}", name, step);
            }
        }
        let _ = lot.next_u64();
    }
}
