//! Tokens and certificates of every bad kind.

use std::time::Duration;

use anyhow::ensure;

use crate::world::{Cluster, join_words, text};

const PATIENCE: Duration = Duration::from_secs(40);

#[test]
fn tokens_of_every_bad_kind_are_refused_with_their_reason() {
    let cluster = Cluster::hosts(3);
    let good = cluster.init(0, &[]);
    let token = good[good.len() - 2].clone();
    let join = |index: usize, token: &str| {
        let words = [
            "cluster",
            "join",
            "--name",
            "host-9",
            "--token",
            token,
            "10.99.0.1",
        ];
        let said = cluster.berth_fails(index, &words);
        assert!(
            said.contains("nothing was left behind") || said.contains("expected"),
            "{said}"
        );
        said
    };
    // No token at all.
    assert!(join(1, "hello").contains("berth-1-"));
    // A server has no place in a cluster with a file for its memory.
    let words = [
        "cluster",
        "join",
        "--server",
        "--token",
        &token,
        "10.99.0.1",
    ];
    let said = cluster.berth_fails(1, &words);
    assert!(said.contains("can have no further server"), "{said}");
    let said = cluster.berth_fails(0, &["cluster", "token", "create", "--server"]);
    assert!(said.contains("no token was made"), "{said}");
    // A wrong secret.
    let (head, hash) = token.rsplit_once('-').unwrap();
    let (id, _) = head.split_once('.').unwrap();
    let wrong = join(1, &format!("{id}.aaaaaaaaaaaaaaaa-{hash}"));
    assert!(wrong.contains("not one of this cluster"), "{wrong}");
    // A foreign one: the secret is not told.
    let foreign = join(1, &format!("{head}-{}", "a".repeat(64)));
    assert!(foreign.contains("the secret was not told"), "{foreign}");
    // An expired one.
    let said = cluster.berth(0, &["cluster", "token", "create", "--ttl", "1s", "-q"]);
    std::thread::sleep(Duration::from_millis(2100));
    assert!(join(1, said.trim()).contains("expired at"), "expired");
    // One that is used up.
    let once = cluster.berth(0, &["cluster", "token", "create", "--uses", "1"]);
    let once = join_words(&once).unwrap();
    cluster.join(2, &once);
    let spent = join(1, &once[once.len() - 2]);
    assert!(spent.contains("spent"), "{spent}");
    // One that was taken back.
    let revoked = cluster.berth(0, &["cluster", "token", "create", "-q"]);
    cluster.berth(0, &["cluster", "token", "revoke", revoked.trim()]);
    assert!(join(1, revoked.trim()).contains("revoked"), "revoked");
    // Rotation takes back all others, and shows one that is good.
    let rotated = cluster.berth(0, &["cluster", "token", "rotate", "-q"]);
    assert!(
        join(1, &token).contains("revoked"),
        "the one before the rotation"
    );
    let shown = cluster.berth(0, &["cluster", "token", "show"]);
    assert!(shown.contains(rotated.trim()), "{shown}");
    // A name that is taken spends nothing.
    let words = [
        "cluster",
        "join",
        "--name",
        "host-2",
        "--token",
        rotated.trim(),
        "10.99.0.1",
    ];
    let taken = cluster.berth_fails(1, &words);
    assert!(taken.contains("a node host-2 already"), "{taken}");
    // Nothing of all this is in the server's words.
    let log = std::fs::read_to_string(cluster.host(0).data_dir().join("node/berth.log")).unwrap();
    for secret in [&token, rotated.trim(), "aaaaaaaaaaaaaaaa"] {
        let secret = secret.split(['.', '-']).nth(3).unwrap_or(secret);
        assert!(!log.contains(secret), "a secret is in the log");
    }
}

