use std::path::Path;

use nix::sched::CloneFlags;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::mounts::MountKind;
use super::{CreatePlan, SpecError, plan_create};
use crate::ids::ContainerId;

fn config() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "web",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/",
                    "env": ["A=1", "B=2", "A=3"]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"},
                                 {"type": "network", "path": "/run/netns/a"}]}
    })
}

fn plan(config: Value) -> Result<CreatePlan, SpecError> {
    let spec: Spec = serde_json::from_value(config).expect("the shape is right");
    let id = ContainerId::parse("c").expect("an id");
    plan_create(&id, Path::new("/bundle"), &spec)
}

fn refusal(pointer: &str, value: Value) -> String {
    let mut config = config();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    config.pointer_mut(parent).expect("the parent exists")[name] = value;
    plan(config).expect_err(pointer).to_string()
}

#[test]
fn a_plan_holds_what_the_configuration_says() {
    let plan = plan(config()).expect("it is sound");
    assert_eq!(plan.rootfs.as_path(), Path::new("/bundle/rootfs"));
    assert!(plan.root_readonly);
    assert_eq!(
        plan.namespaces.new,
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS
    );
    assert_eq!(
        plan.namespaces.joined[0].path.as_path(),
        Path::new("/run/netns/a")
    );
    assert!(matches!(&plan.mounts[0].kind, MountKind::Filesystem { kind, .. } if kind == "proc"));
    assert_eq!(
        plan.process.environment,
        [c"A=3".to_owned(), c"B=2".to_owned()]
    );
    assert_eq!(plan.devices.expect("a /dev of its own").nodes.len(), 6);
}

#[test]
fn the_hosts_dev_stays_as_it_is() {
    let mut config = config();
    config["mounts"] =
        json!([{"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}]);
    assert_eq!(plan(config).expect("it is sound").devices, None);
}

#[test]
fn mistakes_name_their_field() {
    let cases = [
        ("/ociVersion", json!("2.0.0"), "ociVersion: expected 1.0.0"),
        ("/root/path", json!(""), "root.path: expected a path"),
        (
            "/process/args",
            json!([]),
            "process.args: expected a program",
        ),
        (
            "/process/cwd",
            json!("tmp"),
            "process.cwd: expected an absolute path",
        ),
        (
            "/process/oomScoreAdj",
            json!(2000),
            "process.oomScoreAdj: expected -1000 to 1000",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
            "soft 2 is above hard 1",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "pid"}, {"type": "user"}]),
            "expected a mount namespace",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "mount"}]),
            "linux.namespaces[1].type",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}]),
            "hostname: a uts namespace is needed",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.panic": "1"}),
            "the host's would change",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.sem": "1"}),
            "a ipc namespace is needed",
        ),
        (
            "/linux/rootfsPropagation",
            json!("sideways"),
            "linux.rootfsPropagation: expected",
        ),
        (
            "/linux/devices",
            json!([{"path": "x", "type": "c", "major": 1, "minor": 3}]),
            "linux.devices[0].path",
        ),
        (
            "/linux/personality",
            json!({"domain": "LINUX", "flags": ["X"]}),
            "linux.personality.flags[0]: expected none",
        ),
        (
            "/mounts",
            json!([{"destination": "/x", "options": ["bind"]}]),
            "mounts[0].source",
        ),
        (
            "/mounts",
            json!([{"destination": "/x", "type": "tmpfs", "options": ["idmap"]}]),
            "idmap",
        ),
    ];
    for (pointer, value, expected) in cases {
        let text = refusal(pointer, value);
        assert!(text.contains(expected), "{pointer}: {text}");
        assert!(text.starts_with("config.json: "), "{text}");
    }
}
