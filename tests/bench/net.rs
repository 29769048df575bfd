//! The network between hosts: what the tunnel lets through beside one made by
//! hand, and what one endpoint's change costs among ten thousand services.
//!
//! Two throw-away hosts on one wire. netd runs as a thread in each; the path
//! made by hand has the same parts, veth, bridge, route and VXLAN, and none of
//! our rules.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_netd::cluster::{self, ClusterNetConfig};
use berth_netd::netd::Netd;
use berth_netd::network::NetworkConfig;
use berth_netd::request::AttachRequest;
use berth_tests::fabric::{Fabric, ip};
use berth_tests::host::{Host, in_network_of};
use berth_tests::small_api::SmallApi;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::measure::{Contender, Times, in_turn, rounds};
use crate::report::{Section, first_line};

const ROUNDS: usize = 7;
const SECONDS: &str = "3";
const SERVICES: usize = 10_000;
/// Between two looks at something that takes milliseconds.
const STEP: Duration = Duration::from_micros(500);

/// Measures both.
pub fn run(section: &mut Section) -> Result<()> {
    throughput(section)?;
    one_endpoint(section)
}

/// One end of a path.
struct End {
    keeper: Child,
    address: String,
}

fn throughput(section: &mut Section) -> Result<()> {
    let fabric = Fabric::new(2)?;
    let api = SmallApi::new();
    put_nodes(&api, 2);
    let netds: Vec<Running> = (0..2)
        .map(|index| Running::netd(&api, fabric.host(index), index))
        .collect();
    for index in 0..2 {
        wait(|| route_stands(fabric.host(index)))?;
    }
    let ours = [pod(&fabric, 0)?, pod(&fabric, 1)?];
    let by_hand = [by_hand(&fabric, 0)?, by_hand(&fabric, 1)?];
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..=rounds(ROUNDS) {
        for (path, rates) in [&ours, &by_hand].into_iter().zip(&mut rates) {
            let rate = iperf(fabric.host(0), fabric.host(1), path)?;
            // The first warms up.
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    drop(netds);
    let [ours, by_hand] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    section.say(format!(
        "TCP from pod to pod of two hosts, {SECONDS} s each in turn, median of {}. {}.",
        rounds(ROUNDS),
        first_line("iperf3", &["--version"]),
    ));
    section.say(format!(
        "| | Gbit/s | ratio |\n|---|---:|---:|\n| berth | {:.2} | {:.2} |\n| veth, bridge, route and VXLAN by hand | {:.2} | 1.00 |",
        ours / 1e9,
        ours / by_hand,
        by_hand / 1e9,
    ));
    Ok(())
}

fn one_endpoint(section: &mut Section) -> Result<()> {
    let fabric = Fabric::new(1)?;
    let host = fabric.host(0);
    let api = SmallApi::new();
    put_nodes(&api, 1);
    let _netd = Running::netd(&api, host, 0);
    let pods = [pod(&fabric, 0)?, pod(&fabric, 0)?];
    for number in 0..SERVICES {
        put_service(&api, number);
        put_endpoint(&api, number, "10.210.9.9");
    }
    wait(|| {
        let output = host
            .command("nft")
            .args(["list", "map", "inet", "berth-services", "endpoints-v4"])
            .output()?;
        let count = String::from_utf8_lossy(&output.stdout)
            .matches("10.210.9.9")
            .count();
        ensure!(count >= SERVICES, "{count} services so far");
        Ok(())
    })?;
    // Each listens for itself; the service's client sees by whose port it is let in.
    let servers: Vec<Running> = pods.iter().map(Running::server).collect::<Result<_>>()?;
    let target = SocketAddr::new(service_address(SERVICES / 2), 80);
    let client = pods[0].keeper.id();
    let mut on = false;
    let whole = whole_table(host)?;
    let one = [
        host.work_dir().join("one.nft"),
        host.work_dir().join("other.nft"),
    ];
    fs::write(
        &one[0],
        "delete element inet beside endpoints { 10.211.0.1 . tcp . 80 . 0x0 }\nadd element inet beside endpoints { 10.211.0.1 . tcp . 80 . 0x0 : 10.210.1.8 . 80 }\n",
    )?;
    fs::write(
        &one[1],
        "delete element inet beside endpoints { 10.211.0.1 . tcp . 80 . 0x0 }\nadd element inet beside endpoints { 10.211.0.1 . tcp . 80 . 0x0 : 10.210.1.9 . 80 }\n",
    )?;
    nft(host, &whole)?;
    let mut turn = 0;
    let mut contenders = vec![
        Contender::new("netd, from the API's event to the first connection", || {
            on = !on;
            if on {
                put_endpoint(&api, SERVICES / 2, &pods[1].address);
                until_connected(client, target, true)
            } else {
                api.delete("endpointslices", &format!("default/s{}", SERVICES / 2));
                until_connected(client, target, false)
            }
        }),
        Contender::new("nft -f, the same two elements", || {
            turn += 1;
            nft(host, &one[turn % 2])
        }),
        Contender::new("nft -f, the whole table", || nft(host, &whole)),
    ];
    let times: Vec<Times> = in_turn(&mut contenders, rounds(ROUNDS * 3))?;
    drop(contenders);
    drop(servers);
    section.table(
        &format!("one endpoint changes among {SERVICES} services"),
        &times,
        "nft -f, the same two elements",
    );
    Ok(())
}

/// A thread that is told to end, and awaited, when the value goes.
struct Running {
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(work: impl FnOnce(CancellationToken) + Send + 'static) -> Running {
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        Running {
            shutdown,
            thread: Some(std::thread::spawn(move || work(stop))),
        }
    }

    /// A netd in a host.
    fn netd(api: &SmallApi, host: &Host, index: usize) -> Running {
        let mut config =
            ClusterNetConfig::new(format!("node-{index}"), host.data_dir().join("cluster"));
        config.dns.resolv_conf = host.work_dir().join("resolv.conf");
        let (api, pid) = (api.clone(), host.pid());
        Running::start(move |stop| {
            let done = in_network_of(pid, || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                // The client wants a runtime around it when it is made.
                runtime.block_on(async { cluster::run(api.client(), config, stop).await })?;
                Ok(())
            });
            if let Err(error) = done {
                eprintln!("netd: {error:#}");
            }
        })
    }

    /// Takes every connection to port 80 of a pod: were they left in the listener's queue, it
    /// would be full before a change that takes the service away has arrived.
    fn server(pod: &End) -> Result<Running> {
        let listener = in_network_of(pod.keeper.id(), || Ok(TcpListener::bind("0.0.0.0:80")?))?;
        listener.set_nonblocking(true)?;
        Ok(Running::start(move |stop| {
            while !stop.is_cancelled() {
                if listener.accept().is_err() {
                    std::thread::sleep(STEP);
                }
            }
        }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn put_nodes(api: &SmallApi, count: usize) {
    for index in 0..count {
        let number = index + 1;
        api.put(
            "nodes",
            json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": format!("node-{index}")},
                "spec": {"podCIDRs": [format!("10.210.{number}.0/24")]},
                "status": {"addresses": [
                    {"type": "InternalIP", "address": format!("10.99.0.{number}")}]}}),
        );
    }
}

fn put_service(api: &SmallApi, number: usize) {
    let address = service_address(number).to_string();
    api.put(
        "services",
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": format!("s{number}")},
            "spec": {"clusterIP": address, "clusterIPs": [address],
                "ports": [{"name": "http", "port": 80}]}}),
    );
}

fn put_endpoint(api: &SmallApi, number: usize, address: &str) {
    api.put(
        "endpointslices",
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": format!("s{number}"),
                "labels": {"kubernetes.io/service-name": format!("s{number}")}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 80}],
            "endpoints": [{"addresses": [address]}]}),
    );
}

