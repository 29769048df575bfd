//! What containers of a pod share, and what not.

use super::world::{World, assert_lines};

const TWO: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  SPEC
  terminationGracePeriodSeconds: 1
  containers:
  - name: left
    image: busybox
    command: [sh, -c, 'trap `exit 0` TERM; nc -ll -p 7000 -e echo left answers & while :; do sleep 0.1; done']
  - name: right
    image: busybox
    command: [sh, -c, 'trap `exit 0` TERM; while :; do sleep 0.1; done']
";

fn namespaces(world: &World, container: &str) -> Vec<String> {
    let script = "for kind in net ipc uts pid mnt; do readlink /proc/self/ns/$kind; done";
    let text = world.shell("two", container, script);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn containers_share_network_ipc_and_name_but_not_processes_and_files() {
    let world = World::new();
    world.detach(&TWO.replace("  SPEC\n", "").replace('`', "\""));
    let (left, right) = (namespaces(&world, "left"), namespaces(&world, "right"));
    assert_eq!(left[..3], right[..3], "net, ipc, uts");
    assert_ne!(left[3], right[3], "pid");
    assert_ne!(left[4], right[4], "mnt");
    let answer = world.shell(
        "two",
        "right",
        "until nc -w 2 127.0.0.1 7000 2>/dev/null; do sleep 0.1; done",
    );
    assert_eq!(answer, "left answers\n");
    world.shell(
        "two",
        "left",
        "touch /tmp/mine; echo shared > /dev/shm/ours",
    );
    let seen = world.shell(
        "two",
        "right",
        "ls /tmp; cat /dev/shm/ours; hostname; ps -o args",
    );
    assert!(seen.starts_with("shared\ntwo\n"), "{seen}");
    assert!(!seen.contains("nc -ll"), "{seen}");
    world.stop("two");
    world.end();
}

#[test]
fn one_process_namespace_for_all_when_asked() {
    let world = World::new();
    world.detach(
        &TWO.replace("SPEC", "shareProcessNamespace: true")
            .replace('`', "\""),
    );
    let (left, right) = (namespaces(&world, "left"), namespaces(&world, "right"));
    assert_eq!(left[3], right[3], "pid");
    let processes = world.shell("two", "right", "ps -o args");
    assert!(processes.contains("nc -ll"), "{processes}");
    let first = world.shell("two", "right", "cat /proc/1/comm");
    assert_ne!(first, "sh\n", "process 1 is the sandbox's");
    world.stop("two");
    world.end();
}

#[test]
fn the_machine_s_namespaces_when_asked() {
    let world = World::new();
    let output = world.succeeds(
        r"
apiVersion: v1
kind: Pod
metadata: {name: guest}
spec:
  restartPolicy: Never
  hostNetwork: true
  hostPID: true
  hostIPC: true
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'for kind in net ipc pid uts; do readlink /proc/self/ns/$kind; done; hostname']
",
    );
    let of_host = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/{}/ns/{kind}", world.host().pid())).unwrap();
        link.to_string_lossy().into_owned()
    };
    let (net, ipc, pid, uts) = (
        of_host("net"),
        of_host("ipc"),
        of_host("pid"),
        of_host("uts"),
    );
    assert_lines(&output, &[&net, &ipc, &pid, &uts]);
    world.end();
}
