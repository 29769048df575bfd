//! Pods of every shape: one kubelet, all of them at once.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::node::{BUSYBOX, NGINX, Node, container_status, full_name, run, shell, shell_with};

const STAYS: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done";

#[test]
fn pods_of_every_shape_run() -> Result<()> {
    run(json!({"seccompDefault": true}), |node| {
        put_all(node)?;
        one_container(node).context("one")?;
        init_and_sidecar(node).context("sidecar")?;
        host_namespaces(node).context("host")?;
        shared_processes(node).context("processes")?;
        volumes(node).context("volumes")?;
        quality_of_service(node).context("quality")?;
        security(node).context("security")?;
        environment(node).context("environment")?;
        ports(node).context("ports")?;
        refused(node).context("refused")
    })
}

fn put_all(node: &Node) -> Result<()> {
    fs::write(node.shared().join("given"), "from the host\n")?;
    node.put(
        "one",
        json!({"containers": [shell("main", &format!("echo hello; {STAYS}"))]}),
    )?;
    put_sidecar(node)?;
    node.put(
        "host",
        json!({
            "hostNetwork": true, "hostPID": true, "hostIPC": true,
            "containers": [shell("main", STAYS)],
        }),
    )?;
    node.put(
        "processes",
        json!({
            "shareProcessNamespace": true,
            "containers": [shell("one", "exec sleep 1111"), shell("two", "exec sleep 2222")],
        }),
    )?;
    put_volumes(node)?;
    put_quality(node)?;
    put_security(node)?;
    put_environment(node)?;
    node.put(
        "ports",
        json!({"containers": [{
            "name": "main", "image": NGINX,
            "ports": [{"containerPort": 80, "hostPort": 8088}],
        }]}),
    )?;
    node.put(
        "refused",
        json!({
            "securityContext": {"runAsNonRoot": true},
            "containers": [shell("main", STAYS)],
        }),
    )
}

fn one_container(node: &Node) -> Result<()> {
    let pod = node.ready("one")?;
    let status = container_status(&pod, "main");
    ensure!(status["restartCount"] == 0 && status["started"] == true);
    let id = status["containerID"].as_str().context("containerID")?;
    ensure!(id.starts_with("berth://"), "{id}");
    ensure!(status["image"] == BUSYBOX, "{status}");
    ensure!(pod["status"]["qosClass"] == "BestEffort");
    ensure!(node.log("one", "main")? == "hello\n");
    let address = pod["status"]["podIP"].as_str().context("podIP")?;
    let told = node.exec("one", "main", &["ip", "-o", "address", "show", "eth0"])?;
    ensure!(told.contains(address), "{address}: {told}");
    ensure!(node.exec("one", "main", &["hostname"])?.trim() == full_name("one"));
    Ok(())
}

/// Each writes down that it was there; the sidecar answers before main begins.
fn put_sidecar(node: &Node) -> Result<()> {
    let mounts = json!({"volumeMounts": [{"name": "order", "mountPath": "/order"}]});
    let sidecar = json!({
        "restartPolicy": "Always",
        "volumeMounts": [{"name": "order", "mountPath": "/order"}],
        "startupProbe": {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1},
    });
    let order = node.shared().join("order");
    fs::create_dir(&order)?;
    node.put(
        "sidecar",
        json!({
            "restartPolicy": "Never",
            "initContainers": [
                shell_with("first", "echo first >> /order/all", mounts.clone()),
                shell_with("beside", "trap 'echo beside ends >> /order/all; exit 0' TERM; \
                    sleep 1; echo beside >> /order/all; touch /tmp/up; \
                    while :; do sleep 1 & wait; done", sidecar),
                shell_with("second", "echo second >> /order/all", mounts.clone()),
            ],
            "containers": [shell_with("main", "echo main >> /order/all; sleep 1; exit 3", mounts)],
            "volumes": [{"name": "order", "hostPath": {"path": order, "type": "Directory"}}],
        }),
    )
}

