//! Tests of the filters: tables, and a slow plain model.

use serde_json::{Value, json};

use crate::placement::fixture::{node, on, pod, pod_of, read, refusals, snapshot};

mod model;

/// What stands against node `n`, as kube-scheduler words it.
fn against(nodes: Value, running: &[Value], waiting: Value) -> Vec<String> {
    let nodes: Vec<_> = match nodes {
        Value::Array(all) => all,
        one => vec![one],
    };
    let nodes: Vec<_> = nodes
        .into_iter()
        .enumerate()
        .map(|(place, over)| node(["n", "m", "o"][place], over))
        .collect();
    let running: Vec<_> = running
        .iter()
        .enumerate()
        .map(|(place, over)| pod(&format!("running-{place}"), over.clone()))
        .collect();
    let mut snapshot = snapshot(&nodes, &running);
    let waiting = read(&mut snapshot, &pod("waiting", waiting));
    refusals(&snapshot, &waiting, "n")
        .into_iter()
        .map(|(_, reason)| reason)
        .collect()
}

/// A name, the node, pods that run, the pod that waits, and what stands against the node.
type Row<'a> = (&'a str, Value, Vec<Value>, Value, &'a [&'a str]);

fn check(rows: Vec<Row<'_>>) {
    for (name, node, running, waiting, expected) in rows {
        assert_eq!(against(node, &running, waiting), expected, "{name}");
    }
}

fn requests(requests: Value) -> Value {
    json!({"spec": {"containers": [{"name": "main", "image": "a", "resources": {"requests": requests}}]}})
}

fn with_labels(app: &str, over: Value) -> Value {
    let mut all = json!({"metadata": {"labels": {"app": app}}});
    all.as_object_mut()
        .expect("an object")
        .extend(over.as_object().expect("an object").clone());
    all
}

fn anti(app: &str, key: &str) -> Value {
    json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}
    ]}})
}

fn near(app: &str, key: &str) -> Value {
    json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}
    ]}})
}

const HOST: &str = "kubernetes.io/hostname";
const ANTI: &str = "node(s) didn't match pod anti-affinity rules";
const REFUSED: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
const ALONE: &str = "node(s) didn't match pod affinity rules";
const SELECTOR: &str = "node(s) didn't match Pod's node affinity/selector";
const SPREAD: &str = "node(s) didn't match pod topology spread constraints";

#[test]
fn resources_are_promises_that_are_kept() {
    let used = on("n", requests(json!({"cpu": "3", "memory": "7Gi"})));
    check(vec![
        (
            "an empty node",
            json!({}),
            vec![],
            requests(json!({"cpu": "4"})),
            &[],
        ),
        (
            "too large",
            json!({}),
            vec![],
            requests(json!({"cpu": "4001m"})),
            &["Insufficient cpu"],
        ),
        (
            "exactly what is left",
            json!({}),
            vec![used.clone()],
            requests(json!({"cpu": "1", "memory": "1Gi"})),
            &[],
        ),
        (
            "both are short",
            json!({}),
            vec![used],
            requests(json!({"cpu": "2", "memory": "2Gi"})),
            &["Insufficient cpu", "Insufficient memory"],
        ),
        (
            "a device that is not there",
            json!({}),
            vec![],
            requests(json!({"example.com/gpu": "1"})),
            &["Insufficient example.com/gpu"],
        ),
        (
            "a device that is taken",
            json!({"status": {"allocatable": {"example.com/gpu": "1"}}}),
            vec![on("n", requests(json!({"example.com/gpu": "1"})))],
            requests(json!({"example.com/gpu": "1"})),
            &["Insufficient example.com/gpu"],
        ),
        (
            "no place for another pod",
            json!({"status": {"allocatable": {"pods": "1"}}}),
            vec![on("n", json!({}))],
            json!({}),
            &["Too many pods"],
        ),
        (
            "nothing wanted of what is overcommitted",
            json!({"status": {"allocatable": {"cpu": "1"}}}),
            vec![on("n", requests(json!({"cpu": "2"})))],
            json!({}),
            &[],
        ),
    ]);
}

