//! Who reaches whom: pods, the host, the outside, in both families.

use berth_netd::netd::Netd;
use berth_netd::network::{Masquerade, NetworkConfig};

use crate::world::{
    HOST_V4, HOST_V6, OUTSIDE_V4, OUTSIDE_V6, World, address, bind_udp, block_on, connect_tcp,
    exchange_tcp, exchange_udp, listen_tcp, run, socket,
};

#[test]
fn two_pods_and_the_host_reach_each_other_over_both_families() {
    let world = World::new();
    let netd = world.netd();
    let (a, b) = (world.pod("a"), world.pod("b"));
    let (of_a, of_b) = world.block_on(async {
        let of_a = netd.attach(&a.request(&[])).await.unwrap();
        (of_a, netd.attach(&b.request(&[])).await.unwrap())
    });
    assert!(of_a.notes.is_empty(), "{:?}", of_a.notes);
    assert_ne!(of_a.mac, of_b.mac);
    for (v4, any) in [(true, "0.0.0.0"), (false, "::")] {
        // At once: no duplicate address detection delays the first packet.
        let listener = listen_tcp(b.pid(), any, 80);
        let to_b = std::net::SocketAddr::new(address(&of_b, v4), 80);
        let seen = exchange_tcp(a.pid(), to_b, &listener).unwrap();
        assert_eq!(
            seen,
            address(&of_a, v4),
            "pods see each other's own address"
        );
        let seen = exchange_tcp(world.host.pid(), to_b, &listener).unwrap();
        assert!(of_b.gateways.contains(&seen), "{seen} is no gateway");
        // A pod reaches itself by its own loopback.
        let itself = socket(if v4 { "127.0.0.1" } else { "::1" }, 80);
        exchange_tcp(b.pid(), itself, &listener).unwrap();
    }
    let counters = block_on(world.host.pid(), async {
        Netd::statistics(&a.netns()).await.unwrap()
    });
    let eth0 = counters
        .iter()
        .find(|link| link.interface == "eth0")
        .unwrap();
    assert!(eth0.sent_bytes > 0 && eth0.received_packets > 0, "{eth0:?}");
    world.block_on(async {
        netd.detach("a").await.unwrap();
        netd.detach("b").await.unwrap();
    });
    drop((a, b));
    world.assert_clean();
}

#[test]
fn pods_reach_the_world_under_the_hosts_address() {
    let world = World::new();
    let netd = world.netd();
    let pod = world.pod("p");
    world.block_on(async { netd.attach(&pod.request(&[])).await.unwrap() });
    for (there, here, any) in [
        (OUTSIDE_V4, HOST_V4, "0.0.0.0"),
        (OUTSIDE_V6, HOST_V6, "::"),
    ] {
        let listener = listen_tcp(world.outside.pid(), any, 80);
        let seen = exchange_tcp(pod.pid(), socket(there, 80), &listener).unwrap();
        assert_eq!(seen.to_string(), here);
        let server = bind_udp(world.outside.pid(), any, 53);
        let client = bind_udp(pod.pid(), any, 0);
        let seen = exchange_udp(&client, socket(there, 53), &server).unwrap();
        assert_eq!(seen.to_string(), here);
    }
}

#[test]
fn without_masquerade_the_world_sees_the_pods_address() {
    let world = World::new();
    let netd = world.netd_with(NetworkConfig {
        masquerade: Masquerade::Never,
        ..NetworkConfig::default()
    });
    let pod = world.pod("p");
    let network = world.block_on(async { netd.attach(&pod.request(&[])).await.unwrap() });
    run(
        &world.outside,
        &format!("ip route add 10.88.64.0/20 via {HOST_V4}"),
    )
    .unwrap();
    run(
        &world.outside,
        &format!("ip -6 route add fdbe:2788:64::/64 via {HOST_V6}"),
    )
    .unwrap();
    for (there, any, v4) in [(OUTSIDE_V4, "0.0.0.0", true), (OUTSIDE_V6, "::", false)] {
        let listener = listen_tcp(world.outside.pid(), any, 80);
        let seen = exchange_tcp(pod.pid(), socket(there, 80), &listener).unwrap();
        assert_eq!(seen, address(&network, v4));
    }
}

#[test]
fn a_pod_does_not_reach_the_hosts_loopback() {
    let world = World::new();
    let netd = world.netd();
    let pod = world.pod("p");
    world.block_on(async { netd.attach(&pod.request(&[])).await.unwrap() });
    let listener = listen_tcp(world.host.pid(), "127.0.0.1", 9000);
    // The attack of CVE-2020-8558: the pod sends packets for 127.0.0.1 to its gateway.
    let inside = |line: &str| {
        let line = format!("nsenter --net={} {line}", pod.netns().display());
        run(&world.host, &line).unwrap();
    };
    inside("sysctl -qw net.ipv4.conf.all.route_localnet=1");
    inside("ip addr del 127.0.0.1/8 dev lo");
    inside("ip route add 127.0.0.1 via 10.88.64.1 dev eth0 src 10.88.64.2");
    assert!(exchange_tcp(pod.pid(), socket("127.0.0.1", 9000), &listener).is_err());
    // The door was really the table: without it the packets arrive.
    run(&world.host, "nft delete chain inet berth guard").unwrap();
    exchange_tcp(pod.pid(), socket("127.0.0.1", 9000), &listener).unwrap();
}

#[test]
fn loopback_alone_can_be_brought_up() {
    let world = World::new();
    let pod = world.pod("p");
    assert!(connect_tcp(pod.pid(), socket("127.0.0.1", 80)).is_err());
    world.block_on(async { Netd::bring_loopback_up(&pod.netns()).await.unwrap() });
    let listener = listen_tcp(pod.pid(), "127.0.0.1", 80);
    exchange_tcp(pod.pid(), socket("127.0.0.1", 80), &listener).unwrap();
    drop(pod);
    world.assert_clean();
}
