//! What happens to two machines, chapter by chapter. Each begins with what the one
//! before left.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use berth_tests::load::Load;
use berth_tests::patience::stretched;
use serde_json::Value;

use crate::pair::{BOTH, Pair, Place};
use Place::{One, Two};

/// Until something that is under way is done.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two requests of the client during an update.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the wire is cut: the node is found lost, and its pods are made anew.
const CUT: Duration = Duration::from_secs(15);
/// The port of the example's Service on all nodes.
const PORT: u16 = 30080;

/// A title, and what happens.
type Chapter = (&'static str, fn(&Pair));

/// The story, in its order.
const CHAPTERS: &[Chapter] = &[
    (
        "berth is installed where systemd owns cgroup version 2",
        install,
    ),
    (
        "a node that cannot start says why and leaves nothing",
        fail_to_begin,
    ),
    ("systemd starts both nodes", begin),
    (
        "a deployment and two single pods run on both machines",
        spread_pods,
    ),
    ("version 2 bounds what pods take", bound_pods),
    (
        "pods, services and names reach across the wire",
        reach_each_other,
    ),
    ("logs and commands come from the other machine", look_inside),
    ("an update goes unnoticed by clients", update),
    (
        "systemd starts a killed node again, and pods live on",
        kill_nodes,
    ),
    ("a node that systemd stops leaves its pods", stop_node),
    ("a drained machine is empty and comes back", drain),
    (
        "a machine whose wire is cut is replaced and comes back",
        cut_wire,
    ),
    ("a machine leaves, and the last one ends the cluster", leave),
];

/// Which chapters are told, where not all: numbers and ranges between commas, as `1,3,4,7-`.
const VARIABLE: &str = "BERTH_CHAPTERS";

/// Tells it all, or what is asked for.
pub fn tell(pair: &Pair) {
    let asked = std::env::var(VARIABLE).unwrap_or_else(|_| "1-".to_owned());
    for (number, (title, chapter)) in (1..).zip(CHAPTERS) {
        if is_asked(&asked, number) {
            pair.say(&format!("{number}. {title}"));
            chapter(pair);
        }
    }
    pair.say("the end");
}

fn is_asked(asked: &str, number: usize) -> bool {
    let bound = |text: &str, open: usize| match text {
        "" => open,
        text => text
            .parse()
            .unwrap_or_else(|error| panic!("{VARIABLE} is {asked:?}: {text:?}: {error}")),
    };
    asked.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        (bound(first, 1)..=bound(last, usize::MAX)).contains(&number)
    })
}

fn install(pair: &Pair) {
    for place in BOTH {
        let kind = pair.run(place, &["stat", "-fc", "%T", "/sys/fs/cgroup"]);
        assert_eq!(kind, "cgroup2fs\n", "on {place:?}");
        pair.run(place, &["../x", "install"]);
        let state = pair.output(place, &["systemctl", "is-enabled", "berth-node"], "");
        assert_eq!(state.stdout, "disabled\n", "on {place:?}: {}", state.stderr);
    }
}

fn fail_to_begin(pair: &Pair) {
    let folder = "/etc/systemd/system/berth-node.service.d";
    let broken = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo no luck today; exit 3'\n";
    pair.write(One, &format!("{folder}/broken.conf"), broken);
    pair.run(One, &["systemctl", "daemon-reload"]);
    let address = pair.address(One).to_string();
    let words = ["berth", "cluster", "init", "--advertise-addr", &address];
    let said = pair.output(One, &words, "");
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("no luck today"), "{}", said.stderr);
    assert!(
        said.stderr.contains("nothing was left behind"),
        "{}",
        said.stderr
    );
    pair.run(One, &["rm", "-r", folder]);
    pair.run(One, &["systemctl", "daemon-reload"]);
    let state = pair.output(One, &["systemctl", "is-enabled", "berth-node"], "");
    assert_eq!(state.stdout, "disabled\n", "{}", state.stderr);
}

