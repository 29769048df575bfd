//! Cgroups on the real kernel, in groups below `/berth-test-PID-N` that each test removes.
//!
//! These need root and mounted groups; without they fail. Each asks whether the limits
//! are in files of version 1 or of version 2. Two ask for what only version 1 has.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use berth_runtime::cgroup::memory_events::MemoryEventSource;
use berth_runtime::cgroup::plan::{CgroupManager, CgroupPlan, CgroupRequest, plan_cgroup};
use berth_runtime::cgroup::remove::remove_empty;
use berth_runtime::cgroup::tree::{CgroupTree, CgroupVersion, observe_tree};
use oci_spec::runtime::LinuxResources;

/// A group of a test, with its parent, both gone at the end.
struct Group {
    tree: CgroupTree,
    parent: PathBuf,
    plan: CgroupPlan,
}

impl Group {
    fn planned(resources: &str) -> Group {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let parent = PathBuf::from(format!("/berth-test-{}-{number}", std::process::id()));
        let tree = observe_tree().expect("root and /proc");
        let resources: LinuxResources = serde_json::from_str(resources).expect("good JSON");
        let path = parent.join("c1");
        let request = CgroupRequest {
            id: "c1",
            cgroups_path: Some(&path),
            resources: Some(&resources),
            manager: CgroupManager::Cgroupfs,
            annotations: None,
        };
        let plan = plan_cgroup(&request, &tree).expect("a plan");
        Group { tree, parent, plan }
    }

    fn made(resources: &str) -> Group {
        let group = Group::planned(resources);
        group.plan.create().expect("needs root");
        group
    }

    /// A file of the hierarchy that has the controller.
    fn file(&self, controller: &str, name: &str) -> PathBuf {
        let home = self
            .plan
            .hierarchies()
            .iter()
            .find(|plan| plan.has(controller));
        home.expect("a hierarchy").directory().join(name)
    }

    /// Whether version 2 is all that the machine has.
    fn is_pure_v2(&self) -> bool {
        self.tree.is_pure_v2()
    }

    fn read(&self, controller: &str, name: &str) -> String {
        let path = self.file(controller, name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        text.trim().to_owned()
    }

    /// Runs a shell script inside the group.
    fn spawn(&self, script: &str) -> Child {
        // The shell waits for its first line, so that it does nothing outside.
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        self.plan.attach(child.id() as i32).expect("attached");
        drop(child.stdin.take());
        child
    }

    fn wait_for_processes(&self, count: usize) {
        wait_until(&format!("{count} processes"), || {
            self.plan.pids().expect("a list").len() >= count
        });
    }
}

fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(Instant::now() < deadline, "there never were {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.plan.kill_all();
        let _ = self.plan.remove();
        let _ = remove_empty(&self.tree, &self.parent);
    }
}

fn groups_named(tree: &CgroupTree, group: &Path) -> Vec<PathBuf> {
    let below = group.strip_prefix("/").expect("absolute");
    tree.hierarchies
        .iter()
        .map(|hierarchy| hierarchy.mount_point.join(below))
        .filter(|path| path.exists())
        .collect()
}

#[test]
fn limits_reach_the_kernel() {
    if observe_tree().expect("root and /proc").is_pure_v2() {
        return limits_reach_version_2();
    }
    let group = Group::made(
        r#"{
        "memory": {"limit": 67108864, "reservation": 33554432, "swap": 134217728, "swappiness": 10},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "burst": 1000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 33}
    }"#,
    );
    assert_eq!(group.read("memory", "memory.limit_in_bytes"), "67108864");
    assert_eq!(
        group.read("memory", "memory.soft_limit_in_bytes"),
        "33554432"
    );
    assert_eq!(
        group.read("memory", "memory.memsw.limit_in_bytes"),
        "134217728"
    );
    assert_eq!(group.read("memory", "memory.swappiness"), "10");
    assert_eq!(group.read("cpu", "cpu.shares"), "512");
    assert_eq!(group.read("cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(group.read("cpu", "cpu.cfs_period_us"), "100000");
    assert_eq!(group.read("cpu", "cpu.cfs_burst_us"), "1000");
    assert_eq!(group.read("cpuset", "cpuset.cpus"), "0");
    assert_eq!(group.read("pids", "pids.max"), "33");
}

fn limits_reach_version_2() {
    let group = Group::made(
        r#"{
        "memory": {"limit": 67108864, "reservation": 33554432, "swap": 134217728},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "burst": 1000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 33}
    }"#,
    );
    assert_eq!(group.read("memory", "memory.max"), "67108864");
    assert_eq!(group.read("memory", "memory.low"), "33554432");
    // Version 1 counts memory and swap together, version 2 swap alone.
    assert_eq!(group.read("memory", "memory.swap.max"), "67108864");
    assert_eq!(group.read("cpu", "cpu.weight"), "59");
    assert_eq!(group.read("cpu", "cpu.max"), "50000 100000");
    assert_eq!(group.read("cpu", "cpu.max.burst"), "1000");
    assert_eq!(group.read("cpuset", "cpuset.cpus"), "0");
    assert_eq!(group.read("pids", "pids.max"), "33");
}