#[test]
fn a_pod_asks_for_the_most_it_ever_needs_at_once() {
    let limit = |cpu: &str| json!({"limits": {"cpu": cpu}});
    let asks = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let rows = [
        (
            "containers add up",
            json!({"containers": [{"resources": asks("1")}, {"resources": asks("2")}]}),
            3000,
        ),
        (
            "a limit stands for a request",
            json!({"containers": [{"resources": limit("1")}]}),
            1000,
        ),
        (
            "an init container that is larger counts alone",
            json!({"initContainers": [{"resources": asks("3")}], "containers": [{"resources": asks("1")}]}),
            3000,
        ),
        (
            "a sidecar adds to both",
            json!({"initContainers": [
                {"restartPolicy": "Always", "resources": asks("1")}, {"resources": asks("3")}
            ], "containers": [{"resources": asks("2")}]}),
            4000,
        ),
        (
            "a later sidecar does not add to an earlier init container",
            json!({"initContainers": [
                {"resources": asks("3")}, {"restartPolicy": "Always", "resources": asks("1")}
            ], "containers": [{"resources": asks("1")}]}),
            3000,
        ),
        (
            "overhead is added",
            json!({"overhead": {"cpu": "250m"}, "containers": [{"resources": asks("1")}]}),
            1250,
        ),
        (
            "the whole pod's request stands instead",
            json!({"resources": asks("5"), "containers": [{"resources": asks("1")}]}),
            5000,
        ),
    ];
    for (name, mut spec, expected) in rows {
        for list in ["containers", "initContainers"] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut);
            for (place, one) in containers.into_iter().flatten().enumerate() {
                one["name"] = json!(format!("{list}-{place}"));
            }
        }
        let mut snapshot = snapshot(&[], &[]);
        let facts = read(&mut snapshot, &pod("p", json!({"spec": spec})));
        assert_eq!(facts.demand.cpu_millis, expected, "{name}");
    }
}

