//! On a plain directory, which keeps what the kernel would act on. A new class of
//! the kernel's has its files at once; here they are made by hand.

use std::fs;
use std::path::Path;

use super::{CacheGroup, ResctrlError, ensure_group, has_resource};
use crate::plan::cache_group::CacheGroupPlan;
use crate::sys::process::HostPid;

fn plan(class: &str, lines: &[&str]) -> CacheGroupPlan {
    CacheGroupPlan {
        class: class.to_owned(),
        own: class == "c",
        schemas: lines.iter().map(|line| (*line).to_owned()).collect(),
        schemata: Vec::new(),
        monitor: None,
    }
}

/// A class as the kernel makes it.
fn make_class(directory: &Path, schemata: &str) {
    fs::create_dir_all(directory.join("mon_groups")).expect("a directory");
    fs::write(directory.join("schemata"), schemata).expect("a file");
    fs::write(directory.join("tasks"), "").expect("a file");
}

#[test]
fn an_own_class_comes_and_goes() {
    let root = tempfile::tempdir().expect("a directory");
    let group = ensure_group(root.path(), &plan("c", &[])).expect("it is made");
    assert!(group.made && root.path().join("c").is_dir());
    group.remove().expect("it goes");
    group.remove().expect("it is gone");
    assert!(!root.path().join("c").exists());
}

#[test]
fn a_named_class_without_limits_must_be_there_and_stays() {
    let root = tempfile::tempdir().expect("a directory");
    let missing = ensure_group(root.path(), &plan("gold", &[])).expect_err("it is missing");
    assert!(matches!(missing, ResctrlError::NoClass(_)), "{missing}");
    make_class(&root.path().join("gold"), "L3:0=ff\n");
    let group = ensure_group(root.path(), &plan("gold", &[])).expect("it is there");
    assert!(!group.made);
    group.add(root.path(), HostPid(42)).expect("a process");
    let tasks = fs::read_to_string(root.path().join("gold/tasks")).expect("tasks");
    assert_eq!(tasks, "42\n");
    group.remove().expect("nothing to do");
    assert!(root.path().join("gold").is_dir());
}

#[test]
fn the_default_class_is_the_root() {
    let root = tempfile::tempdir().expect("a directory");
    make_class(root.path(), "");
    let group = ensure_group(root.path(), &plan("", &[])).expect("it is there");
    assert_eq!(group.class, root.path());
    group.remove().expect("nothing to do");
    assert!(root.path().is_dir());
}

#[test]
fn a_class_with_other_limits_is_left_alone() {
    let root = tempfile::tempdir().expect("a directory");
    make_class(
        &root.path().join("gold"),
        "    MB:0=100;1=100\n    L3:0=007f0;1=0001f\n",
    );
    // As the kernel writes it is not as people do.
    for same in [["L3:0=7f0;1=1f"].as_slice(), &["MB:0=100;1=100", "L3:1=1F"]] {
        ensure_group(root.path(), &plan("gold", same)).expect("the same");
    }
    let error = ensure_group(root.path(), &plan("gold", &["L3:0=f;1=1f"])).expect_err("others");
    assert!(
        error.to_string().contains("exists without \"L3:0=f;1=1f\""),
        "{error}"
    );
    // What `schemata` says is written in any case.
    let written = CacheGroupPlan {
        schemata: vec!["L2:0=f".to_owned()],
        ..plan("gold", &[])
    };
    ensure_group(root.path(), &written).expect("it is written");
    let kept = fs::read_to_string(root.path().join("gold/schemata")).expect("schemata");
    assert!(kept.contains("7f0") && kept.ends_with("L2:0=f\n"), "{kept}");
}

#[test]
fn another_limit_leaves_the_lines_of_other_resources() {
    let root = tempfile::tempdir().expect("a directory");
    let class = root.path().join("gold");
    make_class(&class, "    MB:0=100;1=100\n    L3:0=007f0;1=0001f\n");
    let group = ensure_group(root.path(), &plan("gold", &[])).expect("it is there");
    let lines = ["L3:0=f".to_owned()];
    let held = group.set(root.path(), &lines).expect("it is set");
    assert_eq!(held, ["L3:0=007f0;1=0001f"]);
    let kept = fs::read_to_string(class.join("schemata")).expect("schemata");
    assert!(kept.ends_with("0001f\nL3:0=f\n"), "{kept}");
    assert!(!has_resource(root.path(), "L3"));
    fs::create_dir_all(root.path().join("info/L3")).expect("a directory");
    assert!(has_resource(root.path(), "L3"));
}

#[test]
fn a_monitoring_group_is_the_containers() {
    let root = tempfile::tempdir().expect("a directory");
    make_class(&root.path().join("gold"), "");
    let mut plan = plan("gold", &[]);
    plan.monitor = Some("c".to_owned());
    let group = ensure_group(root.path(), &plan).expect("it is made");
    let monitor = root.path().join("gold/mon_groups/c");
    assert_eq!(group.monitor.as_deref(), Some(monitor.as_path()));
    fs::write(monitor.join("tasks"), "").expect("a file");
    group.add(root.path(), HostPid(7)).expect("a process");
    for tasks in ["gold/tasks", "gold/mon_groups/c/tasks"] {
        let text = fs::read_to_string(root.path().join(tasks)).expect(tasks);
        assert_eq!(text, "7\n", "{tasks}");
    }
    fs::remove_file(monitor.join("tasks")).expect("the kernel's files go by themselves");
    group.remove().expect("it goes");
    assert!(!monitor.exists() && root.path().join("gold").is_dir());
}

#[test]
fn what_is_refused_leaves_nothing_and_says_why() {
    let root = tempfile::tempdir().expect("a directory");
    fs::create_dir(root.path().join("info")).expect("a directory");
    let status = root.path().join("info/last_cmd_status");
    fs::write(status, "Mask beyond cache size\n").expect("a file");
    // A plain directory has no schemata to write to, so this is a refusal.
    let error = ensure_group(root.path(), &plan("c", &["L3:0=fffff"])).expect_err("refused");
    assert!(
        error.to_string().contains("(Mask beyond cache size)"),
        "{error}"
    );
    assert!(!root.path().join("c").exists());
    let group = CacheGroup {
        class: root.path().join("none"),
        made: false,
        own: true,
        monitor: None,
    };
    assert!(group.add(root.path(), HostPid(1)).is_err());
}
