//! Several servers on one etcd: joining, leading, dying, freezing, and etcd's own troubles.
//!
//! ```text
//!   host 0              host 1              host 2              host 3
//!   server, node, etcd  server, node, etcd  server, node, etcd  node
//! ```

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_scheduler::trust::authority::Authority;
use berth_tests::etcd::{Etcd, Tls};
use berth_tests::patience::stretched;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::world::{Cluster, join_words, text};

/// One that lives and reaches nobody.
#[path = "servers/cut_off.rs"]
mod cut_off;

const PATIENCE: Duration = Duration::from_secs(90);
/// The host without a server.
const NODE: usize = 3;

/// Three hosts with a member of etcd each, and one more; no berth on them yet.
struct World {
    // Dropped in this order: nodes before their store.
    cluster: Cluster,
    etcd: Etcd,
    tls: Option<Tls>,
}

/// How to speak with etcd.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Plain,
    Encrypted,
}

impl World {
    fn new(wire: Wire) -> World {
        let cluster = Cluster::hosts(4);
        let address = |index: usize| IpAddr::from(cluster.fabric().address(index));
        let tls = (wire == Wire::Encrypted).then(|| {
            let addresses: Vec<IpAddr> = (0..3).map(address).collect();
            files_of_etcd(&cluster, &addresses)
        });
        let hosts: Vec<_> = (0..3)
            .map(|index| (cluster.host(index), address(index)))
            .collect();
        let etcd = Etcd::start_on(&hosts, tls.clone()).unwrap();
        World { cluster, etcd, tls }
    }

    /// The store as `--store` has it, with the files that go with it.
    fn store(&self) -> Vec<String> {
        let mut words = vec![
            "--store".to_owned(),
            format!("etcd://{}", self.etcd.endpoints().join(",")),
        ];
        if let Some(tls) = &self.tls {
            for (flag, path) in [
                ("--store-ca", &tls.authority),
                ("--store-cert", &tls.clients.0),
                ("--store-key", &tls.clients.1),
            ] {
                words.extend([flag.to_owned(), path.display().to_string()]);
            }
        }
        words
    }

    fn init(&self) -> Vec<String> {
        let store = self.store();
        let words: Vec<&str> = store.iter().map(String::as_str).collect();
        self.cluster.init(0, &words)
    }

    /// Servers on the first three hosts; the fourth joins by the one that leads.
    fn with_servers(wire: Wire) -> World {
        let world = World::new(wire);
        world.init();
        let cluster = &world.cluster;
        let said = cluster.berth(0, &["cluster", "token", "create", "--server"]);
        let join = join_words(&said).unwrap();
        std::thread::scope(|scope| {
            for index in [1, 2] {
                let join = &join;
                scope.spawn(move || cluster.join(index, join));
            }
        });
        let leader = world.until_somebody_leads(0, &[]);
        let said = cluster.berth(leader, &["cluster", "token", "create"]);
        cluster.join(NODE, &join_words(&said).unwrap());
        world.until_servers_are(leader, &[0, 1, 2]);
        world
    }

    /// The host whose server leads, as the server of host `by` sees it.
    fn leader(&self, by: usize) -> Result<usize> {
        let slice = self.slice(by)?;
        let leader = slice["metadata"]["annotations"]["berth.dev/leader"]
            .as_str()
            .context("nobody leads")?;
        let leader: SocketAddr = leader.parse()?;
        let found = (0..3).find(|index| self.cluster.server(*index) == leader);
        found.with_context(|| format!("{leader} is nobody"))
    }

    /// Waits until a server leads that is none of these.
    fn until_somebody_leads(&self, by: usize, but: &[usize]) -> usize {
        let mut found = None;
        self.cluster.until("a server leads", PATIENCE, || {
            let leader = self.leader(by)?;
            ensure!(!but.contains(&leader), "host {leader} leads");
            found = Some(leader);
            Ok(())
        });
        found.unwrap()
    }

