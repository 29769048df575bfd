//! Ports, names and addresses of a pod.

use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use berth_tests::host::in_network_of;

use super::world::{World, assert_lines};

const SERVER: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: ports}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    command:
    - sh
    - -c
    - |
      trap 'exit 0' TERM
      nc -ll -p 7000 -e echo tcp answers &
      while :; do sleep 0.1; done
    readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1}
    ports:
    - {containerPort: 7000, hostPort: 7001}
    - {containerPort: 7000, hostPort: 7002, hostIP: 127.0.0.1}
    HERE
    - {containerPort: 7100, hostPort: 7101, protocol: UDP}
";

fn ask(world: &World, address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = world.host().connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Answers each datagram with itself, from a socket in the pod's namespace.
fn echo_datagrams(world: &World, pod: &str) {
    let text = world.machine.berth(&["inspect", pod]).unwrap();
    let values: serde_json::Value = serde_json::from_str(&text).unwrap();
    let pid = values[0]["containers"][0]["info"]["pid"].as_u64().unwrap();
    let socket = in_network_of(u32::try_from(pid).unwrap(), || {
        Ok(UdpSocket::bind("[::]:7100")?)
    });
    let socket = socket.unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    // It ends, and gives the namespace back, when nobody has asked for a while.
    std::thread::spawn(move || {
        let mut datagram = [0; 16];
        while let Ok((length, from)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], from);
        }
    });
}

fn ask_udp(world: &World, address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    in_network_of(world.host().pid(), move || {
        for _ in 0..4 {
            let local = if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(local)?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            socket.connect(address)?;
            socket.send(b"ahoy")?;
            let mut answer = [0; 16];
            if matches!(socket.recv(&mut answer), Ok(4)) {
                return Ok(true);
            }
        }
        Ok(false)
    })
    .unwrap()
}

#[test]
fn ports_lead_to_the_pod_by_both_families_and_protocols() {
    let world = World::new();
    let addresses = [
        "link add outside type bridge",
        "link set outside up",
        "addr add 192.0.2.7/24 dev outside",
        "-6 addr add 2001:db8::7/64 dev outside nodad",
        "-6 addr add 2001:db8::8/64 dev outside nodad",
    ];
    for words in addresses {
        assert!(
            world
                .host()
                .command("ip")
                .args(words.split(' '))
                .status()
                .unwrap()
                .success()
        );
    }
    let six = "- {containerPort: 7000, hostPort: 7003, hostIP: '2001:db8::7'}";
    let server = SERVER.replace("HERE", six);
    world.detach(&server);
    let answer = Some("tcp answers\n".to_owned());
    for address in [
        "127.0.0.1:7001",
        "192.0.2.7:7001",
        "[2001:db8::7]:7001",
        "127.0.0.1:7002",
        "[2001:db8::7]:7003",
    ] {
        assert_eq!(ask(&world, address), answer, "{address}");
    }
    for address in [
        "192.0.2.7:7002",
        "[2001:db8::8]:7003",
        // The kernel cannot lead what is sent to ::1 anywhere else.
        "[::1]:7001",
        "127.0.0.1:7101",
        "127.0.0.1:7000",
    ] {
        assert_eq!(ask(&world, address), None, "{address}");
    }
    echo_datagrams(&world, "ports");
    for address in ["127.0.0.1:7101", "192.0.2.7:7101", "[2001:db8::7]:7101"] {
        assert!(ask_udp(&world, address), "{address}");
    }
    let table = world.machine.berth(&["ps"]).unwrap();
    assert!(
        table.contains("127.0.0.1:7002->7000/tcp") && table.contains("7101->7100/udp"),
        "{table}"
    );
    let message = world.refused(
        &server
            .replace("name: ports", "name: loop")
            .replace("2001:db8::7", "::1"),
    );
    assert!(message.contains("[::1]:7003/tcp"), "{message}");
    // A port that is taken is an error, and the first pod keeps it.
    let message = world.refused(&server.replace("name: ports", "name: second"));
    assert!(message.contains("7001"), "{message}");
    assert_eq!(ask(&world, "127.0.0.1:7001"), answer);
    world.stop("ports");
    assert_eq!(ask(&world, "127.0.0.1:7001"), None);
    assert!(
        world
            .host()
            .command("ip")
            .args(["link", "del", "outside"])
            .status()
            .unwrap()
            .success()
    );
    world.end();
}

#[test]
fn pods_reach_each_other_and_the_machine_s_network_when_asked() {
    let world = World::new();
    world.detach(&SERVER.replace("    HERE\n", ""));
    let status = world.status("ports");
    let address = status["podIP"].as_str().unwrap().to_owned();
    let output = world.succeeds(&format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: caller}}
spec:
  restartPolicy: Never
  containers:
  - {{name: main, image: busybox, command: [nc, -w, '2', '{address}', '7000']}}
"
    ));
    assert_lines(&output, &["tcp answers"]);
    let output = world.succeeds(
        r"
apiVersion: v1
kind: Pod
metadata: {name: guest}
spec:
  restartPolicy: Never
  hostNetwork: true
  containers:
  - {name: main, image: busybox, command: [nc, -w, '2', 127.0.0.1, '7001']}
",
    );
    assert_lines(&output, &["tcp answers"]);
    world.stop("ports");
    world.end();
}

#[test]
fn names_and_resolvers_are_those_of_the_pod() {
    let world = World::new();
    let output = world.succeeds(
        r"
apiVersion: v1
kind: Pod
metadata: {name: named}
spec:
  restartPolicy: Never
  hostname: flagship
  subdomain: fleet
  hostAliases:
  - {ip: 192.0.2.1, hostnames: [harbour, harbour.example]}
  dnsPolicy: None
  dnsConfig:
    nameservers: [192.0.2.53, '2001:db8::53']
    searches: [fleet.example]
    options: [{name: ndots, value: '2'}, {name: edns0}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'hostname; echo fqdn $(hostname -f); cat /etc/resolv.conf; cat /etc/hosts | tr `\t` ` `; echo again; cat /etc/hostname']
"
        .replace('`', "\"")
        .as_str(),
    );
    assert_lines(
        &output,
        &[
            "flagship",
            "nameserver 192.0.2.53",
            "nameserver 2001:db8::53",
            "search fleet.example",
            "options ndots:2 edns0",
            "192.0.2.1 harbour harbour.example",
            "fqdn flagship.fleet.default.svc.cluster.local",
        ],
    );
    assert!(output.contains("127.0.0.1 localhost"), "{output}");
    assert!(
        output.split_once("again").unwrap().1.contains("flagship"),
        "{output}"
    );
    let output = world.succeeds(
        r"
apiVersion: v1
kind: Pod
metadata: {name: qualified}
spec:
  restartPolicy: Never
  subdomain: fleet
  setHostnameAsFQDN: true
  dnsPolicy: Default
  dnsConfig: {searches: [more.example]}
  containers:
  - {name: main, image: busybox, command: [sh, -c, 'hostname; cat /etc/resolv.conf']}
",
    );
    assert_lines(&output, &["qualified.fleet.default.svc.cluster.local"]);
    assert!(output.contains("more.example"), "{output}");
    world.end();
}
