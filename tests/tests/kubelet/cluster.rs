//! A real kubelet as a node of a berth cluster.
//!
//! ```text
//!   host 0: berth node (server, agent, netd, CRI)      host 1: berth netd, berth cri, kubelet
//! ```
//!
//! The second host joins as any does. Then its process is ended, and a kubelet takes the
//! agent's place with the certificate that the host was given. It asks with Go's typed
//! clients: protocol buffers, and no field that it does not know by a type.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_tests::host::Host;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::node::{
    Disk, configuration, cover, create_groups, end_in_order, is_missing, kubelet, remove_groups,
    spawn, start_server, uncover, wait_for_socket,
};
use crate::world::Cluster;

pub const PATIENCE: Duration = Duration::from_secs(120);

/// Everything that asks and is asked: its own objects, pods of a Deployment with a
/// Service, ConfigMap and Secret, logs and exec, a drain.
#[test]
fn a_kubelet_is_a_node_of_a_cluster() -> Result<()> {
    if is_missing() {
        return Ok(());
    }
    let cluster = Cluster::start(2);
    let member = Member::take_over(&cluster, json!({}), Disk::Shared)?;
    let outcome = it_says_what_it_is(&cluster)
        .and_then(|()| it_stays_ready(&cluster))
        .and_then(|()| it_runs_pods(&cluster))
        .and_then(|()| it_is_drained(&cluster));
    outcome.map_err(|error| error.context(member.told()))?;
    member.end(&cluster)
}

/// Its Lease, its CSINode.
fn it_says_what_it_is(cluster: &Cluster) -> Result<()> {
    let lease = object(cluster, &["lease", "host-1", "-n", "kube-node-lease"])?;
    ensure!(lease["spec"]["holderIdentity"] == "host-1", "{lease}");
    ensure!(lease["spec"]["leaseDurationSeconds"] == 40, "{lease}");
    cluster.until("the kubelet wrote its CSINode", PATIENCE, || {
        let node = object(cluster, &["csinode", "host-1"])?;
        let owner = &node["metadata"]["ownerReferences"][0];
        ensure!(
            owner["kind"] == "Node" && owner["name"] == "host-1",
            "{node}"
        );
        Ok(())
    });
    Ok(())
}

/// It renews its lease every 10 s, which is longer than an agent may be silent.
fn it_stays_ready(cluster: &Cluster) -> Result<()> {
    let transition = || -> Result<Value> {
        let node = object(cluster, &["node", "host-1"])?;
        let conditions = node["status"]["conditions"].as_array();
        let ready = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
        let ready = ready.context("Ready")?;
        ensure!(ready["status"] == "True", "{ready}");
        Ok(ready["lastTransitionTime"].clone())
    };
    let since = transition()?;
    for _ in 0..12 {
        std::thread::sleep(Duration::from_secs(2));
        ensure!(transition()? == since, "it was taken for dead");
    }
    Ok(())
}

fn it_runs_pods(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&[
        "create",
        "configmap",
        "settings",
        "--from-literal=colour=blue",
    ]);
    cluster.kubectl(&[
        "create",
        "secret",
        "generic",
        "key",
        "--from-literal=word=sesame",
    ]);
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": "host-1"},
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "web", "image": "docker.io/library/busybox:1.37",
                        "command": ["sh", "-c", "echo begun; mkdir /www; echo $COLOUR $(cat /key/word) >/www/index.html; exec httpd -f -p 80 -h /www"],
                        "env": [{"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}}],
                        "volumeMounts": [{"name": "key", "mountPath": "/key"}],
                        "readinessProbe": {"httpGet": {"port": 80, "path": "/index.html"}, "periodSeconds": 1},
                    }],
                    "volumes": [{"name": "key", "secret": {"secretName": "key"}}],
                },
            },
        },
    });
    cluster.kubectl_with(&["create", "-f", "-"], &deployment.to_string());
    cluster.kubectl(&["expose", "deployment", "web", "--port=80"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let service = object(cluster, &["service", "web"])?;
    let address = service["spec"]["clusterIP"].as_str().context("clusterIP")?;
    // From the other node, over the tunnel, to a pod that the kubelet runs.
    cluster.until("the service answers", PATIENCE, || {
        let page = cluster.host(0).get(format!("{address}:80").parse()?, "/")?;
        ensure!(page.text() == "blue sesame\n", "{}", page.text());
        Ok(())
    });
    let log = cluster.kubectl(&["logs", "deployment/web"]);
    ensure!(log == "begun\n", "{log}");
    let said = cluster.kubectl(&["exec", "deployment/web", "--", "sh", "-c", "echo $COLOUR"]);
    ensure!(said == "blue\n", "{said}");
    let events = cluster.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
    for reason in ["Scheduled", "Pulled", "Created", "Started"] {
        ensure!(events.contains(reason), "{events}");
    }
    // One is deleted; another takes its place, and the old one is gone for good.
    let first = cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]);
    cluster.kubectl(&["delete", "pod", &first, "--timeout=60s"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    Ok(())
}

/// Evictions, and grace: the kubelet deletes what it has ended.
fn it_is_drained(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["drain", "host-1", "--ignore-daemonsets", "--timeout=90s"]);
    let left = cluster.kubectl(&[
        "get",
        "pods",
        "--field-selector=spec.nodeName=host-1",
        "-o",
        "name",
    ]);
    ensure!(left.is_empty(), "{left}");
    cluster.kubectl(&["delete", "deployment", "web"]);
    Ok(())
}

