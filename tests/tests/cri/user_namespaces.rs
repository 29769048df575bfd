//! Pods whose ids are not the host's (KEP-127): who their root is outside, whose
//! files they see, and what is out of their reach.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use berth_cri::v1;
use tonic::Code;

use crate::world::{World, options, refused, run, run_configured};

const POD: i32 = v1::NamespaceMode::Pod as i32;
const NODE: i32 = v1::NamespaceMode::Node as i32;
const LENGTH: u32 = 65_536;
/// Where the first pod's ids begin on the host.
const FIRST: u32 = 10 * LENGTH;

fn ids(host_id: u32) -> Vec<v1::IdMapping> {
    vec![v1::IdMapping {
        host_id,
        container_id: 0,
        length: LENGTH,
    }]
}

/// A pod as a kubelet asks for it with `hostUsers: false`.
fn sandbox(world: &World, name: &str, first: u32) -> v1::PodSandboxConfig {
    let mut config = world.sandbox(name);
    options(&mut config).userns_options = Some(v1::UserNamespace {
        mode: POD,
        uids: ids(first),
        gids: ids(first),
    });
    config
}

/// A shell command in a container that must succeed; what it wrote.
async fn shell(world: &mut World, id: &str, script: &str) -> Result<String> {
    let (text, code) = world.exec(id, &["sh", "-c", script]).await?;
    ensure!(code == 0, "{script}: {code}: {text}");
    Ok(text.trim().to_owned())
}

