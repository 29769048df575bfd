//! Limits, and what happens at them.

use super::world::{World, assert_lines, container};

#[test]
fn limits_stand_in_the_container_s_group() {
    let world = World::new();
    let output = world.succeeds(
        r"
apiVersion: v1
kind: Pod
metadata: {name: limits}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    command:
    - sh
    - -c
    - |
      cd /sys/fs/cgroup
      if test -e memory.max; then
        echo memory $(cat memory.max); echo quota $(cat cpu.max); echo weight $(cat cpu.weight)
      else
        echo memory $(cat memory/memory.limit_in_bytes)
        echo quota $(cat cpu/cpu.cfs_quota_us) $(cat cpu/cpu.cfs_period_us)
        echo weight $(cat cpu/cpu.shares)
      fi
    resources:
      requests: {cpu: 250m}
      limits: {cpu: 500m, memory: 48Mi}
",
    );
    assert_lines(&output, &["memory 50331648", "quota 50000 100000"]);
    assert!(
        output.contains("weight 256") || output.contains("weight 10\n"),
        "{output}"
    );
    world.end();
}

#[test]
fn too_much_memory_is_told_as_such() {
    let world = World::new();
    let _running = world.start(
        r"
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Always
  containers:
  - name: eater
    image: busybox
    command: [sh, -c, 'sleep 0.2; tail /dev/zero']
    resources: {limits: {memory: 16Mi}}
  - {name: calm, image: busybox, command: [sleep, '60']}
",
    );
    let status = world.status_when("greedy", "killed for its memory", |status| {
        container(status, "eater")["restartCount"].as_u64() >= Some(1)
            && !container(status, "eater")["lastState"]["terminated"].is_null()
    });
    let last = &container(&status, "eater")["lastState"]["terminated"];
    assert_eq!(last["reason"], "OOMKilled", "{status:#}");
    assert_eq!(last["exitCode"], 137, "{status:#}");
    assert_eq!(container(&status, "calm")["restartCount"], 0, "{status:#}");
    world.stop("greedy");
    let ended = world.run(
        r"
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: eater
    image: busybox
    command: [sh, -c, 'tail /dev/zero']
    resources: {limits: {memory: 16Mi}}
",
    );
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("OOMKilled"), "{ended:#?}");
    world.end();
}

#[test]
fn a_pod_has_so_much_time_and_no_more() {
    let world = World::new();
    let ended = world.run(
        r"
apiVersion: v1
kind: Pod
metadata: {name: slow}
spec:
  activeDeadlineSeconds: 1
  terminationGracePeriodSeconds: 1
  restartPolicy: Always
  containers:
  - {name: main, image: busybox, command: [sleep, '60']}
",
    );
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stderr.contains("DeadlineExceeded"), "{ended:#?}");
    world.end();
}