fn service_address(number: usize) -> IpAddr {
    let [.., high, low] = (number + 256).to_be_bytes();
    IpAddr::from([10, 211, high, low])
}

fn namespace(host: &Host) -> Result<Child> {
    let keeper = host
        .command("unshare")
        .args(["--net", "sleep", "3600"])
        .spawn()?;
    let comm = format!("/proc/{}/comm", keeper.id());
    wait(|| {
        ensure!(fs::read_to_string(&comm)?.trim() == "sleep", "no namespace");
        Ok(())
    })?;
    Ok(keeper)
}

/// A pod, attached by netd.
fn pod(fabric: &Fabric, index: usize) -> Result<End> {
    let host = fabric.host(index);
    let keeper = namespace(host)?;
    let config = NetworkConfig {
        subnets: vec![format!("10.210.{}.0/24", index + 1).parse()?],
        ..NetworkConfig::default()
    };
    let netd = Netd::open(&host.data_dir().join("net"), config)?;
    let request = AttachRequest {
        pod_id: format!("pod-{}", keeper.id()),
        netns: format!("/proc/{}/ns/net", keeper.id()).into(),
        interface: "eth0".to_owned(),
        host_ports: Vec::new(),
        addresses: Vec::new(),
    };
    let network = in_network_of(host.pid(), || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(runtime.block_on(netd.attach(&request))?)
    })?;
    let address = network.addresses.first().context("a pod without address")?;
    Ok(End {
        keeper,
        address: address.addr().to_string(),
    })
}