/// A folder of the host, with a file of its root's in it.
fn folder(world: &World, name: &str, mode: u32) -> Result<PathBuf> {
    let path = world.machine.host().work_dir().join(name);
    fs::create_dir(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    fs::write(path.join("secret"), "the host's\n")?;
    fs::set_permissions(path.join("secret"), fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

fn mount(from: &Path, to: &str, mapped: Option<u32>) -> v1::Mount {
    let ids = mapped.map(ids).unwrap_or_default();
    v1::Mount {
        host_path: from.display().to_string(),
        container_path: to.to_owned(),
        uid_mappings: ids.clone(),
        gid_mappings: ids,
        ..Default::default()
    }
}

/// The four user ids of a process, as the host sees them.
fn uids_of(pid: u32) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    Ok(line.context("Uid")?.trim().replace('\t', " "))
}

#[test]
fn the_handlers_say_what_they_can() -> Result<()> {
    run(async |mut world| {
        let status = world.runtime.status(v1::StatusRequest::default()).await?;
        let status = status.into_inner();
        let default = status.runtime_handlers[0].features.context("features")?;
        ensure!(default.user_namespaces && default.recursive_read_only_mounts);
        ensure!(
            status
                .features
                .context("features")?
                .user_namespaces_host_network
        );
        Ok(world)
    })
}

#[test]
fn root_inside_is_nobody_outside() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let mut config = sandbox(&world, "own", FIRST);
        config.linux.get_or_insert_default().sysctls = [
            (
                "net.ipv4.ip_unprivileged_port_start".to_owned(),
                "80".to_owned(),
            ),
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
        ]
        .into();
        let pod = world.run_sandbox(config).await?;
        let id = world
            .run_container(&pod, "main", "touch /mine; exec sleep 1000")
            .await?;
        // By the fingers of root inside, and of the host.
        let map = shell(&mut world, &id, "cat /proc/self/uid_map /proc/self/gid_map").await?;
        let numbers: Vec<&str> = map.split_whitespace().collect();
        ensure!(
            numbers == ["0", "655360", "65536", "0", "655360", "65536"],
            "{map}"
        );
        ensure!(shell(&mut world, &id, "id -u; id -g").await? == "0\n0");
        let outside = uids_of(world.pid(&id).await?)?;
        ensure!(outside == "655360 655360 655360 655360", "{outside}");
        // The image's files are root's, and what root writes is so too.
        let owners = shell(&mut world, &id, "stat -c '%u:%g' / /bin/busybox /mine").await?;
        ensure!(owners == "0:0\n0:0\n0:0", "{owners}");
        let upper = world.machine.host().data_dir().join("snapshots").join(&id);
        let mine = fs::metadata(upper.join("upper/mine"))?;
        ensure!((mine.uid(), mine.gid()) == (FIRST, FIRST));
        // An image's file that is changed is copied up for this pod's root.
        shell(
            &mut world,
            &id,
            "echo x >> /etc/passwd; chown 7:8 /etc/passwd",
        )
        .await?;
        let changed = fs::metadata(upper.join("upper/etc/passwd"))?;
        ensure!((changed.uid(), changed.gid()) == (FIRST + 7, FIRST + 8));
        // The pod's network, name, files and kernel settings are its root's.
        let facts = shell(
            &mut world,
            &id,
            "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start \
             /proc/sys/kernel/shm_rmid_forced; stat -c '%U' /etc/hosts /etc/resolv.conf /dev/shm; \
             echo x > /dev/shm/x; echo '# x' >> /etc/hosts; ls -d /sys/class/net/eth0 \
             /sys/fs/cgroup /dev/mqueue; stat -c '%a %t' /dev/null /dev/pts/ptmx; echo > /dev/null",
        )
        .await?;
        let lines: Vec<&str> = facts.lines().collect();
        ensure!(
            lines[..6] == ["own", "80", "1", "root", "root", "root"],
            "{facts}"
        );
        let told = world
            .runtime
            .pod_sandbox_status(v1::PodSandboxStatusRequest {
                pod_sandbox_id: pod.clone(),
                verbose: false,
            })
            .await?
            .into_inner();
        let told = told
            .status
            .and_then(|status| status.linux?.namespaces?.options);
        let users = told.and_then(|told| told.userns_options).context("told")?;
        ensure!(users.uids == ids(FIRST) && users.mode == POD, "{users:?}");
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn the_pods_processes_are_shared_below_a_process_of_its_own_root() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let mut config = sandbox(&world, "shared", FIRST);
        options(&mut config).pid = POD;
        let pod = world.run_sandbox(config).await?;
        let one = world.run_container(&pod, "one", "exec sleep 1001").await?;
        let two = world.run_container(&pod, "two", "exec sleep 1002").await?;
        let seen = shell(&mut world, &two, "cat /proc/*/cmdline | tr '\\0' ' '").await?;
        ensure!(
            seen.contains("sleep 1001") && seen.contains("sleep 1002"),
            "{seen}"
        );
        // Process 1 is the pod's own, and nobody on the host.
        let first = shell(
            &mut world,
            &one,
            "grep -E '^(Name|Uid|CapEff)' /proc/1/status",
        )
        .await?;
        ensure!(first.contains("berth-pod-init"), "{first}");
        ensure!(first.contains("Uid:\t0\t0\t0\t0"), "{first}");
        ensure!(first.contains("CapEff:\t0000000000000000"), "{first}");
        // The other container's program is one's own to signal.
        shell(
            &mut world,
            &one,
            "for p in /proc/[0-9]*; do grep -q 100[2] $p/cmdline && kill -9 ${p#/proc/}; done; true",
        )
        .await?;
        let ended = world.wait_exited(&two).await?;
        ensure!(ended.exit_code == 137, "{ended:?}");
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn a_volumes_owners_are_those_on_disk() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let path = folder(&world, "volume", 0o755)?;
        std::os::unix::fs::chown(path.join("secret"), Some(1000), Some(2000))?;
        let pod = world.run_sandbox(sandbox(&world, "volumes", FIRST)).await?;
        let mut config = world.container("main", "exec sleep 1000");
        config.mounts = vec![mount(&path, "/volume", Some(FIRST))];
        let id = world.create(&pod, config).await?;
        world.start(&id).await?;
        let seen = shell(
            &mut world,
            &id,
            "stat -c '%u:%g' /volume /volume/secret; cat /volume/secret; \
             touch /volume/mine; chown 5:6 /volume/mine; mkdir /volume/folder",
        )
        .await?;
        ensure!(seen == "0:0\n1000:2000\nthe host's", "{seen}");
        let mine = fs::metadata(path.join("mine"))?;
        ensure!((mine.uid(), mine.gid()) == (5, 6));
        ensure!(fs::metadata(path.join("folder"))?.uid() == 0);
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn pods_with_other_ids_share_an_images_layers() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let mut found = Vec::new();
        let mut pods = Vec::new();
        for (name, first) in [("one", FIRST), ("two", FIRST + LENGTH)] {
            let pod = world.run_sandbox(sandbox(&world, name, first)).await?;
            let id = world.run_container(&pod, "main", "exec sleep 1000").await?;
            let outside = uids_of(world.pid(&id).await?)?;
            ensure!(outside.starts_with(&format!("{first} ")), "{outside}");
            found.push(
                shell(
                    &mut world,
                    &id,
                    "stat -c '%u %i' /bin/busybox; echo $0 > /mine",
                )
                .await?,
            );
            pods.push(pod);
        }
        // A third, of the host's users, has the same file too.
        let pod = world.run_sandbox(world.sandbox("host")).await?;
        let id = world.run_container(&pod, "main", "exec sleep 1000").await?;
        found.push(shell(&mut world, &id, "stat -c '%u %i' /bin/busybox").await?);
        pods.push(pod);
        ensure!(found[0].starts_with("0 "), "{found:?}");
        ensure!(found.iter().all(|one| *one == found[0]), "{found:?}");
        for pod in pods {
            world.remove_sandbox(&pod).await?;
        }
        Ok(world)
    })
}

