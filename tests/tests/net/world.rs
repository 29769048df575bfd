//! A machine with a wire to the world, and pods on it.
//!
//! ```text
//!   pod ─┐
//!   pod ─┴─ berth0 ─ host ─ up0 ────── wan0 ─ outside
//!                     198.51.100.1        198.51.100.2
//!                     2001:db8:9::1    2001:db8:9::2
//! ```
//!
//! Sockets are opened on threads inside the namespaces and used from here: a
//! socket stays for life where it was opened.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_netd::netd::Netd;
use berth_netd::network::NetworkConfig;
use berth_netd::request::{AttachRequest, HostPort, PodNetwork, Protocol};
use berth_tests::host::{Host, in_network_of};
use berth_tests::sweep::Sweep;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough for a packet that arrives, short enough to wait for one that does not.
const SILENCE: Duration = Duration::from_millis(400);

/// The host's addresses on the wire, and its neighbour's.
pub const HOST_V4: &str = "198.51.100.1";
pub const HOST_V6: &str = "2001:db8:9::1";
pub const OUTSIDE_V4: &str = "198.51.100.2";
pub const OUTSIDE_V6: &str = "2001:db8:9::2";

/// A host and what lies outside of it.
pub struct World {
    pub host: Host,
    pub outside: Host,
    before: Sweep,
}

impl World {
    /// Makes both and joins them by a wire. Needs root.
    pub fn new() -> World {
        let world = || -> Result<World> {
            let (host, outside) = (Host::new()?, Host::new()?);
            run(
                &host,
                &format!(
                    "ip link add up0 index 77 type veth peer name wan0 netns {}",
                    outside.pid()
                ),
            )?;
            for (side, link, v4, v6) in [
                (&host, "up0", HOST_V4, HOST_V6),
                (&outside, "wan0", OUTSIDE_V4, OUTSIDE_V6),
            ] {
                run(side, &format!("ip addr add {v4}/24 dev {link}"))?;
                run(side, &format!("ip addr add {v6}/64 dev {link} nodad"))?;
                run(side, &format!("ip link set {link} up"))?;
            }
            run(&host, &format!("ip route add default via {OUTSIDE_V4}"))?;
            run(&host, &format!("ip -6 route add default via {OUTSIDE_V6}"))?;
            wait_for_wire(&host, &outside)?;
            let before = Sweep::before(&host)?;
            Ok(World {
                host,
                outside,
                before,
            })
        };
        world().expect("a world needs root, iproute2 and nft")
    }

    /// A network namespace on this machine, not yet attached.
    pub fn pod(&self, id: &str) -> Pod {
        Pod::new(&self.host, id).unwrap()
    }

    pub fn netd(&self) -> Netd {
        self.netd_with(NetworkConfig::default())
    }

    pub fn netd_with(&self, config: NetworkConfig) -> Netd {
        Netd::open(&self.host.data_dir().join("net"), config).unwrap()
    }

    /// Runs netd's work as a process of the host would.
    pub fn block_on<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        block_on(self.host.pid(), work)
    }

    /// Asserts that the host's links, table and records are as before; the pods'
    /// namespaces may still be there.
    pub fn assert_clean_but_pods(&self) {
        let links = run(&self.host, "ip -br link").unwrap();
        let names: Vec<&str> = links
            .lines()
            .filter_map(|line| line.split(['@', ' ']).next())
            .collect();
        assert_eq!(names, ["lo", "up0"], "links are left");
        assert_eq!(run(&self.host, "nft list ruleset").unwrap(), "");
        let entries = std::fs::read_dir(self.host.data_dir().join("net")).unwrap();
        let files: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["ledger.lock"], "records are left");
    }

    /// Asserts that all pods' traces are gone. Their namespaces must have ended.
    pub fn assert_clean(&self) {
        self.before.assert_clean(&self.host).unwrap();
    }
}

/// A pod as far as its network is concerned: a process that keeps a namespace.
pub struct Pod {
    pub id: String,
    keeper: Child,
}

