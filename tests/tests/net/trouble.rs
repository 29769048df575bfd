//! Bad input, exhausted ranges, killed processes: nothing half-made stays.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use berth_netd::error::ErrorKind;
use berth_netd::network::NetworkConfig;
use berth_netd::request::Protocol;
use nix::sys::signal::{Signal, kill};

use crate::world::{Pod, World, address, attacher, exchange_tcp, listen_tcp, port, run, socket};

fn small(subnets: &[&str]) -> NetworkConfig {
    NetworkConfig {
        subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
        ..NetworkConfig::default()
    }
}

#[test]
fn a_full_subnet_says_so_and_an_address_given_back_is_used_again() {
    let world = World::new();
    // Of eight addresses, network, gateway and broadcast are no pod's.
    let netd = world.netd_with(small(&["10.99.0.0/29"]));
    let pods: Vec<Pod> = (0..6).map(|n| world.pod(&format!("p{n}"))).collect();
    world.block_on(async {
        let mut given = BTreeSet::new();
        for pod in &pods[..5] {
            let network = netd.attach(&pod.request(&[])).await.unwrap();
            assert!(given.insert(address(&network, true)), "given twice");
        }
        let error = netd.attach(&pods[5].request(&[])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(error.to_string().contains("10.99.0.0/29"), "{error}");
        netd.detach("p2").await.unwrap();
        let network = netd.attach(&pods[5].request(&[])).await.unwrap();
        assert_eq!(address(&network, true).to_string(), "10.99.0.4");
        let error = netd.attach(&pods[5].request(&[])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyAttached);
        for pod in &pods {
            netd.detach(&pod.id).await.unwrap();
        }
    });
    drop(pods);
    world.assert_clean();
}

#[test]
fn a_fixed_address_is_given_or_refused_but_never_replaced() {
    let world = World::new();
    let netd = world.netd();
    let (a, b) = (world.pod("a"), world.pod("b"));
    let mut wanted = a.request(&[]);
    wanted.addresses = vec!["10.88.70.7".parse().unwrap()];
    world.block_on(async {
        let network = netd.attach(&wanted).await.unwrap();
        assert_eq!(address(&network, true).to_string(), "10.88.70.7");
        assert_eq!(network.addresses.len(), 2, "IPAM gives the other family");
        wanted.pod_id = "b".to_owned();
        wanted.netns = b.netns();
        let error = netd.attach(&wanted).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("held by pod a"), "{error}");
        wanted.addresses = vec!["10.1.2.3".parse().unwrap()];
        let error = netd.attach(&wanted).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    });
}

#[test]
fn kill_9_at_any_moment_leaks_nothing() {
    let world = World::new();
    let netd = world.netd();
    let pods = [world.pod("x"), world.pod("y"), world.pod("z")];
    let state = world.host.data_dir().join("net");
    for round in 0..40u64 {
        let mut killed = world
            .host
            .command(attacher())
            .arg(&state)
            .args(pods.iter().map(Pod::netns))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = killed.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "round {round}");
        std::thread::sleep(Duration::from_micros(1_700 * round));
        killed.kill().unwrap();
        let status = killed.wait().unwrap();
        assert_eq!(
            status.code(),
            None,
            "round {round}: it must have run until the kill"
        );
        // Every other round, the next process finds the mess without a reconcile.
        if round % 2 == 0 {
            world.block_on(async { netd.reconcile(&BTreeSet::new()).await.unwrap() });
            world.assert_clean_but_pods();
        } else {
            world.block_on(async {
                for index in 0..pods.len() {
                    netd.detach(&format!("killed-{index}")).await.unwrap();
                }
            });
            world.assert_clean_but_pods();
        }
    }
}