#[test]
fn what_is_the_hosts_is_out_of_reach() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let path = folder(&world, "private", 0o755)?;
        fs::write(path.join("open"), "for all\n")?;
        fs::copy("/bin/busybox", path.join("busybox"))?;
        fs::set_permissions(path.join("busybox"), fs::Permissions::from_mode(0o4755))?;
        let pod = world.run_sandbox(sandbox(&world, "thief", FIRST)).await?;
        // Without a map, and with every capability that there is.
        let mut config = world.container("main", "exec sleep 1000");
        config.mounts = vec![mount(&path, "/host", None)];
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.capabilities = Some(v1::Capability {
            add_capabilities: vec!["ALL".to_owned()],
            ..Default::default()
        });
        let id = world.create(&pod, config).await?;
        world.start(&id).await?;
        let capabilities = shell(&mut world, &id, "grep CapEff /proc/self/status").await?;
        ensure!(
            !capabilities.ends_with("0000000000000000"),
            "{capabilities}"
        );
        let owner = shell(&mut world, &id, "stat -c %u /host/secret; cat /host/open").await?;
        ensure!(owner == "65534\nfor all", "{owner}");
        for attempt in [
            "cat /host/secret",
            "echo x > /host/secret",
            "echo x > /host/open",
            "chown 0 /host/secret",
            "chmod 777 /host/secret",
            "rm /host/secret",
            "touch /host/new",
            "mknod /disk b 254 0",
            "mount -t tmpfs none /sys/fs",
            "echo 1 > /proc/sys/kernel/panic",
            "echo b > /proc/sysrq-trigger",
            "echo 1000 > /proc/sys/net/netfilter/nf_conntrack_max",
            "cat /proc/kcore",
            "nsenter -t 1 -m true",
        ] {
            let script = format!("({attempt}) > /dev/null 2>&1 && echo done || echo refused");
            let outcome = shell(&mut world, &id, &script).await?;
            if attempt.starts_with("mount") || attempt.starts_with("nsenter") {
                // Its own tree is its own: what counts is that the host's is as it was.
                continue;
            }
            ensure!(outcome == "refused", "{attempt}: {outcome}");
        }
        // Set-user-id of the host's root is not honoured: that id is none of the pod's.
        let became = shell(&mut world, &id, "/host/busybox grep Uid /proc/self/status").await?;
        ensure!(became.split_whitespace().nth(2) == Some("0"), "{became}");
        ensure!(fs::read_to_string(path.join("secret"))? == "the host's\n");
        let secret = fs::metadata(path.join("secret"))?;
        ensure!(secret.uid() == 0 && secret.mode() & 0o777 == 0o600);
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn a_killed_server_leaves_the_pod_usable() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let pod = world.run_sandbox(sandbox(&world, "lasting", FIRST)).await?;
        let id = world
            .run_container(&pod, "first", "exec sleep 1000")
            .await?;
        world.kill_and_restart().await?;
        ensure!(shell(&mut world, &id, "id -u").await? == "0");
        let second = world
            .run_container(&pod, "second", "exec sleep 1000")
            .await?;
        let same = "for one in user net uts ipc; do readlink /proc/self/ns/$one; done";
        let (one, two) = (
            shell(&mut world, &id, same).await?,
            shell(&mut world, &second, same).await?,
        );
        ensure!(one == two, "{one} {two}");
        let usage = world
            .runtime
            .container_stats(v1::ContainerStatsRequest {
                container_id: second.clone(),
            })
            .await?
            .into_inner();
        let stats = usage.stats.context("stats")?;
        ensure!(stats.writable_layer.is_some() && stats.cpu.is_some());
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn image_volumes_have_the_pods_owners() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let pod = world.run_sandbox(sandbox(&world, "images", FIRST)).await?;
        let mut config = world.container("main", "exec sleep 1000");
        // A kubelet states the pod's ids on every mount.
        config.mounts = vec![v1::Mount {
            container_path: "/image".to_owned(),
            readonly: true,
            image: config.image.clone(),
            uid_mappings: ids(FIRST),
            gid_mappings: ids(FIRST),
            ..Default::default()
        }];
        let id = world.create(&pod, config).await?;
        world.start(&id).await?;
        let seen = shell(
            &mut world,
            &id,
            "stat -c '%u:%g' /image/bin/busybox; touch /image/x 2> /dev/null || echo refused",
        )
        .await?;
        ensure!(seen == "0:0\nrefused", "{seen}");
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn the_hosts_network_can_be_had_with_ids_of_ones_own() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let mut config = sandbox(&world, "node", FIRST);
        options(&mut config).network = NODE;
        let pod = world.run_sandbox(config).await?;
        let id = world.run_container(&pod, "main", "exec sleep 1000").await?;
        let seen = shell(
            &mut world,
            &id,
            "cat /proc/self/uid_map; ls /sys/class/net | wc -l; \
             (ip addr add 127.9.9.9/32 dev lo) 2> /dev/null || echo refused; \
             (echo x > /sys/kernel/profiling) 2> /dev/null || echo refused",
        )
        .await?;
        ensure!(
            seen.contains("655360") && seen.ends_with("refused\nrefused"),
            "{seen}"
        );
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