fn begin(pair: &Pair) {
    let patience = stretched(Duration::from_secs(90)).as_secs().to_string();
    let address = pair.address(One).to_string();
    let words = [
        "cluster",
        "init",
        "--timeout",
        &patience,
        "--advertise-addr",
        &address,
    ];
    let said = pair.berth(&words);
    let line = said
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("berth cluster join "))
        .unwrap_or_else(|| panic!("no line to join with in:\n{said}"));
    let mut join: Vec<&str> = line.split_whitespace().collect();
    join.extend(["--timeout", &patience]);
    pair.run(Two, &join);
    for place in BOTH {
        pair.until_ready(place, "True");
        assert_eq!(
            pair.run(place, &["systemctl", "is-active", "berth-node"]),
            "active\n"
        );
        assert_eq!(
            pair.run(place, &["systemctl", "is-enabled", "berth-node"]),
            "enabled\n"
        );
        // Each asks with its own certificate.
        let nodes = pair.run(place, &["berth", "-o", "name", "cluster", "nodes"]);
        assert_eq!(nodes, "one\ntwo\n");
    }
    if std::path::Path::new(KUBECTL).exists() {
        pair.until("kubectl sees both", PATIENCE, || {
            let nodes = kubectl(pair, &["get", "nodes", "--no-headers"])?;
            ensure!(nodes.matches(" Ready ").count() == 2, "{nodes}");
            Ok(())
        });
    }
}

/// Where `./x test` builds it; the suites start in their own folder.
const KUBECTL: &str = "../target/kubelet/kubectl";

fn kubectl(pair: &Pair, words: &[&str]) -> Result<String> {
    let kubeconfig = "--kubeconfig=/var/lib/berth/server/admin.kubeconfig";
    pair.try_run(
        One,
        &[&[KUBECTL, kubeconfig, "--cache-dir=/tmp/kube"], words].concat(),
    )
}

/// A pod that stays on its machine whatever becomes of the node's process.
fn single(place: Place) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: single-{name}, labels: {{app: single}}}}
spec:
  nodeName: {name}
  terminationGracePeriodSeconds: 1
  tolerations: [{{operator: Exists, effect: NoExecute}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'echo hello from {name}; mkdir /page; hostname > /page/index.html; exec httpd -f -h /page']
    resources: {{limits: {{memory: 48Mi, cpu: 500m}}}}
",
        name = place.name()
    )
}

fn spread_pods(pair: &Pair) {
    for place in BOTH {
        pair.apply(&single(place));
    }
    roll_out(pair, "1");
    for place in BOTH {
        let name = format!("single-{}", place.name());
        pair.until("a single pod runs", PATIENCE, || {
            address_of(pair, &name).map(drop)
        });
    }
    spread_replicas(pair);
}

/// Sees that both machines have a replica. One that was not ready for a moment, as happens
/// under emulation, was left out, and is not when all are made anew.
fn spread_replicas(pair: &Pair) {
    pair.until("both machines have a replica", PATIENCE, || {
        let pods = web_pods(pair)?;
        let nodes: BTreeSet<&String> = pods.iter().map(|pod| &pod.node).collect();
        if nodes.len() < 2 {
            pair.berth(&["rollout", "restart", "deployment/web"]);
            rolled_out(pair);
        }
        ensure!(nodes.len() == 2, "replicas are on {nodes:?}");
        Ok(())
    });
}

/// The example of a service, as it is for users, with a version for its page.
fn roll_out(pair: &Pair, version: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cluster.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let wanted = "value: \"1\"";
    assert!(text.contains(wanted), "the example states its version");
    pair.apply(&text.replace(wanted, &format!("value: \"{version}\"")));
    rolled_out(pair);
}

fn rolled_out(pair: &Pair) {
    let patience = stretched(PATIENCE).as_secs().to_string();
    let words = [
        "berth",
        "rollout",
        "status",
        "deployment/web",
        "--timeout",
        &patience,
    ];
    if let Err(error) = pair.try_run(One, &words) {
        let pods = pair.output(One, &["berth", "get", "pods,events", "-o", "wide"], "");
        panic!("{error:#}\n{}\n{}", pods.stdout, pair.logs());
    }
}