#[test]
fn reconcile_spares_the_living() {
    let world = World::new();
    let netd = world.netd();
    let (a, b) = (world.pod("a"), world.pod("b"));
    // Attached by a process that lives: not in the list, and yet not dead.
    world.block_on(async { netd.attach(&a.request(&[])).await.unwrap() });
    assert!(
        world
            .block_on(async { netd.reconcile(&BTreeSet::new()).await.unwrap() })
            .is_empty()
    );
    // Attached by a process that has ended.
    let mut killed = world
        .host
        .command(attacher())
        .arg(world.host.data_dir().join("net"))
        .arg(b.netns())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(killed.id().try_into().unwrap());
    let listed = (0..200).any(|_| {
        // Stopped, it cannot detach between the look and the kill.
        kill(pid, Signal::SIGSTOP).unwrap();
        let attached = state_of(&world, "killed-0").as_deref() == Some("attached");
        if !attached {
            kill(pid, Signal::SIGCONT).unwrap();
            std::thread::sleep(Duration::from_millis(7));
        }
        attached
    });
    assert!(listed, "never seen attached");
    killed.kill().unwrap();
    killed.wait().unwrap();
    let live = BTreeSet::from(["a".to_owned(), "killed-0".to_owned()]);
    assert!(
        world
            .block_on(async { netd.reconcile(&live).await.unwrap() })
            .is_empty()
    );
    let live = BTreeSet::from(["a".to_owned()]);
    let given_back = world.block_on(async { netd.reconcile(&live).await.unwrap() });
    assert_eq!(given_back, ["killed-0"]);
    assert_eq!(state_of(&world, "a"), Some("attached".to_owned()));
}

fn state_of(world: &World, pod_id: &str) -> Option<String> {
    let entries = std::fs::read_dir(world.host.data_dir().join("net")).unwrap();
    let path = entries
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "json"))?;
    let text = std::fs::read_to_string(path).ok()?;
    let ledger: serde_json::Value = serde_json::from_str(&text).unwrap();
    let state = ledger["pods"]["default"][pod_id]["state"].as_str()?;
    Some(state.to_owned())
}

#[test]
fn detach_works_without_the_namespace_and_twice_and_for_strangers() {
    let world = World::new();
    let netd = world.netd();
    let pod = world.pod("p");
    world.block_on(async {
        netd.attach(&pod.request(&[port(Protocol::Tcp, 8080, 80)]))
            .await
            .unwrap();
    });
    drop(pod);
    world.block_on(async {
        netd.detach("p").await.unwrap();
        netd.detach("p").await.unwrap();
        netd.detach("never-seen").await.unwrap();
    });
    world.assert_clean();
}

#[test]
fn an_attach_that_fails_half_way_leaves_nothing() {
    let world = World::new();
    let netd = world.netd();
    let (pod, other) = (world.pod("p"), world.pod("other"));
    // The name is taken inside the pod, which shows only when bridge, table and
    // settings stand.
    let line = format!(
        "nsenter --net={} ip link add eth0 type bridge",
        pod.netns().display()
    );
    run(&world.host, &line).unwrap();
    let ports = [port(Protocol::Tcp, 8080, 80)];
    world.block_on(async {
        let error = netd.attach(&pod.request(&ports)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Kernel);
        assert!(error.to_string().contains("peer name eth0"), "{error}");
    });
    world.assert_clean_but_pods();
    world.block_on(async { netd.attach(&other.request(&ports)).await.unwrap() });
    world.block_on(async { netd.detach("other").await.unwrap() });
    let mut request = pod.request(&[]);
    request.netns = "/nonexistent/netns".into();
    let error = world.block_on(async { netd.attach(&request).await.unwrap_err() });
    assert_eq!(error.kind(), ErrorKind::NoNamespace);
    request.netns = format!("/proc/{}/ns/net", world.host.pid()).into();
    let error = world.block_on(async { netd.attach(&request).await.unwrap_err() });
    assert_eq!(error.kind(), ErrorKind::Invalid);
    drop((pod, other));
    world.assert_clean();
}

