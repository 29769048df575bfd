use proptest::prelude::*;

use super::wanted::{Change, Wanted};
use super::*;
use crate::cluster::model::{ServicePort, SlicePort};

fn service() -> Service {
    Service {
        cluster_ips: vec!["10.211.0.1".parse().unwrap()],
        ports: vec![ServicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30_080),
        }],
        ..Service::default()
    }
}

fn slice(endpoints: &[(&str, Condition, &str)]) -> Slice {
    Slice {
        service: "n/s".to_owned(),
        ports: vec![SlicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: endpoints
            .iter()
            .map(|(address, condition, node)| Endpoint {
                address: address.parse().unwrap(),
                condition: *condition,
                hostname: None,
                node: Some((*node).to_owned()),
            })
            .collect(),
    }
}

fn place() -> Place {
    Place {
        node: "a".to_owned(),
        pod_ranges: vec!["10.210.0.0/16".parse().unwrap()],
        own_ranges: vec!["10.210.1.0/24".parse().unwrap()],
        nodes: vec!["10.99.0.2".parse().unwrap()],
    }
}

fn text(elements: &Elements) -> Vec<String> {
    elements
        .iter()
        .map(|(key, value)| format!("{} {key} : {value}", key.map()))
        .collect()
}

#[test]
fn a_service_is_two_doors_and_its_endpoints_behind_each() {
    let slice = slice(&[
        ("10.210.2.9", Condition::Ready, "b"),
        ("10.210.1.5", Condition::Ready, "a"),
        ("10.210.1.6", Condition::Unready, "a"),
    ]);
    assert_eq!(
        text(&plan_service(
            &service(),
            &[&slice],
            &place(),
            &Elements::new()
        )),
        [
            "services-v4 10.211.0.1 . tcp . 80 : goto pick-v4-2",
            "endpoints-v4 10.211.0.1 . tcp . 80 . 0 : 10.210.1.5 . 8080",
            "endpoints-v4 10.211.0.1 . tcp . 80 . 1 : 10.210.2.9 . 8080",
            "node-ports-v4 tcp . 30080 : goto node-pick-v4-2",
            "node-endpoints-v4 tcp . 30080 . 0 : 10.210.1.5 . 8080",
            "node-endpoints-v4 tcp . 30080 . 1 : 10.210.2.9 . 8080",
            "hairpin-v4 10.210.1.5 . 10.210.1.5 : ",
        ]
    );
}

#[test]
fn who_drains_serves_only_while_nobody_is_ready() {
    let draining = ("10.210.1.6", Condition::Draining, "a");
    let alone = slice(&[draining]);
    let elements = plan_service(&service(), &[&alone], &place(), &Elements::new());
    assert!(
        elements
            .values()
            .any(|value| matches!(value, Value::Target(..)))
    );
    let with_another = slice(&[draining, ("10.210.2.9", Condition::Ready, "b")]);
    let elements = plan_service(&service(), &[&with_another], &place(), &Elements::new());
    let is_used = |value: &Value| *value == Value::Target("10.210.1.6".parse().unwrap(), 8080);
    assert!(!elements.values().any(is_used));
}

#[test]
fn without_endpoints_a_service_refuses() {
    let nobody = slice(&[("10.210.1.5", Condition::Unready, "a")]);
    assert_eq!(
        text(&plan_service(
            &service(),
            &[&nobody],
            &place(),
            &Elements::new()
        )),
        [
            "refused-v4 10.211.0.1 . tcp . 80 : goto refuse",
            "node-refused-v4 tcp . 30080 : goto refuse",
        ]
    );
}

#[test]
fn the_policy_local_uses_this_nodes_endpoints_and_drops_where_there_are_none() {
    let mut service = service();
    service.external = TrafficPolicy::Local;
    let elsewhere = slice(&[("10.210.2.9", Condition::Ready, "b")]);
    assert_eq!(
        text(&plan_service(
            &service,
            &[&elsewhere],
            &place(),
            &Elements::new()
        )),
        [
            "services-v4 10.211.0.1 . tcp . 80 : goto pick-v4-1",
            "endpoints-v4 10.211.0.1 . tcp . 80 . 0 : 10.210.2.9 . 8080",
            "node-refused-v4 tcp . 30080 : drop",
        ]
    );
}

#[test]
fn affinity_and_endpoints_that_are_no_pods_show_in_the_elements() {
    let mut service = service();
    service.affinity_seconds = Some(60);
    service.ports[0].node_port = None;
    let slice = slice(&[
        ("10.99.0.2", Condition::Ready, "b"),
        ("192.0.2.7", Condition::Ready, ""),
    ]);
    let text = text(&plan_service(
        &service,
        &[&slice],
        &place(),
        &Elements::new(),
    ));
    assert_eq!(
        text[0],
        "services-v4 10.211.0.1 . tcp . 80 : goto pick-v4-2-60s"
    );
    assert_eq!(text.last().unwrap(), "foreign-v4 192.0.2.7 . tcp . 8080 : ");
}

#[test]
fn an_endpoint_that_stays_keeps_its_number() {
    let mut service = service();
    service.ports[0].node_port = None;
    let many: Vec<String> = (10..20).map(|last| format!("10.210.2.{last}")).collect();
    let of = |names: &[String]| {
        let rows: Vec<(&str, Condition, &str)> = names
            .iter()
            .map(|n| (n.as_str(), Condition::Ready, "b"))
            .collect();
        slice(&rows)
    };
    let (all, fewer) = (of(&many), of(&[&many[..3], &many[4..]].concat()));
    for (affinity, expected) in [(None, (3, 2)), (Some(60), (1, 1))] {
        service.affinity_seconds = affinity;
        let mut wanted = Wanted::default();
        let mut put = |slice: &Slice| {
            let before = wanted.of("n/s");
            let elements = plan_service(&service, &[slice], &place(), &before);
            wanted.replace("n/s", elements)
        };
        put(&all);
        let change = put(&fewer);
        // Without affinity: the door, the one that left, and the last that took its place.
        assert_eq!((change.removed.len(), change.added.len()), expected);
        let gone: Vec<_> = change.endpoints_gone().into_iter().collect();
        assert_eq!(gone, [(Protocol::Tcp, many[3].parse().unwrap(), 8080)]);
        // And back: whoever comes takes the place that is free.
        let change = put(&all);
        assert!(change.added.len() <= 2, "{change:?}");
        assert_eq!(wanted.len(), 11);
    }
}

#[test]
fn one_endpoint_that_changes_is_one_element_out_and_one_in() {
    let mut wanted = Wanted::default();
    let mut service = service();
    service.ports[0].node_port = None;
    let before = slice(&[("10.210.2.8", Condition::Ready, "b")]);
    let after = slice(&[("10.210.2.9", Condition::Ready, "b")]);
    wanted.replace(
        "n/s",
        plan_service(&service, &[&before], &place(), &Elements::new()),
    );
    let change = wanted.replace(
        "n/s",
        plan_service(&service, &[&after], &place(), &Elements::new()),
    );
    assert_eq!((change.removed.len(), change.added.len()), (1, 1));
    assert_eq!(
        change.endpoints_gone().into_iter().collect::<Vec<_>>(),
        [(Protocol::Tcp, "10.210.2.8".parse().unwrap(), 8080)]
    );
}

#[test]
fn an_element_that_two_services_want_goes_with_the_second() {
    let mut wanted = Wanted::default();
    let hairpin =
        || Elements::from([(Key::Hairpin("10.210.1.5".parse().unwrap()), Value::Present)]);
    assert_eq!(wanted.replace("n/a", hairpin()).added.len(), 1);
    assert_eq!(wanted.replace("n/b", hairpin()), Change::default());
    assert_eq!(wanted.replace("n/a", Elements::new()), Change::default());
    assert_eq!(wanted.replace("n/b", Elements::new()).removed.len(), 1);
    assert!(wanted.is_empty());
}

proptest! {
    /// Whatever the order of changes, what was added less what was removed is
    /// what all services want at the end.
    #[test]
    fn changes_add_up(history in prop::collection::vec((0u8..4, prop::collection::btree_set(0u8..6, 0..4)), 1..40)) {
        let mut wanted = Wanted::default();
        let mut table = Elements::new();
        let mut last = BTreeMap::new();
        for (service, pods) in history {
            let elements: Elements = pods
                .iter()
                .map(|pod| (Key::Hairpin(IpAddr::from([10, 210, 1, *pod])), Value::Present))
                .collect();
            let change = wanted.replace(&service.to_string(), elements.clone());
            for (key, value) in change.removed {
                prop_assert_eq!(table.remove(&key), Some(value));
            }
            for (key, value) in change.added {
                prop_assert_eq!(table.insert(key, value), None);
            }
            last.insert(service, elements);
        }
        let expected: Elements = last.into_values().flatten().collect();
        prop_assert_eq!(&table, &expected);
        prop_assert_eq!(wanted.elements().collect::<Elements>(), expected);
    }
}
