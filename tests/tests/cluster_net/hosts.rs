//! Hosts of a fabric, each with a netd of the cluster and pods of its range.
//!
//! ```text
//!   outside 10.99.0.254
//!      │
//!   ───┴──── wire ─────┬───────────────────┬──────
//!                10.99.0.1            10.99.0.2
//!                host 0  netd         host 1  netd
//!                10.210.1.0/24        10.210.2.0/24
//!                pods …               pods …
//! ```

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use berth_netd::cluster::{self, ClusterNetConfig};
use berth_netd::netd::Netd;
use berth_netd::network::NetworkConfig;
use berth_tests::fabric::Fabric;
use berth_tests::patience::stretched;
use berth_tests::small_api::SmallApi;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::world::{Pod, block_on, run};

pub struct Cluster {
    pub api: SmallApi,
    pub fabric: Fabric,
    netds: Vec<Option<Running>>,
    pods: Vec<(usize, Pod)>,
}

struct Running {
    shutdown: CancellationToken,
    thread: JoinHandle<()>,
}

/// A pod that is attached.
#[derive(Clone, Copy)]
pub struct At {
    pub pid: u32,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

impl Cluster {
    /// So many hosts, with Nodes and running netds.
    pub fn new(count: usize) -> Cluster {
        let fabric = Fabric::new(count).expect("a fabric needs root");
        let api = SmallApi::new();
        let mut cluster = Cluster {
            api,
            netds: (0..count).map(|_| None).collect(),
            pods: Vec::new(),
            fabric,
        };
        for index in 0..count {
            cluster.put_node(index);
        }
        for index in 0..count {
            cluster.start(index);
        }
        for index in 0..count {
            cluster.within(10, || {
                let host = cluster.fabric.host(index);
                let routes = run(host, "ip route show dev berth-vx")?;
                let tables = run(host, "nft list tables")?;
                ensure!(routes.lines().count() >= count - 1, "{routes}");
                ensure!(tables.contains("netdev berth-return"), "{tables}");
                Ok(())
            });
        }
        cluster
    }

    pub fn put_node(&self, index: usize) {
        let number = index + 1;
        self.api.put(
            "nodes",
            json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": format!("node-{index}")},
                "spec": {"podCIDRs": [format!("10.210.{number}.0/24"), format!("fd10:210:{number}::/64")]},
                "status": {"addresses": [
                    {"type": "InternalIP", "address": self.fabric.address(index).to_string()},
                    {"type": "InternalIP", "address": self.fabric.address_v6(index).to_string()},
                ]},
            }),
        );
    }

    pub fn config(&self, index: usize) -> ClusterNetConfig {
        let mut config = ClusterNetConfig::new(format!("node-{index}"), self.state_dir(index));
        config
            .service_ranges
            .push("fd10:211::/112".parse().unwrap());
        config.dns.addresses.push("fd10:211::a".parse().unwrap());
        config.dns.resolv_conf = self.fabric.host(index).work_dir().join("resolv.conf");
        config
    }

    pub fn state_dir(&self, index: usize) -> PathBuf {
        self.fabric.host(index).data_dir().join("cluster")
    }

    /// Starts a host's netd: a thread that lives in the host's namespace.
    pub fn start(&mut self, index: usize) {
        let config = self.config(index);
        let api = self.api.clone();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let pid = self.fabric.host(index).pid();
        let thread = std::thread::spawn(move || {
            block_on(pid, async move {
                cluster::run(api.client(), config, stop).await.unwrap();
            });
        });
        self.netds[index] = Some(Running { shutdown, thread });
    }

    /// Ends a host's netd.
    pub fn stop(&mut self, index: usize) {
        if let Some(running) = self.netds[index].take() {
            running.shutdown.cancel();
            running.thread.join().unwrap();
        }
    }

    /// A pod on a host, attached as an agent would.
    pub fn pod(&mut self, index: usize, id: &str) -> At {
        let host = self.fabric.host(index);
        let pod = Pod::new(host, id).unwrap();
        let number = index + 1;
        let config = NetworkConfig {
            subnets: vec![
                format!("10.210.{number}.0/24").parse().unwrap(),
                format!("fd10:210:{number}::/64").parse().unwrap(),
            ],
            ..NetworkConfig::default()
        };
        let netd = Netd::open(&host.data_dir().join("net"), config).unwrap();
        let network = block_on(host.pid(), async {
            netd.attach(&pod.request(&[])).await.unwrap()
        });
        let address = |v4| crate::world::address(&network, v4);
        let at = At {
            pid: pod.pid(),
            v4: address(true),
            v6: address(false),
        };
        self.pods.push((index, pod));
        at
    }

    /// A service `default/NAME` with IPv4 and IPv6 addresses that end in `number`.
    pub fn put_service(&self, name: &str, number: u16, spec: Value) {
        let mut whole = json!({
            "clusterIP": service_v4(number).to_string(),
            "clusterIPs": [service_v4(number).to_string(), service_v6(number).to_string()],
        });
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        self.api.put(
            "services",
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"namespace": "default", "name": name},
                "spec": whole,
            }),
        );
    }

    /// The slices of a service, one a family, with these endpoints.
    pub fn put_slices(&self, name: &str, ports: Value, endpoints: &[(At, usize)]) {
        let with = |v4: bool| -> Vec<Value> {
            let endpoints = endpoints.iter();
            endpoints
                .map(|(at, index)| {
                    json!({
                        "addresses": [if v4 { at.v4 } else { at.v6 }.to_string()],
                        "conditions": {"ready": true},
                        "nodeName": format!("node-{index}"),
                    })
                })
                .collect()
        };
        for (family, v4) in [("IPv4", true), ("IPv6", false)] {
            self.put_slice(name, family, ports.clone(), with(v4));
        }
    }

    pub fn put_slice(&self, name: &str, family: &str, ports: Value, endpoints: Vec<Value>) {
        self.api.put(
            "endpointslices",
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "namespace": "default",
                    "name": format!("{name}-{}", family.to_lowercase()),
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": family,
                "ports": ports,
                "endpoints": endpoints,
            }),
        );
    }

    /// Tries until it holds.
    pub fn within(&self, seconds: u64, mut check: impl FnMut() -> Result<()>) {
        let deadline = Instant::now() + stretched(Duration::from_secs(seconds));
        loop {
            match check() {
                Ok(()) => return,
                Err(error) => {
                    assert!(Instant::now() < deadline, "{error:#}");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    pub fn node(&self, index: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.fabric.address(index).into(), port)
    }

    pub fn node_v6(&self, index: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.fabric.address_v6(index).into(), port)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.netds.len() {
            if let Some(running) = self.netds[index].take() {
                running.shutdown.cancel();
                let _ = running.thread.join();
            }
        }
    }
}

pub fn service_v4(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    IpAddr::from([10, 211, high, low])
}

pub fn service_v6(number: u16) -> IpAddr {
    IpAddr::from([0xfd10, 0x211, 0, 0, 0, 0, 0, number])
}
