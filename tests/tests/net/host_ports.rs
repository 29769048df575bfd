//! Ports of the host lead to pods, from wherever they are called.

use std::net::SocketAddr;

use berth_netd::error::ErrorKind;
use berth_netd::request::Protocol;

use crate::world::{
    HOST_V4, HOST_V6, OUTSIDE_V4, World, address, at, bind_udp, connect_tcp, exchange_tcp,
    exchange_udp, listen_tcp, port, run, socket,
};

#[test]
fn a_tcp_port_is_reached_from_everywhere() {
    let world = World::new();
    let netd = world.netd();
    let (server, other) = (world.pod("server"), world.pod("other"));
    let network = world.block_on(async {
        let ports = [port(Protocol::Tcp, 8080, 80)];
        let network = netd.attach(&server.request(&ports)).await.unwrap();
        netd.attach(&other.request(&[])).await.unwrap();
        network
    });
    for (host, any, v4) in [(HOST_V4, "0.0.0.0", true), (HOST_V6, "::", false)] {
        let listener = listen_tcp(server.pid(), any, 80);
        let outside = world.outside.pid();
        let seen = exchange_tcp(outside, socket(host, 8080), &listener).unwrap();
        assert!(
            seen.to_string().ends_with('2'),
            "the client's own address, not {seen}"
        );
        for client in [world.host.pid(), other.pid(), server.pid()] {
            exchange_tcp(client, socket(host, 8080), &listener).unwrap();
        }
        // Pods also know the host by their gateway.
        let gateway = network.gateways.iter().find(|g| g.is_ipv4() == v4).unwrap();
        for client in [other.pid(), server.pid()] {
            exchange_tcp(client, SocketAddr::new(*gateway, 8080), &listener).unwrap();
        }
        // The pod's own port is the pod's own.
        exchange_tcp(
            other.pid(),
            SocketAddr::new(address(&network, v4), 80),
            &listener,
        )
        .unwrap();
    }
    let listener = listen_tcp(server.pid(), "0.0.0.0", 80);
    for loopback in ["127.0.0.1", "127.0.0.53"] {
        exchange_tcp(world.host.pid(), socket(loopback, 8080), &listener).unwrap();
    }
    world.block_on(async {
        netd.detach("server").await.unwrap();
        netd.detach("other").await.unwrap();
    });
    assert!(connect_tcp(world.host.pid(), socket("127.0.0.1", 8080)).is_err());
    drop((server, other));
    world.assert_clean();
}

#[test]
fn a_udp_port_is_reached_from_everywhere() {
    let world = World::new();
    let netd = world.netd();
    let (server, other) = (world.pod("server"), world.pod("other"));
    world.block_on(async {
        let ports = [port(Protocol::Udp, 5353, 53)];
        netd.attach(&server.request(&ports)).await.unwrap();
        netd.attach(&other.request(&[])).await.unwrap();
    });
    for (host, any) in [(HOST_V4, "0.0.0.0"), (HOST_V6, "::")] {
        let listener = bind_udp(server.pid(), any, 53);
        for client in [
            world.outside.pid(),
            world.host.pid(),
            other.pid(),
            server.pid(),
        ] {
            let client = bind_udp(client, any, 0);
            exchange_udp(&client, socket(host, 5353), &listener).unwrap();
        }
    }
    let listener = bind_udp(server.pid(), "0.0.0.0", 53);
    let client = bind_udp(world.host.pid(), "0.0.0.0", 0);
    exchange_udp(&client, socket("127.0.0.1", 5353), &listener).unwrap();
}

#[test]
fn an_sctp_port_stands_in_the_table_beside_the_others() {
    let world = World::new();
    let netd = world.netd();
    let server = world.pod("server");
    world.block_on(async {
        let ports = [
            port(Protocol::Sctp, 7000, 70),
            port(Protocol::Tcp, 7000, 71),
            at(HOST_V4, port(Protocol::Sctp, 7001, 72)),
        ];
        netd.attach(&server.request(&ports)).await.unwrap();
    });
    let table = run(&world.host, "nft -n list table inet berth").unwrap();
    for element in [
        "132 . 7000 : 10.88.64.2 . 70",
        "132 . 7000 : fdbe:2788:64::2 . 70",
        "6 . 7000 : 10.88.64.2 . 71",
        "198.51.100.1 . 132 . 7001 : 10.88.64.2 . 72",
    ] {
        assert!(table.contains(element), "{element} is not in\n{table}");
    }
}