#[test]
fn a_privileged_container_is_root_of_its_pod_alone() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let path = folder(&world, "private", 0o755)?;
        let mut config = sandbox(&world, "strong", FIRST);
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().privileged = true;
        let pod = world.run_sandbox(config).await?;
        let mut config = world.container("main", "exec sleep 1000");
        config.mounts = vec![mount(&path, "/host", None)];
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().privileged = true;
        let id = world.create(&pod, config).await?;
        world.start(&id).await?;
        let seen = shell(
            &mut world,
            &id,
            "hostname other && hostname; mkdir /m; mount -t tmpfs none /m && echo mounted; \
             ip addr add 127.9.9.9/32 dev lo && echo added; \
             cat /host/secret 2> /dev/null || echo refused; \
             (echo 1 > /proc/sys/kernel/panic) 2> /dev/null || echo refused; \
             head -c 1 /dev/vda 2> /dev/null || echo refused",
        )
        .await?;
        ensure!(
            seen == "other\nmounted\nadded\nrefused\nrefused\nrefused",
            "{seen}"
        );
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}

/// runc joins what the monitor made; its own release may not know owners of mounts.
#[test]
fn another_runtime_joins_the_pods_namespaces() -> Result<()> {
    let runc = crate::handlers::program("runc")?;
    let text = format!("[handlers.runc]\npath = \"{runc}\"\n");
    run_configured(&text, async |mut world| {
        world.pull().await?;
        for pid in [POD, v1::NamespaceMode::Container as i32] {
            let mut config = sandbox(&world, &format!("runc-{pid}"), FIRST);
            options(&mut config).pid = pid;
            let pod = world.run_handled(config, "runc").await?;
            let id = world.run_container(&pod, "main", "exec sleep 1000").await?;
            let seen = shell(
                &mut world,
                &id,
                "stat -c '%u' / /bin/busybox /dev/shm; touch /mine; cat /proc/self/uid_map",
            )
            .await?;
            ensure!(
                seen.starts_with("0\n0\n0\n") && seen.contains("655360"),
                "{seen}"
            );
            world.remove_sandbox(&pod).await?;
        }
        Ok(world)
    })
}

