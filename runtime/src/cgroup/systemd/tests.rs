use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use serde_json::json;

use super::annotations::{parse_value, plan_annotations};
use super::scope::parse_version;
use super::{Bus, SystemdView, expand_slice, parse_unit, unit_group};
use crate::cgroup::plan::{CgroupManager, CgroupPlan, CgroupRequest, plan_cgroup};
use crate::cgroup::tree::{CgroupTree, CgroupVersion, Hierarchy};
use crate::dbus::Value;

#[test]
fn slices_stand_in_each_other_by_their_names() {
    for (slice, path) in [
        ("system.slice", "system.slice"),
        ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
        ("-.slice", ""),
        (
            "kubepods-besteffort.slice",
            "kubepods.slice/kubepods-besteffort.slice",
        ),
    ] {
        assert_eq!(expand_slice(slice).expect(slice), PathBuf::from(path));
    }
    for slice in [
        "",
        ".slice",
        "a",
        "a.scope",
        "a--b.slice",
        "-a.slice",
        "a-.slice",
        "a/b.slice",
    ] {
        let error = expand_slice(slice).expect_err(slice).to_string();
        assert!(error.contains("invalid slice name"), "{error}");
    }
}

fn unit(path: &str, bus: Bus) -> Result<(String, String), String> {
    parse_unit(Some(Path::new(path)), "id", bus)
        .map(|name| (name.slice, name.unit))
        .map_err(|error| error.to_string())
}

#[test]
fn paths_name_slice_and_unit() {
    for (path, bus, slice, name) in [
        (
            "a-b.slice:berth:c1",
            Bus::System,
            "a-b.slice",
            "berth-c1.scope",
        ),
        (":berth:c1", Bus::System, "system.slice", "berth-c1.scope"),
        (":berth:c1", Bus::User, "user.slice", "berth-c1.scope"),
        ("a.slice::c1", Bus::System, "a.slice", "c1.scope"),
        (
            "a.slice:x:a-pod.slice",
            Bus::System,
            "a.slice",
            "a-pod.slice",
        ),
        ("", Bus::System, "system.slice", "berth-id.scope"),
    ] {
        assert_eq!(
            unit(path, bus),
            Ok((slice.to_owned(), name.to_owned())),
            "{path}"
        );
    }
    for path in [
        "/machine/c1",
        "a:b",
        "a:b:c:d",
        "a.slice:b:",
        "a.slice:b:c/d",
    ] {
        let error = unit(path, Bus::System).expect_err(path);
        assert!(error.starts_with("linux.cgroupsPath: "), "{error}");
    }
    let error = unit("/machine/c1", Bus::System).expect_err("no unit");
    assert!(
        error.contains("expected cgroupsPath to be of format \"slice:prefix:name\" for systemd"),
        "{error}"
    );
}

#[test]
fn a_users_systemd_has_a_part_of_the_tree() {
    let view = SystemdView {
        bus: Bus::User,
        group: "/user.slice/user-7.slice/user@7.service".into(),
        ..SystemdView::default()
    };
    let name = parse_unit(None, "c1", Bus::User).expect("a unit");
    assert_eq!(
        unit_group(&name, &view).expect("a group"),
        Path::new("user.slice/user-7.slice/user@7.service/user.slice/berth-c1.scope")
    );
}

#[test]
fn versions_begin_with_a_number() {
    for (text, version) in [
        ("252.38-1~deb12u1", 252),
        ("v245.4-1.fc32", 245),
        ("257", 257),
        ("", 0),
    ] {
        assert_eq!(parse_version(text), version, "{text}");
    }
}

#[test]
fn annotations_are_values_in_words() {
    for (text, value) in [
        ("true", Value::Bool(true)),
        ("'it''s'", Value::Bool(false)),
        ("\"a \\\"b\\\"\"", Value::text("a \"b\"")),
        ("'inactive-or-failed'", Value::text("inactive-or-failed")),
        ("uint64 5000000", Value::Uint64(5_000_000)),
        ("int16 -3", Value::Int16(-3)),
        ("byte 7", Value::Byte(7)),
        ("12", Value::Int32(12)),
        ("1.5", Value::Double(1.5)),
        ("['a', 'b']", Value::texts(["a", "b"])),
        (
            "[('/dev/null', 'rw')]",
            Value::Array(
                "(ss)".to_owned(),
                vec![Value::Struct(vec![
                    Value::text("/dev/null"),
                    Value::text("rw"),
                ])],
            ),
        ),
        ("<uint32 1>", Value::variant(Value::Uint32(1))),
        ("objectpath '/a'", Value::Path("/a".to_owned())),
    ] {
        let read = parse_value(text);
        if text == "'it''s'" {
            // Two texts side by side are no value.
            assert_eq!(read, None);
        } else {
            assert_eq!(read, Some(value), "{text}");
        }
    }
    for text in [
        "",
        "uint64",
        "uint64 -1",
        "[1, 'a']",
        "[]",
        "'open",
        "(1",
        "1e999",
        "word",
    ] {
        assert_eq!(parse_value(text), None, "{text}");
    }
}

