//! What a kubelet does for pods of an API server and not for those of files: classes of
//! runtimes, recursive read-only mounts, resizing in place. And user namespaces.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use berth_tests::host::program;
use serde_json::{Value, json};

use crate::cluster::{Member, PATIENCE, condition, object};
use crate::node::{Disk, container_status, is_missing, sh, shell, shell_with};
use crate::world::Cluster;

/// Ends when it is asked to.
const STAYS: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done";

#[test]
fn pods_of_an_api_have_what_they_ask_for() -> Result<()> {
    if is_missing() {
        return Ok(());
    }
    let cluster = Cluster::start(2);
    let config = format!("[handlers.plain]\npath = {:?}\n", program("berth-oci"));
    fs::write(cluster.host(1).directory().join("cri.toml"), config)?;
    let settings = json!({"featureGates": {"InPlacePodVerticalScaling": true}});
    let member = Member::take_over(&cluster, settings, Disk::Shared)?;
    let outcome = runtime_classes(&cluster, &member)
        .context("runtime classes")
        .and_then(|()| read_only_to_the_bottom(&cluster, &member).context("read-only"))
        .and_then(|()| users_of_its_own(&cluster).context("users"))
        .and_then(|()| resized(&cluster).context("resize"));
    outcome.map_err(|error| error.context(member.told()))?;
    cluster.kubectl(&["delete", "pods", "--all", "--timeout=60s"]);
    member.end(&cluster)
}

/// A pod for the kubelet's node.
fn create(cluster: &Cluster, name: &str, mut spec: Value) {
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": "host-1"});
    spec["terminationGracePeriodSeconds"] = json!(2);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    cluster.kubectl_with(&["create", "-f", "-"], &pod.to_string());
}

fn ready(cluster: &Cluster, name: &str) -> Result<Value> {
    cluster.until(&format!("pod {name} is ready"), PATIENCE, || {
        let pod = object(cluster, &["pod", name])?;
        ensure!(condition(&pod, "Ready") == "True", "{}", pod["status"]);
        Ok(())
    });
    object(cluster, &["pod", name])
}

/// A class is a handler of the server's, by name; a pod of one that the server does not
/// have says which it has.
fn runtime_classes(cluster: &Cluster, member: &Member<'_>) -> Result<()> {
    for (name, handler) in [("ours", "plain"), ("nowhere", "runsc")] {
        let class = json!({
            "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name},
            "handler": handler, "overhead": {"podFixed": {"memory": "16Mi"}},
        });
        cluster.kubectl_with(&["create", "-f", "-"], &class.to_string());
    }
    let table = cluster.kubectl(&["get", "runtimeclasses"]);
    ensure!(table.starts_with("NAME"), "{table}");
    ensure!(
        table.contains("HANDLER") && table.contains("runsc"),
        "{table}"
    );
    for (name, class) in [("classy", "ours"), ("lost", "nowhere")] {
        let spec = json!({"runtimeClassName": class, "containers": [shell("main", STAYS)]});
        create(cluster, name, spec);
    }
    let pod = ready(cluster, "classy")?;
    ensure!(
        pod["spec"]["overhead"]["memory"] == "16Mi",
        "{}",
        pod["spec"]
    );
    let states = member.host.run_dir().join("oci-plain");
    let states: Vec<_> = fs::read_dir(&states)?.flatten().collect();
    ensure!(!states.is_empty(), "the handler has no container");
    cluster.until("the other says what it lacks", PATIENCE, || {
        let path = "jsonpath={.items[?(@.reason=='FailedCreatePodSandBox')].message}";
        let told = cluster.kubectl(&["get", "events", "-o", path]);
        ensure!(told.contains("\"runsc\" is not configured"), "{told}");
        Ok(())
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "none"},
        "spec": {"runtimeClassName": "missing", "containers": [shell("main", STAYS)]},
    });
    let refused = cluster.kubectl_output(&["create", "-f", "-"], &pod.to_string())?;
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        refused.contains("RuntimeClass \"missing\" not found"),
        "{refused}"
    );
    cluster.kubectl(&["delete", "pod", "classy", "lost", "--timeout=60s"]);
    Ok(())
}