#[test]
fn taints_and_the_cordon_keep_pods_away() {
    let taint =
        |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let tolerates = |toleration: Value| json!({"spec": {"tolerations": [toleration]}});
    let text = "node(s) had untolerated taint(s)";
    let cordon = "node(s) were unschedulable";
    check(vec![
        ("a taint", taint("NoSchedule"), vec![], json!({}), &[text]),
        (
            "one that evicts",
            taint("NoExecute"),
            vec![],
            json!({}),
            &[text],
        ),
        (
            "one that is only disliked",
            taint("PreferNoSchedule"),
            vec![],
            json!({}),
            &[],
        ),
        (
            "tolerated by value",
            taint("NoSchedule"),
            vec![],
            tolerates(json!({"key": "k", "value": "v"})),
            &[],
        ),
        (
            "another value",
            taint("NoSchedule"),
            vec![],
            tolerates(json!({"key": "k", "value": "w"})),
            &[text],
        ),
        (
            "tolerated by key",
            taint("NoSchedule"),
            vec![],
            tolerates(json!({"key": "k", "operator": "Exists"})),
            &[],
        ),
        (
            "all tolerated",
            taint("NoExecute"),
            vec![],
            tolerates(json!({"operator": "Exists"})),
            &[],
        ),
        (
            "another effect",
            taint("NoExecute"),
            vec![],
            tolerates(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"})),
            &[text],
        ),
        (
            "an operator that nobody knows",
            taint("NoSchedule"),
            vec![],
            tolerates(json!({"key": "k", "operator": "Sometimes"})),
            &[text],
        ),
        (
            "cordoned",
            json!({"spec": {"unschedulable": true}}),
            vec![],
            json!({}),
            &[cordon],
        ),
        (
            "cordoned and tolerated",
            json!({"spec": {"unschedulable": true}}),
            vec![],
            tolerates(json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"})),
            &[],
        ),
    ]);
}

#[test]
fn labels_select_nodes() {
    let disk = json!({"metadata": {"labels": {"disk": "ssd", "cores": "8"}}});
    let affinity = |terms: Value| {
        json!({"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}})
    };
    let term = |key: &str, operator: &str, values: &[&str]| {
        json!({"matchExpressions": [
        {"key": key, "operator": operator, "values": values}]})
    };
    let name = |names: &[&str]| {
        json!({"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": names}]})
    };
    check(vec![
        (
            "a pair",
            disk.clone(),
            vec![],
            json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            &[],
        ),
        (
            "another value",
            disk.clone(),
            vec![],
            json!({"spec": {"nodeSelector": {"disk": "hdd"}}}),
            &[SELECTOR],
        ),
        (
            "no such label",
            disk.clone(),
            vec![],
            json!({"spec": {"nodeSelector": {"gpu": "a"}}}),
            &[SELECTOR],
        ),
        (
            "one of two terms",
            disk.clone(),
            vec![],
            affinity(json!([
                term("disk", "In", &["hdd"]),
                term("disk", "In", &["ssd", "nvme"])
            ])),
            &[],
        ),
        (
            "not in",
            disk.clone(),
            vec![],
            affinity(json!([term("disk", "NotIn", &["ssd"])])),
            &[SELECTOR],
        ),
        (
            "not in, without the label",
            disk.clone(),
            vec![],
            affinity(json!([term("gpu", "NotIn", &["a"])])),
            &[],
        ),
        (
            "exists",
            disk.clone(),
            vec![],
            affinity(json!([term("gpu", "Exists", &[])])),
            &[SELECTOR],
        ),
        (
            "does not exist",
            disk.clone(),
            vec![],
            affinity(json!([term("gpu", "DoesNotExist", &[])])),
            &[],
        ),
        (
            "more than",
            disk.clone(),
            vec![],
            affinity(json!([term("cores", "Gt", &["7"])])),
            &[],
        ),
        (
            "less than",
            disk.clone(),
            vec![],
            affinity(json!([term("cores", "Lt", &["8"])])),
            &[SELECTOR],
        ),
        (
            "a text is no number",
            disk.clone(),
            vec![],
            affinity(json!([term("disk", "Gt", &["1"])])),
            &[SELECTOR],
        ),
        (
            "by name",
            disk.clone(),
            vec![],
            affinity(json!([name(&["n"])])),
            &[],
        ),
        (
            "by another name",
            disk.clone(),
            vec![],
            affinity(json!([name(&["m"])])),
            &[SELECTOR],
        ),
        (
            "an empty term selects nothing",
            disk,
            vec![],
            affinity(json!([{}])),
            &[SELECTOR],
        ),
    ]);
}

#[test]
fn ports_of_the_host_are_given_once() {
    let port = |port: Value| json!({"spec": {"containers": [{"name": "main", "ports": [port]}]}});
    let taken = "node(s) didn't have free ports for the requested pod ports";
    let all = on("n", port(json!({"containerPort": 80, "hostPort": 80})));
    let one = on(
        "n",
        port(json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"})),
    );
    check(vec![
        (
            "the same",
            json!({}),
            vec![all.clone()],
            port(json!({"containerPort": 1, "hostPort": 80})),
            &[taken],
        ),
        (
            "another protocol",
            json!({}),
            vec![all.clone()],
            port(json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"})),
            &[],
        ),
        (
            "one address of all",
            json!({}),
            vec![all.clone()],
            port(json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.2"})),
            &[taken],
        ),
        (
            "another address",
            json!({}),
            vec![one.clone()],
            port(json!({"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.2"})),
            &[],
        ),
        (
            "every address",
            json!({}),
            vec![one],
            port(json!({"containerPort": 1, "hostPort": 80, "hostIP": "0.0.0.0"})),
            &[taken],
        ),
        (
            "only in the pod",
            json!({}),
            vec![all.clone()],
            port(json!({"containerPort": 80})),
            &[],
        ),
        (
            "on the host's network",
            json!({}),
            vec![all],
            json!({"spec": {"hostNetwork": true, "containers": [{"name": "m", "ports": [{"containerPort": 80}]}]}}),
            &[taken],
        ),
    ]);
}

#[test]
fn company_is_refused_in_both_directions() {
    let zone =
        json!([{"metadata": {"labels": {"zone": "a"}}}, {"metadata": {"labels": {"zone": "a"}}}]);
    let web = |node: &str| with_labels("web", on(node, json!({})));
    let loner = |node: &str| {
        with_labels(
            "loner",
            on(node, json!({"spec": {"affinity": anti("web", HOST)}})),
        )
    };
    check(vec![
        (
            "none there",
            json!({}),
            vec![],
            json!({"spec": {"affinity": anti("web", HOST)}}),
            &[],
        ),
        (
            "one there",
            json!({}),
            vec![web("n")],
            json!({"spec": {"affinity": anti("web", HOST)}}),
            &[ANTI],
        ),
        (
            "one on the neighbour",
            zone.clone(),
            vec![web("m")],
            json!({"spec": {"affinity": anti("web", HOST)}}),
            &[],
        ),
        (
            "one in the zone",
            zone.clone(),
            vec![web("m")],
            json!({"spec": {"affinity": anti("web", "zone")}}),
            &[ANTI],
        ),
        (
            "a label that no node has",
            json!({}),
            vec![web("n")],
            json!({"spec": {"affinity": anti("web", "rack")}}),
            &[],
        ),
        (
            "a running pod refuses",
            json!({}),
            vec![loner("n")],
            with_labels("web", json!({})),
            &[REFUSED],
        ),
        (
            "a running pod refuses others",
            json!({}),
            vec![loner("n")],
            with_labels("db", json!({})),
            &[],
        ),
        (
            "another namespace",
            json!({}),
            vec![web("n")],
            json!({"metadata": {"namespace": "other"}, "spec": {"affinity": anti("web", HOST)}}),
            &[],
        ),
        (
            "itself is no company",
            json!({}),
            vec![],
            with_labels("web", json!({"spec": {"affinity": anti("web", HOST)}})),
            &[],
        ),
    ]);
}

#[test]
fn company_is_demanded() {
    let zone =
        json!([{"metadata": {"labels": {"zone": "a"}}}, {"metadata": {"labels": {"zone": "b"}}}]);
    let web = |node: &str| with_labels("web", on(node, json!({})));
    let wants = |key: &str| json!({"spec": {"affinity": near("web", key)}});
    check(vec![
        ("there", json!({}), vec![web("n")], wants(HOST), &[]),
        ("nowhere", json!({}), vec![], wants(HOST), &[ALONE]),
        (
            "elsewhere",
            zone.clone(),
            vec![web("m")],
            wants("zone"),
            &[ALONE],
        ),
        (
            "the first of its kind",
            json!({}),
            vec![],
            with_labels("web", wants(HOST)),
            &[],
        ),
        (
            "not the first of its kind",
            zone.clone(),
            vec![web("m")],
            with_labels("web", wants("zone")),
            &[ALONE],
        ),
        (
            "the first, but no such label",
            json!({}),
            vec![],
            with_labels("web", wants("rack")),
            &[ALONE],
        ),
    ]);
}

#[test]
fn namespaces_are_chosen_by_their_labels() {
    let mut snapshot = snapshot(&[node("n", json!({}))], &[]);
    let wants = pod(
        "waiting",
        json!({"spec": {"affinity": {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{
            "labelSelector": {"matchLabels": {"app": "web"}},
            "namespaceSelector": {"matchLabels": {"team": "blue"}},
            "topologyKey": HOST,
        }]}}}}),
    );
    let other = pod("web", with_labels("web", on("n", json!({}))));
    let mut other = other;
    other.metadata.namespace = Some("shop".to_owned());
    crate::placement::fixture::place(&mut snapshot, &other);
    let wants = read(&mut snapshot, &wants);
    let alone = |snapshot: &crate::placement::snapshot::Snapshot| {
        !refusals(snapshot, &wants, "n").is_empty()
    };
    assert!(alone(&snapshot), "the namespace has no labels yet");
    let label = |snapshot: &mut crate::placement::snapshot::Snapshot, team: &str| {
        let pair = std::collections::BTreeMap::from([("team".to_owned(), team.to_owned())]);
        let labels = crate::placement::symbol::Labels::read(&mut snapshot.symbols, &pair);
        snapshot.set_namespace("shop", Some(labels));
    };
    label(&mut snapshot, "blue");
    assert!(!alone(&snapshot));
    label(&mut snapshot, "red");
    assert!(alone(&snapshot));
}

#[test]
fn spreads_stay_even() {
    let zones = json!([
        {"metadata": {"labels": {"zone": "a"}}},
        {"metadata": {"labels": {"zone": "b"}}},
    ]);
    let web = |node: &str| with_labels("web", on(node, json!({})));
    let spread = |over: Value| {
        let mut one = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        one.as_object_mut()
            .expect("an object")
            .extend(over.as_object().expect("an object").clone());
        with_labels("web", json!({"spec": {"topologySpreadConstraints": [one]}}))
    };
    let leaving = with_labels("web", on("n", json!({})));
    let mut leaving = leaving;
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    check(vec![
        ("level", zones.clone(), vec![], spread(json!({})), &[]),
        (
            "ahead",
            zones.clone(),
            vec![web("n")],
            spread(json!({})),
            &[SPREAD],
        ),
        (
            "behind",
            zones.clone(),
            vec![web("m")],
            spread(json!({})),
            &[],
        ),
        (
            "a larger difference is allowed",
            zones.clone(),
            vec![web("n")],
            spread(json!({"maxSkew": 2})),
            &[],
        ),
        (
            "only preferred",
            zones.clone(),
            vec![web("n")],
            spread(json!({"whenUnsatisfiable": "ScheduleAnyway"})),
            &[],
        ),
        (
            "a pod that leaves does not count",
            zones.clone(),
            vec![leaving],
            spread(json!({})),
            &[],
        ),
        (
            "too few domains count as an empty one",
            zones.clone(),
            vec![web("n"), web("m")],
            spread(json!({"minDomains": 3})),
            &[SPREAD],
        ),
        (
            "no label",
            json!({}),
            vec![],
            spread(json!({})),
            &["node(s) didn't match pod topology spread constraints (missing required label)"],
        ),
    ]);
}

#[test]
fn nodes_that_do_not_fit_do_not_count_for_a_spread() {
    let labels =
        |zone: &str, disk: &str| json!({"metadata": {"labels": {"zone": zone, "disk": disk}}});
    let zones = json!([labels("a", "ssd"), labels("b", "hdd")]);
    let web = with_labels("web", on("n", json!({})));
    let wants = |policy: &str| {
        with_labels(
            "web",
            json!({"spec": {
        "nodeSelector": {"disk": "ssd"},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}, "nodeAffinityPolicy": policy}]}}),
        )
    };
    check(vec![
        (
            "zone b is out of reach",
            zones.clone(),
            vec![web.clone()],
            wants("Honor"),
            &[],
        ),
        (
            "zone b counts all the same",
            zones,
            vec![web],
            wants("Ignore"),
            &[SPREAD],
        ),
    ]);
}

#[test]
fn a_node_that_comes_later_is_in_its_domains() {
    let mut snapshot = snapshot(
        &[node("n", json!({}))],
        &[pod("web", with_labels("web", on("late", json!({}))))],
    );
    let facts = read(
        &mut snapshot,
        &pod(
            "waiting",
            json!({"spec": {"affinity": anti("web", "zone")}}),
        ),
    );
    snapshot.set_node(&node("n", json!({"metadata": {"labels": {"zone": "a"}}})));
    assert!(refusals(&snapshot, &facts, "n").is_empty());
    snapshot.set_node(&node(
        "late",
        json!({"metadata": {"labels": {"zone": "a"}}}),
    ));
    assert_eq!(refusals(&snapshot, &facts, "n").len(), 1);
    snapshot.remove_node("late");
    assert!(refusals(&snapshot, &facts, "n").is_empty());
    let small = read(&mut snapshot, &pod_of("small", "1", json!({})));
    assert!(refusals(&snapshot, &small, "n").is_empty());
}