#[test]
fn limits_change_up_and_down() {
    let mut group = Group::made(
        r#"{"memory": {"limit": 67108864, "swap": 67108864}, "cpu": {"quota": 50000, "burst": 40000}}"#,
    );
    for (memory, quota) in [
        (268_435_456_u64, 90_000_u64),
        (33_554_432, 20_000),
        (-1_i64 as u64, 30_000),
    ] {
        let memory = memory as i64;
        let burst = quota / 2;
        let json = format!(
            r#"{{"memory": {{"limit": {memory}, "swap": {memory}}}, "cpu": {{"quota": {quota}, "burst": {burst}}}}}"#
        );
        let resources: LinuxResources = serde_json::from_str(&json).expect("good JSON");
        group
            .plan
            .set(&resources, None)
            .unwrap_or_else(|error| panic!("{json}: {error:?}"));
        if group.is_pure_v2() {
            let memory = match memory {
                -1 => "max".to_owned(),
                bytes => bytes.to_string(),
            };
            assert_eq!(group.read("memory", "memory.max"), memory);
            assert_eq!(group.read("cpu", "cpu.max"), format!("{quota} 100000"));
            assert_eq!(group.read("cpu", "cpu.max.burst"), burst.to_string());
            continue;
        }
        if memory > 0 {
            assert_eq!(
                group.read("memory", "memory.memsw.limit_in_bytes"),
                memory.to_string()
            );
        }
        assert_eq!(group.read("cpu", "cpu.cfs_quota_us"), quota.to_string());
        assert_eq!(group.read("cpu", "cpu.cfs_burst_us"), burst.to_string());
    }
}

