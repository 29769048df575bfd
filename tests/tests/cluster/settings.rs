//! What `node.toml` sets, as the cluster shows it; mistakes in it.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::pods::until_pods;
use crate::world::{Cluster, text};

const PATIENCE: Duration = Duration::from_secs(60);

/// One that fills its log, and an image that nobody will use.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: talks, labels: {app: talks}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'yes 123456789012345678901234567890 | head -c 2000000; exec sleep 100000']
---
apiVersion: v1
kind: Pod
metadata: {name: passes, labels: {app: passes}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: nginx}
";

/// The node's process, with this at the end of its file.
fn restart_with(cluster: &Cluster, begin: &str, end: &str) {
    cluster.kill(0);
    let file = cluster.host(0).directory().join("node.toml");
    std::fs::write(file, format!("{begin}\n{end}")).unwrap();
    cluster.restart(0);
    cluster.until_ready(0, "True", PATIENCE);
}

fn conditions(cluster: &Cluster) -> Result<String> {
    let path = "-o=jsonpath={range .status.conditions[?(@.status=='True')]}{.type} {end}";
    let output = cluster.kubectl_output(&["get", "node", "host-0", path], "")?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    Ok(text(&output.stdout))
}

fn until_conditions(cluster: &Cluster, wanted: &[&str]) {
    cluster.until("the node has these conditions", PATIENCE, || {
        let found = conditions(cluster)?;
        let mut found: Vec<&str> = found.split_whitespace().collect();
        found.sort_unstable();
        ensure!(found == wanted, "{found:?} and not {wanted:?}");
        Ok(())
    });
}

#[test]
fn what_the_file_sets_takes_effect_and_mistakes_are_named() {
    let cluster = Cluster::start(1);
    let file = cluster.host(0).directory().join("node.toml");
    let written = std::fs::read_to_string(&file).unwrap();
    let begin = written.replace("event-hours = 1.0", "event-hours = 0.001");
    assert_ne!(begin, written, "{written}");
    cluster.kubectl_with(&["apply", "-f", "-"], PODS);
    until_pods(&cluster, "talks", 1);
    until_pods(&cluster, "passes", 1);
    cluster.kubectl(&["delete", "pod", "passes"]);

    // Older files of the log, as if it had been rotated twice.
    let logs = cluster.host(0).data_dir().join("agent/logs");
    let pod = std::fs::read_dir(&logs).unwrap().flatten();
    let pod = pod.map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains("_talks_")
    });
    let log = pod.expect("the pod's logs").join("main");
    for name in ["0.log.20200101-000000", "0.log.20200102-000000"] {
        std::fs::write(log.join(name), "old\n").unwrap();
    }
    restart_with(
        &cluster,
        &begin,
        "[agent.images]\nhigh-percent = 0\nlow-percent = 0\nunused-seconds = 1\n\
         [agent.logs]\nfile-mib = 1\nfiles = 2\n",
    );
    cluster.until(
        "the log begins anew beside one older file",
        PATIENCE,
        || {
            let files: Vec<String> = std::fs::read_dir(&log)?
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            ensure!(
                files.len() == 2 && !files.iter().any(|file| file.contains("2020")),
                "{files:?}"
            );
            Ok(())
        },
    );
    cluster.until("an image that nobody uses goes", PATIENCE, || {
        let images = cluster.kubectl(&["get", "node", "host-0", "-o=jsonpath={.status.images}"]);
        ensure!(
            !images.contains("nginx") && images.contains("busybox"),
            "{images}"
        );
        Ok(())
    });
    cluster.until("events go", PATIENCE, || {
        let events = cluster.kubectl(&["get", "events", "-o", "name"]);
        ensure!(events.is_empty(), "{events}");
        Ok(())
    });

    // A node that is short, by what it is told to keep free.
    restart_with(
        &cluster,
        &begin,
        "[agent.pressure]\nmemory-mib = 100000000\ndisk-percent = 99\n",
    );
    until_conditions(&cluster, &["DiskPressure", "MemoryPressure", "Ready"]);
    // It is at ease and says that it is short for as long as it is told to, across restarts.
    let ease = "[agent.pressure]\nmemory-mib = 1\ndisk-percent = 0\n";
    restart_with(&cluster, &begin, &format!("{ease}holds-seconds = 3600\n"));
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(conditions(&cluster).unwrap().split_whitespace().count(), 3);
    restart_with(&cluster, &begin, &format!("{ease}holds-seconds = 1\n"));
    until_conditions(&cluster, &["Ready"]);

    cluster.kill(0);
    for (mistake, named) in [
        ("[agent.images]\nhigh-percent = 101\n", "agent.images"),
        ("[agent.images]\nhigh = 80\n", "unknown field `high`"),
        ("[agent.logs]\nfiles = 1\n", "agent.logs"),
        ("[agent.logs]\nfile-mib = -1\n", "file-mib = -1"),
        (
            "[agent.pressure]\npid-percent = 100\n",
            "agent.pressure.pid-percent",
        ),
    ] {
        std::fs::write(&file, format!("{begin}\n{mistake}")).unwrap();
        let said = cluster.berth_fails(0, &["node", "--detach"]);
        assert!(said.contains(named), "{named:?} is not in {said}");
        assert!(said.contains("nothing was started"), "{said}");
    }
    std::fs::write(&file, &written).unwrap();
    cluster.restart(0);
    cluster.expect_process(0);
    cluster.until_ready(0, "True", PATIENCE);
}