pub fn object(cluster: &Cluster, what: &[&str]) -> Result<Value> {
    let words = [&["get", "-o", "json"], what].concat();
    let output = cluster.kubectl_output(&words, "")?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{told}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

pub fn condition<'a>(object: &'a Value, wanted: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array();
    let mut found = conditions.into_iter().flatten();
    let found = found.find(|condition| condition["type"] == wanted);
    found
        .and_then(|found| found["status"].as_str())
        .unwrap_or_default()
}

/// The second host, with a kubelet.
pub struct Member<'a> {
    pub host: &'a Host,
    children: Vec<Child>,
    groups: Vec<PathBuf>,
}

impl<'a> Member<'a> {
    /// Puts a kubelet in the place of the second host's agent, with settings over those of
    /// [`configuration`], and waits until its node is ready. `cri.toml` in the host's
    /// folder is the server's configuration.
    pub fn take_over(cluster: &'a Cluster, settings: Value, disk: Disk) -> Result<Member<'a>> {
        let host = cluster.host(1);
        let node = cluster.process(1).context("the node's process runs")?;
        kill(Pid::from_raw(node), Signal::SIGTERM)?;
        cluster.until("the node's process has ended", PATIENCE, || {
            ensure!(cluster.process(1).is_none(), "it lives");
            Ok(())
        });
        cover(host, disk)?;
        let mut member = Member {
            host,
            children: Vec::new(),
            groups: create_groups(host)?,
        };
        for folder in ["manifests", "pod-logs", "pki"] {
            fs::create_dir(host.directory().join(folder))?;
        }
        write_configuration(cluster, host, settings)?;
        member.children.push(start_server(host)?);
        wait_for_socket(host)?;
        let mut network = cluster.command(1, &["netd"]);
        member.children.push(spawn(&mut network, host, "netd.log")?);
        let mut command = kubelet(host);
        command
            .arg("--hostname-override=host-1")
            .arg(format!("--node-ip={}", cluster.fabric().address(1)))
            .arg(format!(
                "--kubeconfig={}",
                host.directory().join("kubeconfig").display()
            ));
        member
            .children
            .push(spawn(&mut command, host, "kubelet.log")?);
        cluster.until("the kubelet's node is ready", PATIENCE, || {
            let node = object(cluster, &["node", "host-1"])?;
            let version = &node["status"]["nodeInfo"]["kubeletVersion"];
            ensure!(version == "v1.36.3", "{version}\n{}", member.told());
            ensure!(
                condition(&node, "Ready") == "True",
                "{}\n{}",
                node["status"]["conditions"],
                member.told()
            );
            Ok(())
        });
        Ok(member)
    }

    pub fn told(&self) -> String {
        let mut text = String::new();
        for name in ["server.log", "netd.log", "kubelet.log"] {
            let log = fs::read(self.host.directory().join(name)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines: Vec<&str> = log.lines().filter(|line| !line.starts_with('I')).collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            text += &format!("== the end of {name}\n{}\n", last.join("\n"));
        }
        text
    }

    pub fn end(mut self, cluster: &Cluster) -> Result<()> {
        let volumes = self.host.directory().join("kubelet/pods");
        cluster.until("the kubelet has cleared away its pods", PATIENCE, || {
            // In the host's namespace: they may be on a disk that is mounted there only.
            let left = self.host.command("ls").arg(&volumes).output()?;
            ensure!(left.status.success(), "ls: {}", left.status);
            let left = String::from_utf8_lossy(&left.stdout).into_owned();
            ensure!(left.is_empty(), "{left} are left");
            Ok(())
        });
        while let Some(mut child) = self.children.pop() {
            end_in_order(&mut child)?;
        }
        uncover(self.host)
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        remove_groups(&self.groups);
    }
}

/// The kubelet's two files: what it is, and how it reaches the cluster.
fn write_configuration(cluster: &Cluster, host: &Host, more: Value) -> Result<()> {
    let pki = host.data_dir().join("node/pki");
    let file = |name: &str| pki.join(name).display().to_string();
    let mut settings = json!({
        // The API's server asks with its certificate, and is shown the node's.
        "address": "0.0.0.0",
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": false},
            "x509": {"clientCAFile": file("ca.crt")},
        },
        "tlsCertFile": file("node.crt"),
        "tlsPrivateKeyFile": file("node.key"),
        "clusterDNS": ["10.211.0.10"],
        "clusterDomain": "cluster.local",
        "contentType": "application/vnd.kubernetes.protobuf",
    });
    if let (Some(settings), Value::Object(more)) = (settings.as_object_mut(), more) {
        settings.extend(more);
    }
    let config = configuration(host, settings)?;
    fs::write(
        host.directory().join("kubelet.json"),
        serde_json::to_vec_pretty(&config)?,
    )?;
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "berth",
        "clusters": [{"name": "berth", "cluster": {
            "server": format!("https://{}", cluster.server(0)),
            "certificate-authority": file("ca.crt"),
        }}],
        "users": [{"name": "node", "user": {
            "client-certificate": file("node.crt"), "client-key": file("node.key"),
        }}],
        "contexts": [{"name": "berth", "context": {"cluster": "berth", "user": "node"}}],
    });
    fs::write(host.directory().join("kubeconfig"), kubeconfig.to_string())?;
    Ok(())
}