fn init_and_sidecar(node: &Node) -> Result<()> {
    let pod = node.over("sidecar")?;
    let order = fs::read_to_string(node.shared().join("order/all"))?;
    ensure!(
        order == "first\nbeside\nsecond\nmain\nbeside ends\n",
        "{order}"
    );
    ensure!(pod["status"]["phase"] == "Failed");
    let ended = &container_status(&pod, "main")["state"]["terminated"];
    ensure!(
        ended["exitCode"] == 3 && ended["reason"] == "Error",
        "{ended}"
    );
    let beside = &container_status(&pod, "beside")["state"]["terminated"];
    ensure!(
        beside["exitCode"] == 0 && beside["reason"] == "Completed",
        "{beside}"
    );
    Ok(())
}

fn host_namespaces(node: &Node) -> Result<()> {
    node.ready("host")?;
    let links = node.exec("host", "main", &["ip", "-o", "link"])?;
    ensure!(links.contains("node0"), "{links}");
    let of_container = node.sh(
        "host",
        "main",
        "readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc",
    )?;
    for name in ["pid", "ipc"] {
        let own = fs::read_link(format!("/proc/self/ns/{name}"))?;
        ensure!(
            of_container.contains(&*own.to_string_lossy()),
            "{of_container}"
        );
    }
    Ok(())
}

fn shared_processes(node: &Node) -> Result<()> {
    node.ready("processes")?;
    let seen = node.exec("processes", "one", &["ps", "-o", "pid,args"])?;
    ensure!(
        seen.contains("sleep 1111") && seen.contains("sleep 2222"),
        "{seen}"
    );
    // Process 1 belongs to no container.
    ensure!(!seen.contains("  1 sleep"), "{seen}");
    Ok(())
}

fn put_volumes(node: &Node) -> Result<()> {
    let mounts = json!({"volumeMounts": [
        {"name": "memory", "mountPath": "/memory"},
        {"name": "disk", "mountPath": "/disk"},
        {"name": "disk", "mountPath": "/part", "subPath": "deep/part"},
        {"name": "host", "mountPath": "/host", "readOnly": true},
        {"name": "file", "mountPath": "/file"},
        {"name": "told", "mountPath": "/told"},
        {"name": "image", "mountPath": "/image", "readOnly": true},
    ]});
    node.put_pod(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "volumes", "namespace": "default", "labels": {"color": "blue"}},
        "spec": {
            "containers": [shell_with("main", STAYS, mounts)],
            "volumes": [
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
                {"name": "disk", "emptyDir": {}},
                {"name": "host", "hostPath": {"path": node.shared(), "type": "Directory"}},
                {"name": "file", "hostPath": {"path": node.shared().join("given"), "type": "File"}},
                {"name": "told", "downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                ]}},
                {"name": "image", "image": {"reference": NGINX, "pullPolicy": "IfNotPresent"}},
            ],
        },
    }))
}

fn volumes(node: &Node) -> Result<()> {
    node.ready("volumes")?;
    let sh = |script: &str| node.sh("volumes", "main", script);
    let mounts = sh("cat /proc/self/mountinfo")?;
    let options = |point: &str| {
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(4) == Some(point));
        line.map(str::to_owned)
            .with_context(|| format!("{point}: {mounts}"))
    };
    let memory = options("/memory")?;
    ensure!(
        memory.contains(" - tmpfs ") && memory.contains("size=8192k"),
        "{memory}"
    );
    ensure!(options("/host")?.contains(" ro,"), "{mounts}");
    sh("echo x > /part/y; test -e /disk/deep/part/y")?;
    ensure!(sh("cat /host/given /file")? == "from the host\nfrom the host\n");
    ensure!(sh("touch /host/new 2>/dev/null || echo refused")? == "refused\n");
    ensure!(sh("cat /told/labels")?.contains("color=\"blue\""));
    ensure!(sh("ls /image/usr/sbin/nginx")?.contains("nginx"));
    Ok(())
}

const CLASSES: [&str; 3] = ["guaranteed", "burstable", "besteffort"];