/// A mount below a read-only mount is read-only too, where the pod asks for it.
fn read_only_to_the_bottom(cluster: &Cluster, member: &Member<'_>) -> Result<()> {
    let folder = member.host.work_dir().join("deep");
    fs::create_dir_all(folder.join("inner"))?;
    let inner = folder.join("inner");
    sh(
        member.host,
        &format!("mount -t tmpfs inner {}", inner.display()),
    )?;
    let mounted = |recursive: &str| {
        json!({"volumeMounts": [
            {"name": "deep", "mountPath": "/deep", "readOnly": true, "recursiveReadOnly": recursive},
        ]})
    };
    let spec = json!({
        "containers": [
            shell_with("whole", STAYS, mounted("Enabled")),
            shell_with("top", STAYS, mounted("Disabled")),
        ],
        "volumes": [{"name": "deep", "hostPath": {"path": folder}}],
    });
    create(cluster, "reads", spec);
    let pod = ready(cluster, "reads")?;
    let mounts = &container_status(&pod, "whole")["volumeMounts"];
    ensure!(mounts[0]["recursiveReadOnly"] == "Enabled", "{mounts}");
    let write = |container: &str, file: &str| -> Result<String> {
        let words = ["exec", "reads", "-c", container, "--", "touch", file];
        let output = cluster.kubectl_output(&words, "")?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (container, file, refused) in [
        ("whole", "/deep/x", true),
        ("whole", "/deep/inner/x", true),
        ("top", "/deep/x", true),
        ("top", "/deep/inner/x", false),
    ] {
        let said = write(container, file)?;
        let is_refused = said.contains("Read-only file system");
        ensure!(is_refused == refused, "{container} {file}: {said}");
    }
    cluster.kubectl(&["delete", "pod", "reads", "--timeout=60s"]);
    sh(member.host, &format!("umount {}", inner.display()))
}

/// `hostUsers: false`: root of the pod is nobody of the machine's, and its volumes are its own.
fn users_of_its_own(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["create", "configmap", "words", "--from-literal=word=sesame"]);
    let mounts = json!({"volumeMounts": [
        {"name": "own", "mountPath": "/own"}, {"name": "words", "mountPath": "/words"},
    ]});
    let spec = json!({
        "hostUsers": false,
        "containers": [shell_with("main", STAYS, mounts)],
        "volumes": [
            {"name": "own", "emptyDir": {}}, {"name": "words", "configMap": {"name": "words"}},
        ],
    });
    create(cluster, "users", spec);
    ready(cluster, "users")?;
    let look = "touch /own/file && stat -c %u /own/file && cat /words/word && echo && cat /proc/self/uid_map";
    let said = cluster.kubectl(&["exec", "users", "--", "sh", "-c", look]);
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines.len() == 3 && lines[..2] == ["0", "sesame"], "{said}");
    let map: Vec<u64> = lines[2]
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    ensure!(map[0] == 0 && map[1] >= 65536 && map[2] == 65536, "{map:?}");
    cluster.kubectl(&["delete", "pod", "users", "--timeout=60s"]);
    Ok(())
}

