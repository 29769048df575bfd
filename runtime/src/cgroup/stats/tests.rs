use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{BlockIoStats, HugetlbStats, PidsStats, add_v1_block_io};
use crate::cgroup::plan::{CgroupPlan, HierarchyPlan};
use crate::cgroup::tree::CgroupVersion;

/// A version 2 group that is a plain directory with the kernel's files.
fn fake_group(root: &Path, files: &[(&str, &str)]) -> CgroupPlan {
    let group = root.join("g");
    fs::create_dir(&group).expect("made");
    for (name, text) in files {
        fs::write(group.join(name), text).expect("written");
    }
    CgroupPlan {
        hierarchies: vec![HierarchyPlan {
            version: CgroupVersion::V2,
            controllers: ["cpu", "memory", "pids", "io", "hugetlb"]
                .map(str::to_owned)
                .to_vec(),
            mount_point: root.to_owned(),
            group: "g".into(),
            enable: Vec::new(),
            wanted: Vec::new(),
            writes: Vec::new(),
        }],
        device_rules: Vec::new(),
        scope: None,
    }
}

#[test]
fn version_2_files_become_numbers() {
    let root = tempfile::tempdir().expect("a directory");
    let plan = fake_group(
        root.path(),
        &[
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 2\nthrottled_usec 7\n",
            ),
            ("memory.stat", "anon 100\nfile 50\ninactive_file 40\n"),
            ("memory.current", "200\n"),
            ("memory.max", "max\n"),
            ("memory.swap.current", "0\n"),
            ("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n"),
            ("pids.current", "5\n"),
            ("pids.max", "9\n"),
            (
                "io.stat",
                "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
            ),
            ("hugetlb.2MB.current", "4096\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
            ("hugetlb.2MB.events", "max 6\n"),
        ],
    );
    let stats = plan.stats().expect("numbers");
    let cpu = stats.cpu.expect("cpu");
    assert_eq!(
        (cpu.usage_ns, cpu.user_ns, cpu.system_ns),
        (30_000, 20_000, 10_000)
    );
    assert_eq!(
        (cpu.periods, cpu.throttled_periods, cpu.throttled_ns),
        (4, 2, 7_000)
    );
    let memory = stats.memory.expect("memory");
    assert_eq!(
        (
            memory.usage_bytes,
            memory.working_set_bytes,
            memory.rss_bytes
        ),
        (200, 160, 100)
    );
    assert_eq!((memory.limit_bytes, memory.swap_bytes), (None, Some(0)));
    assert_eq!((memory.oom_kills, memory.limit_hits), (2, 3));
    assert_eq!(
        stats.pids,
        Some(PidsStats {
            current: 5,
            limit: Some(9)
        })
    );
    let io = BlockIoStats {
        read_bytes: 1,
        written_bytes: 2,
        reads: 3,
        writes: 4,
    };
    assert_eq!(stats.block_io, BTreeMap::from([("8:0".to_owned(), io)]));
    let huge = HugetlbStats {
        usage_bytes: 4096,
        limit_hits: 6,
    };
    assert_eq!(stats.hugetlb, BTreeMap::from([("2MB".to_owned(), huge)]));
}

#[test]
fn a_group_that_is_gone_has_no_numbers() {
    let root = tempfile::tempdir().expect("a directory");
    let plan = fake_group(root.path(), &[]);
    assert_eq!(
        plan.stats().expect("nothing"),
        super::CgroupStats::default()
    );
}

#[test]
fn a_file_that_holds_no_number_is_named() {
    let root = tempfile::tempdir().expect("a directory");
    let plan = fake_group(root.path(), &[("pids.current", "many\n")]);
    let error = plan.stats().expect_err("no number").to_string();
    assert!(
        error.contains("pids.current holds \"many\", expected a number"),
        "{error}"
    );
}

#[test]
fn version_1_lines_are_added_up_by_device() {
    let mut all = BTreeMap::new();
    add_v1_block_io(
        "8:0 Read 10\n8:0 Write 20\n8:0 Sync 30\nTotal 30\n",
        true,
        &mut all,
    );
    add_v1_block_io("8:0 Read 1\n8:0 Write 2\nTotal 3\n", false, &mut all);
    let io = BlockIoStats {
        read_bytes: 10,
        written_bytes: 20,
        reads: 1,
        writes: 2,
    };
    assert_eq!(all, BTreeMap::from([("8:0".to_owned(), io)]));
}