#[test]
fn a_port_of_one_address_is_open_there_alone() {
    let world = World::new();
    run(&world.host, "ip addr add 198.51.100.10/24 dev up0").unwrap();
    let netd = world.netd();
    let (a, b) = (world.pod("a"), world.pod("b"));
    world.block_on(async {
        // The same port on two addresses leads to two pods.
        let first = [at(HOST_V4, port(Protocol::Tcp, 8080, 80))];
        netd.attach(&a.request(&first)).await.unwrap();
        let second = [
            at("198.51.100.10", port(Protocol::Tcp, 8080, 80)),
            at(HOST_V6, port(Protocol::Tcp, 8080, 80)),
            at("127.0.0.1", port(Protocol::Tcp, 9090, 80)),
        ];
        netd.attach(&b.request(&second)).await.unwrap();
    });
    let (of_a, of_b) = (
        listen_tcp(a.pid(), "0.0.0.0", 80),
        listen_tcp(b.pid(), "0.0.0.0", 80),
    );
    let outside = world.outside.pid();
    exchange_tcp(outside, socket(HOST_V4, 8080), &of_a).unwrap();
    exchange_tcp(outside, socket("198.51.100.10", 8080), &of_b).unwrap();
    assert!(connect_tcp(world.host.pid(), socket("127.0.0.1", 8080)).is_err());
    exchange_tcp(world.host.pid(), socket("127.0.0.1", 9090), &of_b).unwrap();
    assert!(connect_tcp(outside, socket(HOST_V4, 9090)).is_err());
    // A neighbour on the wire sends to 127.0.0.1 by the host's link-layer address.
    for line in [
        "sysctl -qw net.ipv4.conf.all.route_localnet=1",
        "ip addr del 127.0.0.1/8 dev lo",
        "ip route add 127.0.0.1 via 198.51.100.1 dev wan0 src 198.51.100.2",
    ] {
        run(&world.outside, line).unwrap();
    }
    assert!(connect_tcp(outside, socket("127.0.0.1", 9090)).is_err());
    run(&world.host, "nft delete chain inet berth guard").unwrap();
    exchange_tcp(outside, socket("127.0.0.1", 9090), &of_b)
        .expect("it was the chain `guard` that kept the neighbour out");
}

#[test]
fn a_taken_port_is_refused_with_its_holder() {
    let world = World::new();
    let netd = world.netd();
    let (a, b) = (world.pod("a"), world.pod("b"));
    let refused = |error: berth_netd::error::Error, words: &[&str]| {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let listener = listen_tcp(world.host.pid(), "127.0.0.1", 8081);
    world.block_on(async {
        let ports = [port(Protocol::Tcp, 8081, 80)];
        let error = netd.attach(&a.request(&ports)).await.unwrap_err();
        refused(error, &["8081/tcp", "process of the host"]);
    });
    drop(listener);
    world.assert_clean_but_pods();
    world.block_on(async {
        let ports = [port(Protocol::Tcp, 8080, 80), port(Protocol::Tcp, 8081, 81)];
        netd.attach(&a.request(&ports)).await.unwrap();
        let ports = [at(HOST_V4, port(Protocol::Tcp, 8080, 80))];
        let error = netd.attach(&b.request(&ports)).await.unwrap_err();
        refused(error, &["198.51.100.1:8080/tcp", "pod a"]);
        // The same number of another protocol is another port.
        netd.attach(&b.request(&[port(Protocol::Udp, 8080, 80)]))
            .await
            .unwrap();
        netd.detach("a").await.unwrap();
        netd.detach("b").await.unwrap();
        netd.attach(&b.request(&[port(Protocol::Tcp, 8080, 80)]))
            .await
            .unwrap();
    });
}

#[test]
fn a_client_that_keeps_sending_datagrams_finds_the_next_pod() {
    let world = World::new();
    let netd = world.netd();
    let (keep, old, new) = (world.pod("keep"), world.pod("old"), world.pod("new"));
    let ports = [port(Protocol::Udp, 5353, 53)];
    // The client keeps its port, so its flow is the same one.
    let client = bind_udp(world.outside.pid(), "0.0.0.0", 4000);
    world.block_on(async {
        netd.attach(&keep.request(&[])).await.unwrap();
        netd.attach(&old.request(&ports)).await.unwrap();
    });
    let server = bind_udp(old.pid(), "0.0.0.0", 53);
    exchange_udp(&client, socket(HOST_V4, 5353), &server).unwrap();
    let neighbour = bind_udp(world.outside.pid(), "0.0.0.0", 5353);
    let asker = bind_udp(keep.pid(), "0.0.0.0", 4001);
    exchange_udp(&asker, socket(OUTSIDE_V4, 5353), &neighbour).unwrap();
    world.block_on(async { netd.detach("old").await.unwrap() });
    // Meanwhile nobody listens, and the kernel notes that the flow ends here.
    client.send_to(b"anyone?", socket(HOST_V4, 5353)).unwrap();
    world.block_on(async { netd.attach(&new.request(&ports)).await.unwrap() });
    let flows = std::fs::read_to_string(format!("/proc/{}/net/nf_conntrack", world.host.pid()));
    let flows = flows.unwrap();
    assert!(
        flows.contains("sport=4001"),
        "flows to elsewhere go on:\n{flows}"
    );
    let server = bind_udp(new.pid(), "0.0.0.0", 53);
    exchange_udp(&client, socket(HOST_V4, 5353), &server).unwrap();
}