#[test]
fn many_at_once_get_addresses_of_their_own() {
    let world = World::new();
    let pods: Vec<Pod> = (0..12).map(|n| world.pod(&format!("p{n}"))).collect();
    let given: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = pods
            .iter()
            .map(|pod| {
                // Each with a Netd of its own, as separate processes have.
                scope.spawn(|| {
                    let netd = world.netd();
                    world.block_on(async { netd.attach(&pod.request(&[])).await.unwrap() })
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let addresses: BTreeSet<_> = given
        .iter()
        .flat_map(|network| &network.addresses)
        .collect();
    assert_eq!(addresses.len(), 24);
    let netd = world.netd();
    world.block_on(async {
        let detaches = pods.iter().map(|pod| netd.detach(&pod.id));
        for done in detaches {
            done.await.unwrap();
        }
    });
    drop(pods);
    world.assert_clean();
}

#[test]
fn a_flushed_ruleset_comes_back() {
    let world = World::new();
    let netd = world.netd();
    let pod = world.pod("p");
    world.block_on(async {
        netd.attach(&pod.request(&[port(Protocol::Tcp, 8080, 80)]))
            .await
            .unwrap();
    });
    let listener = listen_tcp(pod.pid(), "0.0.0.0", 80);
    let ask = || exchange_tcp(world.host.pid(), socket("127.0.0.1", 8080), &listener);
    ask().unwrap();
    run(&world.host, "nft flush ruleset").unwrap();
    assert!(ask().is_err());
    let live = BTreeSet::from(["p".to_owned()]);
    world.block_on(async { netd.reconcile(&live).await.unwrap() });
    ask().unwrap();
    // A rule removed by hand, and another pod that comes.
    run(&world.host, "nft flush chain inet berth output").unwrap();
    assert!(ask().is_err());
    let other = world.pod("other");
    world.block_on(async { netd.attach(&other.request(&[])).await.unwrap() });
    ask().unwrap();
}

#[test]
fn what_an_operator_took_away_is_no_obstacle() {
    let world = World::new();
    let netd = world.netd();
    let (a, b) = (world.pod("a"), world.pod("b"));
    world.block_on(async {
        let ports = [port(Protocol::Udp, 5353, 53), port(Protocol::Tcp, 8080, 80)];
        netd.attach(&a.request(&ports)).await.unwrap();
        netd.attach(&b.request(&[])).await.unwrap();
    });
    for line in ["nft flush ruleset", "ip link del berth0"] {
        run(&world.host, line).unwrap();
    }
    world.block_on(async {
        netd.detach("a").await.unwrap();
        netd.detach("b").await.unwrap();
    });
    world.assert_clean_but_pods();
}

#[test]
fn bridges_of_others_are_left_alone() {
    let world = World::new();
    let pod = world.pod("p");
    // An operator's bridge is used and stays.
    run(&world.host, "ip link add berth0 type bridge").unwrap();
    let netd = world.netd();
    world.block_on(async {
        netd.attach(&pod.request(&[])).await.unwrap();
        netd.detach("p").await.unwrap();
    });
    run(&world.host, "ip link show berth0").unwrap();
    run(&world.host, "ip link del berth0").unwrap();
    // The bridge of another state directory is refused.
    world.block_on(async { netd.attach(&pod.request(&[])).await.unwrap() });
    let other = berth_netd::netd::Netd::open(
        &world.host.data_dir().join("other"),
        NetworkConfig::default(),
    )
    .unwrap();
    let stranger = world.pod("stranger");
    world.block_on(async {
        let error = other.attach(&stranger.request(&[])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(
            error.to_string().contains("ip link delete berth0"),
            "{error}"
        );
        // One of another kind, too.
        let config = NetworkConfig {
            bridge: "up0".to_owned(),
            ..small(&["10.77.0.0/24"])
        };
        let netd =
            berth_netd::netd::Netd::open(&world.host.data_dir().join("third"), config).unwrap();
        let error = netd.attach(&stranger.request(&[])).await.unwrap_err();
        assert!(
            error.to_string().contains("is a veth, not a bridge"),
            "{error}"
        );
        // A subnet that the host routes elsewhere.
        let config = NetworkConfig {
            bridge: "b9".to_owned(),
            ..small(&["198.51.0.0/16"])
        };
        let netd =
            berth_netd::netd::Netd::open(&world.host.data_dir().join("fourth"), config).unwrap();
        let error = netd.attach(&stranger.request(&[])).await.unwrap_err();
        assert!(
            error.to_string().contains("198.51.100.0/24 by up0"),
            "{error}"
        );
        netd.detach("p").await.unwrap();
    });
}
