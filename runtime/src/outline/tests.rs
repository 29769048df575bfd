use clap::Parser;
use serde_json::{Value, json};

use super::{Outline, outline};
use crate::arguments::{Arguments, Verb};
use crate::creation::Gate;
use crate::stages;
use crate::verbs::create::prepare;

/// What `plan` shows of a configuration.
fn shown(config: Value) -> Outline {
    let bundle = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(bundle.path().join("rootfs")).expect("a folder in it");
    std::fs::write(bundle.path().join("config.json"), config.to_string()).expect("a file");
    let path = bundle.path().to_str().expect("a path of letters");
    let words = [
        "berth-oci",
        "--root",
        "/nonesuch",
        "--cgroup-manager",
        "disabled",
        "create",
        "--bundle",
        path,
        "c",
    ];
    let arguments = Arguments::parse_from(words);
    let Verb::Create(create) = &arguments.verb else {
        panic!("it was asked to create");
    };
    let creation = prepare(&arguments.global, create, Gate::Start).expect("it is sound");
    outline(&creation).expect("it can be shown")
}

fn config() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 1, "gid": 2},
                    "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"]}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "source": "/srv", "options": ["rbind", "ro", "nosuid", "rnodev", "rslave"]},
            {"destination": "/tmp", "type": "tmpfs", "options": ["noatime", "mode=755"]}],
        "hooks": {"poststop": [{"path": "/b"}], "createRuntime": [{"path": "/a", "timeout": 3}]},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "network", "path": "/run/netns/a"}]}
    })
}

#[test]
fn flags_are_in_words() {
    let found = shown(config());
    let told = serde_json::to_value(&found).expect("it is plain data");
    assert_eq!(told["mounts"][1]["type"], "rbind");
    assert_eq!(told["mounts"][1]["flags"], json!(["ro", "nosuid"]));
    assert_eq!(told["mounts"][1]["recursiveFlags"], json!(["nodev"]));
    assert_eq!(told["mounts"][1]["propagation"], json!(["rslave"]));
    assert_eq!(told["mounts"][2]["flags"], json!(["noatime"]));
    assert_eq!(told["mounts"][2]["data"], json!(["mode=755"]));
    assert_eq!(
        told["process"]["capabilities"]["bounding"],
        json!(["CAP_CHOWN", "CAP_KILL"])
    );
    assert_eq!(told["root"]["readonly"], true);
    assert_eq!(told["root"]["propagation"], "rslave");
}

#[test]
fn every_kind_of_namespace_is_told() {
    let found = shown(config());
    let told = serde_json::to_value(&found.namespaces).expect("it is plain data");
    let all = told.as_array().expect("a list");
    assert_eq!(all.len(), 8);
    assert!(all.contains(&json!({"type": "mount", "how": "new"})));
    assert!(all.contains(&json!({"type": "network", "how": "joined", "path": "/run/netns/a"})));
    assert!(all.contains(&json!({"type": "pid", "how": "shared"})));
}

#[test]
fn hooks_have_an_order_and_stages_a_reason() {
    let found = shown(config());
    let hooks: Vec<_> = found
        .hooks
        .iter()
        .map(|hook| (hook.order, hook.moment))
        .collect();
    assert_eq!(hooks, [(1, "createRuntime"), (2, "poststop")]);
    let idle = |name: &str| {
        let step = found.stages.iter().find(|step| step.name == name);
        step.expect(name).idle
    };
    assert_eq!(idle("make-filter"), Some("no linux.seccomp"));
    assert_eq!(idle("hooks-runtime"), None);
    assert_eq!(idle("hooks-start"), Some("no hooks startContainer"));
    assert_eq!(found.stages.len(), stages::CREATE.len());
}

#[test]
fn the_text_has_every_subject() {
    let text = shown(config()).to_string();
    for part in [
        "/rootfs, read-only",
        "joins /run/netns/a",
        "rbind of /srv (ro,nosuid,rnodev,rslave)",
        "/dev/null",
        "1:2",
        "CAP_CHOWN CAP_KILL",
        "1. createRuntime (by hooks-runtime): /a [], at most 3 s",
        "every system call is allowed",
        "nothing to do: no linux.seccomp",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}
