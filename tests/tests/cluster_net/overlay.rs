//! Pods reach pods of other hosts, with their own addresses.

use std::net::SocketAddr;

use crate::hosts::Cluster;
use crate::world::{bind_udp, exchange_tcp, exchange_udp, listen_tcp, run};

#[test]
fn pods_of_two_hosts_reach_each_other_with_their_own_addresses() {
    let mut cluster = Cluster::new(2);
    let (a, b) = (cluster.pod(0, "a"), cluster.pod(1, "b"));
    for (from, to) in [(a, b), (b, a)] {
        for (any, source, target) in [("0.0.0.0", from.v4, to.v4), ("::", from.v6, to.v6)] {
            let listener = listen_tcp(to.pid, any, 80);
            let seen = exchange_tcp(from.pid, SocketAddr::new(target, 80), &listener).unwrap();
            assert_eq!(seen, source);
            let server = bind_udp(to.pid, any, 53);
            let client = bind_udp(from.pid, any, 0);
            let seen = exchange_udp(&client, SocketAddr::new(target, 53), &server).unwrap();
            assert_eq!(seen, source);
        }
    }
}

#[test]
fn pods_and_nodes_see_each_others_own_addresses() {
    let mut cluster = Cluster::new(2);
    let pod = cluster.pod(1, "pod");
    let (near, far) = (cluster.fabric.host(1).pid(), cluster.fabric.host(0).pid());
    // Node to pod.
    let listener = listen_tcp(pod.pid, "0.0.0.0", 80);
    let to_pod = SocketAddr::new(pod.v4, 80);
    let seen = exchange_tcp(far, to_pod, &listener).unwrap();
    assert_eq!(seen, cluster.fabric.address(0));
    exchange_tcp(near, to_pod, &listener).unwrap();
    // Pod to node.
    let listener = listen_tcp(far, "0.0.0.0", 6443);
    let seen = exchange_tcp(pod.pid, cluster.node(0, 6443), &listener).unwrap();
    assert_eq!(seen, pod.v4);
    let listener = listen_tcp(far, "::", 6444);
    let seen = exchange_tcp(pod.pid, cluster.node_v6(0, 6444), &listener).unwrap();
    assert_eq!(seen, pod.v6);
    // Pod to the world: the world knows no pods.
    let outside = cluster.fabric.outside().pid();
    let listener = listen_tcp(outside, "0.0.0.0", 80);
    let to_world = SocketAddr::new(berth_tests::fabric::OUTSIDE.into(), 80);
    let seen = exchange_tcp(pod.pid, to_world, &listener).unwrap();
    assert_eq!(seen, cluster.fabric.address(1));
}

#[test]
fn large_packets_pass_and_the_tunnel_leaves_room_for_its_headers() {
    let mut cluster = Cluster::new(2);
    let (a, b) = (cluster.pod(0, "a"), cluster.pod(1, "b"));
    let link = run(cluster.fabric.host(0), "ip -d link show berth-vx").unwrap();
    assert!(link.contains("mtu 1450"), "{link}");
    assert!(link.contains("nolearning"), "{link}");
    // In the pod too: no packet has to be refused on the way.
    let inside = format!("nsenter --net=/proc/{}/ns/net ip link show eth0", a.pid);
    let link = run(cluster.fabric.host(0), &inside).unwrap();
    assert!(link.contains("mtu 1450"), "{link}");
    let server = bind_udp(b.pid, "0.0.0.0", 9000);
    let client = bind_udp(a.pid, "0.0.0.0", 0);
    let word = vec![7u8; 30_000];
    client.send_to(&word, SocketAddr::new(b.v4, 9000)).unwrap();
    let mut buffer = vec![0; 40_000];
    let (count, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], word);
}

#[test]
fn a_stranger_on_the_wire_puts_nothing_into_the_tunnel() {
    let mut cluster = Cluster::new(2);
    let pod = cluster.pod(1, "pod");
    let outside = cluster.fabric.outside();
    // The stranger is a tunnel end that knows everything about ours.
    for line in [
        "ip link add forged address 0a:58:0a:d2:01:00 type vxlan id 1 dstport 8472 remote 10.99.0.2",
        "ip link set forged up",
        "ip addr add 10.210.1.77/32 dev forged",
        "ip route add 10.210.2.0/24 via 10.210.2.0 dev forged onlink src 10.210.1.77",
        "ip neigh add 10.210.2.0 lladdr 0a:58:0a:d2:02:00 dev forged nud permanent",
    ] {
        run(outside, line).unwrap();
    }
    let server = bind_udp(pod.pid, "0.0.0.0", 9000);
    let client = bind_udp(outside.pid(), "0.0.0.0", 0);
    let to = SocketAddr::new(pod.v4, 9000);
    client.send_to(b"forged", to).unwrap();
    assert!(server.recv_from(&mut [0; 16]).is_err());
    // It was the guard; who repairs it may be faster than the next packet.
    let flush = "nft flush chain inet berth-services guard";
    let arrives_without = || {
        run(cluster.fabric.host(1), flush).unwrap();
        client.send_to(b"forged", to).unwrap();
        server.recv_from(&mut [0; 16]).is_ok()
    };
    assert!((0..5).any(|_| arrives_without()));
}
