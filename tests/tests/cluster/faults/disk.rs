//! The server's disk is full for a while.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use berth_tests::load::Load;

use super::{PATIENCE, PORT};
use crate::pods::{WEB, lives, until_pods};
use crate::world::{Cluster, text};

/// Longer than a node may be silent.
const FULL: Duration = Duration::from_secs(13);

const NOTE: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: note}}";

#[test]
fn a_full_disk_stops_writes_and_nothing_else() {
    let cluster = Cluster::hosts(2);
    let host = cluster.host(0);
    let directory = host.data_dir().join("server");
    std::fs::create_dir(&directory).unwrap();
    let words = ["-t", "tmpfs", "-o", "size=160m,mode=0700", "none"];
    let mounted = host.command("mount").args(words).arg(&directory).output();
    assert!(mounted.unwrap().status.success());
    let join = cluster.init(0, &[]);
    cluster.join(1, &join);
    // kubectl is no program of the host's, and does not see what is mounted there.
    let inside = format!("/proc/{}/root{}", host.pid(), directory.display());
    let inside = std::path::Path::new(&inside);
    let name = "admin.kubeconfig";
    std::fs::copy(inside.join(name), directory.join(name)).unwrap();

    cluster.kubectl_with(&["apply", "-f", "-"], WEB);
    until_pods(&cluster, "web", 3);
    let targets = [0, 1].map(|index| SocketAddr::from((cluster.fabric().address(index), PORT)));
    let outside = cluster.fabric().outside();
    for target in targets {
        outside.get_within(PATIENCE, target, "/").unwrap();
    }
    let before = lives(&cluster, "web").unwrap();
    let load = Load::start(outside, &targets, Duration::from_millis(20));

    let filler = inside.join("filler");
    let fill = "head -c 200m /dev/zero > filler; true";
    let mut filling = std::process::Command::new("sh");
    filling.args(["-c", fill]).current_dir(inside);
    assert!(filling.output().unwrap().status.success());
    let apply = || cluster.kubectl_output(&["apply", "-f", "-"], NOTE);
    let refused = apply().unwrap();
    let said = text(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("the disk is full"),
        "{said}"
    );
    std::thread::sleep(FULL);
    assert_eq!(lives(&cluster, "web").unwrap(), before);

    std::fs::remove_file(filler).unwrap();
    cluster.until("writes go on", PATIENCE, || {
        let output = apply()?;
        ensure!(output.status.success(), "{}", text(&output.stderr));
        Ok(())
    });
    // Nobody was taken for dead because nobody could be heard.
    std::thread::sleep(Duration::from_secs(4));
    for index in [0, 1] {
        cluster.until_ready(index, "True", PATIENCE);
    }
    cluster.kubectl(&["scale", "deployment/web", "--replicas=4"]);
    until_pods(&cluster, "web", 4);
    let mut after = lives(&cluster, "web").unwrap();
    after.retain(|name, _| before.contains_key(name));
    assert_eq!(after, before);
    load.stop().unwrap().assert_all_answered().unwrap();
}