#[test]
fn wrong_ids_are_refused_by_their_field_and_nothing_is_made() -> Result<()> {
    run(async |mut world| {
        world.pull().await?;
        let field = "linux.security_context.namespace_options.userns_options";
        let range = |container_id, host_id, length| v1::IdMapping {
            host_id,
            container_id,
            length,
        };
        for (mode, uids, gids, names) in [
            (POD, vec![range(0, 1000, 0)], ids(FIRST), ".uids[0].length"),
            (
                POD,
                ids(FIRST),
                vec![range(1, 1000, 9)],
                ".gids: expected a range that holds 0",
            ),
            (
                POD,
                [ids(FIRST), ids(FIRST)].concat(),
                ids(FIRST),
                ".uids[1].container_id",
            ),
            (POD, Vec::new(), ids(FIRST), ".uids: expected a range"),
            (NODE, ids(FIRST), ids(FIRST), ": expected no uids"),
            (
                v1::NamespaceMode::Container as i32,
                ids(FIRST),
                ids(FIRST),
                ".mode",
            ),
            (
                v1::NamespaceMode::Target as i32,
                ids(FIRST),
                ids(FIRST),
                ".mode",
            ),
            (77, ids(FIRST), ids(FIRST), ".mode: 77"),
        ] {
            let mut config = world.sandbox("wrong");
            options(&mut config).userns_options = Some(v1::UserNamespace { mode, uids, gids });
            let outcome = world
                .runtime
                .run_pod_sandbox(v1::RunPodSandboxRequest {
                    config: Some(config),
                    runtime_handler: String::new(),
                })
                .await;
            refused(outcome, Code::InvalidArgument, &format!("{field}{names}"))?;
        }
        let pod = world.run_sandbox(sandbox(&world, "right", FIRST)).await?;
        let mut config = world.container("main", "true");
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        context.namespace_options = Some(v1::NamespaceOption {
            pid: v1::NamespaceMode::Container as i32,
            userns_options: Some(v1::UserNamespace {
                mode: POD,
                uids: ids(FIRST + LENGTH),
                gids: ids(FIRST),
            }),
            ..Default::default()
        });
        let request = |config| v1::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(config),
            sandbox_config: None,
        };
        let outcome = world.runtime.create_container(request(config)).await;
        refused(
            outcome,
            Code::InvalidArgument,
            &format!("{field}.uids: expected those"),
        )?;
        let mut config = world.container("main", "true");
        config.mounts = vec![mount(Path::new("/etc"), "/data", Some(FIRST))];
        config.mounts[0].gid_mappings.clear();
        let outcome = world.runtime.create_container(request(config)).await;
        refused(
            outcome,
            Code::InvalidArgument,
            "mounts: /data: gid_mappings",
        )?;
        let list = v1::ListContainersRequest::default();
        let left = world.runtime.list_containers(list).await?.into_inner();
        ensure!(left.containers.is_empty(), "{left:?}");
        world.remove_sandbox(&pod).await?;
        Ok(world)
    })
}