/// A pod of the service that serves and is not ending.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct WebPod {
    name: String,
    node: String,
    address: String,
}

fn web_pods(pair: &Pair) -> Result<Vec<WebPod>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = pair.objects(&["pods", "-l", "app=web"])?.into_iter();
    let mut pods: Vec<WebPod> = pods
        .filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true)
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| WebPod {
            name: text(&pod["metadata"]["name"]),
            node: text(&pod["spec"]["nodeName"]),
            address: text(&pod["status"]["podIP"]),
        })
        .collect();
    pods.sort();
    Ok(pods)
}

fn address_of(pair: &Pair, pod: &str) -> Result<String> {
    let pod = &pair.objects(&["pod", pod])?[0];
    let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
    ensure!(ready, "{}", pod["status"]);
    Ok(pod["status"]["podIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// What tells whether a container is the same one.
fn identity_of(pair: &Pair, pod: &str) -> Result<String> {
    let status = &pair.objects(&["pod", pod])?[0]["status"]["containerStatuses"][0];
    ensure!(status["state"]["running"].is_object(), "{status}");
    Ok(format!(
        "{} {}",
        status["containerID"], status["restartCount"]
    ))
}

fn bound_pods(pair: &Pair) {
    for place in BOTH {
        let pod = format!("single-{}", place.name());
        let bound = |file: &str| {
            pair.exec(&pod, &["cat", &format!("/sys/fs/cgroup/{file}")])
                .unwrap()
        };
        assert_eq!(bound("memory.max"), format!("{}\n", 48 << 20));
        assert_eq!(bound("cpu.max"), "50000 100000\n");
        // systemd has the tree, and has left the pods' part of it alone.
        let controllers = pair.run(
            place,
            &["cat", "/sys/fs/cgroup/berth/cgroup.subtree_control"],
        );
        for controller in ["cpu", "memory", "pids"] {
            assert!(controllers.contains(controller), "{controllers}");
        }
    }
}

fn reach_each_other(pair: &Pair) {
    let service = pair.objects(&["service", "web"]).unwrap();
    let service = service[0]["spec"]["clusterIP"].as_str().unwrap().to_owned();
    for place in BOTH {
        let single = format!("single-{}", place.name());
        pair.until(&format!("all pods answer {single}"), PATIENCE, || {
            for pod in web_pods(pair)? {
                let page = fetch(pair, &single, &pod.address)?;
                ensure!(
                    page.trim() == format!("version 1 on {}", pod.node),
                    "{page:?}"
                );
            }
            Ok(())
        });
        for address in ["web", "web.default.svc.cluster.local", &service] {
            pair.until(&format!("{address} answers {single}"), PATIENCE, || {
                let page = fetch(pair, &single, address)?;
                ensure!(page.starts_with("version 1 on "), "{page:?}");
                Ok(())
            });
        }
        // Names of the cluster, and the way back: an address's name.
        let found = pair
            .exec(&single, &["nslookup", "web.default.svc.cluster.local"])
            .unwrap();
        assert!(found.contains(&service), "{found}");
        // Whichever machine is asked, both machines' pods answer.
        for target in [
            format!("{}:{PORT}", pair.address(One)),
            format!("{}:{PORT}", pair.address(Two)),
            service.clone(),
        ] {
            let mut seen = BTreeSet::new();
            pair.until(&format!("both answer at {target}"), PATIENCE, || {
                seen.insert(pair.ask(place, &target)?.trim().to_owned());
                ensure!(seen.len() == 2, "{seen:?}");
                Ok(())
            });
        }
    }
}

/// A page, asked by a program in a pod. Debian's static BusyBox has a wget whose own limit
/// (`-T`) ends it by a segmentation fault.
fn fetch(pair: &Pair, pod: &str, address: &str) -> Result<String> {
    let limit = stretched(Duration::from_secs(3)).as_secs().to_string();
    let url = format!("http://{address}/");
    pair.exec(pod, &["timeout", &limit, "wget", "-q", "-O", "-", &url])
}

fn look_inside(pair: &Pair) {
    for place in BOTH {
        let (name, pod) = (place.name(), format!("single-{}", place.name()));
        let said = pair.berth(&["logs", "--cluster", &pod]);
        assert_eq!(said, format!("hello from {name}\n"));
        assert_eq!(pair.exec(&pod, &["hostname"]).unwrap(), format!("{pod}\n"));
        let words = ["berth", "exec", "--cluster", &pod, "sh", "-c", "exit 7"];
        assert_eq!(pair.output(One, &words, "").code, Some(7));
    }
}

fn update(pair: &Pair) {
    let targets = BOTH.map(|place| SocketAddr::new(pair.address(place), PORT));
    // This process's own network is the machine's.
    let load = Load::start_in(std::process::id(), &targets, stretched(PAUSE));
    roll_out(pair, "2");
    pair.until("only new pods answer", PATIENCE, || {
        for target in &targets {
            let page = pair.ask(One, &target.to_string())?;
            ensure!(page.starts_with("version 2 on "), "{page:?}");
        }
        Ok(())
    });
    let report = load.stop().unwrap();
    report.assert_all_answered().unwrap_or_else(|error| {
        panic!("during the update: {error:#}\n{}", pair.logs());
    });
    let pages = report.pages();
    for version in ["version 1 ", "version 2 "] {
        assert!(
            pages.keys().any(|page| page.starts_with(version)),
            "{pages:?}"
        );
    }
    pair.say(&format!(
        "   {} requests, all answered",
        report.attempts.len()
    ));
}

fn main_process(pair: &Pair, place: Place) -> Result<String> {
    let words = ["systemctl", "show", "-P", "MainPID", "berth-node"];
    let pid = pair.try_run(place, &words)?.trim().to_owned();
    ensure!(pid != "0", "no process");
    Ok(pid)
}

fn kill_nodes(pair: &Pair) {
    for place in BOTH {
        let pod = format!("single-{}", place.name());
        let address = address_of(pair, &pod).unwrap();
        let before = identity_of(pair, &pod).unwrap();
        let killed = main_process(pair, place).unwrap();
        pair.run(place, &["kill", "-KILL", &killed]);
        assert_eq!(pair.ask(place, &address).unwrap(), format!("{pod}\n"));
        pair.until("systemd starts the node again", PATIENCE, || {
            let state = pair.try_run(place, &["systemctl", "is-active", "berth-node"])?;
            ensure!(
                state == "active\n" && main_process(pair, place)? != killed,
                "{state}"
            );
            Ok(())
        });
        pair.until_ready(place, "True");
        assert_eq!(pair.ask(place, &address).unwrap(), format!("{pod}\n"));
        assert_eq!(
            identity_of(pair, &pod).unwrap(),
            before,
            "the pod's container is another"
        );
        pair.until("its words are read again", PATIENCE, || {
            let said = pair.exec(&pod, &["hostname"])?;
            ensure!(said == format!("{pod}\n"), "{said}");
            Ok(())
        });
    }
}

fn stop_node(pair: &Pair) {
    let pod = "single-two";
    let address = address_of(pair, pod).unwrap();
    let before = identity_of(pair, pod).unwrap();
    pair.run(Two, &["systemctl", "stop", "berth-node"]);
    pair.until_ready(Two, "Unknown");
    assert_eq!(pair.ask(Two, &address).unwrap(), format!("{pod}\n"));
    // The kernel goes on with what the network's keeper made.
    assert_eq!(pair.ask(One, &address).unwrap(), format!("{pod}\n"));
    pair.run(Two, &["systemctl", "start", "berth-node"]);
    pair.until_ready(Two, "True");
    assert_eq!(
        identity_of(pair, pod).unwrap(),
        before,
        "the pod's container is another"
    );
    rolled_out(pair);
}

fn drain(pair: &Pair) {
    let patience = stretched(PATIENCE).as_secs().to_string();
    pair.berth(&["drain", "two", "--force", "--timeout", &patience]);
    rolled_out(pair);
    let pods = web_pods(pair).unwrap();
    assert!(
        pods.iter().all(|pod| pod.node == "one") && pods.len() == 3,
        "{pods:?}"
    );
    pair.ask(One, &format!("{}:{PORT}", pair.address(Two)))
        .unwrap();
    pair.berth(&["uncordon", "two"]);
    spread_replicas(pair);
}

fn cut_wire(pair: &Pair) {
    let seconds = stretched(CUT).as_secs();
    let card = pair.run(
        Two,
        &["sh", "-c", &card_of(pair.address(Two).to_string().as_str())],
    );
    let card = card.trim();
    let script = format!("ip link set {card} down; sleep {seconds}; ip link set {card} up");
    std::thread::scope(|scope| {
        let cut = scope.spawn(|| pair.run(Two, &["sh", "-c", &script]));
        pair.until_ready(Two, "Unknown");
        let elsewhere = || {
            let pods = web_pods(pair)?;
            ensure!(
                pods.len() == 3 && pods.iter().all(|pod| pod.node == "one"),
                "{pods:?}"
            );
            Ok(())
        };
        pair.until("all replicas run on one", PATIENCE, elsewhere);
        let target = format!("{}:{PORT}", pair.address(One));
        for _ in 0..5 {
            assert!(pair.ask(One, &target).unwrap().ends_with("on one\n"));
        }
        cut.join().unwrap();
    });
    pair.until_ready(Two, "True");
    // Its pods of before are gone, and it serves as before.
    pair.until("two has no replica that nobody knows", PATIENCE, || {
        let listed = pair.try_run(Two, &["berth", "-o", "json", "ps"])?;
        ensure!(!listed.contains("\"web-"), "{listed}");
        Ok(())
    });
    pair.until("two serves the service", PATIENCE, || {
        pair.ask(One, &format!("{}:{PORT}", pair.address(Two)))
            .map(drop)
    });
}

/// The name of the card that has an address, for a shell.
fn card_of(address: &str) -> String {
    format!("ip -o address show to {address} | cut -d' ' -f2")
}

fn leave(pair: &Pair) {
    let said = pair.output(One, &["berth", "cluster", "leave"], "");
    assert!(said.stderr.contains("only memory"), "{said:?}");
    let patience = stretched(PATIENCE).as_secs().to_string();
    pair.run(
        Two,
        &[
            "berth",
            "cluster",
            "leave",
            "--force",
            "--timeout",
            &patience,
        ],
    );
    assert_eq!(pair.berth(&["-o", "name", "cluster", "nodes"]), "one\n");
    nothing_is_left(pair, Two);
    pair.berth(&["cluster", "leave", "--destroy-cluster"]);
    nothing_is_left(pair, One);
}

fn nothing_is_left(pair: &Pair, place: Place) {
    let state = pair.output(place, &["systemctl", "is-active", "berth-node"], "");
    assert_eq!(state.stdout, "inactive\n", "on {place:?}");
    let state = pair.output(place, &["systemctl", "is-enabled", "berth-node"], "");
    assert_eq!(state.stdout, "disabled\n", "on {place:?}");
    for gone in [
        "/etc/berth/node.toml",
        "/var/lib/berth/node",
        "/var/lib/berth/server",
    ] {
        assert_ne!(
            pair.output(place, &["stat", gone], "").code,
            Some(0),
            "{gone} on {place:?}"
        );
    }
    let left = pair.run(
        place,
        &[
            "sh",
            "-c",
            "ip -o link show type vxlan; ip -o link show type veth",
        ],
    );
    assert_eq!(left, "", "links on {place:?}");
    let tables = pair.run(place, &["nft", "list", "tables"]);
    assert!(!tables.contains("berth-services"), "{tables}");
    let left = pair.run(
        place,
        &[
            "sh",
            "-c",
            "find /sys/fs/cgroup/berth -name cgroup.procs | xargs cat",
        ],
    );
    assert_eq!(left, "", "processes of pods on {place:?}");
    // Monitors of pods were in the unit's group.
    let left = pair.run(place, &["sh", "-c", "pgrep -l berth || true"]);
    assert_eq!(left, "", "processes on {place:?}");
}