#[test]
fn a_huge_page_limit_lands_in_whichever_world_has_the_controller() {
    let group = Group::made(r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#);
    let home = group
        .plan
        .hierarchies()
        .iter()
        .find(|plan| plan.has("hugetlb"))
        .expect("hugetlb");
    let file = match home.version {
        CgroupVersion::V1 => "hugetlb.2MB.limit_in_bytes",
        CgroupVersion::V2 => "hugetlb.2MB.max",
    };
    assert_eq!(group.read("hugetlb", file), "4194304");
}

#[test]
fn the_default_rules_allow_null_and_deny_the_kernel_log() {
    let group = Group::made(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
    let script = "echo x >/dev/null && head -c1 /dev/urandom >/dev/null && echo null; \
                  head -c1 /dev/kmsg >/dev/null 2>&1 || echo denied";
    let output = group.spawn(script).wait_with_output().expect("it ran");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "null\ndenied\n");
}

#[test]
fn a_rule_opens_one_device_and_an_update_closes_it() {
    let mut group = Group::made(
        r#"{"devices": [{"allow": false, "access": "rwm"},
                        {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]}"#,
    );
    let script = "true </dev/kmsg && echo open || echo denied";
    let text = |child: Child| {
        String::from_utf8_lossy(&child.wait_with_output().expect("it ran").stdout).into_owned()
    };
    assert_eq!(text(group.spawn(script)), "open\n");
    let denied: LinuxResources =
        serde_json::from_str(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#).expect("JSON");
    group.plan.set(&denied, None).expect("changed");
    assert_eq!(text(group.spawn(script)), "denied\n");
}

#[test]
fn a_program_guards_devices_where_version_1_does_not() {
    let mut group = Group::planned(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
    // What a version 2 machine looks like: the unified hierarchy alone.
    group
        .plan
        .hierarchies
        .retain(|plan| plan.version == CgroupVersion::V2);
    group
        .plan
        .create()
        .expect("needs root and a mounted cgroup2");
    let script = "echo x >/dev/null && echo null; true </dev/kmsg && echo open || echo denied";
    let text = |child: Child| {
        String::from_utf8_lossy(&child.wait_with_output().expect("it ran").stdout).into_owned()
    };
    assert_eq!(text(group.spawn(script)), "null\ndenied\n");
    // An update takes the place of the old program: with both in force the
    // device would stay denied.
    let open: LinuxResources = serde_json::from_str(
        r#"{"devices": [{"allow": false, "access": "rwm"},
                        {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]}"#,
    )
    .expect("JSON");
    group.plan.set(&open, None).expect("changed");
    assert_eq!(text(group.spawn(script)), "null\nopen\n");
}

#[test]
fn freezing_stops_and_killing_ends_everything() {
    let group = Group::made("{}");
    let mut child = group.spawn("sleep 100 & sleep 100 & wait");
    group.wait_for_processes(3);
    assert!(!group.plan.is_frozen().expect("a state"));
    group.plan.freeze().expect("frozen");
    assert!(group.plan.is_frozen().expect("a state"));
    let state = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("alive");
    // Version 2 lets frozen processes look asleep, so that signals still reach them.
    let wanted = if group.is_pure_v2() { ") S " } else { ") D " };
    assert!(state.contains(wanted), "{state}");
    // Also out of the frozen state.
    group.plan.kill_all().expect("killed");
    assert_eq!(child.wait().expect("dead").signal(), Some(9));
    assert!(group.plan.pids().expect("a list").is_empty());
}

#[test]
fn without_version_2_a_fork_bomb_is_killed_as_well() {
    let mut group = Group::planned(r#"{"pids": {"limit": 40}}"#);
    if group.is_pure_v2() {
        return;
    }
    group
        .plan
        .hierarchies
        .retain(|plan| plan.version == CgroupVersion::V1);
    group
        .plan
        .create()
        .expect("needs root and a version 1 tree");
    // A shell whose fork is refused gives up; this one tries again, as long as it lives.
    let mut child = group.spawn("exec perl -e 'fork while 1'");
    group.wait_for_processes(30);
    group.plan.kill_all().expect("killed");
    assert!(group.plan.pids().expect("a list").is_empty());
    assert_eq!(child.wait().expect("dead").signal(), Some(9));
    group.plan.remove().expect("removed");
}

#[test]
fn a_process_enters_by_itself() {
    let group = Group::made("{}");
    if group.is_pure_v2() {
        // There a process is born in its group.
        return;
    }
    // A thread stands for a process of one thread: version 1 moves just it,
    // and its end leaves the group empty.
    let entrances = group.plan.v1_entrances().expect("open");
    let seen = std::thread::scope(|scope| {
        let enter = || {
            entrances
                .iter()
                .try_for_each(|entrance| entrance.enter())
                .expect("inside");
            fs::read_to_string("/proc/thread-self/cgroup").expect("readable")
        };
        scope.spawn(enter).join().expect("it ran")
    });
    let inside = format!("{}/c1", group.parent.display());
    let v1: Vec<_> = seen
        .lines()
        .filter(|line| !line.starts_with("0::"))
        .collect();
    assert!(
        !v1.is_empty() && v1.iter().all(|line| line.ends_with(&inside)),
        "{seen}"
    );
}

#[test]
fn removal_takes_inner_groups_and_leaves_nothing() {
    let group = Group::made("{}");
    for plan in group.plan.hierarchies() {
        fs::create_dir_all(plan.directory().join("made-by-the-container/deep")).expect("a group");
    }
    group.plan.remove().expect("removed");
    assert_eq!(
        groups_named(&group.tree, &group.parent.join("c1")),
        Vec::<PathBuf>::new()
    );
    group.plan.remove().expect("a second time too");
    remove_empty(&group.tree, &group.parent).expect("the parent is empty");
    assert_eq!(
        groups_named(&group.tree, &group.parent),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn a_refused_limit_is_named_and_leaves_nothing() {
    let group = Group::planned(r#"{"cpu": {"cpus": "4000"}}"#);
    let error = group.plan.create().expect_err("no such processor");
    assert_eq!(
        error.to_string(),
        "linux.resources.cpu.cpus: the kernel did not take the value"
    );
    assert_eq!(
        groups_named(&group.tree, &group.parent),
        Vec::<PathBuf>::new()
    );
}

#[test]
fn a_group_in_use_is_not_shared() {
    let group = Group::made("{}");
    let mut child = group.spawn("sleep 100");
    let error = group.plan.create().expect_err("in use");
    assert!(
        error.to_string().contains("already holds the process"),
        "{error}"
    );
    group.plan.kill_all().expect("killed");
    child.wait().expect("dead");
    group
        .plan
        .create()
        .expect("an empty leftover is taken over");
}

#[test]
fn running_out_of_memory_is_told_and_counted() {
    let group = Group::made(r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#);
    let source = group
        .plan
        .memory_event_source()
        .expect("a source")
        .expect("a controller");
    let mut child = group.spawn("x=$(head -c 100000000 /dev/zero | tr '\\0' x)");
    assert_eq!(child.wait().expect("dead").signal(), Some(9));
    assert!(group.plan.oom_kills().expect("a count") >= 1);
    if let MemoryEventSource::EventFd(event) = source {
        let mut count = [0; 8];
        fs::File::from(event)
            .read_exact(&mut count)
            .expect("it rang");
        assert!(u64::from_ne_bytes(count) >= 1);
    }
}

#[test]
fn numbers_are_read() {
    let group = Group::made(r#"{"pids": {"limit": 7}, "memory": {"limit": 67108864}}"#);
    let mut child = group.spawn("i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; sleep 100");
    let used = || group.plan.stats().expect("numbers").cpu.expect("cpu");
    wait_until("ten milliseconds of a processor", || {
        used().usage_ns >= 10_000_000
    });
    let stats = group.plan.stats().expect("numbers");
    let memory = stats.memory.expect("memory");
    assert_eq!(memory.limit_bytes, Some(67_108_864));
    assert!(memory.usage_bytes > 0 && memory.working_set_bytes <= memory.usage_bytes);
    let pids = stats.pids.expect("pids");
    assert_eq!(pids.limit, Some(7));
    assert!(pids.current >= 1);
    group.plan.kill_all().expect("killed");
    child.wait().expect("dead");
}

#[test]
fn a_plan_survives_its_state_file() {
    let group = Group::planned(r#"{"pids": {"limit": 7}, "cpu": {"cpus": "0"}}"#);
    let text = serde_json::to_string(&group.plan).expect("written");
    assert_eq!(
        serde_json::from_str::<CgroupPlan>(&text).expect("read"),
        group.plan
    );
}

/// Not a test of correctness: prints what create, entering and removing cost.
/// `cargo test --release -p berth-runtime --test cgroup -- --ignored --nocapture costs`
#[test]
#[ignore = "a measurement, see docs/cgroups.md"]
fn costs() {
    let rules = r#"{"devices": [{"allow": false, "access": "rwm"}]}"#;
    let first = Group::made(rules);
    let mut times: [Vec<f64>; 5] = Default::default();
    let rounds = 100;
    for _ in 0..rounds {
        // Long enough for the kernel's locks to fall back to their resting state,
        // as they are when a container is started out of the blue.
        std::thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        let tree = observe_tree().expect("a tree");
        let resources: LinuxResources = serde_json::from_str(rules).expect("JSON");
        let path = first.parent.join("c2");
        let request = CgroupRequest {
            id: "c2",
            cgroups_path: Some(&path),
            resources: Some(&resources),
            manager: CgroupManager::Cgroupfs,
            annotations: None,
        };
        let plan = plan_cgroup(&request, &tree).expect("a plan");
        times[0].push(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        plan.create().expect("made");
        times[1].push(begun.elapsed().as_secs_f64());
        let mut child = Command::new("/bin/sleep")
            .arg("100")
            .spawn()
            .expect("a process");
        let begun = Instant::now();
        plan.attach(child.id() as i32).expect("attached");
        times[2].push(begun.elapsed().as_secs_f64());
        child.kill().expect("killed");
        child.wait().expect("dead");
        let entered = std::thread::scope(|scope| {
            let enter = || {
                let begun = Instant::now();
                for entrance in plan.v1_entrances().expect("open") {
                    entrance.enter().expect("inside");
                }
                begun.elapsed()
            };
            scope.spawn(enter).join().expect("it ran")
        });
        times[3].push(entered.as_secs_f64());
        let begun = Instant::now();
        plan.remove().expect("removed");
        times[4].push(begun.elapsed().as_secs_f64());
    }
    let names = [
        "observe and plan",
        "create",
        "attach by pid",
        "open and enter",
        "remove",
    ];
    for (name, mut times) in names.into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        println!(
            "{name}: median {:.0} us, worst {:.0} us",
            times[rounds / 2] * 1e6,
            times[rounds - 1] * 1e6
        );
    }
}