/// A running container gets more, and less; one that wants to be restarted for it is; what
/// the node does not have it does not get.
fn resized(cluster: &Cluster) -> Result<()> {
    let asks = |memory: &str| {
        json!({
            "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": memory}},
        })
    };
    let mut again = asks("64Mi");
    again["resizePolicy"] =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let containers = [
        shell_with("main", STAYS, asks("64Mi")),
        shell_with("again", STAYS, again),
    ];
    create(cluster, "sized", json!({ "containers": containers }));
    let pod = ready(cluster, "sized")?;
    let limits = &container_status(&pod, "main")["resources"]["limits"];
    ensure!(limits["memory"] == "64Mi", "{limits}");

    resize(
        cluster,
        "main",
        json!({"limits": {"cpu": "300m", "memory": "96Mi"}}),
    )?;
    has(cluster, "main", ("300m", "96Mi"), 0);
    ensure!(groups(cluster, "main")? == (30_000, 96 << 20));
    resize(cluster, "main", json!({"limits": {"memory": "80Mi"}}))?;
    has(cluster, "main", ("300m", "80Mi"), 0);
    ensure!(groups(cluster, "main")? == (30_000, 80 << 20));
    resize(cluster, "again", json!({"limits": {"memory": "96Mi"}}))?;
    has(cluster, "again", ("200m", "96Mi"), 1);
    ensure!(groups(cluster, "again")? == (20_000, 96 << 20));

    let refused = resize(cluster, "main", json!({"limits": {"memory": null}}));
    let refused = refused
        .err()
        .context("a limit cannot be removed")?
        .to_string();
    ensure!(
        refused.contains("resource limits cannot be removed"),
        "{refused}"
    );

    resize(
        cluster,
        "main",
        json!({"requests": {"cpu": "1000"}, "limits": {"cpu": "1000"}}),
    )?;
    cluster.until("the node says that it cannot", PATIENCE, || {
        let pod = object(cluster, &["pod", "sized"])?;
        let conditions = pod["status"]["conditions"]
            .as_array()
            .context("conditions")?;
        let pending = conditions
            .iter()
            .find(|one| one["type"] == "PodResizePending");
        ensure!(
            pending.is_some_and(|one| {
                let message = one["message"].as_str().unwrap_or_default();
                // Kubelets differ in whether more than the node has may come true one day.
                ["Infeasible", "Deferred"].contains(&one["reason"].as_str().unwrap_or_default())
                    && message.contains("cpu, requested: 1000")
            }),
            "{conditions:?}"
        );
        Ok(())
    });
    has(cluster, "main", ("300m", "80Mi"), 0);
    cluster.kubectl(&["delete", "pod", "sized", "--timeout=60s"]);
    Ok(())
}

fn resize(cluster: &Cluster, container: &str, resources: Value) -> Result<()> {
    let patch = json!({"spec": {"containers": [{"name": container, "resources": resources}]}});
    let words = ["patch", "pod", "sized", "--subresource=resize", "--patch"];
    let output = cluster.kubectl_output(&[&words[..], &[&patch.to_string()]].concat(), "")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    Ok(())
}

/// Waits until the kubelet says that a container has these limits after so many restarts.
fn has(cluster: &Cluster, container: &str, (cpu, memory): (&str, &str), restarts: u32) {
    let what = format!("{container} has {cpu} and {memory}");
    cluster.until(&what, PATIENCE, || {
        let pod = object(cluster, &["pod", "sized"])?;
        let status = container_status(&pod, container);
        let limits = &status["resources"]["limits"];
        ensure!(
            limits["cpu"] == cpu
                && limits["memory"] == memory
                && status["restartCount"] == restarts
                && status["state"]["running"].is_object(),
            "{}",
            pod["status"]
        );
        Ok(())
    });
}

/// What the kernel says: the quota of each 100 ms, and the limit of memory.
fn groups(cluster: &Cluster, container: &str) -> Result<(u64, u64)> {
    let root = "/sys/fs/cgroup";
    let script = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => format!("cut -d' ' -f1 {root}/cpu.max; cat {root}/memory.max"),
        false => {
            format!("cat {root}/cpu/cpu.cfs_quota_us {root}/memory/memory.limit_in_bytes")
        }
    };
    let words = ["exec", "sized", "-c", container, "--", "sh", "-c", &script];
    let said = cluster.kubectl(&words);
    let numbers: Vec<u64> = said.lines().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(numbers.len() == 2, "{said}");
    Ok((numbers[0], numbers[1]))
}