#[test]
fn annotations_become_properties() {
    let annotations: HashMap<String, String> = [
        ("org.systemd.property.CollectMode", "'inactive-or-failed'"),
        ("org.systemd.property.TimeoutStopSec", "uint64 90"),
        ("org.systemd.property.TimeoutStartUSec", "uint64 7"),
        ("other.annotation", "x"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    let planned = plan_annotations(Some(&annotations)).expect("properties");
    assert_eq!(
        planned,
        [
            ("CollectMode".to_owned(), Value::text("inactive-or-failed")),
            ("TimeoutStartUSec".to_owned(), Value::Uint64(7)),
            ("TimeoutStopUSec".to_owned(), Value::Uint64(90_000_000)),
        ]
    );
    for (key, value) in [
        ("org.systemd.property.Bad-Name", "true"),
        ("org.systemd.property.Good", "tru"),
        ("org.systemd.property.TimeoutSec", "'soon'"),
    ] {
        let one = HashMap::from([(key.to_owned(), value.to_owned())]);
        let error = plan_annotations(Some(&one)).expect_err(key).to_string();
        assert!(error.contains(key), "{error}");
    }
}

fn tree(version: u32) -> CgroupTree {
    CgroupTree {
        hierarchies: vec![Hierarchy {
            version: CgroupVersion::V2,
            controllers: vec!["memory".to_owned(), "pids".to_owned(), "cpu".to_owned()],
            mount_point: "/sys/fs/cgroup".into(),
            own_group: PathBuf::new(),
        }],
        systemd: Some(SystemdView {
            version,
            ..SystemdView::default()
        }),
    }
}

fn planned(path: &str, resources: serde_json::Value, tree: &CgroupTree) -> CgroupPlan {
    let resources: LinuxResources = serde_json::from_value(resources).expect("resources");
    let annotations = HashMap::from([(
        "org.systemd.property.Description".to_owned(),
        "'mine'".to_owned(),
    )]);
    let request = CgroupRequest {
        id: "c1",
        cgroups_path: Some(Path::new(path)),
        resources: Some(&resources),
        manager: CgroupManager::Systemd,
        annotations: Some(&annotations),
    };
    plan_cgroup(&request, tree).expect("a plan")
}

#[test]
fn the_plan_is_a_unit_and_its_group() {
    let resources = json!({"memory": {"limit": 1 << 20}, "pids": {"limit": 5}});
    let plan = planned("a-b.slice:berth:c1", resources, &tree(252));
    assert_eq!(
        plan.hierarchies[0].group,
        Path::new("a.slice/a-b.slice/berth-c1.scope")
    );
    let scope = plan.scope.clone().expect("a scope");
    assert_eq!(scope.unit, "berth-c1.scope");
    let last = |name: &str| {
        let mut found = scope.properties.iter().rev();
        found
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    };
    assert_eq!(last("Slice"), Some(Value::text("a-b.slice")));
    assert_eq!(last("Delegate"), Some(Value::Bool(true)));
    assert_eq!(last("DefaultDependencies"), Some(Value::Bool(false)));
    assert_eq!(last("MemoryMax"), Some(Value::Uint64(1 << 20)));
    assert_eq!(last("TasksMax"), Some(Value::Uint64(5)));
    assert_eq!(last("DevicePolicy"), Some(Value::text("strict")));
    // The caller's word comes last and holds.
    assert_eq!(last("Description"), Some(Value::text("mine")));
    // The files are written too.
    assert!(
        plan.hierarchies[0]
            .writes
            .iter()
            .any(|write| write.file == "memory.max")
    );
    // What is kept is enough to change and to stop it.
    let kept = serde_json::to_string(&plan).expect("JSON");
    let kept: CgroupPlan = serde_json::from_str(&kept).expect("a plan");
    let kept = kept.scope.expect("a scope");
    assert_eq!(
        (kept.unit, kept.version),
        ("berth-c1.scope".to_owned(), 252)
    );
}

#[test]
fn a_slice_is_wanted_and_has_no_processes() {
    let plan = planned("a.slice::a-pod.slice", json!({}), &tree(252));
    assert_eq!(plan.hierarchies[0].group, Path::new("a.slice/a-pod.slice"));
    let names: Vec<_> = plan.scope.expect("a unit").properties;
    assert!(names.contains(&("Wants".to_owned(), Value::texts(["a.slice"]))));
    assert!(!names.iter().any(|(name, _)| name == "Delegate"));
}
