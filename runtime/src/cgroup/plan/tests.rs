use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{CgroupManager, CgroupPlan, CgroupRequest, Change, Draft, plan_cgroup, plan_resources};
use crate::cgroup::error::CgroupError;
use crate::cgroup::tree::{CgroupTree, CgroupVersion, Hierarchy};

fn hierarchy(version: CgroupVersion, controllers: &str, point: &str) -> Hierarchy {
    Hierarchy {
        version,
        controllers: controllers.split_whitespace().map(str::to_owned).collect(),
        mount_point: PathBuf::from("/sys/fs/cgroup").join(point),
        own_group: PathBuf::from("me/here"),
    }
}

/// A machine with version 2 alone.
fn unified() -> CgroupTree {
    let controllers = "cpuset cpu io memory hugetlb pids rdma";
    CgroupTree {
        hierarchies: vec![hierarchy(CgroupVersion::V2, controllers, "")],
        systemd: None,
    }
}

/// A machine with both, where only hugetlb went to version 2.
fn hybrid() -> CgroupTree {
    let v1 = [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "name=systemd",
    ];
    let mut hierarchies: Vec<_> = v1
        .iter()
        .map(|name| hierarchy(CgroupVersion::V1, name, name))
        .collect();
    hierarchies.push(hierarchy(CgroupVersion::V2, "hugetlb", "unified"));
    CgroupTree {
        hierarchies,
        systemd: None,
    }
}

fn plan(tree: &CgroupTree, path: Option<&str>, json: &str) -> Result<CgroupPlan, CgroupError> {
    let resources: LinuxResources = serde_json::from_str(json).expect("good JSON");
    let request = CgroupRequest {
        id: "c1",
        cgroups_path: path.map(Path::new),
        resources: Some(&resources),
        manager: CgroupManager::Cgroupfs,
        annotations: None,
    };
    plan_cgroup(&request, tree)
}

/// All writes but those of device rules, as `file=value`.
fn writes(plan: &CgroupPlan) -> Vec<String> {
    plan.hierarchies
        .iter()
        .flat_map(|one| &one.writes)
        .filter(|write| !write.file.starts_with("devices."))
        .map(|write| format!("{}={}", write.file, write.value))
        .collect()
}

fn planned(tree: &CgroupTree, json: &str) -> Vec<String> {
    writes(&plan(tree, None, json).unwrap_or_else(|error| panic!("{json}: {error}")))
}

fn groups(plan: &CgroupPlan) -> Vec<PathBuf> {
    let mut groups: Vec<_> = plan
        .hierarchies
        .iter()
        .map(|one| one.group.clone())
        .collect();
    groups.dedup();
    groups
}

#[test]
fn paths_are_absolute_relative_or_our_own() {
    let group =
        |tree: &CgroupTree, path: Option<&str>| groups(&plan(tree, path, "{}").expect("a plan"));
    for tree in [hybrid(), unified()] {
        assert_eq!(group(&tree, None), [Path::new("berth/c1")]);
        assert_eq!(
            group(&tree, Some("/pods/p1/./c1/")),
            [Path::new("pods/p1/c1")]
        );
    }
    assert_eq!(
        group(&hybrid(), Some("sub/c1")),
        [Path::new("me/here/sub/c1")]
    );
    // Our own version 2 group has processes, so it can have no children with limits.
    assert_eq!(group(&unified(), Some("sub/c1")), [Path::new("me/sub/c1")]);
}

#[test]
fn paths_that_climb_or_name_the_root_are_refused() {
    for path in ["/", ".", "/..", "/a/../..", "../a"] {
        let error = plan(&hybrid(), Some(path), "{}").expect_err(path);
        assert!(
            error.to_string().starts_with("linux.cgroupsPath: expected"),
            "{error}"
        );
    }
}

