//! Deletions by others, netds that end and start, cables pulled.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::ensure;
use berth_tests::host::in_network_of;
use serde_json::{Value, json};

use crate::hosts::{At, Cluster, service_v4};
use crate::world::{bind_udp, exchange_tcp, exchange_udp, listen_tcp, run};

/// A client on host 0, a server on host 1, and service 1 in front of it.
fn client_and_server(cluster: &mut Cluster) -> (At, At) {
    let (client, server) = (cluster.pod(0, "client"), cluster.pod(1, "server"));
    cluster.put_service("web", 1, json!({"ports": [{"name": "http", "port": 8080}]}));
    let ports = json!([{"name": "http", "protocol": "TCP", "port": 80}]);
    cluster.put_slices("web", ports, &[(server, 1)]);
    (client, server)
}

/// A cluster of two hosts in which a client reaches a server by its service.
struct Served {
    cluster: Cluster,
    client: At,
    server: At,
    listener: TcpListener,
    service: SocketAddr,
}

impl Served {
    fn new() -> Self {
        let mut cluster = Cluster::new(2);
        let (client, server) = client_and_server(&mut cluster);
        let served = Self {
            listener: listen_tcp(server.pid, "0.0.0.0", 80),
            service: SocketAddr::new(service_v4(1), 8080),
            cluster,
            client,
            server,
        };
        served.cluster.within(5, || served.reaches());
        served
    }

    fn reaches(&self) -> anyhow::Result<()> {
        exchange_tcp(self.client.pid, self.service, &self.listener).map(drop)
    }

    /// The API is back, and netd follows it again.
    fn until_followed(&self) {
        self.cluster.api.set_away(false);
        self.cluster.api.delete("services", "default/web");
        self.cluster.within(10, || {
            ensure!(self.reaches().is_err(), "the service is still there");
            Ok(())
        });
    }
}

#[test]
fn whatever_somebody_deletes_is_back_within_seconds() {
    let served = Served::new();
    let cluster = &served.cluster;
    let host = cluster.fabric.host(0);
    for line in [
        "ip link del berth-vx",
        "ip link set berth-vx down",
        "ip route del 10.210.2.0/24",
        "ip neigh del 10.210.2.0 dev berth-vx",
        "bridge fdb del 0a:58:0a:d2:02:00 dev berth-vx dst 10.99.0.2",
        "ip rule del priority 6262",
        "ip rule del priority 6263",
        "ip route flush table 6263",
        "ip addr del 10.211.0.10/32 dev lo",
        "nft delete table inet berth-services",
        "nft flush table inet berth-services",
        "nft flush map inet berth-services endpoints-v4",
        "nft delete table netdev berth-return",
        "nft flush ruleset",
    ] {
        let state = || -> anyhow::Result<[String; 7]> {
            Ok([
                run(host, "ip -br link show dev berth-vx")?,
                run(host, "ip route show table all dev berth-vx scope global")?,
                run(host, "ip neigh show dev berth-vx nud permanent")?,
                run(host, "bridge fdb show dev berth-vx")?,
                run(host, "ip rule")?,
                run(host, "ip -4 -br addr show dev lo")?,
                run(host, "nft -s list table inet berth-services")?
                    + &run(host, "nft -s list table netdev berth-return")?,
            ]
            .map(|text| sorted(&text)))
        };
        let before = state().unwrap();
        run(host, line).unwrap();
        let begun = Instant::now();
        cluster.within(5, || {
            let after = state()?;
            for (before, after) in before.iter().zip(&after) {
                ensure!(before == after, "after {line}:\n{before}\nbecame\n{after}");
            }
            Ok(())
        });
        cluster.within(5, || served.reaches());
        let taken = begun.elapsed();
        assert!(taken < Duration::from_secs(4), "{line}: {taken:?}");
    }
}

/// The kernel lists in the order of its hashes, and numbers interfaces anew.
fn sorted(text: &str) -> String {
    let mut words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c == ',')
        .filter(|word| !word.is_empty())
        .collect();
    words.sort_unstable();
    words.join(" ")
}

#[test]
fn a_netd_that_ends_leaves_all_in_place_and_one_that_starts_takes_it_over() {
    let mut served = Served::new();
    served.cluster.stop(0);
    served.reaches().unwrap();
    let handle = |cluster: &Cluster| {
        run(
            cluster.fabric.host(0),
            "nft -a list table inet berth-services",
        )
        .unwrap()
    };
    let before = handle(&served.cluster);
    served.cluster.start(0);
    std::thread::sleep(Duration::from_millis(1500));
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    assert_eq!(
        first(&before),
        first(&handle(&served.cluster)),
        "the table was not made anew"
    );
    served.reaches().unwrap();
}

#[test]
fn without_the_api_a_netd_goes_on_and_even_starts() {
    let mut served = Served::new();
    served.cluster.api.set_away(true);
    served.cluster.stop(0);
    // As after a boot: nothing is left but the state file.
    for line in [
        "ip link del berth-vx",
        "nft delete table inet berth-services",
        "nft delete table netdev berth-return",
        "ip rule del priority 6262",
    ] {
        run(served.cluster.fabric.host(0), line).unwrap();
    }
    served.cluster.start(0);
    served.cluster.within(5, || served.reaches());
    served.until_followed();
}