    /// The EndpointSlice of Service kubernetes, of the server of host `by`.
    fn slice(&self, by: usize) -> Result<Value> {
        let words = ["-o", "json", "get", "endpointslice", "kubernetes"];
        let output = self.cluster.output(by, &words);
        ensure!(output.status.success(), "{}", text(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Waits until the Service kubernetes leads to these servers and no others.
    fn until_servers_are(&self, by: usize, wanted: &[usize]) {
        let address = |index: &usize| self.cluster.fabric().address(*index).to_string();
        let wanted: Vec<String> = wanted.iter().map(address).collect();
        self.cluster
            .until("the endpoints are the servers", PATIENCE, || {
                let slice = self.slice(by)?;
                let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
                let addresses = endpoints.iter();
                let mut found: Vec<String> = addresses
                    .filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned))
                    .collect();
                found.sort();
                ensure!(found == wanted, "{found:?} and not {wanted:?}");
                Ok(())
            });
    }

    /// Waits until a node is ready, as the server of host `by` sees it.
    fn until_ready(&self, by: usize, index: usize) {
        self.cluster.until("the node is ready", PATIENCE, || {
            let state = self.state_of(by, index)?;
            ensure!(state == "Ready", "host {index} is {state}");
            Ok(())
        });
    }

    fn state_of(&self, by: usize, index: usize) -> Result<String> {
        let output = self.cluster.output(by, &["cluster", "nodes"]);
        let (rows, name) = (text(&output.stdout), self.cluster.node(index));
        let row = rows.lines().find(|row| row.starts_with(&name));
        let row = row.with_context(|| format!("{rows}{}", text(&output.stderr)))?;
        Ok(row.split_whitespace().nth(1).unwrap_or_default().to_owned())
    }

    /// Applies a manifest by the server of a host.
    fn apply(&self, by: usize, manifest: &str) -> Result<()> {
        let file = self.cluster.host(by).work_dir().join("manifest.yaml");
        std::fs::write(&file, manifest)?;
        let words = ["apply", "-f", &file.display().to_string()];
        let output = self.cluster.output(by, &words);
        ensure!(output.status.success(), "{}", text(&output.stderr));
        Ok(())
    }

    /// Pods with a label, and how many of them run.
    fn pods(&self, by: usize, label: &str) -> Result<(Vec<String>, usize)> {
        let output = self.cluster.output(by, &["get", "pods", "-l", label]);
        ensure!(output.status.success(), "{}", text(&output.stderr));
        let rows = text(&output.stdout);
        let rows: Vec<&str> = rows.lines().skip(1).collect();
        let running = rows.iter().filter(|row| row.contains("Running")).count();
        let name = |row: &&str| row.split_whitespace().next().unwrap_or_default().to_owned();
        Ok((rows.iter().map(name).collect(), running))
    }

    fn until_running(&self, by: usize, label: &str, wanted: usize) {
        self.cluster.until("pods run", PATIENCE, || {
            let (names, running) = self.pods(by, label)?;
            let words = ["get", "events"];
            ensure!(
                running == wanted,
                "{running} run of {names:?}\n{}",
                text(&self.cluster.output(by, &words).stdout)
            );
            Ok(())
        });
    }

    fn signal(&self, index: usize, signal: Signal) {
        let pid = self.cluster.process(index).expect("the process runs");
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// The hosts whose servers a host's processes are connected to.
    fn connected_to(&self, index: usize) -> Vec<usize> {
        let host = self.cluster.host(index);
        let words = ["-Htn", "state", "established", "dport", "=", ":6443"];
        let output = host.command("ss").args(words).output().unwrap();
        let rows = text(&output.stdout);
        let is = |server: &usize| rows.contains(&self.cluster.server(*server).to_string());
        (0..3).filter(is).collect()
    }

    /// Sees to it that a node speaks to this server, as it does by itself where the machine
    /// was quick: the ways to the other two are shut until then.
    fn lead_to(&self, index: usize, server: usize) {
        if self.connected_to(index).contains(&server) {
            return;
        }
        eprintln!("host {index} has left server {server}, and is led back");
        let mut rules = "add table inet led; \
             add chain inet led out { type filter hook output priority 0; }; "
            .to_owned();
        for other in (0..3).filter(|other| *other != server) {
            let address = self.cluster.server(other);
            let family = if address.is_ipv4() { "ip" } else { "ip6" };
            rules += &format!(
                "add rule inet led out {family} daddr {} tcp dport {} reject with tcp reset; ",
                address.ip(),
                address.port()
            );
        }
        self.rule(index, &rules);
        self.cluster
            .until("the node goes to the leader", PATIENCE, || {
                let connected = self.connected_to(index);
                ensure!(connected.contains(&server), "it speaks to {connected:?}");
                Ok(())
            });
        self.rule(index, "delete table inet led");
    }

    /// Changes the nftables rules of a host.
    fn rule(&self, index: usize, rules: &str) {
        let host = self.cluster.host(index);
        let output = host.command("nft").arg(rules).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// Certificates for etcd's members and clients, of an authority that is not berth's.
fn files_of_etcd(cluster: &Cluster, addresses: &[IpAddr]) -> Tls {
    let directory = cluster.fabric().outside().directory().to_owned();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let authority = Authority::create().unwrap();
    let members = authority.server(&[], addresses).unwrap();
    let clients = authority.admin().unwrap();
    Tls {
        authority: write("etcd-ca.crt", authority.certificate()),
        members: (
            write("etcd-member.crt", &members.certificate),
            write("etcd-member.key", &members.key),
        ),
        clients: (
            write("etcd-client.crt", &clients.certificate),
            write("etcd-client.key", &clients.key),
        ),
    }
}

/// Pods with a web server, on the host without a cluster's server.
fn web(replicas: usize) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      nodeSelector: {{kubernetes.io/hostname: host-{NODE}}}
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox
        command: [sh, -c, 'echo here > /index.html; exec httpd -f -p 80 -h /']
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  clusterIP: 10.211.7.7
  selector: {{app: web}}
  ports: [{{port: 80}}]
"
    )
}

#[test]
fn servers_join_with_a_token_for_servers_and_trust_is_the_same_on_all() {
    let world = World::new(Wire::Encrypted);
    let cluster = &world.cluster;
    let for_nodes = world.init();
    let refused = |index: usize, token: &str, reason: &str| {
        let node = cluster.node(index);
        let words = ["cluster", "join", "--server", "--name", &node, "--token"];
        let words = [&words[..], &[token, "10.99.0.1"]].concat();
        let said = cluster.berth_fails(index, &words);
        assert!(said.contains(reason), "{reason:?} is not in {said}");
        assert!(said.contains("nothing was left behind"), "{said}");
        assert!(!cluster.host(index).data_dir().join("server").exists());
    };
    let token = for_nodes[for_nodes.len() - 2].as_str();
    refused(1, token, "lets in nodes and no servers");
    let (id, rest) = token.split_once('.').unwrap();
    let wrong = format!("{id}.aaaaaaaaaaaaaaaa{}", &rest[16..]);
    refused(1, &wrong, "not one of this cluster");
    let create = ["cluster", "token", "create", "--server", "-q"];
    let expired = cluster.berth(0, &[&create[..], &["--ttl", "1s"]].concat());
    std::thread::sleep(Duration::from_millis(2100));
    refused(1, expired.trim(), "expired at");
    // The store has a cluster: nobody begins another one in it.
    let store = world.store();
    let words: Vec<&str> = ["cluster", "init"]
        .into_iter()
        .chain(store.iter().map(String::as_str))
        .collect();
    let said = cluster.berth_fails(1, &words);
    assert!(said.contains("berth cluster join --server"), "{said}");

    let said = cluster.berth(
        0,
        &["cluster", "token", "create", "--server", "--uses", "2"],
    );
    let join = join_words(&said).unwrap();
    assert!(join.contains(&"--server".to_owned()), "{join:?}");
    std::thread::scope(|scope| {
        for index in [1, 2] {
            let join = &join;
            scope.spawn(move || cluster.join(index, join));
        }
    });
    refused(NODE, &join[join.len() - 2], "spent");
    world.until_servers_are(2, &[0, 1, 2]);

    // A token of one server is good at another one.
    let said = cluster.berth(2, &["cluster", "token", "create"]);
    let mut by_another = join_words(&said).unwrap();
    let last = by_another.len() - 1;
    assert_eq!(by_another[last], "10.99.0.3:6443");
    by_another[last] = "10.99.0.2:6443".to_owned();
    cluster.join(NODE, &by_another);
    let nodes = cluster.berth(NODE, &["cluster", "nodes"]);
    let count = |role: &str| {
        let is = |row: &&str| row.split_whitespace().nth(2) == Some(role);
        nodes.lines().filter(is).count()
    };
    let roles = (count("server"), count("server,leader"), count("node"));
    assert_eq!(roles, (2, 1, 1), "{nodes}");
    let rows = cluster.berth(1, &["get", "nodes"]);
    assert_eq!(rows.matches("control-plane").count(), 3, "{rows}");

    // The node knows them all, also when it starts again.
    let file = cluster.host(NODE).data_dir().join("node/servers.json");
    cluster.until("the node learns the servers", PATIENCE, || {
        let known = std::fs::read_to_string(&file)?;
        ensure!(known.matches("6443").count() == 3, "{known}");
        Ok(())
    });

    // The authority's key is on the servers, and neither in etcd nor on a node.
    let all = world.etcd.etcdctl(0, &["get", "", "--prefix"]).unwrap();
    assert!(all.contains("BEGIN CERTIFICATE") && !all.contains("PRIVATE KEY"));
    let key = |index: usize| cluster.host(index).data_dir().join("server/pki/ca.key");
    let first = std::fs::read(key(0)).unwrap();
    assert!(
        [1, 2]
            .iter()
            .all(|index| std::fs::read(key(*index)).unwrap() == first)
    );
    assert!(!key(NODE).exists());

    // A node that is removed at one server is refused by all.
    let pki = cluster.host(NODE).data_dir().join("node/pki");
    let ask = |server: usize| {
        let address = cluster.server(server);
        let output = cluster
            .host(NODE)
            .command("curl")
            .args(["-sS", "--max-time", "10", "-w", "%{http_code}"])
            .args(["--connect-to", &format!("kubernetes:6443:{address}")])
            .arg("--cacert")
            .arg(pki.join("ca.crt"))
            .arg("--cert")
            .arg(pki.join("node.crt"))
            .arg("--key")
            .arg(pki.join("node.key"))
            .arg("https://kubernetes:6443/api/v1/nodes/host-0")
            .output()
            .unwrap();
        text(&output.stdout)
    };
    for server in 0..3 {
        let said = ask(server);
        assert!(said.ends_with("200"), "{said}");
    }
    cluster.berth(0, &["delete", "node", "host-3"]);
    for server in 0..3 {
        cluster.until("a removed node is refused", PATIENCE, || {
            let said = ask(server);
            ensure!(said.ends_with("401") && said.contains("revoked"), "{said}");
            Ok(())
        });
    }
}

#[test]
fn servers_leave_until_the_last_one() {
    let world = World::with_servers(Wire::Plain);
    let cluster = &world.cluster;
    // The one that leads goes, and another leads without waiting for a lease.
    let first = world.until_somebody_leads(0, &[]);
    cluster.berth(first, &["cluster", "leave"]);
    let others: Vec<usize> = (0..3).filter(|index| *index != first).collect();
    let second = world.until_somebody_leads(others[0], &[first]);
    world.until_servers_are(second, &others);
    assert!(!cluster.host(first).data_dir().join("server").exists());
    let nodes = cluster.berth(NODE, &["-o", "name", "cluster", "nodes"]);
    assert!(!nodes.contains(&cluster.node(first)), "{nodes}");
    // One that left may come again.
    let said = cluster.berth(others[0], &["cluster", "token", "create", "--server"]);
    cluster.join(first, &join_words(&said).unwrap());
    world.until_servers_are(first, &[0, 1, 2]);
    cluster.berth(first, &["cluster", "leave"]);
    cluster.berth(others[0], &["cluster", "leave"]);
    world.until_servers_are(others[1], &[others[1]]);
    let said = cluster.berth_fails(others[1], &["cluster", "leave"]);
    assert!(said.contains("no other server"), "{said}");
    world.until_ready(others[1], NODE);
    cluster.berth(NODE, &["cluster", "leave"]);
    let said = cluster.berth(others[1], &["cluster", "leave", "--destroy-cluster"]);
    assert!(said.contains("etcdctl del"), "{said}");
}

#[test]
fn another_server_leads_when_one_dies_and_nodes_go_to_it() {
    let world = World::with_servers(Wire::Plain);
    let cluster = &world.cluster;
    let first = world.until_somebody_leads(0, &[]);
    world.apply(first, &web(1)).unwrap();
    world.until_running(first, "app=web", 1);
    // It joined by the one that leads, and stays with that.
    world.lead_to(NODE, first);
    let others: Vec<usize> = (0..3).filter(|index| *index != first).collect();
    let killed = Instant::now();
    cluster.kill(first);
    let second = world.until_somebody_leads(others[0], &[first]);
    eprintln!("another server leads after {:?}", killed.elapsed());
    world.until_servers_are(second, &others);
    eprintln!("the dead one is no endpoint after {:?}", killed.elapsed());
    assert!(others.contains(&second));
    world.apply(others[0], &web(3)).unwrap();
    world.until_running(others[1], "app=web", 3);
    assert!(!world.connected_to(NODE).contains(&first));
    world.until_ready(second, NODE);
    // A node that starts while the server that it joined by is away goes by its memory.
    cluster.kill(NODE);
    cluster.restart(NODE);
    world.apply(others[0], &web(4)).unwrap();
    world.until_running(others[1], "app=web", 4);
    cluster.restart(first);
    world.until_servers_are(second, &[0, 1, 2]);
    world.until_ready(first, first);
}

/// A process that is stopped keeps its connections, and believes to lead when it goes on.
#[test]
fn a_server_that_freezes_is_left_by_its_nodes_and_leads_no_longer() {
    let world = World::with_servers(Wire::Plain);
    let cluster = &world.cluster;
    let frozen = world.until_somebody_leads(0, &[]);
    let by = (frozen + 1) % 3;
    world.apply(by, &web(1)).unwrap();
    world.until_running(by, "app=web", 1);
    world.lead_to(NODE, frozen);
    // Frozen in the middle of its work: pods that fit nowhere are made, four hundred of them.
    let storm = "
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: storm}
spec:
  replicas: 400
  selector: {matchLabels: {app: storm}}
  template:
    metadata: {labels: {app: storm}}
    spec:
      nodeSelector: {nowhere: 'true'}
      containers: [{name: main, image: busybox}]
";
    world.apply(by, storm).unwrap();
    cluster.until("the storm begins", PATIENCE, || {
        let (names, _) = world.pods(by, "app=storm")?;
        ensure!(!names.is_empty(), "no pod yet");
        Ok(())
    });
    world.signal(frozen, Signal::STOP);
    let began = Instant::now();
    let next = world.until_somebody_leads(by, &[frozen]);
    eprintln!("another server leads after {:?}", began.elapsed());
    let others: Vec<usize> = (0..3).filter(|index| *index != frozen).collect();
    world.until_servers_are(next, &others);
    // The node has left the frozen server before it was taken for dead.
    let is_ready = |index: usize| {
        let state = world.state_of(by, index).unwrap();
        assert_eq!(state, "Ready", "host {index} after {:?}", began.elapsed());
    };
    is_ready(NODE);
    world.apply(by, &web(2)).unwrap();
    world.until_running(by, "app=web", 2);
    is_ready(NODE);
    cluster.until("the node has left the frozen server", PATIENCE, || {
        let connected = world.connected_to(NODE);
        ensure!(!connected.contains(&frozen), "it speaks to {connected:?}");
        Ok(())
    });
    let four_hundred = || {
        let (names, _) = world.pods(by, "app=storm")?;
        ensure!(names.len() == 400, "{}", names.len());
        Ok(())
    };
    cluster.until("all pods are there", PATIENCE, four_hundred);
    world.signal(frozen, Signal::CONT);
    // Whatever it was about to write when it was stopped is not written.
    let deadline = Instant::now() + stretched(Duration::from_secs(5));
    while Instant::now() < deadline {
        four_hundred().unwrap();
    }
    world.until_servers_are(next, &[0, 1, 2]);
    assert_eq!(world.leader(frozen).unwrap(), next, "it knows who leads");
    let log = cluster.host(frozen).data_dir().join("node/berth.log");
    cluster.until("it says that it leads no longer", PATIENCE, || {
        let log = std::fs::read_to_string(&log)?;
        ensure!(log.contains("leads no longer"), "it does not");
        Ok(())
    });
    world.until_ready(by, frozen);
}

/// `berth get -w`, and what it has printed.
struct Watch {
    child: Child,
    file: PathBuf,
}

impl Watch {
    fn start(world: &World, by: usize) -> Watch {
        let file = world.cluster.host(by).work_dir().join("watched");
        let output = std::fs::File::create(&file).unwrap();
        let mut command = world.cluster.command(by, &["get", "configmaps", "-w"]);
        let child = command.stdout(output).stderr(Stdio::piped()).spawn();
        Watch {
            child: child.unwrap(),
            file,
        }
    }

