//! Users, capabilities, privileges and kernel parameters.

use super::world::{World, assert_lines};

/// A pod of one container that prints what the kernel says of it.
fn pod(spec: &str, container: &str, script: &str) -> String {
    format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: secure}}
spec:
  restartPolicy: Never
  {spec}
  volumes: [{{name: data, emptyDir: {{}}}}]
  containers:
  - name: main
    image: busybox
    {container}
    volumeMounts: [{{name: data, mountPath: /data}}]
    command:
    - sh
    - -c
    - |
      {}
",
        script.replace('\n', "\n      ")
    )
}

const FACTS: &str = "echo id $(id -u) $(id -g) $(id -G)
stat -c 'data %g %a' /data
grep -E 'Cap(Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status | tr '\\t' ' '
touch /root-file && echo root is writable";

#[test]
fn users_and_groups_are_those_that_were_asked_for() {
    let world = World::new();
    let output = world.succeeds(&pod(
        "securityContext: {runAsUser: 1000, runAsGroup: 1001, fsGroup: 1002, supplementalGroups: [1003], runAsNonRoot: true}",
        "securityContext: {}",
        "echo id $(id -u) $(id -g) $(id -G)\nstat -c 'data %g %a' /data\ntouch /data/mine; stat -c 'mine %u %g' /data/mine\ngrep CapEff /proc/self/status | tr '\\t' ' '",
    ));
    assert_lines(
        &output,
        &[
            "id 1000 1001 1001 1002 1003",
            "data 1002 2777",
            "mine 1000 1002",
            "CapEff: 0000000000000000",
        ],
    );
    let output = world.succeeds(&pod(
        "securityContext: {runAsUser: 1000}",
        "securityContext: {runAsUser: 65534, runAsGroup: 65534}",
        "echo id $(id -u) $(id -g)",
    ));
    assert_lines(&output, &["id 65534 65534"]);
    let ended = world.run(&pod(
        "securityContext: {runAsNonRoot: true}",
        "",
        "echo ran",
    ));
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    assert!(!ended.stdout.contains("ran"), "{ended:#?}");
    assert!(ended.stderr.contains("root"), "{ended:#?}");
    world.end();
}

#[test]
fn capabilities_filters_and_the_root_are_those_that_were_asked_for() {
    let world = World::new();
    let bit = |number: u32| 1_u64 << number;
    let effective = |output: &str| {
        let line = output.lines().find_map(|line| line.split_once("CapEff: "));
        u64::from_str_radix(line.unwrap_or_else(|| panic!("{output}")).1, 16).unwrap()
    };
    let plain = world.succeeds(&pod("", "", FACTS));
    assert_lines(&plain, &["NoNewPrivs: 0", "Seccomp: 2", "root is writable"]);
    let (chown, net_admin, sys_admin) = (bit(0), bit(12), bit(21));
    assert_eq!(effective(&plain) & (chown | net_admin | sys_admin), chown);
    let output = world.succeeds(&pod(
        "",
        "securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN]}, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true}",
        FACTS.replace(" && echo root is writable", " || echo root is read-only; echo yes > /data/x && cat /data/x").as_str(),
    ));
    assert_eq!(effective(&output), net_admin, "{output}");
    assert_lines(&output, &["NoNewPrivs: 1", "root is read-only", "yes"]);
    let output = world.succeeds(&pod(
        "",
        "securityContext: {seccompProfile: {type: Unconfined}}",
        FACTS,
    ));
    assert_lines(&output, &["Seccomp: 0"]);
    let output = world.succeeds(&pod(
        "",
        "securityContext: {privileged: true}",
        &format!("{FACTS}\nmount -t tmpfs none /mnt 2>/dev/null || mkdir /m && mount -t tmpfs none /m && echo mounted\ntest -w /proc/sys/kernel/hostname && echo proc is writable\nls /dev | wc -l"),
    ));
    assert_ne!(effective(&output) & sys_admin, 0, "{output}");
    assert_lines(&output, &["Seccomp: 0", "mounted", "proc is writable"]);
    world.end();
}

#[test]
fn sysctls_are_the_pod_s_own_and_others_are_refused() {
    let world = World::new();
    let output = world.succeeds(&pod(
        "securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '0'}, {name: kernel.shm_rmid_forced, value: '1'}]}",
        "",
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo shm $(cat /proc/sys/kernel/shm_rmid_forced)",
    ));
    assert_lines(&output, &["0", "shm 1"]);
    let message = world.refused(&pod(
        "securityContext: {sysctls: [{name: vm.swappiness, value: '1'}]}",
        "",
        "echo ran",
    ));
    assert!(message.contains("vm.swappiness"), "{message}");
    let message = world.refused(&pod(
        "",
        "securityContext: {capabilities: {add: [FLY]}}",
        "echo ran",
    ));
    assert!(message.contains("FLY"), "{message}");
    world.end();
}