#[test]
fn what_a_killed_netd_did_last_stays_until_the_api_tells() {
    let mut served = Served::new();
    served.cluster.api.set_away(true);
    served.cluster.stop(0);
    // As a netd leaves it that is killed before it wrote down its last news.
    let file = served.cluster.state_dir(0).join("cluster.json");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for kind in ["services", "slices"] {
        assert!(!state[kind].as_object().unwrap().is_empty());
        state[kind] = json!({});
    }
    std::fs::write(&file, state.to_string()).unwrap();
    served.cluster.start(0);
    for _ in 0..20 {
        served.reaches().unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    served.until_followed();
}

#[test]
fn who_waits_for_a_dead_endpoint_comes_to_another_one() {
    let served = Served::new();
    let (client, server, service) = (served.client, served.server, served.service);
    let cluster = &served.cluster;
    // Nobody has that address: a node without its cable answers as much.
    let dead = At {
        v4: "10.210.2.250".parse().unwrap(),
        ..server
    };
    let ports = json!([{"name": "http", "protocol": "TCP", "port": 80}]);
    cluster.put_slices("web", ports.clone(), &[(dead, 1)]);
    cluster.within(5, || {
        let table = run(cluster.fabric.host(0), "nft list table inet berth-services")?;
        ensure!(table.contains("10.210.2.250 . 80"), "{table}");
        Ok(())
    });
    let asking = std::thread::spawn(move || {
        let patience = Duration::from_secs(20);
        in_network_of(client.pid, || {
            Ok(TcpStream::connect_timeout(&service, patience)?)
        })
    });
    // Its first SYN has gone there.
    cluster.within(5, || {
        let flows = run(cluster.fabric.host(0), "cat /proc/net/nf_conntrack")?;
        ensure!(flows.contains("src=10.210.2.250"), "{flows}");
        Ok(())
    });
    cluster.put_slices("web", ports, &[(server, 1)]);
    asking.join().unwrap().unwrap();
}

#[test]
fn a_host_that_was_cut_off_is_reached_again() {
    let mut cluster = Cluster::new(2);
    let (client, server) = client_and_server(&mut cluster);
    let udp = bind_udp(server.pid, "0.0.0.0", 53);
    let to = SocketAddr::new(server.v4, 53);
    let reaches = || exchange_udp(&bind_udp(client.pid, "0.0.0.0", 0), to, &udp).map(drop);
    cluster.within(5, reaches);
    cluster.fabric.cut_off(1).unwrap();
    assert!(reaches().is_err());
    std::thread::sleep(Duration::from_secs(2));
    cluster.fabric.restore(1).unwrap();
    cluster.within(10, reaches);
}

#[test]
fn a_node_that_leaves_is_forgotten_and_one_that_comes_is_reached() {
    let mut cluster = Cluster::new(3);
    let (client, server) = client_and_server(&mut cluster);
    let host = cluster.fabric.host(0);
    cluster.api.delete("nodes", "/node-2");
    cluster.within(5, || {
        for line in [
            "ip route show table all dev berth-vx",
            "ip neigh show dev berth-vx nud permanent",
            "bridge fdb show dev berth-vx",
            "nft list table inet berth-services",
            "nft list table netdev berth-return",
        ] {
            let text = run(host, line)?;
            for trace in ["10.210.3.0", "10.99.0.3", "0a:58:0a:d2:03:00"] {
                ensure!(!text.contains(trace), "{trace} is left in {line}:\n{text}");
            }
        }
        Ok(())
    });
    let listener = listen_tcp(server.pid, "0.0.0.0", 80);
    exchange_tcp(client.pid, SocketAddr::new(server.v4, 80), &listener).unwrap();
    cluster.put_node(2);
    let third = cluster.pod(2, "third");
    let listener = listen_tcp(third.pid, "0.0.0.0", 80);
    let to = SocketAddr::new(third.v4, 80);
    cluster.within(5, || exchange_tcp(client.pid, to, &listener).map(drop));
}

#[test]
fn what_a_node_had_is_taken_away_when_it_leaves() {
    let mut cluster = Cluster::new(2);
    let _ = client_and_server(&mut cluster);
    cluster.stop(0);
    let config = cluster.config(0);
    let host = cluster.fabric.host(0);
    crate::world::block_on(host.pid(), async {
        berth_netd::cluster::remove(&config).await.unwrap();
        // Twice is as good as once.
        berth_netd::cluster::remove(&config).await.unwrap();
    });
    let links = run(host, "ip -br link").unwrap();
    assert!(!links.contains("berth-vx"), "{links}");
    let tables = run(host, "nft list tables").unwrap();
    assert_eq!(
        tables.trim(),
        "table inet berth",
        "the pods' own table stays"
    );
    let rules = run(host, "ip rule").unwrap() + &run(host, "ip -6 rule").unwrap();
    assert!(!rules.contains("626"), "{rules}");
    let addresses = run(host, "ip -br addr show dev lo").unwrap();
    assert!(!addresses.contains("211"), "{addresses}");
    assert!(!cluster.state_dir(0).join("cluster.json").exists());
}