impl Pod {
    pub fn new(host: &Host, id: &str) -> Result<Pod> {
        let keeper = host
            .command("unshare")
            .args(["--net", "sleep", "600"])
            .spawn()?;
        let pod = Pod {
            id: id.to_owned(),
            keeper,
        };
        let deadline = Instant::now() + PATIENCE;
        let comm = format!("/proc/{}/comm", pod.pid());
        // The name changes last, when the namespace is there.
        while std::fs::read_to_string(&comm)?.trim() != "sleep" {
            ensure!(Instant::now() < deadline, "{id}: no namespace in time");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(pod)
    }

    pub fn pid(&self) -> u32 {
        self.keeper.id()
    }

    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid()))
    }

    pub fn request(&self, host_ports: &[HostPort]) -> AttachRequest {
        AttachRequest {
            pod_id: self.id.clone(),
            netns: self.netns(),
            interface: "eth0".to_owned(),
            host_ports: host_ports.to_vec(),
            addresses: Vec::new(),
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

pub fn address(network: &PodNetwork, v4: bool) -> IpAddr {
    let mut addresses = network.addresses.iter().map(|net| net.addr());
    addresses.find(|address| address.is_ipv4() == v4).unwrap()
}

pub fn port(protocol: Protocol, host_port: u16, container_port: u16) -> HostPort {
    HostPort {
        protocol,
        host_address: None,
        host_port,
        container_port,
    }
}

pub fn at(address: &str, port: HostPort) -> HostPort {
    HostPort {
        host_address: Some(address.parse().unwrap()),
        ..port
    }
}

pub fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Sends a word over TCP from one namespace to a listener and back. Returns
/// whom the listener saw.
pub fn exchange_tcp(from: u32, to: SocketAddr, listener: &TcpListener) -> Result<IpAddr> {
    let mut client = connect_tcp(from, to)?;
    let (mut server, peer) = accept_within(listener)?;
    server.write_all(b"hello")?;
    let mut word = [0; 5];
    client.set_read_timeout(Some(PATIENCE))?;
    client.read_exact(&mut word)?;
    ensure!(&word == b"hello", "{word:?}");
    Ok(peer.ip())
}

pub fn connect_tcp(from: u32, to: SocketAddr) -> Result<TcpStream> {
    in_network_of(from, move || {
        TcpStream::connect_timeout(&to, SILENCE).with_context(|| format!("connect to {to}"))
    })
}

fn accept_within(listener: &TcpListener) -> Result<(TcpStream, SocketAddr)> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + SILENCE;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false)?;
                return Ok((stream, peer));
            }
            Err(error) => {
                ensure!(Instant::now() < deadline, "someone else answered: {error}");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

pub fn listen_tcp(inside: u32, address: &str, port: u16) -> TcpListener {
    open_within(inside, socket(address, port), TcpListener::bind)
}

pub fn bind_udp(inside: u32, address: &str, port: u16) -> UdpSocket {
    let socket = open_within(inside, socket(address, port), UdpSocket::bind);
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket
}

/// A socket that this test has just closed may live on for a moment in a child
/// of another test, between its fork and its exec.
fn open_within<T: Send>(
    inside: u32,
    at: SocketAddr,
    open: impl Fn(SocketAddr) -> std::io::Result<T> + Send,
) -> T {
    let opened = in_network_of(inside, move || {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match open(at) {
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                    ensure!(Instant::now() < deadline, "{at}: {error}");
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return Ok(other?),
            }
        }
    });
    opened.unwrap()
}

/// Sends a datagram to a server, which answers; the answer must come from where
/// the question was sent. Returns whom the server saw.
pub fn exchange_udp(client: &UdpSocket, to: SocketAddr, server: &UdpSocket) -> Result<IpAddr> {
    let mut word = [0; 16];
    client.send_to(b"question", to)?;
    let (_, peer) = server.recv_from(&mut word).context("no question came")?;
    server.send_to(b"answer", peer)?;
    let (count, from) = client.recv_from(&mut word).context("no answer came")?;
    ensure!(
        &word[..count] == b"answer" && from == to,
        "{from}: {word:?}"
    );
    Ok(peer.ip())
}

/// The kernel notices a new carrier at once if the two ends' indices differ
/// (`net/core/link_watch.c::linkwatch_urgent_event`), hence the odd index, else
/// within a second. That is none of the tests' business.
fn wait_for_wire(host: &Host, outside: &Host) -> Result<()> {
    for (there, any) in [(OUTSIDE_V4, "0.0.0.0"), (OUTSIDE_V6, "::")] {
        let server = bind_udp(outside.pid(), any, 9);
        let client = bind_udp(host.pid(), any, 0);
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = exchange_udp(&client, socket(there, 9), &server) {
            ensure!(Instant::now() < deadline, "the wire is dead: {error:#}");
        }
    }
    Ok(())
}

pub fn run(host: &Host, line: &str) -> Result<String> {
    let mut words = line.split(' ');
    let program = words.next().context("an empty line")?;
    let output = host.command(program).args(words).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {text}{errors}");
    Ok(text)
}

/// A runtime whose threads are all in the namespace of a process.
pub fn block_on<T: Send>(pid: u32, work: impl Future<Output = T> + Send) -> T {
    in_network_of(pid, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(runtime.block_on(work))
    })
    .unwrap()
}

/// Where the fixture program is.
pub fn attacher() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_berth-attach"))
}
