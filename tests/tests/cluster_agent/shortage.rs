//! A node that runs short: who goes, who stays, what kubectl shows.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::world::{self, IMAGE, NODE, Setup, World, succeed};

/// A condition of the node, once it has a status.
async fn until_condition(world: &World, kind: &str, status: &str) -> Result<()> {
    let path = format!("-o=jsonpath={{.status.conditions[?(@.type=='{kind}')].status}}");
    let words = ["get", "node", NODE, &path];
    world
        .until_prints(&words, |found| found == status)
        .await
        .map(drop)
}

/// A memory file of a kernel that has this much left. What it tells the node is bound
/// over the real one, as lxcfs does for containers.
fn tell_memory(world: &World, mebibytes: u64) -> Result<()> {
    let text = format!(
        "MemTotal: 8388608 kB\nMemAvailable: {} kB\n",
        mebibytes << 10
    );
    // In place: the bound file is this very one.
    Ok(std::fs::write(
        world.machine.host().directory().join("meminfo"),
        text,
    )?)
}

fn holder(mebibytes: u32, request: Value) -> Value {
    // Pages of a tmpfs count for the container that wrote them.
    let script = format!(
        "dd if=/dev/zero of=/dev/shm/held bs=1M count={mebibytes} 2>/dev/null; exec sleep 1000"
    );
    json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": IMAGE,
        "command": ["sh", "-c", script], "resources": {"requests": request}}]})
}

#[test]
fn who_uses_more_memory_than_it_asked_for_goes_first() -> Result<()> {
    let setup = Setup {
        // Nobody else goes before the test has told of more memory.
        agent: vec![
            "pressure-memory-bytes=1073741824",
            "pressure-holds-seconds=3",
            "pressure-look-seconds=10",
        ],
        ..Setup::default()
    };
    world::run_with(setup, async |world| {
        tell_memory(&world, 4096)?;
        let bound = world.machine.host().directory().join("meminfo");
        succeed(
            world
                .machine
                .host()
                .command("mount")
                .arg("--bind")
                .arg(bound)
                .arg("/proc/meminfo"),
        )?;
        world
            .bind("modest", holder(24, json!({"memory": "256Mi"})))
            .await?;
        world
            .bind("greedy", holder(24, json!({"memory": "1Mi"})))
            .await?;
        world
            .bind("small", holder(1, json!({"memory": "200Mi"})))
            .await?;
        for name in ["modest", "greedy", "small"] {
            world.until_status(name, "Running").await?;
            let words = ["exec", name, "--", "sh", "-c", "stat -c %s /dev/shm/held"];
            world
                .until_prints(&words, |size| {
                    size.trim().parse::<u64>().is_ok_and(|size| size >> 20 >= 1)
                })
                .await?;
        }
        tell_memory(&world, 100)?;
        world.until_evicted("greedy").await?;
        tell_memory(&world, 4096)?;
        let told = world.value("greedy", ".status['phase','reason','message']")?;
        ensure!(
            told.starts_with(
                "Failed Evicted The node was low on resource: memory. Threshold quantity: 1048576Ki"
            ),
            "{told}"
        );
        let target = world.value(
            "greedy",
            ".status.conditions[?(@.type=='DisruptionTarget')].status",
        )?;
        ensure!(target == "True", "{target}");
        world.until_event("greedy", "Evicted").await?;
        for name in ["modest", "small"] {
            world.until_status(name, "Running").await?;
        }
        until_condition(&world, "MemoryPressure", "False").await?;
        succeed(world.machine.host().command("umount").arg("/proc/meminfo"))?;
        Ok(world)
    })
}

#[test]
fn a_full_disk_costs_unused_images_and_then_who_filled_it() -> Result<()> {
    let setup = Setup {
        agent: vec!["pressure-disk-percent=30", "pressure-holds-seconds=3"],
        disks: vec![("agent", 64)],
        ..Setup::default()
    };
    world::run_with(setup, async |world| {
        let writer = |mebibytes: u32| {
            json!({"restartPolicy": "Never",
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "containers": [{"name": "main", "image": IMAGE,
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
                "command": ["sh", "-c",
                    format!("dd if=/dev/zero of=/scratch/big bs=1M count={mebibytes}; exec sleep 1000")]}]})
        };
        world
            .bind(
                "web",
                json!({"containers": [{"name": "web", "image": "docker.io/library/nginx:1.29"}]}),
            )
            .await?;
        world.until_status("web", "Running").await?;
        world.delete("web").await?;
        world.bind("small", writer(4)).await?;
        world.until_status("small", "Running").await?;
        world.bind("large", writer(48)).await?;
        world.until_evicted("large").await?;
        let told = world.value("large", ".status.message")?;
        ensure!(
            told.starts_with("The node was low on resource: ephemeral-storage"),
            "{told}"
        );
        // Its files are gone, so the node is at ease again, and the other one never noticed.
        world.until_status("small", "Running").await?;
        let images = ["get", "node", NODE, "-o=jsonpath={.status.images[*].names}"];
        world
            .until_prints(&images, |names| {
                !names.contains("nginx") && names.contains("busybox")
            })
            .await?;
        until_condition(&world, "DiskPressure", "False").await?;
        let words = ["exec", "small", "--", "stat", "-c", "%s", "/scratch/big"];
        ensure!(world.prints(&words)? == "4194304\n");
        Ok(world)
    })
}

#[test]
fn a_short_node_takes_no_pod_that_would_go_first() -> Result<()> {
    let setup = Setup {
        agent: vec!["pressure-memory-bytes=1073741824"],
        ..Setup::default()
    };
    world::run_with(setup, async |world| {
        tell_memory(&world, 100)?;
        let bound = world.machine.host().directory().join("meminfo");
        succeed(
            world
                .machine
                .host()
                .command("mount")
                .arg("--bind")
                .arg(bound)
                .arg("/proc/meminfo"),
        )?;
        until_condition(&world, "MemoryPressure", "True").await?;
        world
            .bind(
                "whatever",
                json!({"containers": [{"name": "main", "image": IMAGE}]}),
            )
            .await?;
        world.until_status("whatever", "Evicted").await?;
        let told = world.value("whatever", ".status.message")?;
        ensure!(
            told.contains("The node had condition: [MemoryPressure]"),
            "{told}"
        );
        // One that belongs to the cluster runs all the same, and stays.
        let mut critical = holder(1, json!({}));
        critical["priorityClassName"] = json!("system-cluster-critical");
        world.bind("critical", critical).await?;
        world.until_status("critical", "Running").await?;
        tell_memory(&world, 4096)?;
        succeed(world.machine.host().command("umount").arg("/proc/meminfo"))?;
        Ok(world)
    })
}