#[test]
fn whoever_tries_often_is_slowed_down() {
    let cluster = Cluster::hosts(2);
    let good = cluster.init(0, &[]);
    let token = &good[good.len() - 2];
    let (head, hash) = token.rsplit_once('-').unwrap();
    let (id, _) = head.split_once('.').unwrap();
    let wrong = format!("{id}.aaaaaaaaaaaaaaaa-{hash}");
    let words = [
        "cluster",
        "join",
        "--name",
        "host-1",
        "--token",
        &wrong,
        "10.99.0.1",
    ];
    let slowed = (0..40).any(|_| cluster.berth_fails(1, &words).contains("too many attempts"));
    assert!(slowed, "forty wrong secrets in a row");
}

#[test]
fn certificates_are_renewed_and_those_of_removed_nodes_refused() {
    // Certificates of 36 seconds: renewed after 24.
    let cluster = Cluster::hosts(2);
    let join = cluster.init(0, &["--node-certificate-hours", "0.01"]);
    cluster.join(1, &join);
    let path = cluster.host(1).data_dir().join("node/pki/node.crt");
    let first = std::fs::read_to_string(&path).unwrap();
    cluster.until("a certificate is renewed", Duration::from_secs(60), || {
        ensure!(
            std::fs::read_to_string(&path)? != first,
            "it is the first one"
        );
        Ok(())
    });
    std::thread::sleep(Duration::from_secs(20));
    cluster.until_ready(1, "True", PATIENCE);

    // A removed node is refused at once, although its certificate is in date.
    cluster.kubectl(&["delete", "node", "host-1"]);
    cluster.until("the removed node is refused", PATIENCE, || {
        let output = cluster.output(1, &["cluster", "nodes"]);
        let said = text(&output.stderr);
        ensure!(said.contains("revoked"), "{said}");
        Ok(())
    });
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "name"]);
    assert_eq!(nodes, "node/host-0\n", "it made itself again");
    cluster.berth(1, &["cluster", "leave"]);
}

#[test]
fn a_nodes_certificate_is_good_for_a_node_alone() {
    let cluster = Cluster::start(2);
    // With the certificate of the second host, from that host.
    let pki = cluster.host(1).data_dir().join("node/pki");
    let ask = |method: &str, path: &str, body: &str| {
        let output = cluster
            .host(1)
            .command("curl")
            .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", method])
            .args(["-H", "Content-Type: application/json", "-d", body])
            .args(["--connect-to", "kubernetes:6443:10.99.0.1:6443"])
            .arg("--cacert")
            .arg(pki.join("ca.crt"))
            .arg("--cert")
            .arg(pki.join("node.crt"))
            .arg("--key")
            .arg(pki.join("node.key"))
            .arg(format!("https://kubernetes:6443{path}"))
            .output()
            .unwrap();
        format!("{}{}", text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(ask("GET", "/api/v1/nodes/host-1", ""), "200");
    for (method, path) in [
        ("DELETE", "/api/v1/nodes/host-0"),
        ("DELETE", "/api/v1/nodes/host-1"),
        ("GET", "/api/v1/namespaces/kube-system/secrets"),
        ("POST", "/apis/apps/v1/namespaces/default/deployments"),
        (
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/host-0",
        ),
    ] {
        assert_eq!(ask(method, path, "{}"), "403", "{method} {path}");
    }
    // The port of an agent takes the server's certificate alone.
    let to_agent = cluster
        .host(1)
        .command("curl")
        .args(["-sSk", "--max-time", "5"])
        .arg("--cert")
        .arg(pki.join("node.crt"))
        .arg("--key")
        .arg(pki.join("node.key"))
        .arg("https://10.99.0.1:10250/pods")
        .output()
        .unwrap();
    assert!(!to_agent.status.success(), "{}", text(&to_agent.stdout));
    // Nobody is nobody.
    let stranger = cluster
        .host(1)
        .command("curl")
        .args(["-sSk", "-o", "/dev/null", "-w", "%{http_code}"])
        .arg("https://10.99.0.1:6443/api/v1/nodes")
        .output()
        .unwrap();
    assert_eq!(text(&stranger.stdout), "401");
}