fn put_quality(node: &Node) -> Result<()> {
    let whole = json!({"cpu": "250m", "memory": "64Mi"});
    let resources = [
        json!({"requests": whole.clone(), "limits": whole}),
        json!({"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}}),
        json!({}),
    ];
    for (class, resources) in CLASSES.into_iter().zip(resources) {
        let container = shell_with("main", STAYS, json!({"resources": resources}));
        node.put(class, json!({"containers": [container]}))?;
    }
    Ok(())
}

/// Values of version 1, or of version 2 where the machine has no other.
fn quality_of_service(node: &Node) -> Result<()> {
    let wanted = [
        ("Guaranteed", 64 << 20, 256, Some(25_000)),
        ("Burstable", 32 << 20, 102, None),
        ("BestEffort", 0, 2, None),
    ];
    for (class, (told, memory, shares, quota)) in CLASSES.into_iter().zip(wanted) {
        let pod = node.ready(class)?;
        ensure!(pod["status"]["qosClass"] == told, "{}", pod["status"]);
        let group = group_of(node, class)?;
        let middle = match class {
            "guaranteed" => "/kubelet/kubepods/pod".to_owned(),
            _ => format!("/kubelet/kubepods/{class}/pod"),
        };
        ensure!(group.contains(&middle), "{class}: {group}");
        let read = |controller: &str, v1: &str, v2: &str| read_limit(&group, controller, v1, v2);
        if memory > 0 {
            let limit = read("memory", "memory.limit_in_bytes", "memory.max")?;
            ensure!(limit.trim() == memory.to_string(), "{class}: {limit}");
        }
        let found = read("cpu", "cpu.shares", "cpu.weight")?;
        if v1_directory("cpu").exists() {
            ensure!(found.trim() == shares.to_string(), "{class}: {found}");
        }
        let found = read("cpu", "cpu.cfs_quota_us", "cpu.max")?;
        let begin = quota.map_or_else(|| "-1".to_owned(), |quota: i32| quota.to_string());
        ensure!(
            found.starts_with(&begin) || quota.is_none() && found.starts_with("max"),
            "{class}: {found}"
        );
        // The kubelet's own view of the same.
        let scores = node.exec(class, "main", &["cat", "/proc/self/oom_score_adj"])?;
        let score: i32 = scores.trim().parse()?;
        ensure!(
            if class == "besteffort" {
                score == 1000
            } else {
                score < 1000
            },
            "{class}: {score}"
        );
    }
    Ok(())
}

fn v1_directory(controller: &str) -> PathBuf {
    PathBuf::from("/sys/fs/cgroup")
        .join(controller)
        .join("tasks")
}

/// The group of a pod's only container.
fn group_of(node: &Node, pod: &str) -> Result<String> {
    let status = node.pod(pod)?;
    let id = container_status(&status, "main")["containerID"].clone();
    let id = id
        .as_str()
        .and_then(|id| id.strip_prefix("berth://"))
        .context("an id")?;
    let found = berth_tests::sweep::cgroups(id);
    let path = found
        .first()
        .with_context(|| format!("{pod}: no group of {id}"))?;
    let host = node.machine.host().cgroup_parent();
    let text = path.display().to_string();
    Ok(text[text.find(&host).context("below the host's")?..].to_owned())
}

fn read_limit(group: &str, controller: &str, v1: &str, v2: &str) -> Result<String> {
    let path = match v1_directory(controller).exists() {
        true => format!("/sys/fs/cgroup/{controller}{group}/{v1}"),
        false => format!("/sys/fs/cgroup{group}/{v2}"),
    };
    fs::read_to_string(&path).context(path)
}

fn put_security(node: &Node) -> Result<()> {
    let container = shell_with(
        "main",
        STAYS,
        json!({
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            },
            "volumeMounts": [{"name": "disk", "mountPath": "/disk"}],
        }),
    );
    let privileged = shell_with(
        "root",
        STAYS,
        json!({
            "securityContext": {"privileged": true, "runAsUser": 0, "runAsNonRoot": false},
        }),
    );
    node.put(
        "security",
        json!({
            "securityContext": {
                "runAsUser": 1234, "runAsGroup": 2345, "fsGroup": 3456, "runAsNonRoot": true,
                "supplementalGroups": [4567],
                "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}],
            },
            "containers": [container, privileged],
            "volumes": [{"name": "disk", "emptyDir": {}}],
        }),
    )
}

fn security(node: &Node) -> Result<()> {
    node.ready("security")?;
    let sh = |script: &str| node.sh("security", "main", script);
    ensure!(
        sh("id -u; id -g; id -G")? == "1234\n2345\n2345 3456 4567\n",
        "{}",
        sh("id")?
    );
    let status = sh("cat /proc/self/status")?;
    // CAP_NET_BIND_SERVICE is number 10, and is only what may be had.
    for line in [
        "CapBnd:\t0000000000000400",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        ensure!(status.contains(line), "{line}: {status}");
    }
    ensure!(sh("touch /new 2>/dev/null || echo refused")? == "refused\n");
    ensure!(sh("touch /disk/new; stat -c %g /disk/new")? == "3456\n");
    ensure!(sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start")? == "80\n");
    let root = node.sh("security", "root", "cat /proc/self/status")?;
    ensure!(
        root.contains("Seccomp:\t0") && root.contains("Uid:\t0"),
        "{root}"
    );
    Ok(())
}

fn put_environment(node: &Node) -> Result<()> {
    let container = shell_with(
        "main",
        STAYS,
        json!({
            "workingDir": "/tmp",
            "resources": {"limits": {"memory": "48Mi"}},
            "env": [
                {"name": "SAID", "value": "as is $(OTHER)"},
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
                {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
            ],
        }),
    );
    node.put(
        "environment",
        json!({
            "hostAliases": [{"ip": "203.0.113.9", "hostnames": ["elsewhere"]}],
            "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["203.0.113.53"], "searches": ["example.org"]},
            "hostname": "named", "setHostnameAsFQDN": false,
            "containers": [container],
        }),
    )
}

fn environment(node: &Node) -> Result<()> {
    let pod = node.ready("environment")?;
    let sh = |script: &str| node.sh("environment", "main", script);
    let address = pod["status"]["podIP"].as_str().context("podIP")?;
    let told = sh("echo $SAID; echo $POD; echo $ADDRESS; echo $HOST; echo $LIMIT; pwd")?;
    let wanted = format!(
        "as is $(OTHER)\n{}\n{address}\n192.0.2.1\n{}\n/tmp\n",
        full_name("environment"),
        48 << 20
    );
    ensure!(told == wanted, "{told}");
    let hosts = sh("cat /etc/hosts")?;
    ensure!(hosts.contains("203.0.113.9\telsewhere"), "{hosts}");
    ensure!(
        hosts.contains(address) && hosts.contains("named"),
        "{hosts}"
    );
    let resolv = sh("cat /etc/resolv.conf")?;
    ensure!(
        resolv.contains("203.0.113.53") && resolv.contains("example.org"),
        "{resolv}"
    );
    Ok(())
}

fn ports(node: &Node) -> Result<()> {
    let pod = node.ready("ports")?;
    let address = pod["status"]["podIP"].as_str().context("podIP")?;
    for place in [format!("{address}:80"), "192.0.2.1:8088".to_owned()] {
        let page = node
            .machine
            .host()
            .get_within(Duration::from_secs(10), place.parse()?, "/")?;
        ensure!(page.text().contains("Welcome to nginx!"), "{place}");
    }
    Ok(())
}

/// What the manifest asks for cannot be: the kubelet says why, in our words or its own.
fn refused(node: &Node) -> Result<()> {
    let pod = node.pod_until("refused", "it is refused", |pod| {
        container_status(pod, "main")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    })?;
    let waiting: &Value = &container_status(&pod, "main")["state"]["waiting"];
    let message = waiting["message"].as_str().unwrap_or_default();
    ensure!(message.contains("runAsNonRoot"), "{waiting}");
    ensure!(node.images()?.iter().any(|name| name == BUSYBOX));
    Ok(())
}