/// The same parts without us: 10.220.N.2 behind a bridge and a tunnel.
fn by_hand(fabric: &Fabric, index: usize) -> Result<End> {
    let host = fabric.host(index);
    let keeper = namespace(host)?;
    let (own, other) = (index + 1, 2 - index);
    let pid = keeper.id();
    for line in [
        "link add hand0 mtu 1450 up type bridge".to_owned(),
        format!("address add 10.220.{own}.1/24 dev hand0"),
        format!(
            "link add hand1 mtu 1450 master hand0 up type veth peer name eth0 mtu 1450 netns {pid}"
        ),
        format!(
            "link add hand2 address 0a:58:0a:dc:0{own}:00 mtu 1450 up type vxlan id 9 dstport 4790 local 10.99.0.{own} nolearning"
        ),
        format!(
            "neigh add 10.220.{other}.0 lladdr 0a:58:0a:dc:0{other}:00 dev hand2 nud permanent"
        ),
        format!("route add 10.220.{other}.0/24 via 10.220.{other}.0 dev hand2 onlink"),
    ] {
        ip(host, &line)?;
    }
    let mut fdb = host.command("bridge");
    let entry = format!("fdb append 0a:58:0a:dc:0{other}:00 dev hand2 dst 10.99.0.{other}");
    succeed(fdb.args(entry.split(' ')))?;
    for line in [
        format!("address add 10.220.{own}.2/24 dev eth0"),
        "link set lo up".to_owned(),
        "link set eth0 up".to_owned(),
        format!("route add default via 10.220.{own}.1"),
    ] {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/proc/{pid}/ns/net")).arg("ip");
        succeed(inside.args(line.split(' ')))?;
    }
    Ok(End {
        keeper,
        address: format!("10.220.{own}.2"),
    })
}

/// Bits a second from the first end to the second.
fn iperf(from: &Host, to: &Host, path: &[End; 2]) -> Result<f64> {
    let inside = |host: &Host, end: &End| {
        let mut command = host.command("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", end.keeper.id()))
            .arg("iperf3");
        command
    };
    let mut server = inside(to, &path[1])
        .args(["-s", "-1"])
        .stdout(Stdio::null())
        .spawn()
        .context("iperf3 is missing")?;
    let mut client = inside(from, &path[0]);
    client.args(["-J", "-t", SECONDS, "-c", &path[1].address]);
    // Its server may not listen yet; a report in JSON succeeds even if there is no server.
    let mut report = serde_json::Value::Null;
    for _ in 0..100 {
        let output = client.output()?;
        report = serde_json::from_slice(&output.stdout).context("iperf3's report")?;
        if report["error"].is_null() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = server.kill();
    let _ = server.wait();
    let rate = &report["end"]["sum_received"]["bits_per_second"];
    rate.as_f64()
        .with_context(|| format!("iperf3: {}", report["error"]))
}

/// A table with as many elements as ours, for nft to load.
fn whole_table(host: &Host) -> Result<std::path::PathBuf> {
    use std::fmt::Write;
    let mut text = String::from(
        "table inet beside\ndelete table inet beside\ntable inet beside {\n\
         map services {\n type ipv4_addr . inet_proto . inet_service : verdict\n elements = {\n",
    );
    for number in 0..SERVICES {
        writeln!(text, "{} . tcp . 80 : goto pick,", service_address(number))?;
    }
    text.push_str(
        "} }\nmap endpoints {\n type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service\n elements = {\n",
    );
    for number in 0..SERVICES {
        writeln!(
            text,
            "{} . tcp . 80 . 0x0 : 10.210.9.9 . 80,",
            service_address(number)
        )?;
    }
    text.push_str("10.211.0.1 . tcp . 80 . 0x0 : 10.210.9.9 . 80 } }\nchain pick { }\n}\n");
    let path = host.work_dir().join("whole.nft");
    fs::write(&path, text)?;
    Ok(path)
}

fn nft(host: &Host, file: &std::path::Path) -> Result<()> {
    let mut command = host.command("nft");
    succeed(command.arg("-f").arg(file))
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {errors}");
    Ok(())
}

fn until_connected(client: u32, target: SocketAddr, wanted: bool) -> Result<()> {
    in_network_of(client, || {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let connected = TcpStream::connect_timeout(&target, Duration::from_millis(50));
            if connected.is_ok() == wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{target}: the change did not arrive");
            }
            std::thread::sleep(STEP);
        }
    })
}

fn route_stands(host: &Host) -> Result<()> {
    let output = host
        .command("ip")
        .args(["route", "show", "dev", "berth-vx"])
        .output()?;
    ensure!(!output.stdout.is_empty(), "no route through the tunnel");
    Ok(())
}

fn wait(mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match check() {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            Ok(()) => return Ok(()),
        }
    }
}
