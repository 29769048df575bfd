//! `hostUsers: false`: ids of the pod's own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::world::{World, assert_lines};

/// The first id that is given where the machine's files say nothing.
const FIRST: u32 = 0x7000_0000;
const LENGTH: u32 = 65_536;

fn pod(name: &str, more: &str, script: &str) -> String {
    format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  hostUsers: false
  restartPolicy: Never
  {more}
  containers:
  - name: main
    image: busybox
    volumeMounts:
    - {{name: disk, mountPath: /disk}}
    - {{name: memory, mountPath: /memory}}
    - {{name: part, mountPath: /part, subPath: below}}
    - {{name: secret, mountPath: /secret}}
    - {{name: host, mountPath: /host}}
    command:
    - sh
    - -c
    - |
      {}
",
        script.replace('\n', "\n      ")
    )
}

/// Volumes of every kind; the host's folder is given.
fn volumes(folder: &str) -> String {
    format!(
        "securityContext: {{fsGroup: 3000}}
  volumes:
  - {{name: disk, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory}}}}
  - {{name: part, emptyDir: {{}}}}
  - {{name: secret, downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}}}
  - {{name: host, hostPath: {{path: {folder}}}}}"
    )
}

#[test]
fn volumes_keep_their_owners() {
    let world = World::new();
    let folder = world.host().work_dir().join("shared");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("theirs"), "x").unwrap();
    std::os::unix::fs::chown(folder.join("theirs"), Some(1000), Some(1000)).unwrap();
    let output = world.succeeds(&pod(
        "own",
        &volumes(folder.to_str().unwrap()),
        "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '
stat -c 'owners %n %u %g' /disk /memory /part /host /host/theirs /etc/hosts
for one in disk memory part host; do echo mine > /$one/mine && stat -c 'mine %n %u' /$one/mine; done
echo secret $(cat /secret/name)
grep -c own /etc/hosts > /dev/null && echo hosts
echo last words > /dev/termination-log && echo words
echo out > /dev/stdout",
    ));
    let map = format!(" 0 {FIRST} {LENGTH}");
    assert_lines(
        &output,
        &[
            &map,
            "owners /disk 0 3000",
            "owners /memory 0 3000",
            "owners /part 0 3000",
            "owners /host 0 0",
            "owners /host/theirs 1000 1000",
            "owners /etc/hosts 0 0",
            "mine /disk/mine 0",
            "mine /memory/mine 0",
            "mine /part/mine 0",
            "mine /host/mine 0",
            "secret own",
            "hosts",
            "words",
            "out",
        ],
    );
    assert_eq!(fs::metadata(folder.join("mine")).unwrap().uid(), 0);
    world.end();
}

/// A pod that stays, with ids of its own.
fn lasting(name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: busybox, command: [sleep, '1000']}}]
"
    )
}

#[test]
fn each_pod_has_other_ids_and_they_come_free() {
    let world = World::new();
    let first = |pod: &str| {
        let map = world.shell(pod, "main", "cat /proc/self/uid_map");
        let numbers: Vec<u32> = map
            .split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect();
        assert_eq!((numbers[0], numbers[2]), (0, LENGTH), "{map}");
        numbers[1]
    };
    for name in ["one", "two"] {
        world.detach(&lasting(name));
        world
            .machine
            .berth(&["wait", "--for", "ready", name])
            .unwrap();
    }
    let (one, two) = (first("one"), first("two"));
    let mut both = [one, two];
    both.sort_unstable();
    assert_eq!(both, [FIRST, FIRST + LENGTH]);
    // Who is root in one is not in the other, nor outside.
    let status = world.status("one");
    assert!(status.is_object(), "{status:#}");
    world.stop("one");
    world.detach(&lasting("three"));
    world
        .machine
        .berth(&["wait", "--for", "ready", "three"])
        .unwrap();
    assert_eq!(first("three"), one);
    world.stop("two");
    world.stop("three");
    world.end();
}

#[test]
fn what_is_the_machines_is_not_had_with_them() {
    let world = World::new();
    for field in ["hostPID", "hostIPC"] {
        let manifest = lasting("wrong").replace(
            "hostUsers: false",
            &format!("hostUsers: false\n  {field}: true"),
        );
        let reason = world.refused(&manifest);
        let expected = format!("{field}: cannot be true where hostUsers is false");
        assert!(reason.contains(&expected), "{reason}");
    }
    world.end();
}
