//! Several throw-away hosts on one wire.
//!
//! The wire is a bridge in a namespace of its own. A process in that namespace
//! is the world outside: it reaches every host, and no berth runs there.
//!
//! ```text
//!   host 0              host 1              host 2
//!  ┌───────────┐       ┌───────────┐       ┌───────────┐
//!  │ eth0      │       │ eth0      │       │ eth0      │
//!  │ 10.99.0.1 │       │ 10.99.0.2 │       │ 10.99.0.3 │
//!  └────┬──────┘       └────┬──────┘       └────┬──────┘
//!     port1               port2               port3
//!  ┌────┴───────────────────┴───────────────────┴──────┐
//!  │ bridge "wire", 10.99.0.254: the world outside     │
//!  └───────────────────────────────────────────────────┘
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::host::Host;

/// The world's own IPv4 address, and the hosts' default gateway.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 254);

/// The world's own IPv6 address, and the hosts' default gateway.
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0xfe);

/// As on a real wire.
pub const MTU: u32 = 1500;

/// Hosts that reach each other by `eth0`. All goes when this is dropped.
#[derive(Debug)]
pub struct Fabric {
    hosts: Vec<Host>,
    outside: Host,
}

impl Fabric {
    /// Makes a wire with `count` hosts, at most 200. Needs root.
    ///
    /// # Errors
    ///
    /// The caller is not root, or the kernel refuses namespaces or links.
    pub fn new(count: usize) -> Result<Fabric> {
        ensure!((1..=200).contains(&count), "a fabric of {count} hosts");
        let outside = Host::new()?;
        ip(
            &outside,
            &format!("link add wire mtu {MTU} up type bridge forward_delay 0 mcast_snooping 0"),
        )?;
        ip(&outside, &format!("address add {OUTSIDE}/24 dev wire"))?;
        ip(
            &outside,
            &format!("address add {OUTSIDE_V6}/64 dev wire nodad"),
        )?;
        let mut fabric = Fabric {
            hosts: Vec::new(),
            outside,
        };
        for index in 0..count {
            let host = Host::new()?;
            fabric.join(&host, index)?;
            fabric.hosts.push(host);
        }
        Ok(fabric)
    }

    /// The hosts, in order of their addresses.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A host by its place, from 0.
    ///
    /// # Panics
    ///
    /// There are fewer.
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// The world outside: a client's place.
    pub fn outside(&self) -> &Host {
        &self.outside
    }

    /// The IPv4 address of a host's `eth0`: 10.99.0.1 for the first.
    pub fn address(&self, index: usize) -> Ipv4Addr {
        let [a, b, c, _] = OUTSIDE.octets();
        Ipv4Addr::new(a, b, c, last_byte(index))
    }

    /// The IPv6 address of a host's `eth0`: fd99::1 for the first.
    pub fn address_v6(&self, index: usize) -> Ipv6Addr {
        let [a, b, c, d, e, f, g, _] = OUTSIDE_V6.segments();
        Ipv6Addr::new(a, b, c, d, e, f, g, last_byte(index).into())
    }

    /// Pulls a host's cable: nothing passes, and the host's own `eth0` loses
    /// its carrier.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn cut_off(&self, index: usize) -> Result<()> {
        ip(
            &self.outside,
            &format!("link set port{} down", last_byte(index)),
        )
    }

    /// Puts the cable back.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn restore(&self, index: usize) -> Result<()> {
        ip(
            &self.outside,
            &format!("link set port{} up", last_byte(index)),
        )
    }

    fn join(&self, host: &Host, index: usize) -> Result<()> {
        let number = last_byte(index);
        ip(
            &self.outside,
            &format!(
                "link add port{number} mtu {MTU} master wire up type veth peer name eth0 mtu {MTU} netns {}",
                host.pid()
            ),
        )?;
        ip(
            host,
            &format!(
                "address add {} dev eth0",
                with_length(self.address(index).into())
            ),
        )?;
        ip(
            host,
            &format!(
                "address add {} dev eth0 nodad",
                with_length(self.address_v6(index).into())
            ),
        )?;
        ip(host, "link set eth0 up")?;
        ip(host, &format!("route add default via {OUTSIDE}"))?;
        ip(host, &format!("-6 route add default via {OUTSIDE_V6}"))
    }
}

/// Runs ip(8) in a host.
///
/// # Errors
///
/// It does not run or fails; its words are in the error.
pub fn ip(host: &Host, arguments: &str) -> Result<()> {
    let mut command: Command = host.command("ip");
    let output = command
        .args(arguments.split_whitespace())
        .output()
        .context("run ip")?;
    ensure!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn with_length(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 })
}

/// The first host ends in 1, as people count.
fn last_byte(index: usize) -> u8 {
    u8::try_from(index + 1).unwrap_or(u8::MAX)
}
