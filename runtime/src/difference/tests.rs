use serde_json::{Value, json};

use super::compare;

fn paths(a: Value, b: Value) -> Vec<String> {
    compare(&a, &b)
        .into_iter()
        .map(|found| found.path)
        .collect()
}

#[test]
fn order_that_means_nothing_is_no_difference() {
    let a = json!({
        "process": {
            "env": ["A=1", "B=2"],
            "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"]},
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2},
                        {"type": "RLIMIT_AS", "soft": 1, "hard": 2}],
        },
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}],
            "devices": [{"path": "/dev/a", "type": "c", "major": 1, "minor": 2},
                        {"path": "/dev/b", "type": "c", "major": 1, "minor": 3}],
            "maskedPaths": ["/proc/a", "/proc/b"],
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}]},
        },
        "mounts": [{"destination": "/tmp", "type": "tmpfs", "options": ["ro", "nodev", "rw"]}],
    });
    let b = json!({
        "process": {
            "terminal": false,
            "env": ["B=2", "A=0", "A=1"],
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "ambient": []},
            "rlimits": [{"type": "RLIMIT_AS", "soft": 1, "hard": 2},
                        {"type": "RLIMIT_CORE", "soft": 1, "hard": 2}],
        },
        "linux": {
            "namespaces": [{"type": "mount", "path": ""}, {"type": "pid"}],
            "devices": [{"path": "/dev/b", "type": "c", "major": 1, "minor": 3},
                        {"path": "/dev/a", "type": "c", "major": 1, "minor": 2}],
            "maskedPaths": ["/proc/b", "/proc/a"],
            "readonlyPaths": null,
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": []},
                {"names": ["read"], "action": "SCMP_ACT_ALLOW"}]},
        },
        "mounts": [{"destination": "/tmp", "type": "tmpfs", "options": ["rw", "nodev", "defaults"]}],
        "hooks": {},
    });
    assert_eq!(compare(&a, &b), []);
}

#[test]
fn mounts_have_an_order() {
    let mount = |place: &str| json!({"destination": place, "type": "tmpfs"});
    let a = json!({"mounts": [mount("/a"), mount("/b")]});
    let b = json!({"mounts": [mount("/b"), mount("/a")]});
    assert_eq!(paths(a.clone(), b), ["mounts.order"]);
    let more = json!({"mounts": [mount("/a"), mount("/c"), mount("/b")]});
    assert_eq!(paths(a, more), ["mounts[/c].type"]);
}

#[test]
fn arguments_and_device_rules_have_an_order() {
    let a = json!({"process": {"args": ["a", "b"]}});
    let b = json!({"process": {"args": ["b", "a"]}});
    assert_eq!(paths(a, b), ["process.args"]);
    let rule = |allow: bool| json!({"allow": allow, "access": "rwm"});
    let a = json!({"linux": {"resources": {"devices": [rule(true), rule(false)]}}});
    let b = json!({"linux": {"resources": {"devices": [rule(false), rule(true)]}}});
    assert_eq!(paths(a, b), ["linux.resources.devices"]);
}

#[test]
fn each_difference_says_what_it_means() {
    let a = json!({
        "process": {"capabilities": {"effective": []}, "user": {"uid": 0}},
        "linux": {"namespaces": [{"type": "network"}], "resources": {"pids": {"limit": 5}}},
    });
    let b = json!({
        "process": {"capabilities": {"effective": ["CAP_SYS_MODULE"]}, "user": {"uid": 7}},
        "linux": {"namespaces": [], "resources": {"pids": {"limit": 0}}},
    });
    let found = compare(&a, &b);
    let means = |path: &str| {
        let one = found.iter().find(|found| found.path == path);
        one.map(|found| found.means.clone()).unwrap_or_default()
    };
    assert_eq!(
        means("process.capabilities.effective[CAP_SYS_MODULE]"),
        "B may load and unload kernel modules"
    );
    assert!(means("linux.namespaces[network]").starts_with("B uses the host's network"));
    assert_eq!(
        means("process.user.uid"),
        "B's program is user 7 instead of root"
    );
    assert_eq!(
        means("linux.resources.pids.limit"),
        "B may have any number of processes"
    );
    assert_eq!(found.len(), 4);
}

#[test]
fn every_field_has_words() {
    let a = json!({});
    let b = json!({"zzz": {"deep": 1}, "annotations": {"k": ""}, "process": {"env": ["E="]}});
    for found in compare(&a, &b) {
        assert!(!found.means.is_empty(), "{}", found.path);
    }
    assert_eq!(compare(&a, &b).len(), 3);
}