    fn has(&mut self, name: &str) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let mut said = String::new();
            if let Some(mut pipe) = self.child.stderr.take() {
                pipe.read_to_string(&mut said)?;
            }
            ensure!(false, "the watch has ended: {status} {said}");
        }
        let rows = std::fs::read_to_string(&self.file)?;
        ensure!(rows.contains(name), "it has told {rows}");
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn etcd_loses_a_member_and_its_majority_and_all_goes_on_afterwards() {
    let mut world = World::with_servers(Wire::Plain);
    let by = world.until_somebody_leads(0, &[]);
    world.apply(by, &web(1)).unwrap();
    world.until_running(by, "app=web", 1);
    let (before, _) = world.pods(by, "app=web").unwrap();
    let mut watch = Watch::start(&world, by);
    let note = |number: usize| {
        format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: note-{number}}}}}")
    };
    let mut written = Vec::new();
    let mut write = |world: &World, server: usize, number: usize| {
        let outcome = world.apply(server, &note(number));
        if outcome.is_ok() {
            written.push(format!("note-{number}"));
        }
        outcome
    };
    write(&world, by, 0).unwrap();
    world
        .cluster
        .until("the watch tells", PATIENCE, || watch.has("note-0"));

    // One of three: nobody notices but for a moment.
    let lost = world.etcd.leader().unwrap();
    world.etcd.kill(lost).unwrap();
    for number in 1..4 {
        write(&world, number % 3, number).unwrap();
    }
    world
        .cluster
        .until("the watch goes on", PATIENCE, || watch.has("note-3"));

    // Two of three: whoever asks is told, and what runs goes on.
    let also = (lost + 1) % 3;
    world.etcd.kill(also).unwrap();
    for server in 0..3 {
        let asked = Instant::now();
        let refused = write(&world, server, 4).unwrap_err().to_string();
        eprintln!("refused after {:?}: {refused}", asked.elapsed());
        assert!(refused.contains("store is not available"), "{refused}");
    }
    let said = world
        .cluster
        .berth_fails(by, &["get", "configmap", "note-0"]);
    assert!(said.contains("store is not available"), "{said}");
    // A server that starts meanwhile waits, and its node lives.
    let third = (by + 1) % 3;
    world.cluster.kill(third);
    world.cluster.restart(third);
    // Longer than every lease.
    std::thread::sleep(Duration::from_secs(8));
    for address in ["10.211.7.7:80", "10.211.0.1:443"] {
        let (host, address) = (world.cluster.host(NODE), address.parse().unwrap());
        host.connect(address).unwrap();
    }
    let service = "10.211.7.7:80".parse().unwrap();
    let page = world.cluster.host(NODE).get(service, "/").unwrap();
    assert_eq!(page.text().trim(), "here");
    for index in 0..4 {
        assert!(world.cluster.process(index).is_some(), "host {index}");
    }

    let returned = Instant::now();
    world.etcd.restart(lost).unwrap();
    world.etcd.restart(also).unwrap();
    world.cluster.until("writes go on", PATIENCE, || {
        write(&world, 0, 5)?;
        write(&world, 1, 6)?;
        write(&world, 2, 7)
    });
    eprintln!("writes go on after {:?}", returned.elapsed());
    world.until_somebody_leads(by, &[]);
    let maps = world.cluster.berth(by, &["get", "configmaps"]);
    for name in &written {
        assert!(maps.contains(name.as_str()), "{name} is lost:\n{maps}");
    }
    world
        .cluster
        .until("the watch resumes", PATIENCE, || watch.has("note-7"));
    for index in 0..4 {
        world.until_ready(by, index);
    }
    world.apply(by, &web(2)).unwrap();
    world.until_running(by, "app=web", 2);
    eprintln!("all goes on after {:?}", returned.elapsed());
    let (after, _) = world.pods(by, "app=web").unwrap();
    assert!(after.contains(&before[0]), "{before:?} became {after:?}");
    world.until_servers_are(by, &[0, 1, 2]);
}
