use super::*;
use crate::cluster::model::{Endpoint, ServicePort, SlicePort};

fn names() -> Names {
    let mut names = Names::new("Cluster.Local.");
    names.set_pod_ranges(vec!["10.210.0.0/16".parse().unwrap()]);
    let port = || ServicePort {
        name: "http".to_owned(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
    };
    let web = Service {
        cluster_ips: vec![
            "10.211.0.1".parse().unwrap(),
            "fd10:211::1".parse().unwrap(),
        ],
        ports: vec![port()],
        ..Service::default()
    };
    names.replace("shop/web", Some(Named::new(&web, &[])));
    let slice = Slice {
        service: "shop/db".to_owned(),
        ports: vec![SlicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 5432,
        }],
        endpoints: [
            (5, Some("db-0"), Condition::Ready),
            (6, None, Condition::Ready),
            (7, None, Condition::Unready),
        ]
        .into_iter()
        .map(|(last, host, condition)| Endpoint {
            address: IpAddr::from([10, 210, 1, last]),
            condition,
            hostname: host.map(str::to_owned),
            node: None,
        })
        .collect(),
    };
    let headless = Service {
        ports: vec![port()],
        ..Service::default()
    };
    names.replace("shop/db", Some(Named::new(&headless, &[&slice])));
    let alias = Service {
        external_name: Some("Example.org.".to_owned()),
        ..Service::default()
    };
    names.replace("shop/far", Some(Named::new(&alias, &[])));
    names
}

fn address(text: &str) -> Answer {
    Answer::Records(vec![Data::Address(text.parse().unwrap())], Vec::new())
}

#[test]
fn names_are_answered_by_kind() {
    let names = names();
    let name = "web.shop.svc.cluster.local";
    for (question, kind, answer) in [
        (name, RecordType::A, address("10.211.0.1")),
        (name, RecordType::AAAA, address("fd10:211::1")),
        (name, RecordType::MX, Answer::NoData),
        (
            "nobody.shop.svc.cluster.local",
            RecordType::A,
            Answer::NoName,
        ),
        ("shop.svc.cluster.local", RecordType::A, Answer::NoData),
        ("empty.svc.cluster.local", RecordType::A, Answer::NoName),
        ("cluster.local", RecordType::A, Answer::NoData),
        ("example.org", RecordType::A, Answer::NotOurs),
        ("notcluster.local", RecordType::A, Answer::NotOurs),
        (
            "db-0.db.shop.svc.cluster.local",
            RecordType::A,
            address("10.210.1.5"),
        ),
        (
            "10-210-1-6.db.shop.svc.cluster.local",
            RecordType::A,
            address("10.210.1.6"),
        ),
        (
            "10-210-1-7.db.shop.svc.cluster.local",
            RecordType::A,
            Answer::NoName,
        ),
        (
            "10-210-9-9.shop.pod.cluster.local",
            RecordType::A,
            address("10.210.9.9"),
        ),
        (
            "192-0-2-1.shop.pod.cluster.local",
            RecordType::A,
            Answer::NoName,
        ),
        (
            "far.shop.svc.cluster.local",
            RecordType::A,
            Answer::Alias("example.org".to_owned()),
        ),
        (
            "1.0.211.10.in-addr.arpa",
            RecordType::PTR,
            Answer::Records(vec![Data::Name(name.to_owned())], Vec::new()),
        ),
        ("1.2.0.192.in-addr.arpa", RecordType::PTR, Answer::NotOurs),
    ] {
        assert_eq!(names.find(question, kind), answer, "{question} {kind}");
    }
}

#[test]
fn services_have_their_ports_as_records() {
    let names = names();
    let found = names.find("_http._tcp.web.shop.svc.cluster.local", RecordType::SRV);
    let Answer::Records(records, extra) = found else {
        panic!("{found:?}");
    };
    assert_eq!(
        records,
        [Data::Service(80, "web.shop.svc.cluster.local".to_owned())]
    );
    assert_eq!(extra.len(), 2);
    let found = names.find("_http._tcp.db.shop.svc.cluster.local", RecordType::SRV);
    let Answer::Records(records, _) = found else {
        panic!("{found:?}");
    };
    assert_eq!(
        records,
        [
            Data::Service(5432, "db-0.db.shop.svc.cluster.local".to_owned()),
            Data::Service(5432, "10-210-1-6.db.shop.svc.cluster.local".to_owned()),
        ]
    );
    let wrong = names.find("_http._udp.web.shop.svc.cluster.local", RecordType::SRV);
    assert_eq!(wrong, Answer::NoName);
}

#[test]
fn a_service_that_goes_takes_its_names_and_its_namespace() {
    let mut names = names();
    for key in ["shop/web", "shop/db", "shop/far"] {
        names.replace(key, None);
    }
    for name in ["web.shop.svc.cluster.local", "shop.svc.cluster.local"] {
        assert_eq!(names.find(name, RecordType::A), Answer::NoName);
    }
    let reverse = names.find("1.0.211.10.in-addr.arpa", RecordType::PTR);
    assert_eq!(reverse, Answer::NotOurs);
}

#[test]
fn reverse_names_of_both_families_are_read() {
    let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.1.2.0.0.1.d.f.ip6.arpa";
    assert_eq!(address_of_reverse(v6), "fd10:211::1".parse().ok());
    assert_eq!(
        address_of_reverse("1.0.211.10.in-addr.arpa"),
        "10.211.0.1".parse().ok()
    );
    assert_eq!(address_of_reverse("0.211.10.in-addr.arpa"), None);
}