#[test]
fn the_specification_becomes_version_1() {
    let json = r#"{
        "memory": {"limit": 100, "swap": 200, "reservation": 50, "kernel": 7, "disableOOMKiller": true},
        "cpu": {"shares": 512, "quota": 5000, "period": 10000, "burst": 10, "cpus": "0-1", "mems": "0"},
        "pids": {"limit": -1},
        "blockIO": {"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4}]}"#;
    assert_eq!(
        planned(&hybrid(), json),
        [
            "cpu.shares=512",
            "cpu.cfs_period_us=10000",
            "cpu.cfs_quota_us=5000",
            "cpu.cfs_burst_us=10",
            "cpuset.cpus=0-1",
            "cpuset.mems=0",
            "memory.limit_in_bytes=100",
            "memory.memsw.limit_in_bytes=200",
            "memory.soft_limit_in_bytes=50",
            "memory.oom_control=1",
            "blkio.weight=100",
            "blkio.throttle.read_bps_device=8:0 600",
            "pids.max=max",
            "hugetlb.2MB.max=4",
            "hugetlb.2MB.rsvd.max=4",
        ]
    );
}

#[test]
fn the_specification_becomes_version_2() {
    let json = r#"{
        "memory": {"limit": 100, "swap": 200, "reservation": 50, "kernel": 7},
        "cpu": {"shares": 1024, "quota": 5000, "burst": 10, "cpus": "0-1"},
        "pids": {"limit": 9},
        "blockIO": {"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}]},
        "rdma": {"mlx5_1": {"hcaHandles": 3}},
        "unified": {"memory.high": "70", "io.max": "8:0 wbps=1\n8:16 wbps=2"}}"#;
    assert_eq!(
        planned(&unified(), json),
        [
            "memory.swap.max=100",
            "memory.max=100",
            "memory.low=50",
            "cpu.weight=100",
            "cpu.max=5000 100000",
            "cpu.max.burst=10",
            "cpuset.cpus=0-1",
            "pids.max=9",
            "io.bfq.weight=100",
            "io.max=8:0 rbps=max",
            "rdma.max=mlx5_1 hca_handle=3 hca_object=max",
            "io.max=8:0 wbps=1",
            "io.max=8:16 wbps=2",
            "memory.high=70",
        ]
    );
}

#[test]
fn only_a_limit_makes_a_hybrid_root_hand_down_controllers() {
    let v2 = |json| {
        let plan = plan(&hybrid(), None, json).expect("a plan");
        plan.unified().expect("it is there").enable.clone()
    };
    assert_eq!(v2(r#"{"pids": {"limit": 9}}"#), Vec::<String>::new());
    assert_eq!(
        v2(r#"{"hugepageLimits": [{"pageSize": "1GB", "limit": 0}]}"#),
        ["hugetlb"]
    );
    let all = plan(&unified(), None, "{}").expect("a plan");
    assert_eq!(all.hierarchies[0].enable.len(), 7);
    assert!(all.hierarchies[0].wanted.is_empty());
}

#[test]
fn what_cannot_be_kept_is_named() {
    let cases = [
        (
            hybrid(),
            r#"{"rdma": {"a": {}}}"#,
            "linux.resources.rdma: no mounted",
        ),
        (
            hybrid(),
            r#"{"network": {"classID": 1}}"#,
            "linux.resources.network.classID: no mounted",
        ),
        (
            hybrid(),
            r#"{"unified": {"memory.high": "1"}}"#,
            "linux.resources.unified.memory.high: no mounted",
        ),
        (
            hybrid(),
            r#"{"unified": {"../x": "1"}}"#,
            "linux.resources.unified.../x: expected the name",
        ),
        (
            unified(),
            r#"{"network": {"classID": 1}}"#,
            "linux.resources.network.classID: no mounted",
        ),
        (
            unified(),
            r#"{"memory": {"swappiness": 5}}"#,
            "linux.resources.memory.swappiness: cgroup version 2",
        ),
        (
            unified(),
            r#"{"memory": {"swap": 5}}"#,
            "linux.resources.memory.swap: 5 is memory and swap",
        ),
        (
            unified(),
            r#"{"cpu": {"realtimePeriod": 5}}"#,
            "linux.resources.cpu.realtimePeriod: cgroup version 2",
        ),
        (
            hybrid(),
            r#"{"memory": {"swappiness": 101}}"#,
            "linux.resources.memory.swappiness: expected 0 to 100",
        ),
        (
            hybrid(),
            r#"{"memory": {"limit": 9, "swap": 8}}"#,
            "linux.resources.memory.swap: expected memory and",
        ),
        (
            hybrid(),
            r#"{"cpu": {"cpus": "1-"}}"#,
            "linux.resources.cpu.cpus: expected numbers",
        ),
        (
            hybrid(),
            r#"{"cpu": {"idle": 2}}"#,
            "linux.resources.cpu.idle: expected 0 or 1",
        ),
        (
            hybrid(),
            r#"{"blockIO": {"weight": 5}}"#,
            "linux.resources.blockIO.weight: expected a weight",
        ),
        (
            hybrid(),
            r#"{"hugepageLimits": [{"pageSize": "2M/B", "limit": 4}]}"#,
            "linux.resources.hugepageLimits.pageSize: expected a size",
        ),
    ];
    for (tree, json, expected) in cases {
        let error = plan(&tree, None, json).expect_err(json).to_string();
        assert!(error.starts_with(expected), "{json}: {error}");
    }
}

#[test]
fn without_hugetlb_its_field_is_named() {
    let mut tree = hybrid();
    tree.hierarchies.pop();
    let json = r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]}"#;
    let error = plan(&tree, None, json).expect_err("nowhere").to_string();
    assert!(
        error.starts_with("linux.resources.hugepageLimits: no mounted"),
        "{error}"
    );
}

#[test]
fn disabled_makes_nothing_and_loses_nothing() {
    let ask = |json: &str| {
        let resources: LinuxResources = serde_json::from_str(json).expect("good JSON");
        let request = CgroupRequest {
            id: "c1",
            cgroups_path: None,
            resources: Some(&resources),
            manager: CgroupManager::Disabled,
            annotations: None,
        };
        plan_cgroup(&request, &CgroupTree::default())
    };
    let plan = ask(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#).expect("a plan");
    assert_eq!(plan, CgroupPlan::default());
    let error = ask(r#"{"pids": {"limit": 3}}"#)
        .expect_err("a lost limit")
        .to_string();
    assert!(
        error.starts_with("linux.resources.pids.limit: no mounted"),
        "{error}"
    );
}

#[test]
fn no_mounted_tree_is_an_error() {
    let error = plan(&CgroupTree::default(), None, "{}").expect_err("nothing is mounted");
    assert!(matches!(error, CgroupError::NotMounted), "{error}");
}

/// Numbers around the edges, and none.
fn number() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![
        Just(None),
        Just(Some(-1)),
        Just(Some(0)),
        (1..1_i64 << 40).prop_map(Some),
    ]
}

/// Version 1's rule of memory, checked against any order of writes.
struct MemoryModel {
    memory: i64,
    sum: i64,
}

impl MemoryModel {
    fn write(&mut self, file: &str, value: &str) -> bool {
        let value: i64 = match value.parse().expect("a number") {
            negative if negative < 0 => i64::MAX,
            value => value,
        };
        match file {
            "memory.limit_in_bytes" if value <= self.sum => self.memory = value,
            "memory.memsw.limit_in_bytes" if value >= self.memory => self.sum = value,
            "memory.limit_in_bytes" | "memory.memsw.limit_in_bytes" => return false,
            _ => {}
        }
        true
    }
}

proptest! {
    #[test]
    fn memory_changes_in_an_order_that_the_kernel_takes(
        before in (1..1_000_i64, 0..1_000_i64),
        after in (1..1_000_i64, 0..1_000_i64),
    ) {
        let mut model = MemoryModel { memory: before.0, sum: before.0 + before.1 };
        let (limit, swap) = (after.0, after.0 + after.1);
        let json = format!(r#"{{"memory": {{"limit": {limit}, "swap": {swap}}}}}"#);
        let resources: LinuxResources = serde_json::from_str(&json).expect("good JSON");
        let mut plan = plan(&hybrid(), None, "{}").expect("a plan");
        for hierarchy in &mut plan.hierarchies {
            hierarchy.writes.clear();
        }
        let mut draft = Draft {
            hierarchies: &mut plan.hierarchies,
            change: Change::Update {
                quota: None,
                memory: None,
            },
        };
        plan_resources(&resources, &mut draft).expect("a plan");
        for write in plan.hierarchies.iter().flat_map(|one| &one.writes) {
            let taken = model.write(&write.file, &write.value);
            prop_assert!(taken || write.refused == super::Refused::Ignore, "{write:?}");
        }
        prop_assert_eq!((model.memory, model.sum), (limit, swap));
    }

    #[test]
    fn no_numbers_make_a_broken_value(
        limit in number(), swap in number(), reservation in number(), quota in number(),
        period in number(), pids in number(),
    ) {
        let mut json = serde_json::json!({"memory": {}, "cpu": {}});
        for (section, name, value) in [
            ("memory", "limit", limit), ("memory", "swap", swap), ("memory", "reservation", reservation),
            ("cpu", "quota", quota), ("cpu", "period", period.map(|us| us.max(0))),
        ] {
            if let Some(value) = value {
                json[section][name] = value.into();
            }
        }
        if let Some(pids) = pids {
            json["pids"] = serde_json::json!({"limit": pids});
        }
        for tree in [hybrid(), unified()] {
            let Ok(plan) = plan(&tree, None, &json.to_string()) else { continue };
            for write in plan.hierarchies.iter().flat_map(|one| &one.writes) {
                if write.file.starts_with("devices.") { continue; }
                let sound = write.value.split(' ').all(|word| {
                    word == "max" || word.parse::<i64>().is_ok_and(|number| number >= -1)
                });
                prop_assert!(sound, "{write:?}");
            }
            let text = serde_json::to_string(&plan).expect("written");
            prop_assert_eq!(serde_json::from_str::<CgroupPlan>(&text).expect("read"), plan);
        }
    }
}
