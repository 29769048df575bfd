//! `berth-attach STATE_DIR NETNS…`: attaches a pod to each namespace and
//! detaches it, over and over, until it is killed.
//!
//! The suite `net` kills it at any moment, as `kill -9` would kill `berth`, and
//! then looks for what is left. Pods are named by their place on the command
//! line, and have the host ports 20000 and up.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use berth_netd::netd::Netd;
use berth_netd::network::NetworkConfig;
use berth_netd::request::{AttachRequest, HostPort, Protocol};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let state_dir = words
        .next()
        .context("usage: berth-attach STATE_DIR NETNS…")?;
    let netd = Netd::open(Path::new(&state_dir), NetworkConfig::default())?;
    let requests: Vec<AttachRequest> = (0u16..)
        .zip(words)
        .map(|(index, netns)| AttachRequest {
            pod_id: format!("killed-{index}"),
            netns: PathBuf::from(netns),
            interface: "eth0".to_owned(),
            host_ports: vec![HostPort {
                protocol: Protocol::Tcp,
                host_address: None,
                host_port: 20_000 + index,
                container_port: 80,
            }],
            addresses: Vec::new(),
        })
        .collect();
    println!("ready");
    loop {
        for request in &requests {
            netd.attach(request).await.context("attach")?;
        }
        for request in &requests {
            netd.detach(&request.pod_id).await.context("detach")?;
        }
    }
}
