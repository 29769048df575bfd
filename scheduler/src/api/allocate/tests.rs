use std::net::IpAddr;

use proptest::{prop_assert, proptest};
use serde_json::{Value, json};

use super::{Family, Pool, Range, Used, cluster_ip, node_port, service::complete};

fn small() -> Pool {
    Pool {
        ranges: vec![Range {
            network: "10.0.0.0".parse().unwrap(),
            prefix: 28,
        }],
        node_ports: 30000..=30003,
    }
}

fn dual() -> Pool {
    let mut pool = Pool::default();
    pool.ranges.push(Range {
        network: "fd00::".parse().unwrap(),
        prefix: 112,
    });
    pool
}

#[test]
fn every_address_of_a_range_is_handed_out_once_and_then_it_is_full() {
    let (pool, mut used) = (small(), Used::default());
    for seed in 0..14 {
        let address = cluster_ip(&pool, &used, Err(Family::V4), seed * 31).unwrap();
        assert!(used.addresses.insert(address), "{address} twice");
    }
    let error = cluster_ip(&pool, &used, Err(Family::V4), 0).unwrap_err();
    assert!(error.message.contains("range is full"), "{error}");
}

#[test]
fn a_wanted_address_is_had_unless_used_or_foreign() {
    let pool = Pool::default();
    let dns: IpAddr = "10.211.0.10".parse().unwrap();
    let mut used = Used::default();
    assert_eq!(cluster_ip(&pool, &used, Ok(dns), 0), Ok(dns));
    used.addresses.insert(dns);
    for (wanted, why) in [
        ("10.211.0.10", "already allocated"),
        ("10.212.0.1", "not in the valid range"),
        ("10.211.0.0", "not in the valid range"),
        ("10.211.255.255", "not in the valid range"),
        ("fd00::1", "not in the valid range"),
    ] {
        let error = cluster_ip(&pool, &used, Ok(wanted.parse().unwrap()), 0).unwrap_err();
        assert!(error.message.contains(why), "{wanted}: {error}");
    }
}

#[test]
fn node_ports_are_one_book_a_protocol() {
    let (pool, mut used) = (small(), Used::default());
    for _ in 0..4 {
        let port = node_port(&pool, &used, "TCP", Err(2)).unwrap();
        assert!(used.node_ports.insert(("TCP".to_owned(), port)));
    }
    assert!(node_port(&pool, &used, "TCP", Err(2)).is_err());
    assert_eq!(node_port(&pool, &used, "UDP", Ok(30001)), Ok(30001));
    assert!(node_port(&pool, &used, "TCP", Ok(30001)).is_err());
    assert!(node_port(&pool, &used, "TCP", Ok(80)).is_err());
}

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "a"}, "spec": spec})
}

#[test]
fn each_type_gets_what_it_needs() {
    let (pool, used) = (dual(), Used::default());
    let done = |spec| {
        let mut service = service(spec);
        complete(&pool, &used, &mut service, None, 77).unwrap();
        service["spec"].take()
    };
    let plain = done(json!({"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}]}));
    assert_eq!(plain["clusterIPs"], json!([plain["clusterIP"]]));
    assert_eq!(plain["ipFamilies"], json!(["IPv4"]));
    assert!(plain["ports"][0].get("nodePort").is_none());

    let headless = done(json!({"type": "ClusterIP", "clusterIP": "None"}));
    assert_eq!(headless["clusterIPs"], json!(["None"]));

    let both = done(
        json!({"type": "NodePort", "ipFamilyPolicy": "PreferDualStack",
        "ports": [{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]}),
    );
    assert_eq!(both["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(both["clusterIPs"].as_array().unwrap().len(), 2);
    assert_eq!(both["ports"][1]["nodePort"], 30053);
    assert!(both["ports"][0]["nodePort"].is_u64());

    let external = done(json!({"type": "ExternalName", "externalName": "a.b", "clusterIP": ""}));
    assert!(external.get("clusterIP").is_none() && external.get("ipFamilies").is_none());
}

#[test]
fn an_update_keeps_what_the_service_has_and_gives_back_what_it_cannot_use() {
    let (pool, used) = (Pool::default(), Used::default());
    let mut before =
        service(json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}));
    complete(&pool, &used, &mut before, None, 5).unwrap();

    let mut same = service(json!({"type": "NodePort", "ports": [
        {"port": 81, "protocol": "TCP"}, {"port": 80, "protocol": "TCP"}]}));
    complete(&pool, &used, &mut same, Some(&before), 99).unwrap();
    assert_eq!(same["spec"]["clusterIP"], before["spec"]["clusterIP"]);
    assert_eq!(
        same["spec"]["ports"][1]["nodePort"],
        before["spec"]["ports"][0]["nodePort"]
    );
    assert_ne!(
        same["spec"]["ports"][0]["nodePort"],
        same["spec"]["ports"][1]["nodePort"]
    );

    let mut plain = before.clone();
    plain["spec"]["type"] = json!("ClusterIP");
    complete(&pool, &used, &mut plain, Some(&before), 99).unwrap();
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());

    let mut taken = service(json!({"type": "ClusterIP", "clusterIP": before["spec"]["clusterIP"]}));
    let errors = complete(
        &pool,
        &Used::of(std::iter::once(&before)),
        &mut taken,
        None,
        0,
    );
    assert!(errors.unwrap_err()[0].message.contains("already allocated"));
}

proptest! {
    #[test]
    fn whatever_is_handed_out_was_free(seeds in proptest::collection::vec(proptest::num::u64::ANY, 1..40)) {
        let (pool, mut used) = (dual(), Used::default());
        for seed in seeds {
            let mut one = service(json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack",
                "ports": [{"port": 80, "protocol": "TCP"}]}));
            complete(&pool, &used, &mut one, None, seed).unwrap();
            let before = used.clone();
            used.add(&one);
            prop_assert!(used.addresses.len() == before.addresses.len() + 2);
            prop_assert!(used.node_ports.len() == before.node_ports.len() + 1);
        }
    }
}
