//! Beginning, joining, leaving, and what goes wrong with them.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::ensure;
use berth_tests::host::in_network_of;
use berth_tests::patience::stretched;
use k8s_openapi::api::core::v1::Node;
use kube::Api;

use crate::world::{Cluster, text};

const PATIENCE: Duration = Duration::from_secs(40);

#[test]
fn hosts_join_are_ready_and_leave_again() {
    let cluster = Cluster::start(2);
    for index in [0, 1] {
        cluster.until_ready(index, "True", PATIENCE);
    }
    let nodes = cluster.berth(0, &["cluster", "nodes"]);
    assert!(
        nodes.contains("host-0") && nodes.contains("host-1"),
        "{nodes}"
    );
    // A node that is no server asks with its own certificate.
    let nodes = cluster.berth(1, &["-o", "name", "cluster", "nodes"]);
    assert_eq!(nodes, "host-0\nhost-1\n");
    let status = cluster.berth(1, &["cluster", "status"]);
    assert!(status.contains("Ready:        yes"), "{status}");

    let said = cluster.berth_fails(0, &["cluster", "leave"]);
    assert!(said.contains("only memory"), "{said}");
    cluster.berth(1, &["cluster", "leave"]);
    let nodes = cluster.berth(0, &["-o", "name", "cluster", "nodes"]);
    assert_eq!(nodes, "host-0\n");
    let data = cluster.host(1).data_dir();
    assert!(!data.join("node").exists() && !data.join("server").exists());
    assert!(!cluster.host(1).directory().join("node.toml").exists());
    let said = cluster.berth_fails(1, &["cluster", "leave"]);
    assert!(said.contains("in no cluster"), "{said}");

    // One that left may come again, by the same name.
    let token = cluster.berth(0, &["cluster", "token", "create"]);
    let join = crate::world::join_words(&token).unwrap();
    cluster.join(1, &join);
    cluster.until_ready(1, "True", PATIENCE);
    cluster.berth(1, &["cluster", "leave"]);
    cluster.berth(0, &["cluster", "leave", "--destroy-cluster"]);
}

#[test]
fn a_host_that_is_cut_off_is_noticed_and_comes_back() {
    let mut cluster = Cluster::start(2);
    let nodes: Api<Node> = Api::all(cluster.client());
    let ready = |cluster: &Cluster| {
        let node = cluster.block_on(nodes.get("host-1"))?;
        let status = node.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let ready = conditions.into_iter().find(|one| one.type_ == "Ready");
        anyhow::Ok(ready.is_some_and(|ready| ready.status == "True"))
    };
    assert!(ready(&cluster).unwrap());
    cluster.fabric().cut_off(1).unwrap();
    cluster.until("the cut is noticed", PATIENCE, || {
        ensure!(!ready(&cluster)?, "it is ready");
        Ok(())
    });
    cluster.fabric().restore(1).unwrap();
    cluster.until("it is back", PATIENCE, || {
        ensure!(ready(&cluster)?, "it is not ready");
        Ok(())
    });
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let cluster = Cluster::hosts(2);
    let nothing = |index: usize| {
        let host = cluster.host(index);
        let left = [host.data_dir().join("server"), host.data_dir().join("node")];
        assert!(!left.iter().any(|path| path.exists()), "{left:?}");
        assert!(!host.directory().join("node.toml").exists());
    };
    for (words, expected) in [
        (
            &["--advertise-addr", "192.0.2.1"][..],
            "not an address of this machine",
        ),
        (&["--advertise-addr", "127.0.0.1"], "cannot reach"),
        (&["--name", "Not_A_Node"], "cannot name a node"),
        (&["--store", "redis://a"], "expected 'embedded'"),
        (&["--pod-range", "10.0.0.0"], "expected ADDRESS/LENGTH"),
    ] {
        let mut all = vec!["cluster", "init"];
        all.extend(words);
        let said = cluster.berth_fails(0, &all);
        assert!(said.contains(expected), "{words:?}: {said}");
        nothing(0);
    }
    // A port in use.
    let taker = in_network_of(cluster.host(0).pid(), || {
        Ok(TcpListener::bind(("0.0.0.0", 6443))?)
    });
    let taker = taker.unwrap();
    let said = cluster.berth_fails(0, &["cluster", "init"]);
    assert!(said.contains("6443") && said.contains("in use"), "{said}");
    nothing(0);
    drop(taker);

    // Nobody answers there.
    let token = format!("berth-1-abcdef.0123456789abcdef-{}", "0".repeat(64));
    let words = ["cluster", "join", "--token", &token, "10.99.0.1"];
    let said = cluster.berth_fails(1, &words);
    assert!(said.contains("nothing was told"), "{said}");
    nothing(1);

    cluster.init(0, &[]);
    let said = cluster.berth_fails(0, &["cluster", "init"]);
    assert!(said.contains("in a cluster already"), "{said}");
    let said = cluster.berth_fails(
        0,
        &words[..4]
            .iter()
            .copied()
            .chain(["10.99.0.1"])
            .collect::<Vec<_>>(),
    );
    assert!(said.contains("in a cluster already"), "{said}");
    cluster.berth(0, &["cluster", "leave", "--destroy-cluster"]);
    nothing(0);
}

#[test]
fn an_init_that_was_killed_is_done_again() {
    let cluster = Cluster::hosts(1);
    for pause in [20, 100, 250, 600, 1500] {
        let mut child = cluster
            .command(0, &["cluster", "init", "--name", "host-0"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(stretched(Duration::from_millis(pause)));
        let _ = child.kill();
        child.wait().unwrap();
    }
    let standing = cluster.output(0, &["cluster", "status"]);
    if !text(&standing.stdout).contains("Ready:        yes") {
        cluster.init(0, &[]);
    }
    cluster.until_ready(0, "True", PATIENCE);
    // The files of the first try are those of the last: one authority.
    cluster.berth(0, &["cluster", "token", "create"]);
}

#[test]
fn a_server_that_was_killed_comes_back_with_all_that_it_knew() {
    let cluster = Cluster::start(2);
    cluster.berth(0, &["cluster", "token", "create", "--description", "kept"]);
    cluster.kill(0);
    cluster.restart(0);
    cluster.until_ready(0, "True", PATIENCE);
    cluster.until_ready(1, "True", PATIENCE);
    let tokens = cluster.berth(0, &["cluster", "token", "list"]);
    assert!(tokens.contains("kept"), "{tokens}");
    // The other way round: the node's process is killed and started again.
    cluster.kill(1);
    cluster.restart(1);
    cluster.until_ready(1, "True", PATIENCE);
}
